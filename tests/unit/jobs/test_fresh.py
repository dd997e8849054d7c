"""`--fresh`: nothing is deleted, nothing of another run is touched, and a chain of jobs does it once."""

from __future__ import annotations

import fcntl
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from replay_log_fixtures import fill, open_log

from cluster_rl.config import Config, load_config
from cluster_rl.errors import UserError
from cluster_rl.jobs import fresh
from cluster_rl.jobs.opening import dry_run, open_job
from cluster_rl.jobs.signals import STOP_SIGNALS
from cluster_rl.runs.identity import ensure_identity, read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, save_progress


@pytest.fixture(autouse=True)
def signals_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run that has lost its checkpoints."""
    run_dir = RunDir(tmp_path / "runs", "r").create()
    ensure_identity(run_dir.identity, "0" * 40, "ANOTHER GAME", "the old run")
    save_progress(run_dir.progress, Progress(run_name="r", target_total_steps=1, env_steps=12_345, newest_checkpoint=9))
    with_log(run_dir.replay, "the old run")
    return run_dir


def with_log(folder: Path, owner: str) -> None:
    log = open_log(folder, owner=owner)
    fill(log, 3)
    log.close()


def config(*overrides: str) -> Config:
    return load_config("quickstart", ["device=cpu", *overrides])


def job(run_dir: RunDir, *overrides: str, is_fresh: bool = True) -> str:
    """Starts a job, which ends at once; the run's id."""
    with open_job(config(*overrides), run_dir, fresh=is_fresh):
        pass
    identity = read_identity(run_dir.identity)
    assert identity is not None
    return identity.run_id


def contents(folder: Path) -> dict[str, bytes]:
    there = (path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in there}


def aside_of(run_dir: RunDir) -> list[Path]:
    return sorted(run_dir.root.resolve().glob("r.before-*"))


def test_what_the_run_had_is_moved_aside_whole(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run_dir.path)
    with pytest.raises(UserError, match="plays ANOTHER GAME"):
        job(run_dir, is_fresh=False)
    assert contents(run_dir.path) == before
    new = job(run_dir)
    [aside] = aside_of(run_dir)
    assert contents(aside) == before
    assert new != "the old run"
    assert sorted(path.name for path in run_dir.path.iterdir() if path.is_file()) == [
        "config.json",
        "run.json",
        "run.lock",
    ]
    assert f"--fresh: what the run had is now in {aside}" in capsys.readouterr().out
    old = RunDir(aside.parent, aside.name)  # it is a run like any other
    with RunLock(old):
        pass
    assert job(run_dir, is_fresh=False) == new


def test_a_dry_run_moves_nothing(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run_dir.root)
    dry_run(config(), run_dir, fresh=True)
    assert f"--fresh: all that is moved to {run_dir.path}.before-" in capsys.readouterr().out
    assert contents(run_dir.root) == before


def test_a_new_run_needs_nothing_moved(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "runs", "r")
    job(run_dir)
    assert aside_of(run_dir) == []
    empty = RunDir(tmp_path / "runs", "submitted").create()  # by `cluster submit`
    job(empty)
    assert [path.name for path in sorted(empty.root.iterdir())] == ["r", "submitted"]


def test_twice_in_a_second(run_dir: RunDir) -> None:
    ids = {job(run_dir), job(run_dir), job(run_dir)}
    assert len(ids) == len(aside_of(run_dir)) == 3


def test_a_run_that_is_trained_is_left_alone(run_dir: RunDir) -> None:
    before = contents(run_dir.path)
    with RunLock(run_dir), pytest.raises(UserError, match="is being trained by process"):
        job(run_dir)
    assert contents(run_dir.path) == before


