"""Curiosity against a slow oracle: every frame, deviation and reward by itself, in float64."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from learner_fixtures import CONFIG, CPU, SPEC, make, random_arrays

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.exploration.rnd import BATCHES_A_TRAINED_ONE, Moments, Rnd, square_shades
from cluster_rl.learning.batch import Batch
from cluster_rl.networks.frames import pack_screen, unpack_screen

PLACES = replace(SPEC, place_slots=(1, 4))
BY_COUNTS = msgspec.structs.replace(CONFIG, w_rnd=0.5, rnd_by_counts=True)
ALONE = msgspec.structs.replace(CONFIG, w_rnd=0.5, rnd_by_counts=False)
CONFIGS = pytest.mark.parametrize("config", [BY_COUNTS, ALONE], ids=["by counts", "alone"])
Floats = npt.NDArray[np.float64]


def batch_of(arrays: dict[str, Any]) -> Batch:
    return Batch.from_numpy(arrays, CPU)


def seen_of(batch: Batch, row: int, item: int) -> Floats:
    """What is seen of one frame, pixel by pixel."""
    shades = unpack_screen(batch.screen_packed[row, item]).numpy().astype(int)
    squares = [shades[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].sum() for y in range(9) for x in range(10)]
    return np.array([*squares, *(int(batch.context[row, item, slot]) for slot in PLACES.place_slots)], float)


class Oracle:
    """The same curiosity, slowly: all that was ever seen is kept."""

    def __init__(self, rnd: Rnd) -> None:
        self.target = copy.deepcopy(rnd.target).double()
        self.predictor = copy.deepcopy(rnd.predictor).double()
        self.adam = torch.optim.Adam(self.predictor.parameters(), lr=1e-3)
        self.seen: list[Floats] = []
        self.errors: list[float] = []
        self.updates = 0

    def error(self, seen: Floats) -> torch.Tensor:
        mean, deviation = np.mean(self.seen, 0), np.std(self.seen, 0)
        whitened = np.clip((seen - mean) / np.maximum(deviation, 0.2), -5, 5)
        whitened[90:] *= np.sqrt(90 / 2)
        inputs = torch.from_numpy(whitened)
        return (self.predictor(inputs) - self.target(inputs)).square().mean()

    def update(self, batch: Batch, by_counts: bool) -> Floats:
        """The bonuses [L, N] of steps that have one, else 0."""
        first = CONFIG.burn_in
        trained = [
            (row + 1, item) for item in range(batch.size) for row in range(first, first + int(batch.train_length[item]))
        ]
        learns = self.updates % 8 == 0
        self.updates += 1
        if learns:
            self.seen += [seen_of(batch, *frame) for frame in trained]
        paid = [(row, item) for item in range(batch.size) for row in range(first, first + int(batch.last[item]))]
        errors = {frame: float(self.error(seen_of(batch, frame[0] + 1, frame[1])).detach()) for frame in paid}
        if learns:
            found = [self.error(seen_of(batch, *frame)) for frame in trained]
            self.errors += [float(error.detach()) for error in found]
            self.adam.zero_grad()
            torch.stack(found).mean().backward()
            self.adam.step()
        bonuses = np.zeros(batch.reward.shape)
        for (row, item), error in errors.items():
            visits = int(batch.visits[row, item])
            if by_counts:
                factor = 1 + (error - np.mean(self.errors)) / np.std(self.errors)
                bonus = min(max(factor, 1.0), 5.0) / visits if visits else 0.0
            else:
                bonus = min(error / np.std(self.errors), 5.0)
            bonuses[row, item] = bonus
        return bonuses


@CONFIGS
def test_rewards_weights_and_statistics_are_the_oracles(config: Config) -> None:
    """Over batches of every kind of item, of which the first and the ninth train the predictor."""
    rnd = Rnd(config, PLACES, CPU, seed=3)
    oracle = Oracle(rnd)
    kinds = set()
    for number in range(10):
        arrays = random_arrays(config, 6, number)
        # A slot that never changed until something far off the usual comes.
        arrays["context"][..., 1] = 7 if number < 9 else 200
        batch = batch_of(arrays)
        found = rnd.update(batch, config.w_rnd)
        bonuses = oracle.update(batch, config.rnd_by_counts)
        np.testing.assert_allclose(found.curiosity.numpy(), config.w_rnd * bonuses, rtol=2e-4, atol=2e-5)
        for name in (field.name for field in fields(batch) if field.name != "curiosity"):
            assert getattr(found, name) is getattr(batch, name)
        for ours, theirs in zip(rnd.predictor.parameters(), oracle.predictor.parameters(), strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
        first, steps = config.burn_in, config.unroll_length
        mask = np.arange(steps)[:, None] < batch.train_length.numpy()
        paid = config.w_rnd * bonuses[first : first + steps][mask]
        metrics = rnd.metrics()
        assert metrics["bonus_mean"] == pytest.approx(bonuses[first : first + steps][mask].mean(), rel=1e-3)
        assert metrics["bonus_std"] == pytest.approx(bonuses[first : first + steps][mask].std(), rel=1e-3)
        rest = np.abs(batch.reward.numpy()[first : first + steps][mask]).sum()
        assert metrics["reward_share"] == pytest.approx(paid.sum() / (paid.sum() + rest), rel=1e-3)
        kinds |= {round(float(bonus), 3) for bonus in bonuses.ravel()}
    assert {0.0, 5.0} <= kinds
    assert not config.rnd_by_counts or {1.0, 0.5, 0.333} <= kinds
    assert metrics["error_mean"] > np.mean(oracle.errors) + 5 * np.std(oracle.errors)  # of the newest batch alone
    torch.testing.assert_close(rnd.inputs.mean.numpy(), np.mean(oracle.seen, 0), rtol=1e-5, atol=1e-5)
    assert float(rnd.errors.deviation) == pytest.approx(np.std(oracle.errors), rel=1e-3)


@CONFIGS
def test_the_bonus_of_a_map_is_that_of_the_steps_that_led_there(config: Config) -> None:
    rnd = Rnd(config, replace(PLACES, map_slots=(2, 3)), CPU, seed=3)
    arrays = random_arrays(config, 6, 1)
    bits = np.random.default_rng(0).integers(0, 2, (*arrays["context"].shape[:2], 2))
    arrays["context"][..., 2:4] = 255 * bits
    batch = batch_of(arrays)
    first, steps = config.burn_in, config.unroll_length
    bonus = (rnd.update(batch, config.w_rnd).curiosity / config.w_rnd).numpy()[first : first + steps]
    maps = (bits[..., 0] + 2 * bits[..., 1])[first + 1 : first + 1 + steps]
    mask = np.arange(steps)[:, None] < batch.train_length.numpy()
    metrics = rnd.metrics()
    found = {name: value for name, value in metrics.items() if name.startswith("map_bonus/")}
    there = np.unique(maps[mask]).tolist()
    assert len(there) > 1
    expected = {f"map_bonus/{number}": bonus[mask & (maps == number)].mean() for number in there}
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@CONFIGS
def test_scores_are_the_bonuses_that_would_be_paid_and_teach_nothing(config: Config) -> None:
    rnd = Rnd(config, PLACES, CPU, seed=3)
    rnd.update(batch_of(random_arrays(config, 6, 0)), 1.0)
    batch = batch_of(random_arrays(config, 6, 1))
    first = config.burn_in
    led_to, steps = slice(first + 1, None), slice(first, -1)
    before = copy.deepcopy(rnd.state_dict())
    bonuses = rnd.score(
        batch.screen_packed[led_to].flatten(0, 1), batch.context[led_to].flatten(0, 1), batch.visits[steps].flatten()
    )
    torch.testing.assert_close(rnd.state_dict(), before, rtol=0, atol=0)
    paid = rnd.update(batch, 1.0).curiosity[steps]  # the second batch does not train
    recorded = torch.arange(len(paid)).unsqueeze(1) < batch.last
    assert bonuses.dtype == torch.float32
    torch.testing.assert_close(bonuses.view(paid.shape)[recorded], paid[recorded])


@CONFIGS
def test_before_any_update_the_scored_steps_are_the_statistics(config: Config) -> None:
    batch = batch_of(random_arrays(config, 6, 0))
    rnd = Rnd(config, PLACES, CPU, seed=3)
    oracle = Oracle(rnd)
    count = batch.size
    visits = torch.arange(count) % 3
    bonuses = rnd.score(batch.screen_packed[4], batch.context[4], visits)
    counts = visits.numpy()
    oracle.seen = [seen_of(batch, 4, item) for item in range(count)]
    expected = np.array([float(oracle.error(seen).detach()) for seen in oracle.seen])
    factors = np.clip(1 + (expected - expected.mean()) / expected.std(), 1, 5)
    by_counts = np.where(counts > 0, factors / np.maximum(counts, 1), 0.0)
    paid = by_counts if config.rnd_by_counts else np.minimum(expected / expected.std(), 5)
    np.testing.assert_allclose(bonuses.numpy(), paid, rtol=1e-3)
    again = rnd.score(batch.screen_packed[5], batch.context[5], visits)
    assert torch.equal(rnd.score(batch.screen_packed[5], batch.context[5], visits), again)
    assert float(rnd.inputs.count) == float(rnd.errors.count) == count


def test_squares_are_sums_of_their_pixels() -> None:
    screens = np.random.default_rng(0).integers(0, 4, (2, 3, 72, 80), dtype=np.uint8)
    screens[0, 0] = 3
    sums = screens.reshape(2, 3, 9, 8, 10, 8).sum((3, 5))
    assert square_shades(torch.from_numpy(pack_screen(screens))).tolist() == sums.tolist()


def test_moments_are_those_of_all_that_was_not_masked() -> None:
    generator = torch.Generator().manual_seed(0)
    moments, kept = Moments(3), []
    for _ in range(5):
        values, mask = 100 + torch.randn(7, 3, generator=generator), torch.rand(7, generator=generator) < 0.5
        moments.add(values, mask)
        kept += values[mask].double().tolist()
    moments.add(values + 1e6, torch.zeros(7, dtype=torch.bool))
    np.testing.assert_allclose(moments.mean, np.mean(kept, 0), rtol=1e-6)
    np.testing.assert_allclose(moments.deviation, np.std(kept, 0), rtol=1e-5)
    assert float(moments.count) == len(kept)


def test_moments_with_a_horizon_forget() -> None:
    moments, rng = Moments(1, horizon_batches=4), np.random.default_rng(0)
    batches = [rng.normal(number, 1, 10).astype(np.float32) for number in range(12)]
    weights = np.zeros(0)
    for number, values in enumerate(batches):
        moments.add(torch.from_numpy(values).unsqueeze(1), torch.ones(10, dtype=torch.bool))
        share = max(1 / (number + 1), 1 / 4)
        weights = np.append(weights * (1 - share), share)
    mean = sum(weight * values.mean() for weight, values in zip(weights, batches, strict=True))
    square = sum(weight * ((values - mean) ** 2).mean() for weight, values in zip(weights, batches, strict=True))
    assert float(moments.mean) == pytest.approx(mean, rel=1e-5)
    assert float(moments.deviation) == pytest.approx(np.sqrt(square), rel=1e-5)


def still(config: Config, size: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Whole windows in which each item shows one screen, another for each, at one place, and enters a tile a step."""
    arrays = random_arrays(config, size, seed)
    for name in ("screen_packed", "context"):
        arrays[name][:] = arrays[name][:1]
    arrays["visits"][:] = 1
    arrays["train_length"][:] = config.unroll_length
    arrays["last"][:] = config.unroll_length + config.n_step - 1
    arrays["reward"][:] = 0.0
    return arrays


