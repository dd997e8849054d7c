"""The launcher, with children that hang or die at their start: the job ends in time, and says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.config import load_config
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, EXIT_STORAGE, EXIT_UNFINISHED
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.jobs.status import StatusView
from cluster_rl.jobs.supervise import ChildEvent
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress, save_progress
from cluster_rl.train_cluster import _Job, _late_at

# Python reads it before anything else of a process.
SITE = """
import os, signal, sys
if "cluster_rl.learner" in sys.orig_argv:
    exec(os.environ["DO"])
"""
LAUNCH = """
from cluster_rl import train_cluster
from cluster_rl.jobs import grace
train_cluster._LEARNER_MISSED_SEC = 0.3
train_cluster._LATE_MIN_SEC = grace._UNHURRIED_SEC = 1.0
train_cluster.run_command(train_cluster.main)
"""


def launch(folder: Path, do: str, *overrides: str, program: str = LAUNCH) -> tuple[int, str]:
    """Exit code and output of a job whose learner does this at its start. `program` is the launcher's."""
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", "quickstart", "--num_actors=1", "--envs_per_actor=1", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DO": do},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def signalled_job(folder: Path, number: signal.Signals) -> tuple[_Job, RunDir]:
    """A job without children that a signal ends now."""
    run_dir, flag = RunDir(folder, "one").create(), StopFlag().install()
    try:
        signal.raise_signal(number)
    finally:
        flag.uninstall()
    return _Job(load_config("quickstart"), run_dir, flag), run_dir


def kept_reason(job: _Job, run_dir: RunDir) -> str:
    """Why the job ended, by progress.json, once the launcher has ended it."""
    job._end(StatusView(run_dir, load_config("quickstart"), job._token))
    kept = read_progress(run_dir.progress)
    assert kept is not None
    return kept.jobs[-1].reason


def test_a_job_whose_learner_hangs_ends_in_time(tmp_path: Path) -> None:
    returncode, output = launch(tmp_path, "signal.pause()", "--max_runtime_seconds=2")
    assert returncode == EXIT_UNFINISHED, output
    assert "max_runtime_seconds reached, and the learner has not ended itself: stopping" in output
    assert "learner did not end within 1 s and was killed" in output
    assert output.splitlines()[-1] == "stopped before the learner was up; nothing was learned"


# A learner that has begun its job, has learned, and takes longer for its last checkpoint than after a signal it may.
SLOW = """
from pathlib import Path
from cluster_rl.runs.progress import Progress, save_progress
path = Path(sys.orig_argv[sys.orig_argv.index("--run-dir") + 1]) / "progress.json"
progress = Progress(run_name="one", target_total_steps=1000)
progress.continue_job(sys.orig_argv[sys.orig_argv.index("--job-token") + 1], "new")
save_progress(path, progress)
signal.sigwait([signal.SIGTERM])
signal.sigtimedwait([signal.SIGUSR2], 3)
progress.updates = 5
progress.end_job("signal SIGTERM")
save_progress(path, progress)
os._exit(85)
"""


def test_a_late_learner_may_finish_its_checkpoint(tmp_path: Path) -> None:
    returncode, output = launch(tmp_path, SLOW, "--max_runtime_seconds=2", "--run-name=one")
    assert returncode == EXIT_UNFINISHED, output
    assert "learner did not end" not in output
    assert output.splitlines()[-1].endswith(
        "; stopped: max_runtime_seconds reached, and the learner has not ended itself"
    )


BEGUN = SLOW.replace("signal.sigtimedwait([signal.SIGUSR2], 3)\n", "").replace("os._exit(85)", "os._exit(0)")
# When the learner has begun, the launcher may open two files more, and starting a process takes four.
FEW_FILES = f"""
import os, resource, time
from pathlib import Path
from cluster_rl.jobs.actor_children import ActorChildren
start = ActorChildren.start
def start_with_few_files(*arguments):
    while not Path("cluster_runs/one/progress.json").exists():
        time.sleep(0.05)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, lowest + 2))
    start(*arguments)
ActorChildren.start = start_with_few_files
{LAUNCH}"""


def test_a_job_that_may_not_start_an_actor_ends_in_order(tmp_path: Path) -> None:
    """Not as bad input: another job of a chain may be let. The learner has ended, and the run keeps why."""
    returncode, output = launch(tmp_path, BEGUN, "--run-name=one", program=FEW_FILES)
    assert returncode == EXIT_FAILURE, output
    assert "Traceback" not in output
    progress = read_progress(RunDir(tmp_path / "cluster_runs", "one").progress)
    assert progress is not None
    (job,) = progress.jobs
    assert job.ended is not None
    assert job.reason.startswith("cannot start actor-0 (")
    assert "Too many open files: more open files than `ulimit -n` allows" in job.reason
    assert job.reason in output


# Its first life is told to end, as by `kill`; the second comes to the target.
ENDED_FROM_OUTSIDE = """
from pathlib import Path
from cluster_rl.runs.progress import Progress, read_progress, save_progress
path = Path(sys.orig_argv[sys.orig_argv.index("--run-dir") + 1]) / "progress.json"
progress = read_progress(path)
again = progress is not None
progress = progress or Progress(run_name="one", target_total_steps=1000)
progress.continue_job(sys.orig_argv[sys.orig_argv.index("--job-token") + 1], "restored" if again else "new")
progress.updates += 5
progress.env_steps += 500
progress.end_job("target_total_steps reached" if again else "signal SIGTERM")
save_progress(path, progress)
os._exit(0)
"""


