"""Keys of a run: made private from the first byte, and not used once others could have read them."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
import zmq

from cluster_rl.errors import UserError
from cluster_rl.wire import keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_files_are_private_even_with_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.make_keys(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = sorted((tmp_path / "keys").iterdir())
    assert [file.name for file in files] == [keys.ACTORS_FILE, keys.LEARNER_FILE]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_learner_allows_the_actors_key_and_the_pairs_are_real(folder: Path) -> None:
    learner, actors = keys.load_learner_keys(folder), keys.load_actor_keys(folder)
    assert learner.allowed == [actors.public]
    assert zmq.curve_public(learner.secret.encode()).decode() == learner.public
    assert learner.secret != actors.secret


def test_keys_that_are_there_are_kept(folder: Path) -> None:
    before = keys.load_learner_keys(folder)
    keys.make_keys(folder)
    assert keys.load_learner_keys(folder) == before


@pytest.mark.parametrize("lost", [keys.ACTORS_FILE, keys.LEARNER_FILE])
def test_half_a_set_is_made_anew_as_a_whole(folder: Path, lost: str) -> None:
    """A kill between the two files must not end the run."""
    before = keys.load_learner_keys(folder)
    (folder / lost).unlink()
    (folder / f".{lost}.0123abcd.tmp").write_bytes(b"half")
    keys.make_keys(folder)
    assert keys.load_learner_keys(folder).allowed == [keys.load_actor_keys(folder).public]
    assert keys.load_learner_keys(folder).public != before.public
    assert sorted(file.name for file in folder.iterdir()) == [keys.ACTORS_FILE, keys.LEARNER_FILE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_others_could_read_or_write_is_not_used(folder: Path, mode: int) -> None:
    (folder / keys.LEARNER_FILE).chmod(mode)
    with pytest.raises(UserError, match=f"others may read it .mode {mode:04o}"):
        keys.load_learner_keys(folder)


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"public": 1}', b"\xff\xfe"])
def test_a_damaged_key_is_refused(folder: Path, damage: bytes) -> None:
    (folder / keys.ACTORS_FILE).write_bytes(damage)
    with pytest.raises(UserError, match="damaged"):
        keys.load_actor_keys(folder)


def test_a_key_with_one_wrong_character_is_refused(folder: Path) -> None:
    file = folder / keys.ACTORS_FILE
    pair = keys.load_actor_keys(folder)
    other = pair.public[:-1] + ("a" if pair.public[-1] != "a" else "b")
    file.write_text(file.read_text().replace(pair.public, other))
    with pytest.raises(UserError, match="do not belong together"):
        keys.load_actor_keys(folder)


def test_a_missing_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"actors\.json: cannot be read: No such file"):
        keys.load_actor_keys(tmp_path)


def test_the_secret_is_not_printed(folder: Path) -> None:
    pair = keys.load_learner_keys(folder)
    assert pair.secret not in repr(pair)
    assert pair.secret not in f"{pair}"


def test_the_learner_gets_keys_where_it_needs_them(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert keys.learner_keys(folder, False, "run-1") is None
    assert not folder.exists()
    made = keys.learner_keys(folder, True, "run-1")
    assert made == keys.load_learner_keys(folder)
    assert keys.learner_keys(folder, False, "run-1") is None
    assert keys.learner_keys(folder, True, "run-1") == made


@pytest.mark.parametrize("file", [keys.LEARNER_FILE, keys.ACTORS_FILE])
def test_keys_of_another_run_are_refused(folder: Path, tmp_path: Path, file: str) -> None:
    """Those of older programs name no run, and are taken."""
    assert keys.learner_keys(folder, True, "run-2") == keys.load_learner_keys(folder)
    keys.make_keys(tmp_path / "theirs", "run-1")
    shutil.copy(tmp_path / "theirs" / file, folder / file)
    with pytest.raises(UserError, match=f"{file}: belongs to the run 'run-1', this one is 'run-2'; delete the folder"):
        keys.learner_keys(folder, True, "run-2")
