"""What SLURM's words come to: times, limits of a job, the queue; with programs in SLURM's place."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from slurm_programs import put_program

from cluster_rl.jobs import slurm
from cluster_rl.jobs.deadline import job_deadline
from cluster_rl.jobs.slurm import Ending, SlurmError, duration_sec


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:15", 1815), ("4:00:00", 14_400), ("1-12", 129_600), ("1-12:30", 131_400), ("2-0:0:1", 172_801)],
)
def test_times(text: str, seconds: int) -> None:
    assert duration_sec(text) == seconds


@pytest.mark.parametrize("text", ["", "four hours", "1:2:3:4", "-5"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        duration_sec(text)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that goes before all others; none of them is there yet."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_queue(programs: Path) -> None:
    put_program(
        programs,
        "squeue",
        r"printf '7\tgpu\tRUNNING\tNone\tgpu01\t3:59:00\tcluster_rl:/r/one\t/s/my job.sbatch --run-name one\n"
        r"8\tcpu\tPENDING\tPriority\t\tUNLIMITED\t(null)\t(null)\n'",
    )
    running, waiting = slurm.queued_jobs()
    assert (running.job_id, running.nodes, running.left_sec) == ("7", "gpu01", 14_340)
    assert running.comment == "cluster_rl:/r/one"
    assert (waiting.state, waiting.reason, waiting.left_sec, waiting.comment) == ("PENDING", "Priority", math.inf, "")


USERS = {
    "SQUEUE_STATES": "RUNNING",
    "SQUEUE_PARTITION": "other",
    "SQUEUE_FORMAT": "%A",
    "SQUEUE_NAMES": "other",
    "SCANCEL_STATE": "PENDING",
    "SCANCEL_INTERACTIVE": "true",
    "SCONTROL_ALL": "1",
    "SACCT_FORMAT": "jobid",
    "SBATCH_DEBUG": "1",
    "SBATCH_WAIT": "1",
}


def test_what_users_set_for_their_own_calls_does_not_hold(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (USERS | {"SBATCH_TIMELIMIT": "20", "SLURM_CONF": "/c"}).items():
        monkeypatch.setenv(name, value)
    put_program(programs, "sbatch", "env")
    seen = dict(line.split("=", 1) for line in slurm.run_slurm(["sbatch"]).splitlines() if "=" in line)
    assert not USERS.keys() & seen.keys()
    assert (seen["SBATCH_TIMELIMIT"], seen["SLURM_CONF"]) == ("20", "/c")


def test_a_banner_beside_the_answer(programs: Path) -> None:
    row = r"7\tgpu\tRUNNING\tNone\tgpu01\t3:59:00\t(null)\t(null)"
    banner = r"Maintenance on 2026-12-01!\nCLUSTER: local\n\n"
    put_program(programs, "squeue", f"printf '{banner}{row}\\n{banner}'")
    assert [job.job_id for job in slurm.queued_jobs()] == ["7"]
    put_program(programs, "squeue", rf"printf '{banner}left:1:00\n'")
    assert slurm.time_left_sec("7") == 60


@pytest.mark.parametrize(
    ("printed", "number"),
    [
        ("7", "7"),
        ("7;local", "7"),
        ("Welcome to 2026, please read\nhttps://here/7\n\n7\n", "7"),
        ("lua: your default account is used\n7;local\nthank you\n", "7"),
        ("1 job of yours waits\r\n7\r\n", "7"),
    ],
)
def test_the_number_of_a_submitted_job(programs: Path, printed: str, number: str) -> None:
    (programs / "printed").write_text(printed)
    put_program(programs, "sbatch", f"cat {programs}/printed")
    assert slurm.submit_job(["sbatch", "--parsable"]) == number


def test_a_submission_without_a_number(programs: Path) -> None:
    put_program(programs, "sbatch", "echo Submitted; echo you will hear from us")
    with pytest.raises(SlurmError, match="sbatch printed 'Submitted; you will hear from us' and no job's number; look"):
        slurm.submit_job(["sbatch", "--parsable"])


def test_jobs_in_hidden_partitions_are_asked_for(programs: Path) -> None:
    row = r"7\tgpu\tRUNNING\tNone\tgpu01\t3:59:00\t(null)\t(null)"
    put_program(programs, "squeue", f"""case "$*" in *--all*) printf '{row}' ;; esac""")
    assert [job.job_id for job in slurm.queued_jobs()] == ["7"]


def test_a_failing_command_is_no_empty_queue(programs: Path) -> None:
    put_program(programs, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"squeue failed: .*Unable to contact"):
        slurm.queued_jobs()
    with pytest.raises(SlurmError, match="nowhere is not installed here"):
        slurm.run_slurm(["nowhere"])


def test_a_job_ends_at_the_first_of_its_limits(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.monotonic()
    assert job_deadline(0, now).at_sec == math.inf
    assert not job_deadline(0, now).is_over()
    assert job_deadline(100, now - 101).is_over()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    put_program(programs, "squeue", "echo left:1:00:00")
    assert job_deadline(100, now) == (now + 100, "max_runtime_seconds reached")
    # An hour less five minutes.
    by_slurm = job_deadline(7200, now)
    assert by_slurm.at_sec == pytest.approx(now + 3300, abs=5)
    assert by_slurm.reason == "the end of SLURM job 7 is near"
    put_program(programs, "squeue", "echo left:10:00")
    assert job_deadline(0, now).at_sec == pytest.approx(now + 540, abs=5)
    put_program(programs, "squeue", "echo left:UNLIMITED")
    assert job_deadline(0, now).at_sec == math.inf
    put_program(programs, "squeue", "exit 1")
    assert job_deadline(100, now).at_sec == now + 100
    assert "the end of SLURM job 7 is not known" in capsys.readouterr().out


def test_a_slurm_that_does_not_answer_leaves_time_before_the_job_is_killed(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    put_program(programs, "scontrol", "exec /bin/sleep 20")
    began = time.monotonic()
    assert slurm.ending() is None
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("state", "restarts", "before", "expected"),
    [
        ("COMPLETING", 1, None, Ending.TO_START_AGAIN),
        ("COMPLETING", 0, None, Ending.FOR_GOOD),
        ("COMPLETING", 2, "2", Ending.FOR_GOOD),
        ("CANCELLED", 2, "2", Ending.FOR_GOOD),
        ("COMPLETING", 3, "2", Ending.TO_START_AGAIN),
        ("RUNNING", 0, None, None),
        ("RUNNING", 2, "2", None),
    ],
)
def test_how_slurm_ends_a_job(
    programs: Path, monkeypatch: pytest.MonkeyPatch, state: str, restarts: int, before: str | None, expected: object
) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert slurm.ending() is None  # outside of a job
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    put_program(programs, "scontrol", "exit 1")
    assert slurm.ending() is None
    shown = f"JobId=7 JobState={state} Requeue=1 Restarts={restarts} ExitCode=0:0"
    put_program(programs, "scontrol", f'[ "$*" = "show job 7 --oneliner" ] && echo "{shown}"')
    if before is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", before)
    assert slurm.ending() is expected


def test_the_deadline_is_that_of_the_task(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the array's number squeue tells of all tasks, one that waits first."""
    put_program(
        programs,
        "squeue",
        r'case "$*" in *"--jobs 7_3 "*) echo left:10:00 ;; *) printf "left:4:00:00\nleft:10:00\n" ;; esac',
    )
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)
    deadline = job_deadline(0, time.monotonic())
    assert deadline.at_sec - time.monotonic() == pytest.approx(540, abs=5)
    assert "SLURM job 7_3" in deadline.reason
