"""A user's own savestates: all that are fit join, and each that is not has a line before anything is made."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from cartridge_fixtures import new_env, play

from cluster_rl.config import load_config
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.school import school_snapshot
from cluster_rl.errors import UserError
from cluster_rl.exploration.archive import Archive, ArchiveDir, StartStates, read_state
from cluster_rl.jobs.opening import begin_job, check_job
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.layout import RunDir


@pytest.fixture(scope="module")
def rom() -> Rom:
    return load_rom("")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A snapshot after the first milestone, a lesson, and a savestate as PyBoy writes it."""
    folder = tmp_path / "states"
    folder.mkdir()
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "r" + 8 * "A")
    (folder / "elder.state").write_bytes(env.console.save())
    plain = io.BytesIO()
    env.console._pyboy.save_state(plain)
    (folder / "plain").write_bytes(plain.getvalue())
    env.close()
    (folder / "lesson.snap").write_bytes(school_snapshot("password", load_rom("")))
    (folder / ".hidden").write_bytes(b"an editor's")
    return folder


def begin(run_dir: RunDir, *overrides: str) -> None:
    config = load_config("quickstart", overrides)
    rom = check_job(config, run_dir).rom
    run_dir.create()
    begin_job(config, run_dir, rom)


def archive_of(run_dir: RunDir, rom: Rom) -> Archive:
    archive = Archive(run_dir.archive, rom.sha1, "frontier", 0, 10**8)
    archive.publish()
    return archive


def test_they_join_and_go_with_the_folder(tmp_path: Path, folder: Path, rom: Rom) -> None:
    run_dir = RunDir(tmp_path, "run")
    begin(run_dir, f"start_states={folder}")
    entries = {entry.key: entry for entry in archive_of(run_dir, rom).entries}
    assert {key: entry.milestones for key, entry in entries.items()} == {
        "elder.state": ["TALKED_ELDER"],
        "lesson.snap": [],
        "plain": ["TALKED_ELDER"],
    }
    assert {entry.tag for entry in entries.values()} == {"state"}
    starts = StartStates(run_dir.archive, 0, 1.0, proposes=False, read_sec=0.0)
    env = new_env(start_idle_frames_max=0, start_states=str(folder))
    env._starts = starts
    met = {}
    for _ in range(30):
        env.start()
        met[env.episode_start.id] = (env.episode_start.tag, env.episode_start.milestones)
    env.close()
    assert met["plain"] == ("state", ["TALKED_ELDER"])
    assert met.keys() == entries.keys()
    (folder / "plain").unlink()
    begin(run_dir, f"start_states={folder}")
    assert [entry.key for entry in archive_of(run_dir, rom).entries] == ["elder.state", "lesson.snap"]
    begin(run_dir)
    assert archive_of(run_dir, rom).entries == []


def test_every_unfit_file_has_a_line_and_nothing_is_made(tmp_path: Path, folder: Path, rom: Rom) -> None:
    whole = (folder / "elder.state").read_bytes()
    (folder / "cut.state").write_bytes(whole[:-100])
    (folder / "notes.txt").write_text("what I did")
    (folder / "red.state").write_bytes(whole.replace(rom.sha1.encode(), b"0" * 40))
    (folder / ("long" * 20)).write_bytes(whole)
    (folder / "folder").mkdir()
    with pytest.raises(UserError) as refused:
        begin(RunDir(tmp_path, "run"), f"start_states={folder}")
    first, *lines = refused.value.lines
    assert first == f"start_states {folder}: 5 of 8 files are unfit"
    for name, words in (
        ("cut.state", "damaged"),
        ("folder", "a folder lies where a file was expected"),
        ("long" * 20, "its name must be text of at most 64 characters"),
        ("notes.txt", "savestate"),
        ("red.state", f"made for the ROM with SHA-1 {'0' * 40}"),
    ):
        (line,) = [line for line in lines if f"{folder / name}" in line]
        assert words in line
    assert len(lines) == 5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_folder_that_is_none(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "states"
    if kind == "empty":
        folder.mkdir()
    elif kind == "file":
        folder.write_bytes(b"")
    with pytest.raises(UserError, match="start_states") as refused:
        begin(RunDir(tmp_path, "run"), f"start_states={folder}")
    assert len(refused.value.lines) == 1


def test_the_file_is_the_users_own(tmp_path: Path, folder: Path, rom: Rom) -> None:
    run_dir = RunDir(tmp_path, "run")
    begin(run_dir, f"start_states={folder}")
    state = read_state(ArchiveDir(run_dir.archive).states / "given-elder.state.start")
    assert state.snapshot == (folder / "elder.state").read_bytes()
    assert (state.memory, state.header.steps) == (b"", 0)
    with Console(rom, 24) as console:
        console.load(state.snapshot)
        assert console.position() == (state.header.map_id, state.header.x, state.header.y)
