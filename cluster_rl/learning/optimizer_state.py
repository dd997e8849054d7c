"""What a checkpoint holds of an optimiser, by the names of a network's parameters.

The learner's networks are saved and restored with it. In: an optimiser and the module that it trains. Out: flat tensors
and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cluster_rl.errors import UserError


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Adam's state as `PARAMETER.KEY`; parameters that never had a gradient have none."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, module: nn.Module, what: str
) -> None:
    """Restores `optimizer_tensors`. Raises `UserError`, naming `what`, if they do not fit; nothing has changed then."""
    by_name = dict(module.named_parameters())
    grouped: dict[Tensor, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        parameter = by_name.get(name)
        if parameter is None or (tensor.dim() > 0 and tensor.shape != parameter.shape):
            raise UserError(f"{what}: optimiser state {full_name} does not fit; use the config it was made with")
        # Laid out in memory like the parameter, as Adam itself would: the fused kernel runs over both at once.
        like = torch.empty_like(parameter, requires_grad=False) if tensor.dim() > 0 else tensor.to(parameter.device)
        grouped.setdefault(parameter, {})[key] = like.copy_(tensor) if tensor.dim() > 0 else like.clone()
    optimizer.state.clear()
    optimizer.state.update(grouped)


def split_by_part(tensors: Mapping[str, Tensor], parts: Iterable[str], what: str) -> dict[str, dict[str, Tensor]]:
    """Tensors named `PART.NAME`, by part and name. Raises `UserError` for a part that is not one of `parts`."""
    split: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in split:
            raise UserError(f"{what}: tensor {name} is unknown; it was made by another version")
        split[part][rest] = tensor
    return split
