"""R2D2 with a quantile head: one update of the learner, from a batch to new weights and new priorities.

The learner process (or the slim trainer) owns one `R2D2`. In: `Batch`es. Out: priorities for the replay, metrics, and
the weights as bytes. Kapturowski et al. 2019 with quantile regression (Dabney et al. 2018): both networks start from
the actor's stored state, warm it over the burn-in with their own weights, and are unrolled over the trained positions
and the tail; frames are encoded all at once, only the recurrent cell runs through time.

Autocast covers the encoders alone. The recurrent cell, the head, targets and losses stay in float32, because half
precision costs more in value resolution there than it saves in time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.learning import losses, priorities, targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.optimizer_state import load_optimizer_tensors, optimizer_tensors, split_by_part
from cluster_rl.model import (
    ObservationSpec,
    QNetwork,
    State,
    build_model,
    copy_tensors,
    parameter_count,
    params_to_bytes,
)
from cluster_rl.networks.frames import Frames

_ALL_ROWS = slice(None)


@dataclass(frozen=True)
class UpdateResult:
    """What an update hands back."""

    priorities: NDArray[np.float32]  # [N], of the batch's sequences
    td_errors: NDArray[np.float32]  # [T, N], target minus prediction in the space that is trained; NaN on padding
    metrics: dict[str, float]


@dataclass(frozen=True)
class Loss:
    """A forward pass over a batch: what is minimised, and what else it tells."""

    total: Tensor  # scalar with gradient
    priorities: Tensor  # [N]
    td_errors: Tensor  # [T, N] without gradient, see `UpdateResult`
    metrics: dict[str, Tensor]  # scalars without gradient


class R2D2:
    """Online, target and averaged network, optimiser, noise generators and the update counter.

    The averaged network is the mean of the online weights over about `averaging_updates` updates (Polyak & Juditsky
    1992), for those who play without exploration: where two actions are worth nearly the same, the newest weights
    prefer now one and now the other, and a greedy agent with one such set of weights walks in circles. Actors get the
    newest: that they change is what breaks the circles of training, and with the mean it learned less
    (results/diary/training.md).
    """

    def __init__(self, config: Config, spec: ObservationSpec, device: torch.device | str, seed: int) -> None:
        """Initialises the weights from `seed`, leaving torch's global generator as it was.

        Raises `UserError` if the config's sizes do not fit each other.
        """
        self.config = config
        self.spec = spec
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            online = build_model(config, spec)
        self.online: QNetwork = online.to(self.device)
        self.target: QNetwork = copy.deepcopy(self.online).requires_grad_(False)
        self.averaged: QNetwork = copy.deepcopy(self.online).requires_grad_(False)
        # Kept, as `parameters()` walks through all modules: four walks an update are 1 % of its time on a CPU.
        self._online_weights = list(self.online.parameters())
        self._averaged_weights = list(self.averaged.parameters())
        self.optimizer = torch.optim.Adam(
            self._online_weights, lr=config.learning_rate, eps=config.adam_epsilon, fused=True
        )
        self.updates = 0
        # Independent noise for the two networks; CPU generators, so that a checkpoint fits any device.
        self._online_noise = torch.Generator().manual_seed(2 * seed)
        self._target_noise = torch.Generator().manual_seed(2 * seed + 1)
        # Whether encoders run in bfloat16; the memory estimate turns it on for the CPU.
        self.autocast = config.mixed_precision and self.device.type == "cuda"

    @property
    def parameter_count(self) -> int:
        """Number of trained weights of one network."""
        return parameter_count(self.online)

    def update(self, batch: Batch) -> UpdateResult:
        """Trains on one batch. Raises `RuntimeError` if the loss or its gradients are not finite, weights untouched."""
        batch.check(self.config, self.spec.num_actions)
        number = self.updates + 1
        self.online.resample_noise(self._online_noise)
        self.target.resample_noise(self._target_noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.total.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self._online_weights, self.config.max_grad_norm)
        # Measured, not computed from the norm before: it is what shows that the clip works.
        gradients = [weights.grad for weights in self._online_weights if weights.grad is not None]
        clipped_norm = torch.nn.utils.get_total_norm(gradients)

        # One transfer from the device for everything that leaves it; also what the check below must wait for.
        scalars = {
            "loss": loss.total.detach(),
            "grad_norm": grad_norm,
            "grad_norm_clipped": clipped_norm,
            **loss.metrics,
        }
        parts = [torch.stack(list(scalars.values())), loss.priorities, loss.td_errors.flatten()]
        figures, new_priorities, td_errors = torch.cat(parts).cpu().split([len(part) for part in parts])
        metrics = dict(zip(scalars, figures.tolist(), strict=True))
        if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
            raise RuntimeError(
                f"update {number}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}: not finite; the "
                "weights were left as they were"
            )

        self.optimizer.step()
        self.updates = number
        self._average()
        if number % self.config.target_update_interval == 0:
            self.target.load_state_dict(self.online.state_dict())
        return UpdateResult(new_priorities.numpy(), td_errors.view(loss.td_errors.shape).numpy(), metrics)

    def loss(self, batch: Batch) -> Loss:
        """The forward pass, with the noise drawn last. The gradient runs through the online network's unroll only."""
        config = self.config
        unroll = slice(config.burn_in, None)  # the trained rows and the tail
        steps = slice(config.burn_in, config.burn_in + config.unroll_length)
        burn_in_lengths = batch.burn_in_length.cpu()
        with torch.no_grad():  # before the gradient's graph takes memory
            for_target = self.encode(self.target, batch) if config.target_encoder == "own" else None  # [L, N, F]
        features = self._trained_features(batch)  # [L, N, F]
        with torch.no_grad():
            for_target = features if for_target is None else for_target
            target_state = self.warm_state(self.target, batch, for_target, burn_in_lengths)
            target_outputs, _ = self.target.recur(for_target[unroll], target_state)
            target_quantiles = self.target.head(target_outputs, noise=True)  # [T + n, N, A, S K]
            online_state = self.warm_state(self.online, batch, features, burn_in_lengths)
        outputs, state = self.online.recur(features[steps], online_state)  # [T, N, H]
        quantiles = self.online.head(outputs, noise=True)  # [T, N, A, S K]
        with torch.no_grad():  # the rows behind only say which action to bootstrap from
            tail_outputs, _ = self.online.recur(features[steps.stop :], state)
            online_quantiles = torch.cat([quantiles, self.online.head(tail_outputs, noise=True)])  # [T + n, N, A, S K]

        weights = config.stream_weights
        goes_on = targets.return_goes_on(
            config.return_cut,
            batch.greedy[unroll],
            batch.action[unroll],
            online_quantiles,
            batch.mask[unroll],
            config.value_rescaling,
            weights,
        )  # [T + n, N]
        penalties = targets.advantage_penalties(
            config.advantage_alpha,
            target_quantiles,
            batch.action[unroll],
            batch.mask[unroll],
            config.value_rescaling,
            weights,
        )  # [S, T + n, N]
        rewards = targets.stream_rewards(
            batch.reward[unroll],
            batch.visits[unroll],
            None if batch.curiosity is None else batch.curiosity[unroll],
            config.rewards.novelty,
            weights,
        )  # [S, T + n, N]
        returns = targets.quantile_targets(
            online_quantiles,
            target_quantiles,
            batch.mask[unroll],
            rewards,
            batch.last,
            batch.terminated,
            n_step=config.n_step,
            gammas=config.stream_gammas,
            weights=weights,
            rescaling=config.value_rescaling,
            goes_on=goes_on,
            penalties=penalties,
        )  # [T, N, S K]
        mask = targets.loss_mask(batch.train_length, config.unroll_length)  # [T, N]
        taken = targets.taken_quantiles(quantiles, batch.action[steps])  # [T, N, S K]
        step_losses = torch.zeros_like(mask, dtype=torch.float32)  # [T, N]
        for predicted, sampled in zip(taken.chunk(len(weights), -1), returns.chunk(len(weights), -1), strict=True):
            step_losses = step_losses + losses.quantile_huber_loss(predicted, sampled, config.huber_kappa)
        total = losses.weighted_step_mean(step_losses, mask, batch.weights)
        quantile_loss = total.detach()
        aux = self._auxiliary_loss(batch, outputs, mask)
        if aux is not None:
            total = total + config.aux_loss_weight * aux

        with torch.no_grad():
            errors = priorities.td_errors(taken, returns, weights)  # [T, N]
            new_priorities = priorities.sequence_priorities(errors, mask, config.priority_eta)
            metrics = self._metrics(batch, taken, returns, errors, mask, goes_on)
            metrics["quantile_loss"] = quantile_loss
            metrics["aux_loss"] = aux.detach() if aux is not None else total.new_zeros(())
        return Loss(total, new_priorities, errors.masked_fill(~mask, float("nan")), metrics)

    def warm_state(self, network: QNetwork, batch: Batch, features: Tensor, lengths: Tensor) -> State:
        """The state at the first trained row: the stored one, run over each item's own burn-in by `network` itself.

        `features` [L, N, F] are those of the batch's rows, for this network; `lengths` [N] is the batch's
        `burn_in_length` on the CPU. No gradient.
        """
        state = (batch.state_h, batch.state_c)
        if int(lengths.max()) == 0:
            return state
        with torch.no_grad():
            _, state = network.recur(features[: self.config.burn_in], state, lengths)
        return state

    def params_bytes(self) -> bytes:
        """The online network's weights as safetensors, for the actors."""
        return params_to_bytes(self.online)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later update depends on: `{"tensors": {name: CPU tensor}, "updates": int}`.

        Flat and plain, so that tensors go into safetensors and the rest into JSON.
        """
        tensors = {f"online.{name}": tensor for name, tensor in self.online.state_dict().items()}
        tensors |= {f"target.{name}": tensor for name, tensor in self.target.state_dict().items()}
        tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        state = optimizer_tensors(self.optimizer, self.online)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state.items()}
        tensors["rng.online_noise"] = self._online_noise.get_state()
        tensors["rng.target_noise"] = self._target_noise.get_state()
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return {"tensors": plain, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; on the CPU the next updates are then the same bit by bit.

        Raises `UserError` if it belongs to a network of another shape.
        """
        what = "checkpoint of the learner"
        parts = split_by_part(state["tensors"], ("online", "target", "averaged", "optimizer", "rng"), what)
        if set(parts["rng"]) != {"online_noise", "target_noise"}:
            raise UserError(f"{what}: the state of the noise is missing; take an older checkpoint")
        load_optimizer_tensors(parts["optimizer"], self.optimizer, self.online, what)
        copy_tensors(parts["online"], self.online.state_dict(), what)
        copy_tensors(parts["target"], self.target.state_dict(), what)
        copy_tensors(parts["averaged"], self.averaged.state_dict(), what)
        self._online_noise.set_state(parts["rng"]["online_noise"])
        self._target_noise.set_state(parts["rng"]["target_noise"])
        self.updates = int(state["updates"])

    def _average(self) -> None:
        """Takes the newest weights into the mean: equally over the first updates, exponentially from then on."""
        share = 1 / min(self.updates, self.config.averaging_updates)
        get_ema_multi_avg_fn(1 - share)(self._averaged_weights, self._online_weights, self.updates)

    def _trained_features(self, batch: Batch) -> Tensor:
        """The online network's features of all rows, [L, N, F], with gradient through the trained ones alone."""
        begin, end = self.config.burn_in, self.config.burn_in + self.config.unroll_length
        with torch.no_grad():
            before = self.encode(self.online, batch, slice(0, begin))
            behind = self.encode(self.online, batch, slice(end, None))
        return torch.cat([before, self.encode(self.online, batch, slice(begin, end)), behind])

    def encode(self, network: QNetwork, batch: Batch, rows: slice = _ALL_ROWS) -> Tensor:
        """Features [rows, N, F] of all frames of some rows in one pass of the encoders."""
        start, stop, _ = rows.indices(len(batch.action))
        frames = Frames(*(part[start * batch.size : stop * batch.size] for part in batch.frames))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            features = network.encode_frames(frames)
        return features.view(-1, batch.size, network.feature_size)

    def _auxiliary_loss(self, batch: Batch, outputs: Tensor, mask: Tensor) -> Tensor | None:
        """Prediction of context slots n steps ahead, or at the last position, weighted like the main loss.

        Wherever the return was cut: what is predicted does not depend on what is best.
        """
        config = self.config
        if config.aux_loss_weight == 0 or not self.spec.aux_slots:
            return None
        slots = torch.tensor(self.spec.aux_slots, device=self.device)
        context = batch.context[config.burn_in :].index_select(-1, slots)  # [T + n, N, S]
        ahead = targets.bootstrap_steps(batch.last, config.unroll_length, config.n_step)  # [T, N]
        rows = ahead + torch.arange(config.unroll_length, device=self.device).unsqueeze(1)
        future = context.gather(0, rows.unsqueeze(-1).expand(-1, -1, len(slots))).float() / 255.0  # [T, N, S]
        step_losses = losses.auxiliary_loss(self.online.aux(outputs), future)
        return losses.weighted_step_mean(step_losses, mask, batch.weights)

    def _metrics(
        self,
        batch: Batch,
        taken: Tensor,
        returns: Tensor,
        errors: Tensor,
        mask: Tensor,
        goes_on: Tensor | None,
    ) -> dict[str, Tensor]:
        """Scalars over the trained steps. Values are in reward units, TD errors in the space that is trained."""
        rescaling, weights = self.config.value_rescaling, self.config.stream_weights
        unroll_length = self.config.unroll_length
        steps = slice(self.config.burn_in, self.config.burn_in + unroll_length)
        ahead = targets.bootstrap_steps(batch.last, unroll_length, self.config.n_step, goes_on)  # [T, N]
        count = mask.sum()

        def counted(values: Tensor) -> Tensor:
            # Not values[mask]: its size is only known on the device, and the host would have to wait for it.
            return torch.where(mask, values, torch.zeros_like(values))

        absolute = counted(errors.abs())
        return {
            "td_abs_mean": absolute.sum() / count,
            "td_abs_max": absolute.amax(),
            "q_mean": counted(targets.expected_values(taken, rescaling, weights)).sum() / count,
            "target_mean": counted(targets.expected_values(returns, rescaling, weights)).sum() / count,
            "masked_actions": counted((~batch.mask[steps]).float().mean(-1)).sum() / count,  # share of all actions
            "greedy_actions": counted(batch.greedy[steps].float()).sum() / count,  # share of the trained steps
            "return_steps": counted(ahead.float()).sum() / count,
        }
