"""What a row of metrics says of a run, against figures worked out another way."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sequence_fixtures import make_builder, observation, play, start_at, summary_of
from trainer_fixtures import BLOCK, CONFIG, OBSERVATION, changed, episodes, ingest, open_trainer, played, train

from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.sequences import Sequence
from cluster_rl.model import QNetwork
from cluster_rl.training import trainer as trainer_module
from cluster_rl.training.arrivals import Arrivals
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.probes import sequence_staleness
from cluster_rl.training.trainer import Trainer
from cluster_rl.wire.codec import BlockArrays, SequenceHeader, decode_arrays, decode_header, encode_block

LENGTH = 26  # steps of an episode: seven windows


def newest_row(trainer: Trainer) -> dict[str, Any]:
    trainer.write_metrics()
    return read_metrics(trainer.run_dir.metrics)[-1]


def move(network: QNetwork, scale: float) -> None:
    """Other weights, as training would bring them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def decoded(sequences: list[Sequence]) -> list[tuple[SequenceHeader, BlockArrays]]:
    return [decode_arrays(encode_block(sequence), BLOCK) for sequence in sequences]


def test_a_row_shows_the_learning(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path, changed(max_grad_norm=0.01))
    ingest(trainer, episodes(0, 4))
    train(trainer, 3)
    row = newest_row(trainer)
    assert all(value is not None for value in row.values())
    learner = {name.removeprefix("learner/"): value for name, value in row.items() if name.startswith("learner/")}
    assert learner["loss"] == pytest.approx(learner["quantile_loss"] + CONFIG.aux_loss_weight * learner["aux_loss"])
    assert learner["aux_loss"] > 0
    assert learner["grad_norm"] > 0.02
    assert learner["grad_norm_clipped"] == pytest.approx(0.01, rel=1e-3)
    # Every made-up observation has two valid actions of seven.
    assert learner["masked_actions"] == pytest.approx(5 / 7)
    assert max(-row["td_error/min"], row["td_error/max"]) == pytest.approx(learner["td_abs_max"])
    assert row["td_error/p10"] < row["td_error/p50"] < row["td_error/p90"]
    assert 0 < row["priority/ess"] <= 1
    priorities = trainer.replay.state_dict()["priorities"]
    assert row["priority/p90"] == pytest.approx(np.percentile(priorities, 90))
    assert row["importance_weight/max"] == 1.0
    assert 0 < row["importance_weight/min"] <= row["importance_weight/mean"] <= 1
    trainer.close("test")


def test_tensorboard_shows_screens_of_the_newest_batch_and_the_config(tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4))
    trainer.write_metrics()  # nothing was trained yet
    train(trainer, 1)
    trainer.write_metrics()
    trainer.write_metrics()
    events = EventAccumulator(str(trainer.run_dir.tensorboard)).Reload()
    (picture,) = events.Images("screens/newest_batch")
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        found = np.asarray(image)
    assert found.shape == (2 * 72, 4 * 80)
    newest = trainer._newest_update
    assert newest is not None
    header, block = trainer.replay.read(int(newest.ids[1]))  # type: ignore[misc]
    packed = decode_arrays(block, BLOCK)[1].screen_packed[header.burn_in_length]  # [72, 20], four pixels a byte
    shades = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(72, 80)
    assert np.array_equal(found[:72, 80:160], 255 - 85 * shades)
    config = events.Tensors("about/config")[0].tensor_proto.string_val[0].decode()
    assert f'"gamma": {CONFIG.gamma}' in config
    assert b"torch" in events.Tensors("about/versions")[0].tensor_proto.string_val[0]
    trainer.close("test")


def returns_end(batch: Batch, t: int, item: int) -> int:
    """The row, counted from the first trained one, where the return of row t ends if it is cut by the stored bits."""
    end = min(t + CONFIG.n_step, int(batch.last[item]))
    return next((row for row in range(t + 1, end) if not batch.greedy[CONFIG.burn_in + row, item]), end)


