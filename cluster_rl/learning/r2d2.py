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

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.learning import losses, priorities, targets
from cluster_rl.learning.batch import Batch
from cluster_rl.model import (
    ObservationSpec,
    QNetwork,
    State,
    build_model,
    copy_tensors,
    load_params,
    parameter_count,
    params_to_bytes,
)


@dataclass(frozen=True)
class UpdateResult:
    """What an update hands back."""

    priorities: NDArray[np.float32]  # [N], of the batch's sequences
    metrics: dict[str, float]


@dataclass(frozen=True)
class Loss:
    """A forward pass over a batch: what is minimised, and what else it tells."""

    total: Tensor  # scalar with gradient
    priorities: Tensor  # [N]
    metrics: dict[str, Tensor]  # scalars without gradient


class R2D2:
    """Online and target network, optimiser, noise generators and the update counter."""

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
        self.optimizer = torch.optim.Adam(
            self.online.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True
        )
        self.updates = 0
        # Independent noise for the two networks; CPU generators, so that a checkpoint fits any device.
        self._online_noise = torch.Generator().manual_seed(2 * seed)
        self._target_noise = torch.Generator().manual_seed(2 * seed + 1)
        self._autocast = config.mixed_precision and self.device.type == "cuda"

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
        grad_norm = torch.nn.utils.clip_grad_norm_(self.online.parameters(), self.config.max_grad_norm)

        # One transfer from the device for everything that leaves it; also what the check below must wait for.
        scalars = {"loss": loss.total.detach(), "grad_norm": grad_norm, **loss.metrics}
        numbers = torch.cat([torch.stack(list(scalars.values())), loss.priorities]).cpu()
        metrics = dict(zip(scalars, numbers[: len(scalars)].tolist(), strict=True))
        if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
            raise RuntimeError(
                f"update {number}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}: not finite; the "
                "weights were left as they were"
            )

        self.optimizer.step()
        self.updates = number
        if number % self.config.target_update_interval == 0:
            self.target.load_state_dict(self.online.state_dict())
        return UpdateResult(numbers[len(scalars) :].numpy(), metrics)

    def loss(self, batch: Batch) -> Loss:
        """The forward pass, with the noise drawn last. The gradient runs through the online network's unroll only."""
        config = self.config
        trained = slice(config.burn_in, None)
        burn_in_lengths = batch.burn_in_length.cpu()
        with torch.no_grad():
            target_outputs = self._unroll(self.target, batch, self.warm_state(self.target, batch, burn_in_lengths))
            target_quantiles = self.target.head(target_outputs, noise=True)  # [T + n, N, A, K]
            online_state = self.warm_state(self.online, batch, burn_in_lengths)
        outputs = self._unroll(self.online, batch, online_state)  # [T + n, N, H]
        online_quantiles = self.online.head(outputs, noise=True)  # [T + n, N, A, K]

        returns = targets.quantile_targets(
            online_quantiles.detach(),
            target_quantiles,
            batch.mask[trained],
            batch.reward[trained],
            batch.last,
            batch.terminated,
            n_step=config.n_step,
            gamma=config.gamma,
            rescaling=config.value_rescaling,
        )  # [T, N, K]
        steps = slice(config.burn_in, config.burn_in + config.unroll_length)
        mask = targets.loss_mask(batch.train_length, config.unroll_length)  # [T, N]
        taken = targets.taken_quantiles(online_quantiles[: config.unroll_length], batch.action[steps])  # [T, N, K]
        step_losses = losses.quantile_huber_loss(taken, returns, config.huber_kappa)
        total = losses.weighted_step_mean(step_losses, mask, batch.weights)
        aux = self._auxiliary_loss(batch, outputs, mask)
        if aux is not None:
            total = total + config.aux_loss_weight * aux

        with torch.no_grad():
            new_priorities = priorities.sequence_priorities(taken, returns, mask, config.priority_eta)
            metrics = self._metrics(batch, online_quantiles, taken, returns, mask)
            metrics["aux_loss"] = aux.detach() if aux is not None else total.new_zeros(())
        return Loss(total, new_priorities, metrics)

    def warm_state(self, network: QNetwork, batch: Batch, lengths: Tensor) -> State:
        """The state at the first trained row: the stored one, run over each item's own burn-in by `network` itself.

        `lengths` [N] is the batch's `burn_in_length` on the CPU. No gradient.
        """
        state = (batch.state_h, batch.state_c)
        if int(lengths.max()) == 0:
            return state
        with torch.no_grad():
            features = self._encode(network, batch, slice(0, self.config.burn_in))
            _, state = network.recur(features, state, lengths)
        return state

    def params_bytes(self) -> bytes:
        """The online network's weights as safetensors, for publication."""
        return params_to_bytes(self.online)

    def load_params_bytes(self, data: bytes) -> None:
        """Replaces the online network's weights. Raises `UserError` if they do not fit; nothing is changed then."""
        load_params(self.online, data)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later update depends on: `{"tensors": {name: CPU tensor}, "updates": int}`.

        Flat and plain, so that tensors go into safetensors and the rest into JSON.
        """
        tensors = {f"online.{name}": tensor for name, tensor in self.online.state_dict().items()}
        tensors |= {f"target.{name}": tensor for name, tensor in self.target.state_dict().items()}
        for name, parameter in self.online.named_parameters():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        tensors["rng.online_noise"] = self._online_noise.get_state()
        tensors["rng.target_noise"] = self._target_noise.get_state()
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return {"tensors": plain, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; on the CPU the next updates are then the same bit by bit.

        Raises `UserError` if it belongs to a network of another shape.
        """
        tensors: dict[str, Tensor] = state["tensors"]
        what = "checkpoint of the learner"
        parts: dict[str, dict[str, Tensor]] = {"online": {}, "target": {}, "optimizer": {}, "rng": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part not in parts:
                raise UserError(f"{what}: tensor {name} is unknown; it was made by another version")
            parts[part][rest] = tensor
        if set(parts["rng"]) != {"online_noise", "target_noise"}:
            raise UserError(f"{what}: the state of the noise is missing; take an older checkpoint")
        optimizer_state = self._optimizer_state(parts["optimizer"], what)
        copy_tensors(parts["online"], self.online.state_dict(), what)
        copy_tensors(parts["target"], self.target.state_dict(), what)
        self.optimizer.state.clear()
        self.optimizer.state.update(optimizer_state)
        self._online_noise.set_state(parts["rng"]["online_noise"])
        self._target_noise.set_state(parts["rng"]["target_noise"])
        self.updates = int(state["updates"])

    def _optimizer_state(self, flat: dict[str, Tensor], what: str) -> dict[Tensor, dict[str, Tensor]]:
        """Adam's state by parameter from flat names; parameters that never had a gradient have none."""
        by_name = dict(self.online.named_parameters())
        grouped: dict[Tensor, dict[str, Tensor]] = {}
        for full_name, tensor in flat.items():
            name, _, key = full_name.rpartition(".")
            parameter = by_name.get(name)
            if parameter is None or (tensor.dim() > 0 and tensor.shape != parameter.shape):
                raise UserError(f"{what}: optimiser state {full_name} does not fit; use the config it was made with")
            # Laid out in memory like the parameter, as Adam itself would: the fused kernel runs over both at once.
            like = torch.empty_like(parameter, requires_grad=False) if tensor.dim() > 0 else tensor.to(self.device)
            grouped.setdefault(parameter, {})[key] = like.copy_(tensor) if tensor.dim() > 0 else like.clone()
        return grouped

    def _unroll(self, network: QNetwork, batch: Batch, state: State) -> Tensor:
        """Recurrent outputs over the trained positions and the tail, [T + n, N, H]."""
        outputs, _ = network.recur(self._encode(network, batch, slice(self.config.burn_in, None)), state)
        return outputs

    def _encode(self, network: QNetwork, batch: Batch, rows: slice) -> Tensor:
        """Features [rows, N, F] of all frames of some rows in one pass of the encoders."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast):
            features = network.encode(
                batch.screen_packed[rows].flatten(0, 1),
                batch.context[rows].flatten(0, 1),
                batch.crop[rows].flatten(0, 1),
                batch.prev_action[rows].flatten(0, 1),
                batch.prev_reward[rows].flatten(0, 1),
            )
        return features.view(-1, batch.size, network.feature_size)

    def _auxiliary_loss(self, batch: Batch, outputs: Tensor, mask: Tensor) -> Tensor | None:
        """Prediction of context slots at the bootstrap position (up to n steps ahead), weighted like the main loss."""
        config = self.config
        if config.aux_loss_weight == 0 or not self.spec.aux_slots:
            return None
        slots = torch.tensor(self.spec.aux_slots, device=self.device)
        context = batch.context[config.burn_in :].index_select(-1, slots)  # [T + n, N, S]
        ahead = targets.bootstrap_steps(batch.last, config.unroll_length, config.n_step)  # [T, N]
        rows = ahead + torch.arange(config.unroll_length, device=self.device).unsqueeze(1)
        future = context.gather(0, rows.unsqueeze(-1).expand(-1, -1, len(slots))).float() / 255.0  # [T, N, S]
        step_losses = losses.auxiliary_loss(self.online.aux(outputs[: config.unroll_length]), future)
        return losses.weighted_step_mean(step_losses, mask, batch.weights)

    def _metrics(
        self, batch: Batch, quantiles: Tensor, taken: Tensor, returns: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Scalars over the trained steps. Values are in reward units, TD errors in the space that is trained."""
        rescaling = self.config.value_rescaling
        errors = priorities.td_errors(taken, returns)[mask]
        start = targets.expected_values(quantiles[0], rescaling)  # [N, A]
        start = start.masked_fill(~batch.mask[self.config.burn_in], float("-inf")).amax(-1)
        return {
            "td_abs_mean": errors.mean(),
            "td_abs_max": errors.amax(),
            "q_mean": targets.expected_values(taken, rescaling)[mask].mean(),
            "q_start": start.mean(),
            "target_mean": targets.expected_values(returns, rescaling)[mask].mean(),
            "weight_mean": batch.weights.mean(),
            "weight_min": batch.weights.amin(),
        }