def paid(rnd: Rnd, arrays: dict[str, npt.NDArray[Any]]) -> Floats:
    """Mean bonus of each item's trained steps, [N]; the curiosity itself stays as it is."""
    rows = slice(rnd.config.burn_in, rnd.config.burn_in + rnd.config.unroll_length)
    return copy.deepcopy(rnd).update(batch_of(arrays), 1.0).curiosity[rows].mean(0).double().numpy()


@CONFIGS
def test_what_was_stored_new_pays_no_more_once_it_is_known_and_noise_pays_only_without_counts(config: Config) -> None:
    """Item 0 of each batch is a screen of random pixels before which the player stands; the others are old places."""
    old, new = still(config, 6, seed=1), still(config, 6, seed=2)
    noise = np.random.default_rng(3)
    rnd = Rnd(config, PLACES, CPU, seed=4)

    def flicker() -> None:
        old["screen_packed"][:, 0] = noise.integers(0, 256, (len(old["reward"]), 72, 20), dtype=np.uint8)
        old["visits"][:, 0] = 0

    flicker()
    rnd.update(batch_of(old), 1.0)
    fresh = paid(rnd, old)
    for _ in range(1000):
        flicker()
        rnd.update(batch_of(old), 1.0)
    known, unknown = paid(rnd, old), paid(rnd, new)
    if config.rnd_by_counts:
        assert fresh[0] == known[0] == 0.0
        np.testing.assert_allclose(known[1:], 1.0)
        assert unknown.min() > 2.0
    else:
        assert fresh[1:].min() > 0.5
        assert known[1:].max() < 0.05 * min(fresh[1:].min(), unknown.min())
        assert known[0] > 10 * known[1:].max()


