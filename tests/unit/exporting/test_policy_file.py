"""A policy's file, read back: what was exported plays, and nothing else does."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import cluster_rl
from cluster_rl.config import Config, config_from_builtins
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.exporting import policy_file
from cluster_rl.exporting.policy_file import export_safetensors, read_policy
from cluster_rl.model import QNetwork, build_model
from cluster_rl.runs.checkpoint import publish_params

Texts = dict[str, str]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, QNetwork, Path]:
    """A tiny network, and the file that it was exported to, beside its online_params.pt."""
    folder = tmp_path_factory.mktemp("exported")
    model = {"kind": "slim", "conv_channels": [4, 4], "context_width": 8, "trunk_width": 16}
    values = {"lstm_hidden_size": 16, "num_quantiles": 4, "occupancy_crop_radius": 3, "use_spatial_attention": False}
    config = config_from_builtins({**values, "model": model}, "test")
    torch.manual_seed(11)
    network = build_model(config, observation_spec(config)).eval()
    publish_params(folder / "online_params.pt", network.state_dict())
    export_safetensors(config, folder / "online_params.pt", folder / "policy.safetensors")
    return config, network, folder / "policy.safetensors"


def parts_of(path: Path) -> tuple[Tensors, Texts]:
    with safetensors.safe_open(path, "pt") as file:
        return safetensors.torch.load_file(path), file.metadata()


def test_what_was_exported_is_read_whole(exported: tuple[Config, QNetwork, Path]) -> None:
    config, network, path = exported
    found, played = read_policy(path)
    assert found == config
    assert not played.training
    wanted = network.state_dict()
    assert played.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in played.state_dict().items())


def test_overrides_change_the_config_and_not_the_network(exported: tuple[Config, QNetwork, Path]) -> None:
    config, _, path = exported
    found, _ = read_policy(path, ["episode_max_steps=77", "rewards.badge=9"])
    assert (found.episode_max_steps, found.rewards.badge) == (77, 9.0)
    assert found.lstm_hidden_size == config.lstm_hidden_size
    with pytest.raises(UserError, match=r"policy\.safetensors and overrides: gama: unknown key; did you mean gamma"):
        read_policy(path, ["gama=0.5"])
    with pytest.raises(UserError, match=r"policy\.safetensors: .* has shape .*use the config"):
        read_policy(path, ["lstm_hidden_size=24"])
    with pytest.raises(UserError, match=r"policy\.safetensors: its network sees another crop_size"):
        read_policy(path, ["occupancy_crop_radius=4"])


def with_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Tensors, Texts], object]:
    def changed(_: Tensors, said: Texts) -> None:
        config = json.loads(said["config"])
        change(config)
        said["config"] = json.dumps(config)

    return changed


def test_a_file_names_no_code_to_run(exported: tuple[Config, QNetwork, Path], tmp_path: Path) -> None:
    tensors, said = parts_of(exported[2])
    with_config(lambda config: config.update(puffer="/tmp/theirs"))(tensors, said)
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(tensors, path, said)
    assert read_policy(path)[0].puffer == ""


def with_observation(**changes: Any) -> Callable[[Tensors, Texts], object]:
    def changed(_: Tensors, said: Texts) -> None:
        said["observation"] = json.dumps({**json.loads(said["observation"]), **changes})

    return changed


def first(tensors: Tensors) -> str:
    return next(iter(sorted(tensors)))


def spoilt(value: float) -> Callable[[Tensors, Texts], object]:
    return lambda tensors, _: tensors[first(tensors)].view(-1)[0].fill_(value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, said: said.clear(), r"metadata: damaged .*__metadata__.*.*export it again"),
        (lambda _, said: said.pop("config"), r"metadata: damaged .*`config`.*.*export it again"),
        (lambda _, said: said.update(config="{'a': 1}"), r"metadata, config: damaged .*.*export it again"),
        (lambda _, said: said.update(config="[]"), r"metadata, config: damaged .*.*export it again"),
        (lambda _, said: said.update(config="[" * 100_000), r"metadata, config: damaged .*.*export it again"),
        (lambda _, said: said.update(observation="7"), r"metadata, observation: damaged .*.*export it again"),
        (lambda _, said: said.update(buttons='["a", 1]'), r"metadata, buttons: damaged .*.*export it again"),
        (lambda _, said: said.update(buttons='["a", "b"]'), "presses other buttons than this program's do"),
        (with_observation(context_size=12), "sees another context_size than this program's do"),
        (with_observation(place_slots=[1, 2]), "sees another place_slots than this program's do"),
        (with_observation(smell_size=3), "sees another smell_size than this program's do"),
        (lambda _, said: said.update(observation="{}"), "sees another context_size than this program's do"),
        (with_config(lambda config: config.update(from_tomorrow=1)), "is none of this program's.*from_tomorrow"),
        (with_config(lambda config: config.update(gamma="much")), "is none of this program's.*gamma"),
        (with_config(lambda config: config.update(lstm_hidden_size=24)), "has shape .*; use the config"),
        (with_config(lambda config: config["model"].update(kind="unified")), "; use the config"),
        (spoilt(float("nan")), "has values that are not finite"),
        (spoilt(float("-inf")), "has values that are not finite"),
        (lambda tensors, _: tensors.pop(first(tensors)), "is missing; they come from another network"),
        (lambda tensors, _: tensors.update(more=torch.zeros(2)), "more is unknown; they come from another network"),
        (lambda tensors, _: tensors.update({first(tensors): torch.zeros(3)}), r"has shape \[3\]"),
        (
            lambda tensors, _: tensors.update({first(tensors): tensors[first(tensors)].half()}),
            r"is torch\.float16, not torch\.float32.*export it again",
        ),
    ],
)
def test_another_policy_is_refused_in_a_line(
    exported: tuple[Config, QNetwork, Path],
    tmp_path: Path,
    change: Callable[[Tensors, Texts], object],
    words: str,
) -> None:
    tensors, said = parts_of(exported[2])
    change(tensors, said)
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(tensors, path, said or None)
    with pytest.raises(UserError, match=rf"^{path}: .*{words}"):
        read_policy(path)


def test_one_of_a_newer_program_is_told_with_both_versions(
    exported: tuple[Config, QNetwork, Path], tmp_path: Path
) -> None:
    tensors, said = parts_of(exported[2])
    config = {**json.loads(said["config"]), "from_tomorrow": 1}
    path = tmp_path / "newer.safetensors"
    safetensors.torch.save_file(tensors, path, {**said, "cluster_rl": "99.1", "config": json.dumps(config)})
    with pytest.raises(UserError, match=rf"cluster_rl 99\.1 has exported it, this is {cluster_rl.__version__}; play"):
        read_policy(path)


def test_a_network_larger_than_memory_is_refused_before_it_is_made(
    exported: tuple[Config, QNetwork, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, said = parts_of(exported[2])
    config = json.loads(said["config"])
    config["lstm_hidden_size"], config["model"]["trunk_width"] = 4096, 4096
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file(tensors, path, {**said, "config": json.dumps(config)})
    monkeypatch.setattr(policy_file, "network_of", lambda *_: pytest.fail("it was made"))
    with pytest.raises(UserError, match="has shape"):
        read_policy(path)


def test_published_parameters_are_told_what_to_do(exported: tuple[Config, QNetwork, Path]) -> None:
    params = exported[2].with_name("online_params.pt")
    with pytest.raises(
        UserError, match=rf"^{params}: .*give --run-name instead, or export it first: .*--params {params}"
    ):
        read_policy(params)


def strange(header: object, body: bytes = b"") -> bytes:
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 64,
        b"GIF89a" + bytes(40),
        strange([]),
        strange({"w": 1}),
        strange({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        strange({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        strange({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, bytes(1)),
        strange({"w": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)),
        strange({"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)
def test_other_bytes_are_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"^{path}: .*.*export it again"):
        read_policy(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_is_refused(exported: tuple[Config, QNetwork, Path], tmp_path: Path, share: float) -> None:
    data = exported[2].read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=rf"^{path}: no safetensors file, or damaged .*.*export it again"):
        read_policy(path)


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(policy_file.MOST_BYTES + 1)  # takes no space
    for name, words in (("pipe", "something else lies"), ("large", "more than the"), ("nothing", "cannot be read")):
        with pytest.raises(UserError, match=rf"^{tmp_path / name}: .*{words}"):
            read_policy(tmp_path / name)
