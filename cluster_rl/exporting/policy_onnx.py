"""A policy as an ONNX graph of one step, with the recurrent state as inputs and outputs.

`cluster_rl.export --to onnx` uses it, with the packages of `[onnx]`. In: a network. Out: a file that ONNX Runtime plays
as torch does: before it is written both play the same random steps, and the largest difference is told.

Inputs and outputs, for N emulators, any number: see `INPUTS`, `OUTPUTS` and docs/export.md.
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from cluster_rl.acting.rollout import load_network
from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.exporting.output import require_onnx, write_file
from cluster_rl.exporting.policy_file import about
from cluster_rl.learning.targets import expected_values
from cluster_rl.model import ObservationSpec, QNetwork
from cluster_rl.networks.frames import CROP_CODE_STEP, CROP_CODES, SCREEN_HEIGHT, SCREEN_WIDTH
from cluster_rl.report.bars import Bar, size_words

INPUTS: Final = ("screen", "context", "crop", "action_mask", "prev_action", "prev_reward", "h", "c")
OUTPUTS: Final = ("quantiles", "values", "h_next", "c_next")
PARITY_STEPS: Final = 6
PARITY_EMULATORS: Final = 3
MOST_DIFFERENCE: Final = 1e-3
"""Of any output, for each unit of its size: float32 sums in another order differ by a hundredth of that."""


class Step(nn.Module):
    """One step of a network, without noise.

    screen [N, 72, 80] uint8 (shades 0-3), context [N, C] uint8, crop [N, 2, S, S] uint8, action_mask [N, A] bool,
    prev_action [N] int64 (A where there is none), prev_reward [N] float32, h and c [N, H] float32 (zeros at an
    episode's start) -> quantiles [N, A, S K] as the head gives them, values [N, A] in reward units with -inf for masked
    actions, h and c after the step.
    """

    def __init__(self, network: QNetwork, config: Config) -> None:
        super().__init__()
        self.network = network
        self.value_form = config.value_rescaling, config.stream_weights

    def forward(
        self,
        screen: Tensor,
        context: Tensor,
        crop: Tensor,
        action_mask: Tensor,
        prev_action: Tensor,
        prev_reward: Tensor,
        h: Tensor,
        c: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.network.encode_shades(screen, context, crop, prev_action, prev_reward)
        outputs, (h_next, c_next) = self.network.recur(features.unsqueeze(0), (h.unsqueeze(0), c.unsqueeze(0)))
        quantiles = self.network.head(outputs[0], noise=False)
        values = expected_values(quantiles, *self.value_form).masked_fill(~action_mask, -torch.inf)
        return quantiles, values, h_next[0], c_next[0]


class RegionMax(nn.Module):
    """`nn.AdaptiveMaxPool2d` as slices and maxima: ONNX has no pooling over regions of several sizes."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.sides = (rows, columns)

    def forward(self, inputs: Tensor) -> Tensor:
        for axis, regions in zip((2, 3), self.sides, strict=True):
            length = inputs.shape[axis]
            starts = [i * length // regions for i in range(regions)]
            stops = [-(-(i + 1) * length // regions) for i in range(regions)]
            parts = [
                inputs.narrow(axis, start, stop - start).amax(axis) for start, stop in zip(starts, stops, strict=True)
            ]
            inputs = torch.stack(parts, axis)
        return inputs


def export_onnx(config: Config, params: Path, out: Path) -> list[str]:
    """Writes the published parameters `params` as a graph to the file `out`; returns a line that says so.

    Raises `UserError` where a package is missing, or the graph does not play as torch does: nothing is written then.
    """
    packages: tuple[Any, Any] = require_onnx()
    onnx, runtime = packages
    network = load_network(config, params)
    with Bar("making the graph"):
        model = graph(network, config)
        onnx.helper.set_model_props(model, about(config, network))
        onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    with Bar("playing it beside torch"):
        difference = parity(runtime, data, Step(network, config))
    if not difference <= MOST_DIFFERENCE:
        raise UserError(f"{out}: the graph differs from torch by {difference:.2g}: not written; please report it")
    write_file(out, data)
    words = f"differs from torch by at most {difference:.1e} over {PARITY_STEPS} steps of {PARITY_EMULATORS} emulators"
    return [f"{out}: {size_words(len(data))}, opset {model.opset_import[0].version}; {words}"]


@torch.no_grad()
def graph(network: QNetwork, config: Config) -> Any:
    """The ONNX model, an `onnx.ModelProto`, of one step of any number of emulators."""
    plain = copy.deepcopy(network)
    for name, layer in plain.screen_encoder.named_children():
        if isinstance(layer, nn.AdaptiveMaxPool2d):
            sides: Any = layer.output_size  # a pair, as `networks.encoders` makes it
            setattr(plain.screen_encoder, name, RegionMax(*sides))
    size = torch.export.Dim("N", min=1)
    inputs = random_inputs(network.spec, network.hidden_size, PARITY_EMULATORS, np.random.default_rng(0))
    with warnings.catch_warnings():
        # Of the exporter about itself, and about torchvision.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            Step(plain, config).eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=tuple({0: size} for _ in INPUTS),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@torch.no_grad()
def parity(runtime: Any, data: bytes, step: Step) -> float:
    """The largest difference of any output between torch and ONNX Runtime, for each unit of the output's largest
    number, over random steps in which each goes on with its own recurrent state."""
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    network = step.network
    rng = np.random.default_rng(1)
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    worst = 0.0
    for _ in range(PARITY_STEPS):
        inputs = random_inputs(network.spec, network.hidden_size, PARITY_EMULATORS, rng)
        expected = step(*(inputs | ours).values())
        found = session.run(list(OUTPUTS), {name: part.numpy() for name, part in (inputs | theirs).items()})
        for want, got in zip(expected, found, strict=True):
            numbers = np.nan_to_num(want.numpy(), neginf=-1.0)
            difference = np.abs(numbers - np.nan_to_num(got, neginf=-1.0)).max()
            worst = max(worst, float(difference / max(1.0, np.abs(numbers).max())))
        ours = {"h": expected[2], "c": expected[3]}
        theirs = {"h": torch.from_numpy(found[2]), "c": torch.from_numpy(found[3])}
    return worst


def random_inputs(spec: ObservationSpec, hidden_size: int, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """What `count` emulators could show, by the names of `INPUTS`, with a zero state."""
    shape = (count, 2, spec.crop_size, spec.crop_size)
    crop = rng.integers(0, 256, shape, dtype=np.uint8)
    crop[:, 1] = rng.integers(0, CROP_CODES + 1, crop[:, 1].shape, dtype=np.uint8) * CROP_CODE_STEP
    mask = rng.random((count, spec.num_actions)) < 0.7
    mask[:, 0] = True
    arrays = {
        "screen": rng.integers(0, 4, (count, SCREEN_HEIGHT, SCREEN_WIDTH), dtype=np.uint8),
        "context": rng.integers(0, 256, (count, spec.context_size), dtype=np.uint8),
        "crop": crop,
        "action_mask": mask,
        "prev_action": rng.integers(0, spec.num_actions + 1, count),
        "prev_reward": rng.normal(0, 10, count).astype(np.float32),
        "h": np.zeros((count, hidden_size), np.float32),
        "c": np.zeros((count, hidden_size), np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