def test_a_learner_that_is_ended_from_outside_comes_back(tmp_path: Path) -> None:
    returncode, output = launch(tmp_path, ENDED_FROM_OUTSIDE, "--target_total_steps=1000", "--run-name=one")
    assert returncode == EXIT_OK, output
    assert output.count("learner was ended from outside, and the run is not complete; starting it again") == 1
    progress = read_progress(RunDir(tmp_path / "cluster_runs", "one").progress)
    assert progress is not None
    assert (progress.env_steps, [job.reason for job in progress.jobs]) == (1000, ["target_total_steps reached"])


def test_a_job_whose_learner_dies_at_every_start_ends_with_its_last_lines(tmp_path: Path) -> None:
    do = "print('loading', file=sys.stderr); print('error: no luck', file=sys.stderr, flush=True); os._exit(1)"
    returncode, output = launch(tmp_path, do)
    assert returncode == EXIT_FAILURE, output
    lines = output.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.endswith("3 starts in a row ended in this way"))
    assert "exited with code 1: error: no luck; log " in lines[at]
    assert lines[at + 1 : at + 3] == ["    loading", "    error: no luck"]
    assert sum("starting it again" in line for line in lines) == 2


@pytest.mark.parametrize("updates", [0, 5])
@pytest.mark.parametrize(
    ("learners", "written"),
    [
        ("signal SIGTERM", "actor-0 died"),
        ("target_total_steps reached", "target_total_steps reached"),
        (None, "actor-0 died; the learner ended without a checkpoint{lost}"),
    ],
)
def test_the_run_keeps_which_child_ended_its_job(
    tmp_path: Path, learners: str | None, written: str, updates: int
) -> None:
    """The learner itself only sees that it is told to end."""
    config, run_dir = load_config("quickstart"), RunDir(tmp_path, "one").create()
    job = _Job(config, run_dir, StopFlag())
    progress = Progress(run_name="one", target_total_steps=1)
    progress.continue_job(job._token, "new")
    progress.updates = updates
    progress.activity = "collecting 0 of 9 env steps before learning"
    if learners is not None:
        progress.end_job(learners)
    save_progress(run_dir.progress, progress)
    job._look_at(ChildEvent("actor-0", "gave_up", "actor-0 died\n    last line", 1, tmp_path))
    job._end(StatusView(run_dir, config, job._token))
    kept = read_progress(run_dir.progress)
    assert kept is not None
    nothing = "" if updates else "; nothing was learned: collecting 0 of 9 env steps before learning"
    lost = "; the run goes on from update 0, 5 are lost" if updates else ""
    assert kept.jobs[-1].reason == written.format(lost=lost) + nothing


@pytest.mark.parametrize(("updates", "lost"), [(0, "; nothing was learned"), (5, "; the run goes on from update 0")])
def test_a_signal_while_the_learner_is_down_is_no_good_end(tmp_path: Path, updates: int, lost: str) -> None:
    job, run_dir = signalled_job(tmp_path, signal.SIGTERM)
    progress = Progress(run_name="one", target_total_steps=1000)
    progress.continue_job(job._token, "new")
    progress.updates = updates
    save_progress(run_dir.progress, progress)
    assert kept_reason(job, run_dir).startswith(f"signal SIGTERM; the learner ended without a checkpoint{lost}")
    assert job.exit_code == EXIT_FAILURE


def test_a_signal_before_the_learner_has_begun_loses_nothing(tmp_path: Path) -> None:
    job, run_dir = signalled_job(tmp_path, signal.SIGTERM)
    job._end(StatusView(run_dir, load_config("quickstart"), job._token))
    assert job.exit_code == EXIT_OK
    assert not run_dir.progress.exists()


@pytest.mark.parametrize(
    ("number", "code", "kept_code", "word"),
    [
        (signal.SIGTERM, -signal.SIGKILL, EXIT_FAILURE, "; the learner ended: was killed by SIGKILL (out of memory?)"),
        (signal.SIGUSR2, 1, EXIT_FAILURE, "; the learner ended: exited with code 1"),
        (signal.SIGTERM, EXIT_STORAGE, EXIT_STORAGE, None),  # it has said itself what is not saved
        (signal.SIGTERM, EXIT_OK, EXIT_OK, None),
        (signal.SIGUSR2, EXIT_UNFINISHED, EXIT_UNFINISHED, None),
    ],
)
def test_a_learner_that_dies_after_its_last_checkpoint_is_no_good_end(
    tmp_path: Path, number: signal.Signals, code: int, kept_code: int, word: str | None
) -> None:
    """What actors sent after that checkpoint is in the log, and not yet in progress.json."""
    job, run_dir = signalled_job(tmp_path, number)
    progress = Progress(run_name="one", target_total_steps=1000)
    progress.continue_job(job._token, "new")
    progress.updates, progress.env_steps = 5, 300
    progress.end_job(f"signal {number.name}")
    save_progress(run_dir.progress, progress)
    end = f"import os; os.kill(os.getpid(), {-code})" if code < 0 else f"raise SystemExit({code})"
    job._supervisor.start("learner", [sys.executable, "-S", "-c", end])
    counted = "; the next start counts what the log has of the actors' last steps" if word else ""
    assert kept_reason(job, run_dir) == f"signal {number.name}{word or ''}{counted}"
    assert job.exit_code == kept_code


@pytest.mark.parametrize(("limit_sec", "late_sec"), [(60, 120), (2000, 200), (13500, 300), (0, float("inf"))])
def test_how_much_later_the_launcher_ends_a_job(limit_sec: float, late_sec: float) -> None:
    assert _late_at(5.0, limit_sec) - 5.0 - limit_sec == late_sec
