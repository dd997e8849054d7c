"""A policy's weights as one safetensors file that says itself what network they are of.

`cluster_rl.export --to safetensors` writes it, `cluster_rl.evaluate --params` plays it, and an ONNX graph says the same
of itself. In: a network and its config; or such a file, of anybody. Out: bytes; the tensors by their names in
`model.QNetwork`, float32, and texts as metadata; or the network and its config again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import safetensors.torch
import torch

import cluster_rl
from cluster_rl.acting.rollout import load_network, network_of
from cluster_rl.config import Config, config_from_builtins, config_to_json, overridden
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.exporting.output import write_file
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.model import QNetwork, build_model, copy_tensors, parameter_count
from cluster_rl.report.bars import size_words
from cluster_rl.runs.small_file import UnreadableError, decode_json, read_bytes

MOST_BYTES: Final = 1 << 30
"""Of a file that is read: far above any network that the config's bounds are meant for."""
_ZIP = b"PK\x03\x04"  # as torch.save begins
_AGAIN = "copy it anew, or export it again: python -m cluster_rl.export --to safetensors"
# What torch makes of a file that safetensors takes: types that it lacks, shapes that do not fit their bytes.
_NO_TENSORS = (safetensors.SafetensorError, LookupError, ValueError, RuntimeError, AssertionError)

_Kind = TypeVar("_Kind")


class _About(msgspec.Struct):
    """The metadata, as `about` makes them."""

    cluster_rl: Annotated[str, msgspec.Meta(max_length=64)]
    config: str
    observation: str
    buttons: str


class _Header(msgspec.Struct):
    """What a safetensors file begins with, but for its tensors."""

    about: _About = msgspec.field(name="__metadata__")


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


def read_policy(path: Path, overrides: Iterable[str] = ()) -> tuple[Config, QNetwork]:
    """The network of an exported file, ready to play, and its config with `key=value` overrides.

    Nothing of the file is believed: raises `UserError` where it is no such file, of another version's observations,
    buttons or config, or of other tensors than its config describes. An override that changes shapes is refused too.
    """
    data = read_bytes(path, MOST_BYTES)
    if data.startswith(_ZIP):
        raise UserError(
            f"{path}: weights as torch saves them, which say nothing of their network; for a run's online_params.pt "
            "give --run-name instead, or export it first: "
            f"python -m cluster_rl.export --params {path} --to safetensors"
        )
    try:
        tensors = safetensors.torch.load(data)
    except _NO_TENSORS as error:
        raise UserError(f"{path}: no safetensors file, or damaged ({' '.join(str(error).split())}); {_AGAIN}") from None
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]  # safetensors has no call that gives it of bytes
    said = _decode(header, _Header, f"{path}: metadata").about
    config = overridden(_config_in(said, path), overrides, str(path))
    spec = observation_spec(config)
    sees = _decode(said.observation, dict[str, Any], f"{path}: metadata, observation")
    # As JSON has it, whose lists are no tuples.
    here = {key: list(size) if isinstance(size, tuple) else size for key, size in msgspec.to_builtins(spec).items()}
    unlike = [key for key in here | sees if key not in here or key not in sees or here[key] != sees[key]]
    if unlike:
        raise UserError(f"{path}: its network sees another {unlike[0]} than this program's do{_with_version(said)}")
    if _decode(said.buttons, list[str], f"{path}: metadata, buttons") != list(BUTTONS):
        raise UserError(f"{path}: its network presses other buttons than this program's do{_with_version(said)}")
    try:
        with torch.device("meta"):  # without memory: a small file may tell of a network larger than the machine's
            sizes = build_model(config, spec).state_dict()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    copy_tensors(tensors, sizes, str(path))
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise UserError(f"{path}: {name} is {tensor.dtype}, not torch.float32; {_AGAIN}")
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite; export other parameters of the run")
    return config, network_of(config, tensors, path)


def _config_in(said: _About, path: Path) -> Config:
    raw = _decode(said.config, dict[str, Any], f"{path}: metadata, config")
    try:
        # A checkout's code would run: the user's own word alone names one.
        return msgspec.structs.replace(config_from_builtins(raw, "config"), puffer="")
    except UserError as error:
        raise UserError(f"{path}: its config is none of this program's{_with_version(said)}", error.lines) from None


def _with_version(said: _About) -> str:
    return (
        f": cluster_rl {said.cluster_rl} has exported it, this is {cluster_rl.__version__}; play it with the program "
        "that trained it"
    )


def _decode(data: bytes | str, kind: type[_Kind], what: str) -> _Kind:
    try:
        return decode_json(data.encode() if isinstance(data, str) else data, kind, what)
    except UnreadableError as error:
        raise UserError(f"{error}; {_AGAIN}") from None
