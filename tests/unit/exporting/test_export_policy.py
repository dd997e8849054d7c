"""A policy in files of others: weights that say what they are of, and a graph that plays as torch does."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from cluster_rl.config import Config, config_from_builtins
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.exporting import policy_onnx
from cluster_rl.exporting.policy_file import export_safetensors
from cluster_rl.exporting.policy_onnx import RegionMax, Step, export_onnx, random_inputs
from cluster_rl.model import QNetwork, build_model
from cluster_rl.runs.checkpoint import publish_params

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX is not installed: pip install -e '.[onnx]'",
)


def published(folder: Path, kind: str = "slim", cell: str = "lstm", **changes: Any) -> tuple[Config, QNetwork, Path]:
    """A small network with any weights, and its published parameters."""
    channels = [4, 8] if kind == "unified" else [4, 4]
    model = {"kind": kind, "recurrent_cell": cell, "conv_channels": channels, "context_width": 8, "trunk_width": 16}
    values = {"lstm_hidden_size": 16, "num_quantiles": 4, "use_spatial_attention": kind == "unified"}
    model["attention_heads"] = 2
    config = config_from_builtins({**values, **changes, "model": model}, "test")
    torch.manual_seed(5)
    network = build_model(config, observation_spec(config)).eval()
    path = folder / "online_params.pt"
    publish_params(path, network.state_dict())
    return config, network, path


def test_weights_say_what_they_are_of(tmp_path: Path) -> None:
    config, network, params = published(tmp_path)
    (line,) = export_safetensors(config, params, tmp_path / "policy.safetensors")
    assert f"{sum(p.numel() for p in network.parameters()):,} weights" in line
    found = load_file(tmp_path / "policy.safetensors")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    with safetensors.safe_open(tmp_path / "policy.safetensors", "pt") as file:
        said = file.metadata()
    assert config_from_builtins(json.loads(said["config"]), "metadata") == config
    assert json.loads(said["observation"])["context_size"] == network.spec.context_size
    assert json.loads(said["buttons"])[4:] == ["a", "b", "start"]


def test_parameters_of_another_network_are_refused(tmp_path: Path) -> None:
    config, _, params = published(tmp_path)
    with pytest.raises(UserError, match="use the config"):
        export_safetensors(
            msgspec.structs.replace(config, lstm_hidden_size=24), params, tmp_path / "policy.safetensors"
        )
    assert not (tmp_path / "policy.safetensors").exists()


@pytest.mark.parametrize("out", ["/proc/x.safetensors", "/dev/null/x", "n" * 300])
def test_a_place_that_takes_no_policy_is_told_in_a_line(tmp_path: Path, out: str) -> None:
    config, _, params = published(tmp_path)
    with pytest.raises(UserError, match=out[:9]):
        export_safetensors(config, params, Path(out))


@pytest.mark.parametrize("size", [(9, 10), (18, 20), (5, 5), (7, 13)])
def test_maxima_of_regions_are_those_of_torch(size: tuple[int, int]) -> None:
    inputs = torch.randn(2, 3, *size)
    assert torch.equal(RegionMax(5, 5)(inputs), torch.nn.AdaptiveMaxPool2d((5, 5))(inputs))


def test_without_the_packages_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, params = published(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"python -m pip install 'cluster_rl\[onnx\]'"):
        export_onnx(config, params, tmp_path / "policy.onnx")


@needs_onnx
@pytest.mark.parametrize(
    ("kind", "cell", "rescaling"),
    [("slim", "lstm", True), ("slim", "gru", False), ("slim", "none", True), ("unified", "lstm", True)],
)
def test_the_graph_plays_as_torch_does(tmp_path: Path, kind: str, cell: str, rescaling: bool) -> None:
    import onnx
    import onnxruntime

    config, network, params = published(tmp_path, kind, cell, value_rescaling=rescaling)
    out = tmp_path / "policy.onnx"
    (line,) = export_onnx(config, params, out)
    assert "differs from torch by at most " in line
    said = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert config_from_builtins(json.loads(said["config"]), "metadata") == config

    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    step, rng = Step(network, config), np.random.default_rng(9)
    for count in (1, 2, 5):  # emulators
        inputs = random_inputs(network.spec, network.hidden_size, count, rng)
        inputs["h"], inputs["c"] = torch.randn(2, count, network.hidden_size)
        found = session.run(None, {name: part.numpy() for name, part in inputs.items()})
        with torch.no_grad():
            wanted = step(*inputs.values())
        for want, got in zip(wanted, found, strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)
        assert np.isneginf(found[1][~inputs["action_mask"].numpy()]).all()


@needs_onnx
def test_a_graph_that_plays_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, params = published(tmp_path)
    right = policy_onnx.graph

    def wrong(network: QNetwork, config: Config) -> Any:
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.head_value.bias += 1
        return right(other, config)

    monkeypatch.setattr(policy_onnx, "graph", wrong)
    with pytest.raises(UserError, match="the graph differs from torch"):
        export_onnx(config, params, tmp_path / "policy.onnx")
    assert not (tmp_path / "policy.onnx").exists()
