"""What a start says of a run that has lost files, or has another run's; and that a kill leaves nothing it refuses."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from trainer_fixtures import BLOCK, CONFIG, MILESTONES, OBSERVATION, changed, episodes, ingest, open_trainer, train

from cluster_rl.config import Config, load_config
from cluster_rl.errors import UserError
from cluster_rl.jobs.continuity import check_whole, run_id_of
from cluster_rl.jobs.opening import begin_job, check_config
from cluster_rl.runs.aside import damaged_path
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES
from cluster_rl.runs.progress import REASON_UNKNOWN, read_progress, save_progress
from cluster_rl.training.trainer import Trainer

QUICKSTART = load_config("quickstart")


def begin(folder: Path, config: Config = CONFIG) -> Trainer:
    """A job up to where its learner runs, as the launcher and the learner begin one."""
    run_dir = RunDir(folder, "run").create()
    begin_job(QUICKSTART, run_dir, check_config(QUICKSTART))
    trainer = open_trainer(folder, config)
    trainer.tick()
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with one that two jobs have trained: 72 env steps, 5 updates, two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    for first in (0, 2):
        trainer = begin(folder)
        ingest(trainer, episodes(first, 2))
        trainer.run_dir.episode_logs.joinpath(f"episode-{first}.eplog").touch()
        if first:
            train(trainer, 5)
        trainer.close("signal SIGTERM")
    return folder


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> RunDir:
    shutil.copytree(trained / "run", tmp_path / "run")
    return RunDir(tmp_path, "run")


def lose(run_dir: RunDir, *names: str) -> None:
    for name in names:
        path = run_dir.path / name.rstrip("/")
        if not path.is_dir():
            path.unlink()
        elif name.endswith("//"):
            shutil.rmtree(path)
        else:  # emptied, as a purge leaves it: it takes files
            for file in [*path.rglob("*")]:
                if file.is_file():
                    file.unlink()


NEVER_OF_A_RUN = "run.json", "config.json", "logs/", "tensorboard/"


@pytest.mark.parametrize(
    ("lost", "missing", "told_by"),
    [
        ("replay/", "replay", "progress.json"),
        ("replay//", "replay", "progress.json"),
        ("checkpoint/", "checkpoint", "progress.json"),
        ("checkpoint//", "checkpoint", "progress.json"),
        ("replay/ checkpoint//", "replay and checkpoint", "progress.json"),
        ("replay/ progress.json", "replay", "metrics.jsonl, jobs, episode_logs, online_params.pt"),
        ("replay/ progress.json metrics.jsonl", "replay", "jobs, "),
        ("replay/ progress.json metrics.jsonl jobs/ episode_logs/ online_params.pt", "replay", "checkpoint"),
        ("replay/ checkpoint/ progress.json metrics.jsonl jobs/", "replay and checkpoint", "episode_logs, "),
        ("replay/ checkpoint/ progress.json metrics.jsonl episode_logs/ online_params.pt", "replay", "jobs"),
        ("checkpoint/ progress.json", "checkpoint", "metrics.jsonl"),
        ("checkpoint/ progress.json metrics.jsonl jobs/", "checkpoint", "episode_logs, online_params.pt"),
        ("checkpoint/ run.json config.json jobs/ metrics.jsonl", "checkpoint", "progress.json"),
        ("replay/ run.json config.json jobs/ metrics.jsonl", "replay", "progress.json"),
    ],
)
def test_a_part_that_is_gone_is_named(run_dir: RunDir, lost: str, missing: str, told_by: str) -> None:
    lose(run_dir, *lost.split())
    with pytest.raises(UserError) as refused:
        check_whole(run_dir, run_dir.replay)
    line = str(refused.value).replace(f"{run_dir.path}/", "")
    assert line.startswith(f"run 'run': missing or empty: {missing}")
    assert f"; by {told_by}" in line
    assert line.endswith("or give --fresh, which moves what is left aside and starts a new run")
    with pytest.raises(UserError, match="missing or empty"):  # a learner that is started again says it too
        Trainer(CONFIG, run_dir, OBSERVATION, BLOCK, MILESTONES, "next")


def test_what_is_left_is_named(run_dir: RunDir) -> None:
    lose(run_dir, "checkpoint/")
    with pytest.raises(UserError) as refused:
        check_whole(run_dir, run_dir.replay)
    assert "the run was at env step 72 and update 5; still there: " in str(refused.value)
    assert f"{run_dir.replay}, run.json, progress.json, metrics.jsonl, online_params.pt;" in str(refused.value)


@pytest.mark.parametrize("lost", ["progress.json", "metrics.jsonl", "run.json", "jobs/", "progress.json metrics.jsonl"])
def test_what_can_be_made_anew_may_be_gone(run_dir: RunDir, lost: str, capsys: pytest.CaptureFixture[str]) -> None:
    lose(run_dir, *lost.split())
    assert check_whole(run_dir, run_dir.replay) == []
    trainer = Trainer(CONFIG, run_dir, OBSERVATION, BLOCK, MILESTONES, "next")
    assert (trainer.replay.env_steps, trainer.r2d2.updates) == (72, 5)
    trainer.close("enough")
    said = "progress.json was not there; it is made anew, without the history of jobs"
    assert (said in capsys.readouterr().out) == ("progress.json" in lost)


@pytest.mark.parametrize("clean", [True, False])
def test_a_progress_file_of_an_older_program(run_dir: RunDir, clean: bool) -> None:
    """It does not say whether there was a checkpoint: a job that ended well had made one."""
    progress = read_progress(run_dir.progress)
    assert progress is not None
    progress.newest_checkpoint = None
    if not clean:
        progress.jobs = progress.jobs[:1]
        progress.jobs[0].reason = REASON_UNKNOWN
    save_progress(run_dir.progress, progress)
    lose(run_dir, "checkpoint/")
    if clean:
        with pytest.raises(UserError, match=r"missing or empty: .*checkpoint"):
            check_whole(run_dir, run_dir.replay)
    else:
        assert check_whole(run_dir, run_dir.replay) == []


def test_a_progress_file_that_is_gone_before_the_first_checkpoint(tmp_path: Path) -> None:
    """Play, and the weights of a learner that has just begun, tell of no checkpoint."""
    trainer = begin(tmp_path)
    run_dir = trainer.run_dir
    run_dir.episode_logs.joinpath("episode.eplog").touch()
    ingest(trainer, episodes(0, 4))
    trainer.tick()
    trainer.metrics.close()
    trainer.replay.close()
    run_dir.progress.unlink()
    assert check_whole(run_dir, run_dir.replay) == []
    lose(run_dir, "replay/", "episode_logs/")
    run_dir.episode_logs.joinpath(".nfs0000a1").touch()
    run_dir.episode_logs.joinpath("._a000-e00-1-000000.eplog").touch()
    assert check_whole(run_dir, run_dir.replay) == [], "nothing was played"
    trainer = begin(tmp_path)
    ingest(trainer, episodes(0, 4))
    assert trainer.replay.env_steps == 72
    train(trainer, 1)
    trainer.close("signal SIGTERM")
    lose(run_dir, "checkpoint/", "progress.json", "metrics.jsonl")  # now the weights tell
    with pytest.raises(UserError, match=r"missing or empty: .*checkpoint; by .*online_params.pt"):
        check_whole(run_dir, run_dir.replay)


@pytest.mark.parametrize("aside", [False, True])
def test_a_damaged_progress_file_says_nothing(tmp_path: Path, aside: bool) -> None:
    """A learner moves it aside before it writes another. Then updates, of which metrics tell, may have been saved."""
    trainer = begin(tmp_path)
    run_dir = trainer.run_dir
    ingest(trainer, episodes(0, 4))
    run_dir.episode_logs.joinpath("episode.eplog").touch()
    trainer.metrics.close()
    trainer.replay.close()
    if aside:
        run_dir.progress.rename(damaged_path(run_dir.progress))
    else:
        run_dir.progress.write_bytes(b"{")
    assert check_whole(run_dir, run_dir.replay) == []
    whole = b'{"env_steps": 72, "updates": 3}\n'
    for spoilt in (whole + b"\x00" * 70_000 + b"\n", whole[:-2] + b" " * MAX_ROW_BYTES + b"}\n"):
        run_dir.metrics.write_bytes(spoilt)
        [line] = check_whole(run_dir, run_dir.replay)
        assert line.startswith(f"{run_dir.metrics}: damaged (")
        assert line.endswith("; its last row tells nothing: delete it, or reports refuse the file")
    for tail in (b'{"env_st', bytes(MAX_ROW_BYTES + 1)):  # the learner cuts the one off and moves the other aside
        run_dir.metrics.write_bytes(whole + tail)
        with pytest.raises(UserError, match=r"missing or empty: .*checkpoint; by metrics.jsonl.* the run was"):
            check_whole(run_dir, run_dir.replay)


def test_another_nodes_scratch_may_be_empty(run_dir: RunDir, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    config = changed(replay_dir=str(scratch))
    [line] = check_whole(run_dir, scratch)
    assert line.startswith(f"replay_dir {scratch} holds nothing of this run, which had 72 env steps: its weights")
    trainer = Trainer(config, run_dir, OBSERVATION, BLOCK, MILESTONES, "next")
    assert (trainer.replay.env_steps, trainer.replay.sequences, trainer.r2d2.updates) == (72, 0, 5)
    trainer.close("enough")
    assert check_whole(run_dir, scratch) == []
    lose(run_dir, "replay/")
    run_dir.config.write_bytes(msgspec.json.encode({"replay_dir": str(scratch)}))
    with pytest.raises(UserError, match=f"replay .the last job's was in {scratch}: --replay_dir {scratch}.;"):
        check_whole(run_dir, run_dir.replay)
    shutil.rmtree(scratch)
    lose(run_dir, "checkpoint/")
    with pytest.raises(UserError, match=r"missing or empty: .*checkpoint; by progress.json"):
        check_whole(run_dir, scratch)


def test_the_runs_own_replay_folder_is_known_however_it_is_written(run_dir: RunDir, tmp_path: Path) -> None:
    lose(run_dir, "replay/")
    (tmp_path / "link").symlink_to(run_dir.path)
    for replay in (tmp_path / ".." / tmp_path.name / "run" / "replay", tmp_path / "link" / "replay"):
        with pytest.raises(UserError, match=r"missing or empty: .*replay"):
            check_whole(run_dir, replay)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop: is a link that leads to itself"):
        check_whole(run_dir, tmp_path / "loop")


# The run's id.


@pytest.mark.parametrize("lost", ["run.json", "run.json checkpoint/", "run.json replay/", "run.json progress.json"])
def test_a_lost_id_is_taken_back(run_dir: RunDir, lost: str) -> None:
    before = read_identity(run_dir.identity)
    assert before is not None
    lose(run_dir, *lost.split())
    assert run_id_of(run_dir, run_dir.replay) == before.run_id
    begin_job(QUICKSTART, run_dir, check_config(QUICKSTART))
    after = read_identity(run_dir.identity)
    assert after is not None
    assert (after.run_id, after.rom_sha1) == (before.run_id, before.rom_sha1)


def other_run(folder: Path) -> RunDir:
    trainer = begin(folder)
    ingest(trainer, episodes(0, 1))
    trainer.close("signal SIGTERM")
    return trainer.run_dir


@pytest.mark.parametrize("taken", ["replay", "checkpoint", "progress.json", "run.json"])
def test_what_is_of_another_run_is_refused(run_dir: RunDir, tmp_path: Path, taken: str) -> None:
    other = other_run(tmp_path / "other")
    theirs = read_identity(other.identity)
    assert theirs is not None
    if (other.path / taken).is_dir():
        shutil.rmtree(run_dir.path / taken)
        shutil.copytree(other.path / taken, run_dir.path / taken)
    else:
        shutil.copy(other.path / taken, run_dir.path / taken)
    with pytest.raises(UserError, match=f"{taken}.* '{theirs.run_id}'"):
        run_id_of(run_dir, run_dir.replay)
    with pytest.raises(UserError, match=theirs.run_id):
        Trainer(CONFIG, run_dir, OBSERVATION, BLOCK, MILESTONES, "next")


def test_a_new_run_takes_no_replay_of_another(run_dir: RunDir, tmp_path: Path) -> None:
    new = RunDir(tmp_path, "new")
    with pytest.raises(UserError, match=r"segment-00000000.log: belongs to the run .*, and this one is new"):
        run_id_of(new, run_dir.replay)
    shutil.copytree(run_dir.replay, new.replay)  # this is how new weights are trained from an old replay
    mine = read_identity(run_dir.identity)
    assert mine is not None
    assert run_id_of(new, new.replay) == mine.run_id
    assert check_whole(new, new.replay) == []


def test_files_of_older_programs_name_no_run(run_dir: RunDir) -> None:
    mine = read_identity(run_dir.identity)
    assert mine is not None
    for path in run_dir.checkpoint.glob("*/manifest.json"):
        path.write_bytes(path.read_bytes().replace(mine.run_id.encode(), b""))
    progress = read_progress(run_dir.progress)
    assert progress is not None
    progress.run_id = ""
    save_progress(run_dir.progress, progress)
    trainer = Trainer(CONFIG, run_dir, OBSERVATION, BLOCK, MILESTONES, "next")
    assert trainer.r2d2.updates == 5
    trainer.close("enough")
    assert mine.run_id.encode() in run_dir.progress.read_bytes()
    assert any(mine.run_id.encode() in path.read_bytes() for path in run_dir.checkpoint.glob("*/manifest.json"))


# A kill.


class _Instants:
    """Calls `look` before each file operation of this process: in each state that a kill can leave."""

    def __init__(self) -> None:
        self.look: Callable[[], None] | None = None
        self.looked = 0
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.look is not None and event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            if event == "open" and isinstance(arguments[2], int) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
            look, self.look = self.look, None
            look()
            self.looked += 1
            self.look = look


_INSTANTS: list[_Instants] = []  # a hook stays as long as the process


@pytest.fixture
def instants() -> Iterator[_Instants]:
    if not _INSTANTS:
        _INSTANTS.append(_Instants())
    yield _INSTANTS[0]
    _INSTANTS[0].look = None


def test_no_instant_of_a_run_is_one_that_is_refused(tmp_path: Path, instants: _Instants) -> None:
    """Jobs that end well and jobs that are killed, evictions, a damaged log and a damaged progress.json."""
    run_dir = RunDir(tmp_path, "run")

    def look() -> None:
        assert check_whole(run_dir, run_dir.replay) == []
        run_id_of(run_dir, run_dir.replay)

    config = changed(replay_capacity_transitions=60)
    instants.look, instants.looked = look, 0
    for job in range(8):
        trainer = begin(tmp_path, config)
        run_dir.episode_logs.joinpath(f"episode-{job}.eplog").touch()  # before its last sequence is acknowledged
        for episode in range(3):
            ingest(trainer, episodes(3 * job + episode, 1))
            trainer.write_progress()
            if trainer.may_sample():
                train(trainer, 1)
                trainer.write_progress()
                trainer.write_metrics()
            if job in (2, 4, 6):
                trainer.checkpoint()
                look()
        if job % 2:
            trainer.close("signal SIGTERM")
        else:
            trainer.metrics.close()
            trainer.replay.close()  # what the kernel does for a process that was killed
        if job == 3:
            for path in run_dir.replay.glob("segment-*.log"):
                path.write_bytes(b"x" * 100)
        if job == 5:
            run_dir.progress.write_bytes(b"{")
        look()
    assert instants.looked > 300