@CONFIGS
def test_a_restored_curiosity_goes_on_to_the_bit(config: Config) -> None:
    batches = [batch_of(random_arrays(config, 6, seed)) for seed in range(9)]
    unbroken, stopped = (Rnd(config, PLACES, CPU, seed=3) for _ in range(2))
    expected = [unbroken.update(batch, 0.5).curiosity for batch in batches]
    for batch in batches[:4]:
        stopped.update(batch, 0.5)
    resumed = Rnd(config, PLACES, CPU, seed=77)
    resumed.load_state_dict(stopped.state_dict())
    for batch, bonus in zip(batches[4:], expected[4:], strict=True):
        assert torch.equal(resumed.update(batch, 0.5).curiosity, bonus)
    tensors, others = resumed.state_dict()["tensors"], unbroken.state_dict()["tensors"]
    assert tensors.keys() == others.keys()
    assert [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])] == []


def test_the_target_is_fixed_and_not_the_optimisers() -> None:
    rnd = Rnd(ALONE, PLACES, CPU, seed=3)
    before = copy.deepcopy(rnd.target.state_dict())
    for seed in range(2 * BATCHES_A_TRAINED_ONE):
        rnd.update(batch_of(random_arrays(ALONE, 6, seed)), 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in rnd.target.state_dict().items())
    optimised = {id(parameter) for group in rnd.optimizer.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in rnd.predictor.parameters()}