def test_a_learner_that_has_not_ended_is_waited_for(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launcher was killed, and what it still writes must not come into the new run."""
    lock = (run_dir.replay / "lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    monkeypatch.setattr("cluster_rl.replay.folder_lock.LOCK_WAIT_SEC", 0.1)
    with pytest.raises(UserError, match="in use by"):
        job(run_dir)
    assert aside_of(run_dir) == []
    monkeypatch.undo()
    ends = threading.Timer(0.3, lock.close)
    ends.start()
    job(run_dir)
    assert len(aside_of(run_dir)) == 1
    ends.join()


def test_a_replay_elsewhere_is_moved_aside_too(run_dir: RunDir, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    shutil.copytree(run_dir.replay, scratch)
    (scratch / "notes.txt").write_text("mine")
    before = contents(scratch)
    job(run_dir, f"replay_dir={scratch}")
    [folder] = scratch.glob("before-*")
    assert {path.name for path in folder.iterdir()} == {"segment-00000000.log"}
    assert sorted(contents(scratch).values()) == sorted(before.values())
    assert not [*scratch.glob("segment-*")]


@pytest.mark.parametrize("link", ["loop", "here"])
def test_a_replay_that_is_a_link_to_itself_is_one_line(run_dir: RunDir, tmp_path: Path, link: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    (tmp_path / "there").symlink_to("here")
    before = contents(run_dir.path)
    with pytest.raises(UserError, match=f"{link}: is a link that leads to itself"):
        job(run_dir, f"replay_dir={tmp_path / link}")
    assert contents(run_dir.path) == before


@pytest.mark.parametrize("there", [True, False])
def test_another_runs_replay_is_left_alone(run_dir: RunDir, tmp_path: Path, there: bool) -> None:
    scratch = tmp_path / "scratch"
    with_log(scratch, "somebody's")
    if not there:
        shutil.rmtree(run_dir.path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match='belongs to the run "somebody\'s"'):
        job(run_dir, f"replay_dir={scratch}")
    assert contents(tmp_path) == before


def test_a_folder_that_names_no_run_takes_no_log(tmp_path: Path) -> None:
    """Of something else, or of a run that has lost all that told its id."""
    scratch, run_dir = tmp_path / "scratch", RunDir(tmp_path / "runs", "mine")
    with_log(scratch, "somebody's")
    run_dir.path.mkdir(parents=True)
    (run_dir.path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"segment-00000000.log: whose run .* does not tell .* another replay_dir"):
        job(run_dir, f"replay_dir={scratch}")
    assert contents(tmp_path) == before


def test_progress_tells_whose_the_replay_is(run_dir: RunDir, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    shutil.move(run_dir.replay, scratch)
    run_dir.identity.unlink()
    save_progress(run_dir.progress, Progress(run_name="r", target_total_steps=1, run_id="the old run"))
    job(run_dir, f"replay_dir={scratch}")
    assert not [*scratch.glob("segment-*")]
    with_log(scratch, "somebody's")
    run_dir.identity.unlink()
    save_progress(run_dir.progress, Progress(run_name="r", target_total_steps=1, run_id="the old run"))
    with pytest.raises(UserError, match='belongs to the run "somebody\'s"'):
        job(run_dir, f"replay_dir={scratch}")


def test_a_copy_leaves_the_replay_to_its_original(run_dir: RunDir, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    shutil.move(run_dir.replay, scratch)
    copy = RunDir(run_dir.root, "copy")
    shutil.copytree(run_dir.path, copy.path)
    before = contents(tmp_path)
    with pytest.raises(
        UserError, match=r"scratch: also that of the run 'r', of which this one is a copy or the other way round"
    ):
        job(copy, f"replay_dir={scratch}")
    assert contents(tmp_path) == before
    shutil.rmtree(copy.path)
    alias = RunDir(run_dir.root, "alias")  # one run by two names
    alias.path.symlink_to(run_dir.path.absolute())
    job(run_dir, f"replay_dir={scratch}")
    assert not [*scratch.glob("segment-*")]


def test_a_replay_in_the_runs_folder_moves_with_it_however_it_is_written(run_dir: RunDir) -> None:
    before = contents(run_dir.path)
    job(run_dir, f"replay_dir={run_dir.root}/../{run_dir.root.name}/r/replay")
    [aside] = aside_of(run_dir)
    assert contents(aside) == before


def test_killed_before_the_new_folder_is_made(run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link to the larger disk leads nowhere then."""
    large = tmp_path / "large"
    large.mkdir()
    shutil.move(run_dir.path, large / "r")
    run_dir.path.symlink_to(large / "r")

    def killed(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if not parents:  # else the lock's
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", killed)
    with pytest.raises(KeyboardInterrupt):
        fresh.set_aside(run_dir, run_dir.replay)
    monkeypatch.undo()
    assert not run_dir.exists()
    assert job(run_dir) != "the old run"
    assert run_dir.path.is_symlink()
    assert sorted(path.name.partition("-")[0] for path in large.iterdir()) == ["r", "r.before"]


def test_a_link_stays_one(run_dir: RunDir, tmp_path: Path) -> None:
    """To a larger disk, where the new run is wanted too."""
    large = tmp_path / "large"
    large.mkdir()
    shutil.move(run_dir.path, large / "r")
    run_dir.path.symlink_to(large / "r")
    job(run_dir)
    assert run_dir.path.is_symlink()
    assert sorted(path.name.partition("-")[0] for path in large.iterdir()) == ["r", "r.before"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_identity_is_no_hindrance(run_dir: RunDir, damage: bytes) -> None:
    run_dir.identity.write_bytes(damage)
    job(run_dir)
    [aside] = aside_of(run_dir)
    assert (aside / "run.json").read_bytes() == damage


def test_a_chain_of_jobs_does_it_once(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requeued job has the number and the command line of before, with `--fresh` in it."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    first = job(run_dir)
    for count in ("1", "2"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        assert job(run_dir) == first
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    second = job(run_dir)  # typed again, in an interactive session
    assert second != first
    # Requeued by a node's failure before it had begun.
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert job(run_dir) not in (first, second)


@pytest.mark.parametrize("step", range(4))
def test_killed_on_the_way_nothing_is_lost(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    scratch = tmp_path / "scratch"
    log = open_log(scratch, transitions=4, owner="the old run")
    fill(log, 6)
    log.close()
    assert len([*scratch.glob("segment-*")]) > step
    before = sorted(contents(tmp_path).values())
    renames = 0

    class Killed(BaseException):
        pass

    def rename(path: Path, to: Path) -> None:
        nonlocal renames
        if renames == step:
            raise Killed
        renames += 1
        path.replace(to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed):
        fresh.set_aside(run_dir, scratch)
    monkeypatch.undo()
    assert sorted(contents(tmp_path).values()) == before
    assert fresh.set_aside(run_dir, scratch) is not None
    assert sorted(contents(tmp_path).values()) == before
    assert not [*scratch.glob("segment-*")]