@pytest.mark.parametrize("rescaling", [True, False])
def test_the_learners_means_are_over_trained_steps_only(tmp_path: Path, rescaling: bool) -> None:
    """All figures of a batch with padding, step by step."""
    trainer = open_trainer(tmp_path, changed(value_rescaling=rescaling, batch_size=8))
    ingest(trainer, episodes(0, 4, length=18))  # windows of 4 and one of 2 in each episode
    batch = trainer.sample().batch
    assert len(set(batch.train_length.tolist())) > 1
    length, first = CONFIG.unroll_length, CONFIG.burn_in
    batch.mask[first:] = torch.rand(batch.mask[first:].shape, generator=torch.Generator().manual_seed(1)) < 0.5
    taken, returns = (
        torch.randn(length, batch.size, CONFIG.num_quantiles, generator=torch.Generator().manual_seed(seed))
        for seed in (2, 3)
    )
    invert = targets.h_inv if rescaling else torch.clone
    steps = [(t, n) for n in range(batch.size) for t in range(int(batch.train_length[n]))]
    errors = [abs(float(returns[step].mean() - taken[step].mean())) for step in steps]
    expected = {
        "td_abs_mean": np.mean(errors),
        "td_abs_max": max(errors),
        "q_mean": np.mean([float(invert(taken[step]).mean()) for step in steps]),
        "target_mean": np.mean([float(invert(returns[step]).mean()) for step in steps]),
        "greedy_actions": np.mean([float(batch.greedy[first + t, n]) for t, n in steps]),
        "return_steps": np.mean([float(returns_end(batch, t, n)) - t for t, n in steps]),
        "masked_actions": np.mean([float((~batch.mask[first + t, n]).float().mean()) for t, n in steps]),
    }
    mask = targets.loss_mask(batch.train_length, length)
    found = trainer.r2d2._metrics(batch, taken, returns, returns.mean(-1) - taken.mean(-1), mask, batch.greedy[first:])
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    trainer.close("test")


def test_a_run_whose_older_copy_was_put_back_says_where_its_metrics_go_on(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 2, LENGTH))
    trainer.close("test")
    for name in ("replay", "checkpoint"):
        shutil.copytree(trainer.run_dir.path / name, tmp_path / name)
    again = open_trainer(tmp_path)
    assert "metrics" not in again.restored
    ingest(again, episodes(2, 1, LENGTH))
    again.close("test")
    for name in ("replay", "checkpoint"):
        shutil.rmtree(again.run_dir.path / name)
        shutil.copytree(tmp_path / name, again.run_dir.path / name)
    older = open_trainer(tmp_path)
    assert older.restored.endswith(f"; metrics go on at env step {3 * LENGTH}, where the last row is")
    older.close("test")


def test_without_clipping_both_norms_are_one(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path, changed(max_grad_norm=1e9))
    ingest(trainer, episodes(0, 4))
    train(trainer, 1)
    row = newest_row(trainer)
    assert row["learner/grad_norm_clipped"] == pytest.approx(row["learner/grad_norm"], rel=1e-5)
    trainer.close("test")


def test_td_errors_are_targets_less_values_on_the_trained_steps_only(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path, changed(value_rescaling=False, batch_size=16))
    ingest(trainer, episodes(0, 4, length=18))  # windows of 4 and one of 2 in each episode
    sampled = trainer.sample()
    result = trainer.r2d2.update(sampled.batch)
    errors, metrics = result.td_errors, result.metrics
    assert np.nanmean(errors) == pytest.approx(metrics["target_mean"] - metrics["q_mean"], abs=1e-5)
    assert abs(np.nanmean(errors)) > 1e-3  # or the sign would not be seen
    assert errors.shape == (CONFIG.unroll_length, 16)
    trained = np.arange(CONFIG.unroll_length)[:, None] < sampled.batch.train_length.numpy()
    assert not trained.all()
    np.testing.assert_array_equal(np.isnan(errors), ~trained)
    trainer.close("test")


def test_lags_at_acting_and_at_training(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4))  # played with version 0
    train(trainer, 5)
    builder = make_builder(BLOCK)
    builder.params_version = 2
    ingest(trainer, play(builder, 4, 6))  # two windows, 3 updates old when they come
    row = newest_row(trainer)
    # 20 windows came before the first update.
    assert (row["lag/acting/min"], row["lag/acting/max"]) == (0, 3)
    assert row["lag/acting/mean"] == pytest.approx(2 * 3 / 22)
    # The fifth update began with the weights of four.
    assert (row["lag/training/min"], row["lag/training/max"]) == (4, 4)
    assert "lag/acting/mean" not in newest_row(trainer)  # nothing came since
    trainer.close("test")