def test_torchs_own_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again = (Rnd(ALONE, PLACES, CPU, seed=3).target.state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@CONFIGS
def test_a_step_that_is_not_finite_leaves_all_that_is_saved_as_it_was(config: Config) -> None:
    rnd = Rnd(config, PLACES, CPU, seed=3)
    batches = [batch_of(random_arrays(config, 6, number)) for number in range(4 * BATCHES_A_TRAINED_ONE)]
    for batch in batches[:BATCHES_A_TRAINED_ONE]:
        rnd.update(batch, 1.0)
    weight = next(rnd.predictor.parameters())
    usual = weight.detach().clone()
    weight.data.fill_(1e30)  # finite, and its errors are not
    before = rnd.state_dict()["tensors"]
    for batch in batches[BATCHES_A_TRAINED_ONE : 2 * BATCHES_A_TRAINED_ONE]:
        rnd.update(batch, 1.0)
    after = rnd.state_dict()["tensors"]
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if not name.startswith("inputs.")} == set()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert rnd.metrics()["skipped_steps"] == 1
    weight.data.copy_(usual)
    for batch in batches[2 * BATCHES_A_TRAINED_ONE :]:
        rnd.update(batch, 1.0)
    assert rnd.metrics()["skipped_steps"] == 1
    assert not torch.equal(weight, usual)


@CONFIGS
@pytest.mark.parametrize("bias", [float("nan"), 1e30])
def test_the_learner_refuses_errors_that_are_not_finite(config: Config, bias: float) -> None:
    """Also infinite ones, which are above every bound of a bonus, and where no tile was entered."""
    rnd, learner, arrays = Rnd(config, PLACES, CPU, seed=3), make(), random_arrays(CONFIG, 6, 0)
    arrays["visits"][:] = 0
    batch = batch_of(arrays)
    rnd.update(batch, 0.5)
    with torch.no_grad():
        list(rnd.predictor.parameters())[-1][0] = bias
    before = learner.params_bytes()
    with pytest.raises(RuntimeError, match="not finite"):
        learner.update(rnd.update(batch, 0.5))
    assert learner.params_bytes() == before


def test_a_checkpoint_of_other_sizes_is_refused() -> None:
    rnd, other = Rnd(ALONE, PLACES, CPU, seed=3), Rnd(ALONE, SPEC, CPU, seed=3)
    rnd.update(batch_of(random_arrays(ALONE, 6, 0)), 1.0)
    before = other.state_dict()
    with pytest.raises(UserError, match="curiosity"):
        other.load_state_dict(rnd.state_dict())
    assert all(torch.equal(tensor, before["tensors"][name]) for name, tensor in other.state_dict()["tensors"].items())


def test_priorities_follow_the_bonus() -> None:
    rnd, batch = Rnd(ALONE, PLACES, CPU, seed=3), batch_of(random_arrays(CONFIG, 6, 0))
    plain, curious = make().update(batch), make().update(rnd.update(batch, 0.5))
    assert (plain.priorities != curious.priorities).all()
