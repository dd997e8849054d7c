"""Checkpoints that survive a crash at any moment and are never trusted unchecked; and the published parameters.

The learner writes and reads them. In: named tensors and a JSON dict; `flatten_state` turns nested state dicts into
these. Out: `checkpoint/<updates>-<number>/` with `tensors.safetensors`, `state.json` and, written last, `manifest.json`
with the SHA-256 of both. Nothing is pickled. `online_params.pt` is plain tensors for `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch

from cluster_rl.errors import StorageError, UserError, read_error
from cluster_rl.runs.atomic import explain_os_error, sync_folder, write_atomic, write_synced
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.evaluation import ParamsPoint
from cluster_rl.runs.small_file import (
    DECODE_ERRORS,
    Count,
    NewerFormatError,
    UnreadableError,
    Version,
    read_bytes,
    read_json,
)

FORMAT = 1
KEPT = 2
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"\d{1,18}-\d{1,18}")  # numbers that the manifest takes
_TEMPORARY, _DELETING = ".writing-", ".deleting-"
_TAG = "$"
# numpy's bool, signed, unsigned and float; no text, no objects.
_ARRAY_KINDS = "biuf"


class _File(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: Count


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    number: Count
    updates: Count
    files: dict[str, _File]
    run_id: str = ""  # empty in checkpoints of older programs


class DamagedError(Exception):
    """A checkpoint that is not what its manifest says. One line, without the path."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back. `notes` are lines about newer ones that were damaged and passed over."""

    path: Path
    number: int
    updates: int
    tensors: dict[str, torch.Tensor]  # on the CPU
    meta: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def save_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor | np.ndarray[Any, Any]], meta: Mapping[str, Any]
) -> Path:
    """Writes a checkpoint into `folder` and returns its path.

    `meta` is JSON; of its keys `updates` (int), the learner's update count, and, if it is there, `run_id` are in the
    manifest too. It is written beside, synced, renamed, and read back; only then do older ones go, all but the newest
    that is intact. Raises `StorageError` for a full disk and the like.
    """
    files = {_TENSORS: _tensor_bytes(tensors), _STATE: json.dumps(dict(meta)).encode()}
    number = 1 + max((number for number, _ in _candidates(folder)), default=0)
    manifest = _Manifest(
        format=FORMAT,
        number=number,
        updates=int(meta["updates"]),
        files={name: _File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        run_id=str(meta.get("run_id", "")),
    )
    files[_MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    path = folder / f"{manifest.updates}-{number}"
    temporary = folder / f"{_TEMPORARY}{path.name}"
    try:
        crash_point("checkpoint.begin")
        _clean(folder)
        temporary.mkdir(parents=True)
        crash_point("checkpoint.folder_made")
        for name, data in files.items():
            write_synced(temporary / name, data)
            crash_point("checkpoint.file_written", name)
        sync_folder(temporary)
        crash_point("checkpoint.before_rename")
        temporary.rename(path)
        crash_point("checkpoint.renamed")
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise explain_os_error(error, path) from None
    try:
        _verify(path)
    except (DamagedError, StorageError) as error:
        shutil.rmtree(path, ignore_errors=True)
        words = f"checkpoint {path}: what was written reads back differently ({error}); check the disk"
        raise StorageError(words, path, errno.EIO) from None
    crash_point("checkpoint.verified")
    with contextlib.suppress(OSError):  # the next one tries again
        _prune(folder, newest=number)
    crash_point("checkpoint.pruned")
    return path


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint by the number in its name; None if there is none at all.

    Older ones are taken where newer are damaged, and `notes` says so. Raises `UserError` if all are damaged, and for
    one that a newer program wrote: an older one in its place would take back what that program learned. So it would
    for one that storage does not give now: that is a `StorageError`.
    """
    notes: list[str] = []
    for _, path in _candidates(folder):
        try:
            manifest, data = _verify(path)
            tensors = safetensors.torch.load(data[_TENSORS])
            meta = json.loads(data[_STATE])
            if not isinstance(meta, dict):
                raise DamagedError(f"{_STATE}: no mapping")
        except (DamagedError, safetensors.SafetensorError, *DECODE_ERRORS) as error:
            notes.append(f"checkpoint {path}: damaged ({error}); passed over")
            continue
        return Checkpoint(path, manifest.number, manifest.updates, tensors, meta, notes)
    if notes:
        raise UserError(
            f"{folder}: none of the {len(notes)} checkpoints is intact ({notes[0]}); restore one from a backup, or "
            "give --fresh, which moves the run aside and starts a new one"
        )
    return None


def newest(folder: Path) -> tuple[int, int]:
    """(number, updates) by the name of the newest checkpoint that was written whole; zeros without any."""
    names = (path.name.split("-") for path in _written(folder))
    return max(((int(number), int(updates)) for updates, number in names), default=(0, 0))


def owners(folder: Path) -> dict[Path, str]:
    """The run that each checkpoint belongs to, as far as they can be read and say so."""
    found = {}
    for path in _written(folder):
        with contextlib.suppress(DamagedError):
            found[path] = _manifest(path).run_id
    return {path: run_id for path, run_id in found.items() if run_id}


def _written(folder: Path) -> list[Path]:
    """Those with a manifest, which is written last."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if _NAME.fullmatch(path.name) and (path / _MANIFEST).exists())


def publish_params(path: Path, state_dict: Mapping[str, torch.Tensor], point: ParamsPoint | None = None) -> None:
    """Replaces `online_params.pt` by a dict of CPU tensors, for `torch.load(path, weights_only=True)`.

    Their `point` is two attributes of the dict, as PyTorch keeps the versions of a module's parts: no tensor of another
    name, which `load_state_dict` would refuse, and no second file, which might be of other parameters.
    """
    params = OrderedDict((name, tensor.detach().cpu()) for name, tensor in state_dict.items())
    if point is not None:
        vars(params).update(point._asdict())
    buffer = io.BytesIO()
    torch.save(params, buffer)
    write_atomic(path, buffer.getvalue())


def read_params(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an `online_params.pt`, never running code from it. Raises `UserError`."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: not there yet; the learner writes it after its first updates") from None
    except OSError as error:
        raise read_error(error, path) from None
    # torch.load raises whatever its zip reader and unpickler stumble over; all of it means bad bytes here.
    except Exception as error:  # noqa: BLE001
        words = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(
            f"{path}: not published parameters, or damaged ({words}); the run's next job writes the file anew"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UserError(f"{path}: holds something else than named tensors")
    return loaded


def point_of(params: Mapping[str, torch.Tensor]) -> ParamsPoint | None:
    """When parameters that were read were made; None where they do not say, as those of older programs."""
    told = [getattr(params, name, None) for name in ParamsPoint._fields]
    try:
        return msgspec.convert(told, ParamsPoint)
    except msgspec.ValidationError:
        return None


def flatten_state(state: Any) -> tuple[dict[str, torch.Tensor | np.ndarray[Any, Any]], Any]:
    """Splits nested state into `(tensors, tree)`: tree is JSON and refers to the tensors by name.

    Exact for None, bool, int of any size, float, str, bytes, list, tuple, dict with keys of these scalars, tensors,
    numpy arrays and numpy scalars: so for state dicts of modules and optimisers and for the states of all RNGs.
    Raises `TypeError`, naming the place, for anything else.
    """
    tensors: dict[str, torch.Tensor | np.ndarray[Any, Any]] = {}
    return tensors, _flatten(state, "state", tensors)


def unflatten_state(tensors: Mapping[str, torch.Tensor], tree: Any) -> Any:
    """What `flatten_state` was given; tensors come back on the CPU. Raises `UserError` for what it did not make."""
    try:
        return _unflatten(tensors, tree)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        words = f"{type(error).__name__}: {error}"
        raise UserError(f"{_STATE}: not the state of a run ({words}); was it written by another program?") from None


def _unflatten(tensors: Mapping[str, torch.Tensor], tree: Any) -> Any:
    if isinstance(tree, list):
        return [_unflatten(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TAG not in tree:
        return {key: _unflatten(tensors, value) for key, value in tree.items()}
    value = tree["value"]
    match tree[_TAG]:
        case "tensor":
            return tensors[value]
        case "array":
            return tensors[value].numpy()
        case "scalar":
            return tensors[value].numpy()[()]
        case "bytes":
            return tensors[value].numpy().tobytes()
        case "tuple":
            return tuple(_unflatten(tensors, item) for item in value)
        case "dict":
            return {_unflatten(tensors, key): _unflatten(tensors, item) for key, item in value}
    raise ValueError(f"unknown tag {tree[_TAG]!r}")


def _flatten(value: Any, where: str, tensors: dict[str, torch.Tensor | np.ndarray[Any, Any]]) -> Any:
    def stored(tag: str, data: torch.Tensor | np.ndarray[Any, Any]) -> dict[str, str]:
        # Keys may contain dots, as in "a.b" beside "a" holding "b": a number keeps such names apart.
        name = where if where not in tensors else f"{where}#{len(tensors)}"
        tensors[name] = data
        return {_TAG: tag, "value": name}

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return stored("tensor", value)
    if isinstance(value, np.ndarray | np.generic) and np.dtype(value.dtype).kind in _ARRAY_KINDS:
        return stored("array" if isinstance(value, np.ndarray) else "scalar", np.asarray(value))
    if type(value) is bytes:
        return stored("bytes", np.frombuffer(value, np.uint8))
    if type(value) is list:
        return [_flatten(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]
    if type(value) is tuple:
        return {_TAG: "tuple", "value": [_flatten(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: _flatten(item, f"{where}.{key}", tensors) for key, item in value.items()}
        pairs = [[_flatten(k, f"{where}.key", tensors), _flatten(v, f"{where}.{k}", tensors)] for k, v in value.items()]
        return {_TAG: "dict", "value": pairs}
    raise TypeError(f"{where}: a {type(value).__name__} cannot be kept in a checkpoint")


def _tensor_bytes(tensors: Mapping[str, torch.Tensor | np.ndarray[Any, Any]]) -> bytes:
    plain: dict[str, torch.Tensor] = {}
    owned: set[int] = set()
    for name, value in tensors.items():
        tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach().cpu()
        tensor = tensor.contiguous()
        # safetensors refuses tensors that share memory, as tied weights do.
        plain[name] = tensor if tensor.untyped_storage().data_ptr() not in owned else tensor.clone()
        owned.add(plain[name].untyped_storage().data_ptr())
    return safetensors.torch.save(plain)


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    """`(number, path)` of all that has a checkpoint's name, newest first, be it damaged or no folder at all: a name
    that is taken is not given again. What has another name is not looked at."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        ((int(path.name.rpartition("-")[2]), path) for path in paths if _NAME.fullmatch(path.name)), reverse=True
    )


def _manifest(path: Path) -> _Manifest:
    try:
        return read_json(path / _MANIFEST, _Manifest, Version("format", FORMAT))
    except UnreadableError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: UnreadableError) -> DamagedError:
    return DamagedError(str(error).removeprefix(f"{path}/"))


def _verify(path: Path) -> tuple[_Manifest, dict[str, bytes]]:
    """Reads a checkpoint and compares it with its manifest. Raises `DamagedError` and `StorageError`."""
    manifest = _manifest(path)
    if set(manifest.files) != {_TENSORS, _STATE} or path.name != f"{manifest.updates}-{manifest.number}":
        raise DamagedError(f"{_MANIFEST}: does not belong to this checkpoint")
    data: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        try:
            data[name] = read_bytes(path / name, expected.size_bytes)
        except UnreadableError as error:
            raise _damaged(path, error) from None
        if len(data[name]) != expected.size_bytes:
            raise DamagedError(f"{name}: {len(data[name])} bytes, {expected.size_bytes} were written")
        if hashlib.sha256(data[name]).hexdigest() != expected.sha256:
            raise DamagedError(f"{name}: its SHA-256 differs")
    return manifest, data


def _prune(folder: Path, newest: int) -> None:
    """Deletes all but the newest `KEPT` intact checkpoints. Damaged ones must not push out the last good one."""
    intact = 0
    for number, path in _candidates(folder):
        if not path.is_dir():
            continue  # a file that somebody put there
        keep = intact < KEPT
        try:
            if not keep:
                _manifest(path)
            elif number != newest:
                _verify(path)
        except (NewerFormatError, StorageError):
            continue  # not ours to delete, or maybe intact
        except DamagedError:
            keep = False  # reported by `load_checkpoint` when the run was resumed
        if keep:
            intact += 1
            continue
        # Renamed first: a deletion that is cut short leaves nothing that looks like a checkpoint.
        doomed = folder / f"{_DELETING}{path.name}-{os.getpid()}"
        path.rename(doomed)
        crash_point("checkpoint.prune_renamed")
        shutil.rmtree(doomed)


def _clean(folder: Path) -> None:
    """Removes what a crash left of an unfinished write or deletion. The run lock keeps other writers away."""
    for prefix in (_TEMPORARY, _DELETING):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path)
