"""Curiosity by random network distillation (RND, Burda et al. 2018): a reward for what has hardly been trained on.

Runs in the learner, and in `debug_rollout`, which only scores. In: batches as they are sampled. Out: the same batches
with the bonus in their rewards, computed from the stored frames each time a sequence is drawn: what was new when it was
played pays less once it has been seen often. Actors know none of it, so initial priorities and the previous reward that
networks see are without it.

A fixed random network and a trained one look at the same frame; the mean squared difference of their outputs, the
error, is small where the trained one has been often. Both see what changes with the place alone: the mean shade of each
16-pixel square of the screen, on which the player walks, and the context's slots of place, where two screens are alike.
They do not see the map-memory crop, which tells of visits and so is never twice the same, nor what the player has and
whom it fights, which has rewards of its own or goes up and down by chance; and nothing that the policy's network
computes, whose changes would pass for news.

Names: L rows of a batch, B of them burn-in, T trained, n the n-step length, N sequences, P slots of place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cluster_rl.config import Config
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.optimizer_state import load_optimizer_tensors, optimizer_tensors, split_by_part
from cluster_rl.learning.targets import loss_mask
from cluster_rl.model import ObservationSpec, copy_tensors
from cluster_rl.networks.encoders import initialise_for_relu

MAX_WHITENED = 5.0
"""Whitened inputs are cut off there (Burda et al. 2018)."""
MAX_BONUS = 5.0
"""Bonuses too, before their weight: L of NGU (Badia et al. 2020)."""
BATCHES_A_TRAINED_ONE = 8
"""Of so many batches one trains the predictor. Burda et al. keep a quarter of the frames with 128 actors, to learn no
faster than with fewer; here a replay gives each frame several times."""
ERROR_HORIZON_BATCHES = 250
"""Bonuses by count compare an error with those of about so many trained batches: all fall as the predictor learns."""

_SQUARES = 9 * 10
_HIDDEN, _OUTPUTS = 64, 32
_LEARNING_RATE = 1e-3
_SMALLEST_DEVIATION = 0.2  # of an input, whose smallest change is 1: of one that has hardly ever changed
_SMALLEST_ERROR = 1e-12


def square_shades(packed: Tensor) -> Tensor:
    """Sum of each square's 8 x 8 stored pixels: packed screens uint8 [..., 72, 20] -> uint8 [..., 9, 10], 0 to 192.

    Stored screens have half the console's resolution: two bytes are one row of a square.
    """
    words = packed.contiguous().view(torch.int32).unflatten(-2, (9, 8))  # four bytes at once, none reaching another
    pairs = (words >> 2).bitwise_and_(0x33333333).add_(words & 0x33333333)  # of a row, in half bytes: at most 6
    pairs = pairs[..., :4, :] + pairs[..., 4:, :]  # of four pixels: at most 12
    sums = (pairs >> 4).bitwise_and_(0x0F0F0F0F).add_(pairs.bitwise_and_(0x0F0F0F0F))  # of eight, in bytes: at most 24
    halves = sums.sum(-2, dtype=torch.int32).view(torch.uint8)  # of the square's halves, at most 96
    whole: Tensor = halves[..., ::2] + halves[..., 1::2]
    return whole


class Moments(nn.Module):
    """Running mean and variance of each of some numbers, in float64; of none they are 0.

    All that came counts equally, or, with a horizon, the last `horizon_batches` calls or so.
    """

    def __init__(self, size: int, horizon_batches: int | None = None) -> None:
        super().__init__()
        self._smallest_share = 1.0 / horizon_batches if horizon_batches is not None else 0.0
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def add(self, values: Tensor, mask: Tensor) -> None:
        """Takes in finite values float32 [M, size] where mask [M] is set (Chan et al. 1979); none set: no change."""
        count = mask.sum()
        weights = mask / count.clamp(min=1)
        mean = weights @ values
        variance = weights @ (values - mean).square()
        self.count += count
        share = torch.where(count > 0, (count / self.count).clamp(min=self._smallest_share), 0.0)
        moved = mean - self.mean
        self.mean += share * moved
        self.variance += share * (variance - self.variance + (1.0 - share) * moved.square())

    @property
    def deviation(self) -> Tensor:
        """Standard deviation, float64 [size]."""
        return self.variance.sqrt()


class Rnd:
    """The two networks, the statistics that inputs and errors are held against, and the optimiser.

    One `update` for each batch that is drawn, before the learner's own.
    """

    def __init__(self, config: Config, spec: ObservationSpec, device: torch.device | str, seed: int) -> None:
        """Draws both networks from `seed`, leaving torch's global generator as it was."""
        self.config = config
        self.device = torch.device(device)
        self.updates = 0
        size = _SQUARES + len(spec.place_slots)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.target = _network(size, hidden_layers=1).to(self.device).requires_grad_(False)
            self.predictor = _network(size, hidden_layers=2).to(self.device)
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=_LEARNING_RATE, fused=True)
        self.inputs = Moments(size).to(self.device)
        self.errors = Moments(1, ERROR_HORIZON_BATCHES if config.rnd_by_counts else None).to(self.device)
        self._map_slots = torch.tensor(spec.map_slots, dtype=torch.int64, device=self.device)
        self._slots = torch.tensor(spec.place_slots, dtype=torch.int64, device=self.device)
        self._scales = torch.ones(size, device=self.device)
        if spec.place_slots:  # the few of them weigh as much as the many squares
            self._scales[_SQUARES:] = (_SQUARES / len(spec.place_slots)) ** 0.5
        self._rows = torch.arange(config.unroll_length + config.n_step - 1, device=self.device).unsqueeze(1)
        self._skipped = torch.zeros((), dtype=torch.int64, device=self.device)
        # Of the statistics, which change with a trained batch alone.
        self._whitening, self._usual = self._whitening_now(), self._usual_now()
        self._newest: _Rewarded | None = None

    def update(self, batch: Batch, weight: float) -> Batch:
        """Trains the predictor, if it is this batch's turn, and returns the batch with `weight` times the bonus of each
        step as its `curiosity`.

        Paid are the steps that returns are made of, rows B to B + last - 1, for the frame that they led to; other rows
        get 0. Nothing waits for the device. An error that is not finite makes the bonus NaN, whose loss `R2D2.update`
        then refuses.
        """
        first, length = self.config.burn_in, self.config.unroll_length
        led_to = slice(first + 1, None)  # row t: what the step of the t-th trained row led to
        seen = self._seen(batch.screen_packed[led_to], batch.context[led_to])
        learns = self.updates % BATCHES_A_TRAINED_ONE == 0  # the first one too: there are statistics from then on
        if learns:
            trained = loss_mask(batch.train_length, length)  # [T, N]; each step of the replay is trained at one place
            self.inputs.add(seen[:length].flatten(0, 1), trained.flatten())
            self._whitening = self._whitening_now()
        with torch.set_grad_enabled(learns):
            errors = self._errors(seen)  # [T + n - 1, N]
        if learns:
            self._learn(errors[:length], trained)
            errors = errors.detach()
            self._usual = self._usual_now()
        self.updates += 1
        bonus = torch.where(self._rows < batch.last, self._bonus(errors, batch.visits[first:-1]), 0.0)
        curiosity = torch.zeros_like(batch.reward)
        curiosity[first:-1] = weight * bonus
        self._newest = _Rewarded(errors, bonus, weight, batch.reward, batch.train_length, batch.context[led_to])
        return replace(batch, curiosity=curiosity)

    def score(self, screen_packed: Tensor, context: Tensor, visits: Tensor) -> Tensor:
        """Bonus, float32 [M], of M steps by what they led to: uint8 [M, 72, 20], [M, C] and [M].

        Nothing is learned. Before the first update there are no statistics, and these very steps give them.
        """
        seen = self._seen(screen_packed, context)
        if not self.inputs.count:
            self.inputs.add(seen, torch.ones(len(seen), dtype=torch.bool, device=self.device))
            self._whitening = self._whitening_now()
        with torch.no_grad():
            errors = self._errors(seen)
        if not self.errors.count:
            self.errors.add(errors.unsqueeze(1), torch.ones_like(errors, dtype=torch.bool))
            self._usual = self._usual_now()
        return self._bonus(errors, visits)

    def metrics(self) -> dict[str, float]:
        """Of the trained steps of the newest batch that was rewarded, and how many steps of the optimiser were skipped
        since this object was made; empty before the first batch. See docs/metrics.md."""
        if self._newest is None:
            return {}
        errors, bonus, weight, reward, train_length, context = self._newest
        mask = loss_mask(train_length, self.config.unroll_length)
        reward = reward[self.config.burn_in :]
        errors, bonus, reward = (values[: len(mask)][mask].double() for values in (errors, bonus, reward))
        paid = weight * bonus
        whole = paid.sum() + reward.abs().sum()
        return {
            "error_mean": float(errors.mean()),
            "error_std": float(errors.std(correction=0)),
            "bonus_mean": float(bonus.mean()),
            "bonus_std": float(bonus.std(correction=0)),
            "reward_share": float(paid.sum() / whole) if whole > 0 else 0.0,
            "skipped_steps": float(self._skipped),
            **self._by_map(context[: len(mask)][mask], bonus),
        }

    def _by_map(self, context: Tensor, bonus: Tensor) -> dict[str, float]:
        """Mean bonus on each map, by its number: context uint8 [M, C], bonus float64 [M]."""
        if not len(self._map_slots):
            return {}
        bits = (context.index_select(-1, self._map_slots) > 0).long()
        maps = (bits << torch.arange(len(self._map_slots), device=self.device)).sum(-1)
        steps, paid = torch.bincount(maps).tolist(), torch.bincount(maps, weights=bonus).tolist()
        return {f"map_bonus/{number}": paid[number] / count for number, count in enumerate(steps) if count}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later update depends on, as `R2D2.state_dict` has it."""
        tensors = {
            f"{part}.{name}": tensor
            for part, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }
        tensors |= {
            f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer, self.predictor).items()
        }
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return {"tensors": plain, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; on the CPU the next updates are then the same bit by bit.

        Raises `UserError` if it belongs to networks of another shape.
        """
        what = "checkpoint of the curiosity (RND)"
        parts = split_by_part(state["tensors"], (*self._modules(), "optimizer"), what)
        load_optimizer_tensors(parts["optimizer"], self.optimizer, self.predictor, what)
        for part, module in self._modules().items():
            copy_tensors(parts[part], module.state_dict(), what)
        self.updates = int(state["updates"])
        self._whitening, self._usual = self._whitening_now(), self._usual_now()

    def _modules(self) -> dict[str, nn.Module]:
        return {"target": self.target, "predictor": self.predictor, "inputs": self.inputs, "errors": self.errors}

    def _learn(self, errors: Tensor, mask: Tensor) -> None:
        """One step of the optimiser against errors with gradient, [T, N], where mask is set, and their statistics.

        Neither, if the gradient is not finite: what is not finite would be in every later checkpoint.
        """
        parameters = list(self.predictor.parameters())
        gradients = torch.autograd.grad(torch.where(mask, errors, 0.0).sum() / mask.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        good = torch.nn.utils.get_total_norm(gradients).isfinite()
        # The fused step's own way to leave all as it was without waiting for the device: 1 where it should.
        self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._skipped += ~good
        learned = mask & good
        self.errors.add(torch.where(learned, errors.detach(), 0.0).view(-1, 1), learned.flatten())

    def _seen(self, screen_packed: Tensor, context: Tensor) -> Tensor:
        """What the networks see, before whitening: [..., size] float32, whole numbers to 255."""
        squares = square_shades(screen_packed).flatten(-2)
        return torch.cat([squares, context.index_select(-1, self._slots)], dim=-1).float()

    def _errors(self, seen: Tensor) -> Tensor:
        """Mean squared difference of the networks' outputs: [..., size] -> [...]."""
        shift, factor = self._whitening
        whitened = torch.addcmul(shift, seen, factor).clamp_(-MAX_WHITENED, MAX_WHITENED)
        whitened *= self._scales
        errors: Tensor = (self.predictor(whitened) - self.target(whitened)).square().mean(-1)
        return errors

    def _bonus(self, errors: Tensor, visits: Tensor) -> Tensor:
        """Bonus of each step, 0 to `MAX_BONUS`, NaN where its error is not finite: errors and visits of the same shape
        -> float32.

        By counts as in NGU: the episode's own bonus for the map tile that was entered, 1 / visits, times as much as the
        error lies above the usual, by which no place is worth less than without RND. Nothing that moves by itself while
        the player stands pays anything. Alone as in RND: the error in deviations, never less its mean, which would make
        what is known cost something.
        """
        usual, deviation = self._usual
        if not self.config.rnd_by_counts:
            bonus = (errors / deviation).clamp_(max=MAX_BONUS)
        else:
            factor = ((errors - usual) / deviation).add_(1.0).clamp_(1.0, MAX_BONUS)
            bonus = torch.where(visits > 0, factor / visits, 0.0)
        # The bounds would hide an infinite error, and a tile not entered any: networks that broke must be seen.
        return torch.where(errors < torch.inf, bonus, torch.nan)

    def _whitening_now(self) -> tuple[Tensor, Tensor]:
        """What is added to inputs that were multiplied, and by what, float32 [size] each: they then have mean 0 and
        deviation 1."""
        factor = 1.0 / self.inputs.deviation.clamp(min=_SMALLEST_DEVIATION)
        return (-self.inputs.mean * factor).float(), factor.float()

    def _usual_now(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of errors, float32 [1] each."""
        return self.errors.mean.float(), self.errors.deviation.clamp(min=_SMALLEST_ERROR).float()


class _Rewarded(NamedTuple):
    """What metrics tell of a rewarded batch."""

    errors: Tensor  # [T + n - 1, N], as the bonus
    bonus: Tensor
    weight: float
    reward: Tensor  # [L, N], with the bonus
    train_length: Tensor  # int64 [N]: how many steps are trained
    context: Tensor  # uint8 [T + n - 1, N, C], that each step led to


def _network(inputs: int, hidden_layers: int) -> nn.Sequential:
    """[..., inputs] -> [..., _OUTPUTS]. The predictor is the deeper one (Burda et al. 2018): it must be able to learn
    what the target is."""
    layers: list[nn.Module] = []
    for _ in range(hidden_layers):
        layers += [nn.Linear(inputs, _HIDDEN), nn.ReLU(inplace=True)]
        inputs = _HIDDEN
    return nn.Sequential(*layers, nn.Linear(inputs, _OUTPUTS)).apply(initialise_for_relu)
