"""Checkpoints: exact round trip of real state, and the newest intact one after any damage or kill."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from failing_storage import unreadable

from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs import checkpoint
from cluster_rl.runs.checkpoint import (
    flatten_state,
    load_checkpoint,
    newest,
    point_of,
    publish_params,
    read_params,
    save_checkpoint,
    unflatten_state,
)
from cluster_rl.runs.evaluation import ParamsPoint


def save(folder: Path, updates: int, fill: float = 0.0) -> Path:
    return save_checkpoint(folder, {"w": torch.full((3, 2), fill)}, {"updates": updates, "note": "x"})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_round_trip_of_tensors_and_meta(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "float": torch.randn(2, 3),
        "half": torch.randn(4).to(torch.bfloat16),
        "transposed": torch.arange(6).reshape(2, 3).t(),
        "tied": shared,
        "tied too": shared,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "array": np.arange(4, dtype=np.uint32).reshape(2, 2)[:, ::-1],
    }
    meta = {"updates": 7, "big": 2**127, "float": 0.1, "none": None, "nested": {"list": [1, 2.5, "a"]}}
    path = save_checkpoint(tmp_path / "checkpoint", tensors, meta)
    assert names(path) == ["manifest.json", "state.json", "tensors.safetensors"]
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert (loaded.updates, loaded.number, loaded.notes, loaded.meta) == (7, 1, [], meta)
    assert loaded.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        expected = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        assert loaded.tensors[name].dtype == expected.dtype
        assert torch.equal(loaded.tensors[name], expected)


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "missing") is None


def test_the_last_two_are_kept_and_the_number_decides(tmp_path: Path) -> None:
    """After a crash a run may go back to fewer updates; the later checkpoint is still the newest."""
    for updates in (10, 300, 20):
        save(tmp_path, updates)
    assert names(tmp_path) == ["20-3", "300-2"]
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.updates, loaded.number) == (20, 3)


@pytest.mark.parametrize("victim", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_a_damaged_newest_is_passed_over_in_words(tmp_path: Path, victim: str, damage: str) -> None:
    save(tmp_path, 1, fill=1.0)
    file = save(tmp_path, 2, fill=2.0) / victim
    match damage:
        case "flip":
            flip_byte(file)
        case "cut":
            file.write_bytes(file.read_bytes()[:-3])
        case "empty":
            file.write_bytes(b"")
        case "delete":
            file.unlink()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.updates == 1
    assert torch.equal(loaded.tensors["w"], torch.ones(3, 2))
    assert len(loaded.notes) == 1
    assert "2-2: damaged (" in loaded.notes[0]
    assert loaded.notes[0].endswith("passed over")


def test_a_damaged_one_does_not_push_out_the_last_good_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    flip_byte(save(tmp_path, 2) / "tensors.safetensors")
    save(tmp_path, 3)
    assert names(tmp_path) == ["1-1", "3-3"]


def test_a_deletion_that_is_cut_short_leaves_nothing_that_looks_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def cut_short(folder: Path) -> None:
        (folder / "tensors.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 3)
    for path in tmp_path.glob("[0-9]*"):
        assert (path / "tensors.safetensors").exists()
    save(tmp_path, 4)
    assert names(tmp_path) == ["3-3", "4-4"]


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for path in [save(tmp_path, updates) for updates in (1, 2)]:
        flip_byte(path / "state.json")
    with pytest.raises(UserError, match=r"none of the 2 checkpoints is intact .*its SHA-256 differs.*; restore one"):
        load_checkpoint(tmp_path)


def test_a_renamed_or_copied_checkpoint_is_not_believed(tmp_path: Path) -> None:
    newest = save(tmp_path, 5)
    shutil.copytree(newest, tmp_path / "9-9")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.path == newest


def test_a_file_in_a_checkpoints_place_keeps_its_name_and_stays(tmp_path: Path) -> None:
    for updates in (1, 2):
        save(tmp_path, updates)
    taken = tmp_path / "3-3"
    taken.write_text("somebody's")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.updates == 2
    assert str(taken) in loaded.notes[0]
    for updates in (3, 4, 5):
        save(tmp_path, updates)
    assert names(tmp_path) == ["3-3", "4-5", "5-6"]
    assert taken.read_text() == "somebody's"


@pytest.mark.parametrize("name", [f"1-{2**63 - 1}", "notes", "2025-12-01", "1-" + 300 // 2 * "9", "2-2.bak"])
def test_what_has_no_checkpoints_name_is_not_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    assert load_checkpoint(tmp_path) is None
    for updates in (1, 2, 3):
        save(tmp_path, updates)
    assert names(tmp_path) == sorted([name, "2-2", "3-3"])
    assert (tmp_path / name / "mine").exists()


def test_a_full_disk_keeps_the_old_one_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_synced", full)
        with pytest.raises(UserError, match="cannot be written: Disk quota exceeded"):
            save(tmp_path, 2)
    assert names(tmp_path) == ["1-1"]


def test_what_reads_back_differently_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    real = checkpoint.write_synced

    def lying_disk(path: Path, data: bytes) -> None:
        real(path, data[:-1] + b"?" if path.name == "state.json" else data)

    monkeypatch.setattr(checkpoint, "write_synced", lying_disk)
    with pytest.raises(UserError, match="reads back differently"):
        save(tmp_path, 3)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.updates == 2
    assert "1-1" in names(tmp_path), "older ones went although the new one is bad"


@pytest.mark.parametrize("file", ["manifest.json", "state.json", "tensors.safetensors"])
def test_no_older_one_is_taken_for_one_that_storage_does_not_give_now(tmp_path: Path, file: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        with unreadable(newest / file, number), pytest.raises(StorageError, match=re.escape(str(newest / file))):
            load_checkpoint(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.updates, loaded.notes) == (2, [])


@pytest.mark.parametrize(("file", "left"), [("manifest.json", ["1-1", "3-3", "4-4"]), ("state.json", ["3-3", "4-4"])])
def test_an_older_one_on_a_bad_place_of_the_disk_hinders_nothing(tmp_path: Path, file: str, left: list[str]) -> None:
    bad = save(tmp_path, 1)
    with unreadable(bad / file, errno.EIO):
        for updates in (2, 3, 4):
            save(tmp_path, updates)
            loaded = load_checkpoint(tmp_path)
            assert loaded is not None
            assert (loaded.updates, loaded.notes) == (updates, [])
            assert "1-1" in names(tmp_path) or updates > 2, "what may be the last intact one is not deleted"
    assert names(tmp_path) == left, "a newer program may have written what has no manifest that can be read"


def test_one_that_cannot_be_read_back_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with unreadable(tmp_path / "2-2" / "state.json", errno.EIO):
        with pytest.raises(StorageError, match=r"reads back differently .*state.json: cannot be read: Input/output"):
            save(tmp_path, 2)
        loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.updates == 1
    assert names(tmp_path) == ["1-1"]


def write_without_end(folder: Path) -> None:
    for n in range(1, 10**9):
        save_checkpoint(folder, {"w": torch.full((200_000,), float(n))}, {"updates": n})


def test_a_writer_killed_at_any_moment_leaves_an_intact_newest(tmp_path: Path) -> None:
    rng = random.Random(3)
    seen = 0
    for _ in range(6):
        # Forked, not started anew: importing torch takes seconds.
        writer = multiprocessing.get_context("fork").Process(target=write_without_end, args=(tmp_path,))
        writer.start()
        deadline = time.monotonic() + 60
        while newest(tmp_path)[0] <= seen and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        writer.kill()
        writer.join()
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded.number > seen
        assert set(loaded.tensors["w"].tolist()) == {float(loaded.updates)}
        assert loaded.notes == [], "a kill leaves unfinished folders, but none that looks like a checkpoint"
        seen = loaded.number
    save(tmp_path, 1)
    assert len(names(tmp_path)) == 2, "what the kills left behind is cleaned away"


def test_nested_state_comes_back_exactly() -> None:
    state = {
        "none": None,
        "bools": [True, False],
        "ints": (0, -1, 2**127),
        "floats": [0.1, float("inf"), -0.0],
        "text": "é",
        "bytes": b"\x00\xff",
        "empty": [{}, [], (), b""],
        "nested": {"a.b": torch.ones(1), "a": {"b": torch.zeros(2)}},
        "int keys": {0: "zero", (1, "x"): {2.5: None}, None: True},
        "$": {"$": "tuple", "value": 3},
        "arrays": [np.arange(3, dtype=np.uint16), np.array(2.5), np.zeros((0, 2), bool)],
        "scalars": (np.float32(0.1), np.int64(-5), np.bool_(True)),
    }
    assert_same(through_disk_form(state), state)


def test_state_of_modules_optimisers_and_generators_continues_identically(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        module = torch.nn.LSTM(3, 4)
        return module, torch.optim.Adam(module.parameters(), lr=0.01)

    def step(module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        module(torch.randn(5, 2, 3))[0].square().sum().backward()
        optimiser.step()

    module, optimiser = build()
    numpy_rng, old_rng, python_rng = np.random.default_rng(2), np.random.RandomState(3), random.Random(4)
    step(module, optimiser)
    numpy_rng.random(), old_rng.normal(), python_rng.gauss(0, 1)
    state = {
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "torch": torch.get_rng_state(),
        "numpy": numpy_rng.bit_generator.state,
        "old": old_rng.get_state(),
        "python": python_rng.getstate(),
    }
    tensors, tree = flatten_state(state)
    save_checkpoint(tmp_path, tensors, {"updates": 1, "state": tree})
    step(module, optimiser)
    expected = [p.detach().clone() for p in module.parameters()]
    draws = (numpy_rng.random(), old_rng.normal(), python_rng.random(), torch.rand(1).item())

    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    back = unflatten_state(loaded.tensors, loaded.meta["state"])
    module, optimiser = build()
    module.load_state_dict(back["module"])
    optimiser.load_state_dict(back["optimiser"])
    torch.set_rng_state(back["torch"])
    numpy_rng, old_rng, python_rng = np.random.default_rng(), np.random.RandomState(), random.Random()
    numpy_rng.bit_generator.state = back["numpy"]
    old_rng.set_state(back["old"])
    python_rng.setstate(back["python"])
    step(module, optimiser)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), expected, strict=True))
    assert (numpy_rng.random(), old_rng.normal(), python_rng.random(), torch.rand(1).item()) == draws


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array([object()]), {"a": lambda: 0}, np.array(["text"])])
def test_what_cannot_be_kept_is_refused_by_its_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"state\.here.* cannot be kept"):
        flatten_state({"here": value})


def test_published_params_are_plain_tensors(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    path = tmp_path / "online_params.pt"
    for _ in range(2):
        publish_params(path, module.state_dict())
    loaded = torch.load(path, weights_only=True)
    assert point_of(loaded) is None
    assert loaded.keys() == module.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in module.state_dict().items())
    assert names(tmp_path) == ["online_params.pt"]


def through_disk_form(state: Any) -> Any:
    tensors, tree = flatten_state(state)
    plain = {n: torch.from_numpy(np.array(t)) if isinstance(t, np.ndarray) else t for n, t in tensors.items()}
    return unflatten_state(plain, json.loads(json.dumps(tree)))


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.array_equal(a, b)
    else:
        assert repr(a) == repr(b)


def test_published_params_say_when_they_were_made_and_load_as_before(tmp_path: Path) -> None:
    module, path = torch.nn.Linear(2, 3), tmp_path / "online_params.pt"
    publish_params(path, module.state_dict(), ParamsPoint(2**40, 7))
    assert point_of(read_params(path)) == (2**40, 7)
    torch.nn.Linear(2, 3).load_state_dict(torch.load(path, weights_only=True))
    for odd in ({"env_steps": -1}, {"updates": None}, {"updates": "7"}, {"env_steps": 1.5}):
        params = OrderedDict(module.state_dict())
        vars(params).update({"env_steps": 1, "updates": 2} | odd)
        torch.save(params, path)
        assert point_of(read_params(path)) is None