@pytest.mark.parametrize("rescaling", [True, False])
def test_q_start_is_the_value_where_episodes_begin(tmp_path: Path, rescaling: bool) -> None:
    trainer = open_trainer(tmp_path, changed(value_rescaling=rescaling))
    assert "learner/q_start" not in newest_row(trainer)
    ingest(trainer, episodes(0, 2))
    network = trainer.r2d2.online
    expected = []
    for episode in range(2):
        screen, context, crop, mask = (torch.from_numpy(part[None]) for part in observation(BLOCK, episode, 0))
        with torch.no_grad():
            none = torch.tensor([OBSERVATION.num_actions])
            features = network.encode(screen, context, crop, none, torch.zeros(1))
            outputs, _ = network.recur(features.unsqueeze(0), network.initial_state(1))
            values = targets.expected_values(network.head(outputs[0], noise=False), rescaling, (1.0,))
        expected.append(values[mask].max().item())
    assert newest_row(trainer)["learner/q_start"] == pytest.approx(np.mean(expected), rel=1e-5)
    trainer.close("test")


def test_recent_milestones_and_terms(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    builder = make_builder(BLOCK)
    for episode, milestones in enumerate(([("town", 3), ("badge", 9)], [("town", 5)], [], [("town", 7)])):
        summary = summary_of(
            9,
            episode_return=1.0 + episode,
            terms={"event": 2.0 * episode},
            milestones=milestones,
            reason="truncated" if episode < 3 else "stopped",  # a stopped one says nothing
        )
        names = {step - 1: [name] for name, step in milestones}
        ingest(trainer, play(builder, episode, 9, milestones=names, summary=summary))
    row = newest_row(trainer)
    assert row["milestone_recent/town"] == pytest.approx(2 / 3)
    assert row["milestone_recent_step/town"] == 4.0
    assert row["milestone_recent/badge"] == pytest.approx(1 / 3)
    assert row["milestone/town"] == 4  # env steps of the run, at the end of the window
    assert row["episode/return"] == 2.0
    assert row["reward/event"] == 2.0
    trainer.close("test")
    # The next job goes on with the same episodes, from its first moment on.
    resumed = open_trainer(tmp_path)
    resumed.write_progress()
    assert resumed.progress.mean_return_recent == 2.0
    again = newest_row(resumed)
    kept = ("milestone_recent/town", "milestone_recent_step/town", "milestone_recent/badge", "reward/event")
    assert {name: again[name] for name in kept} == {name: row[name] for name in kept}
    resumed.close("test")


def test_episodes_from_elsewhere_are_told_apart(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    builder = make_builder(BLOCK)
    ways = (("beginning", 1.0, [("town", 3)]), ("archive", 40.0, [("badge", 5)]), ("state", 20.0, []))
    for episode, (tag, value, milestones) in enumerate(ways):
        summary = summary_of(
            9,
            episode_return=value,
            milestones=milestones,
            start=start_at(tag, *["town"] * (tag != "beginning")),
            cells=3 + episode,
            loop_share=0.5,
            entropy=None if tag == "state" else 1.5,
            reason="truncated",
        )
        names = {step - 1: [name] for name, step in milestones}
        ingest(trainer, play(builder, episode, 9, milestones=names, summary=summary))
    trainer.write_progress()
    row = newest_row(trainer)
    of_episodes = {name: value for name, value in row.items() if name.startswith(("episode/", "elsewhere/"))}
    assert of_episodes == {
        "episode/return": 1.0,
        "episode/steps": 9.0,
        "episode/cells": 3.0,
        "episode/loop_share": 0.5,
        "episode/entropy": 1.5,
        "elsewhere/return": 30.0,
        "elsewhere/steps": 9.0,
        "elsewhere/milestones": 0.5,
    }
    assert (row["milestone/town"], row["milestone_elsewhere/badge"]) == (4, 17)
    assert not {"milestone/badge", "milestone_recent/badge", "milestone_elsewhere/town"} & row.keys()
    assert trainer.progress.milestones == {"town": 4}
    assert trainer.progress.milestones_elsewhere == {"badge": 17}
    assert (trainer.progress.mean_return_recent, trainer.progress.episodes) == (1.0, 3)
    assert len(trainer._arrivals.starts()) == 1
    trainer.close("test")
    resumed = open_trainer(tmp_path)
    again = newest_row(resumed)
    assert {name: again[name] for name in of_episodes} == of_episodes
    assert resumed.replay.milestones_elsewhere == {"badge": 17}
    resumed.close("test")


def test_the_newest_100_episodes_count() -> None:
    for count, counted in ((250, range(150, 250)), (20, range(20))):
        arrivals = Arrivals()
        for number in range(count):
            summary = summary_of(9, episode_return=float(number))
            arrivals.add_ending(decode_header(encode_block(play(make_builder(BLOCK), number, 9, summary=summary)[-1])))
        assert arrivals.mean_return() == np.mean(counted)


def test_staleness_comes_with_moved_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "STALENESS_ROWS", 1)
    trainer = open_trainer(tmp_path, changed(batch_size=16))
    # Two emulators' episodes, window by window in turn, as an actor sends them.
    pairs = list(zip(*(played(trainer.r2d2.online, LENGTH, episode) for episode in range(2)), strict=True))
    for one, other in pairs:
        one.emulator, other.emulator = 0, 1
    ingest(trainer, [sequence for pair in pairs for sequence in pair])
    sampled = trainer.sample()
    trainer.update(sampled)
    trainer.r2d2.online.load_state_dict(open_trainer(tmp_path / "same").r2d2.online.state_dict())
    fresh = newest_row(trainer)
    # Only what float16 rounds off the stored states.
    assert 0 <= fresh["staleness/delta_q_first"] < 5e-3
    assert fresh["staleness/from_start"] == 1.0
    assert fresh["staleness/age_updates"] == 1
    assert 4 <= fresh["staleness/history_steps"] <= 24
    move(trainer.r2d2.online, 0.3)
    moved = newest_row(trainer)
    assert moved["staleness/delta_q_first"] > 10 * fresh["staleness/delta_q_first"]
    assert moved["staleness/history_steps"] == fresh["staleness/history_steps"]
    trainer.close("test")


def test_staleness_is_measured_only_now_and_then(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, played(trainer.r2d2.online, 80))
    train(trainer, 1)
    rows = [newest_row(trainer) for _ in range(2 * trainer_module.STALENESS_ROWS)]
    measured = [number for number, row in enumerate(rows, start=1) if "staleness/delta_q_first" in row]
    assert measured == [trainer_module.STALENESS_ROWS, 2 * trainer_module.STALENESS_ROWS]
    trainer.close("test")


@pytest.mark.parametrize("rescaling", [True, False])
def test_staleness_against_the_whole_episode_stepped_through(tmp_path: Path, rescaling: bool) -> None:
    trainer = open_trainer(tmp_path, changed(value_rescaling=rescaling))
    network = trainer.r2d2.online
    windows = decoded(played(network, LENGTH))
    move(network, 0.3)
    again = decoded(played(network, LENGTH))  # the same steps, with the states of the present weights
    *history, sequence = windows[:4]
    found = sequence_staleness(network, sequence, history, trainer.config)
    assert found.shape == (BLOCK.unroll_length,)
    # With states of the present weights, the replayed window is the true one.
    values = []
    for header, arrays in (sequence, again[3]):
        b = header.burn_in_length
        action = np.append(np.int64(header.first_prev_action), arrays.action[:-1])
        reward = np.append(np.float32(header.first_prev_reward), arrays.reward[:-1])
        parts = (arrays.screen_packed, arrays.context, arrays.crop, action, reward)
        state = tuple(
            torch.from_numpy(part.astype(np.float32)).view(1, 1, -1) for part in (arrays.state_h, arrays.state_c)
        )
        with torch.no_grad():
            features = network.encode(*(torch.from_numpy(part.copy()) for part in parts)).unsqueeze(1)
            outputs, _ = network.recur(features, state)
            values.append(targets.expected_values(network.head(outputs[b : b + 4, 0], noise=False), rescaling, (1.0,)))
    expected = (values[0] - values[1]).norm(dim=-1) / values[1].amax(-1).abs()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=2e-3)
    assert found[0] > 0.02
    # States of the present weights are not stale; a history cut short begins with its oldest window's.
    for first in (0, 2):
        assert sequence_staleness(network, again[3], again[first:3], trainer.config).max() < 5e-3
    short = sequence_staleness(network, sequence, history[-1:], trainer.config)
    assert not torch.equal(short, found)
    trainer.close("test")


