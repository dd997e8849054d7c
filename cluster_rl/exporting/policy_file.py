"""A policy's weights as one safetensors file that says itself what network they are of.

`cluster_rl.export --to safetensors` uses it, and an ONNX graph says the same of itself. In: a network and its config.
Out: bytes; the tensors by their names in `model.QNetwork`, float32, and texts as metadata.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import safetensors.torch

import cluster_rl
from cluster_rl.acting.rollout import load_network
from cluster_rl.config import Config, config_to_json
from cluster_rl.exporting.output import write_file
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.model import QNetwork, parameter_count
from cluster_rl.report.bars import size_words


def export_safetensors(config: Config, params: Path, out: Path) -> list[str]:
    """Writes the published parameters `params` to the file `out`; returns a line that says so. Raises `UserError`."""
    network = load_network(config, params)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    data = safetensors.torch.save(tensors, metadata={"format": "pt", **about(config, network)})
    write_file(out, data)
    return [f"{out}: {parameter_count(network):,} weights, {size_words(len(data))}"]


def about(config: Config, network: QNetwork) -> dict[str, str]:
    """What the network is: texts, of which `config`, `observation` and `buttons` are JSON."""
    return {
        "cluster_rl": cluster_rl.__version__,
        "config": config_to_json(config).decode(),
        "observation": msgspec.json.encode(network.spec).decode(),
        "buttons": msgspec.json.encode(BUTTONS).decode(),
    }