@pytest.mark.parametrize("rescaling", [True, False])
def test_staleness_counts_values_as_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rescaling: bool
) -> None:
    measured = mock.Mock(return_value={})
    monkeypatch.setattr(trainer_module, "STALENESS_ROWS", 1)
    monkeypatch.setattr(trainer_module, "staleness_row", measured)
    trainer = open_trainer(tmp_path, changed(value_rescaling=rescaling))
    ingest(trainer, episodes(0, 4))
    train(trainer, 1)
    newest_row(trainer)
    assert [call.args[-1] for call in measured.call_args_list] == [trainer.config]
    trainer.close("test")


def test_a_history_stops_at_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "STALENESS_ROWS", 1)
    trainer = open_trainer(tmp_path, changed(batch_size=16))
    sequences = played(trainer.r2d2.online, LENGTH)
    del sequences[2]  # steps 8 to 11: never came, or damaged
    ingest(trainer, sequences)
    train(trainer, 1)
    row = newest_row(trainer)
    assert 0 < row["staleness/from_start"] < 1
    assert row["staleness/history_steps"] <= 12
    trainer.close("test")


def test_what_cannot_be_read_is_left_out_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "STALENESS_ROWS", 1)
    trainer = open_trainer(tmp_path)
    ingest(trainer, played(trainer.r2d2.online, LENGTH))
    train(trainer, 1)
    assert trainer.replay.read(0) is not None
    assert trainer.replay.read(7) is None  # never came
    (segment,) = (tmp_path / "run" / "replay").glob("segment-*.log")
    middle = segment.stat().st_size // 2
    with segment.open("r+b") as file:
        file.seek(middle)
        file.write(os.urandom(segment.stat().st_size - middle))
    assert trainer.replay.read(6) is None
    row = newest_row(trainer)
    assert row["learner/loss"] > 0
    trainer.close("test")


def points(trainer: Trainer) -> list[tuple[Any, Any]]:
    return [(row["env_steps"], row["updates"]) for row in read_metrics(trainer.run_dir.metrics)]


def tick(trainer: Trainer) -> None:
    """A row is due at once."""
    trainer._metrics_writer.make_due()
    trainer.tick()


def test_no_point_is_there_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4))
    trainer.replay.sync()
    tick(trainer)
    tick(trainer)  # nothing has happened
    train(trainer, 3)
    tick(trainer)  # the same env steps, and what was learned from them
    trainer.close("hung up")  # the last row is there already
    after_close = points(trainer)
    assert len(after_close) == len(set(after_close)) == 2
    resumed = open_trainer(tmp_path)
    tick(resumed)  # its first row is due at once
    assert points(resumed) == after_close
    train(resumed, 1)
    tick(resumed)
    resumed.metrics.close()  # killed: its update is lost
    resumed.replay.close()
    again = open_trainer(tmp_path)
    train(again, 1)
    tick(again)
    assert points(again) == [*after_close, (after_close[-1][0], 4)]
    ingest(again, episodes(4, 1))
    again.close("test")
    assert points(again)[-1] == (again.replay.env_steps, 4)
    assert points(again) == sorted(set(points(again)))
    files = sorted(again.run_dir.tensorboard.iterdir())
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    drawn = [e.step for e in events for value in e.summary.value if value.tag == "updates"]
    assert drawn == [step for step, _ in points(again)]


def test_env_steps_that_were_taken_back_are_not_drawn_again(tmp_path: Path) -> None:
    """By an older copy of the run that was put back."""
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 1))
    trainer.close("test")
    shutil.copytree(trainer.run_dir.path, tmp_path / "older")
    further = open_trainer(tmp_path)
    ingest(further, episodes(1, 3))
    further.close("test")
    drawn = points(further)
    for name in ("replay", "checkpoint"):
        shutil.rmtree(further.run_dir.path / name)
        shutil.copytree(tmp_path / "older" / name, further.run_dir.path / name)
    again = open_trainer(tmp_path)
    ingest(again, episodes(4, 1))
    tick(again)
    assert again.replay.env_steps < drawn[-1][0]
    assert points(again) == drawn
    ingest(again, episodes(5, 4))
    again.close("test")
    assert points(again) == [*drawn, (again.replay.env_steps, 0)]
