"""How a job script ends, without SLURM around it: as an interactive session, and as SLURM would start it."""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_programs import REPOSITORY, job_programs, put_program
from small_disk import SmallDisk

from cluster_rl.batch_system.chain import read_chain
from cluster_rl.errors import EXIT_OK, EXIT_STORAGE, EXIT_UNFINISHED, StorageError, UserError
from cluster_rl.runs.layout import RunDir

REQUEUE = '[ "$1" = requeue ] || exit 1;'  # what else an scontrol is asked, it does not answer


def run_script(home: Path, code: int, name: str = "train_cpu.sbatch", **environment: str) -> tuple[int, str]:
    """Exit code and output of a job script whose trainer ends with `code`."""
    python = job_programs(home) / "trainer-python"
    program = f'case "$*" in *train_cluster*--run-name*) case "$*" in *after-job*) ;; *) exit {code} ;; esac ;; esac'
    python.write_text(f'#!/bin/sh\n{program}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    shutil.copy("slurm/train_cpu.sbatch", name)
    done = subprocess.run(
        ["/bin/bash", name, "--run-name", "one"],
        env={
            "PATH": f"{job_programs(home)}:/usr/bin:/bin",
            "PYTHONPATH": str(REPOSITORY),
            "CLUSTER_RL_PYTHON": str(python),
        }
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 85])
def test_an_interactive_session_ends_as_its_trainer(home: Path, code: int) -> None:
    ended, said = run_script(home, code)
    assert ended == code
    assert ("type the same command to go on" in said) == (code in (1, 85))


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (85, 0), (2, 2)])
def test_one_job_without_a_chain(home: Path, code: int, expected: int) -> None:
    put_program(job_programs(home), "scontrol", "echo requeued")
    job = {"SLURM_JOB_ID": "7", "CLUSTER_RL_CHAIN": "no"}
    ended, said = run_script(home, code, "slurm_script", **job)
    assert ended == expected
    assert "requeued" not in said


@pytest.mark.parametrize("code", [1, 85])
def test_nothing_follows_a_job_that_slurm_ends_though_its_script_was_not_told(home: Path, code: int) -> None:
    asked = 'case "$*" in "show job 7 --oneliner") echo "JobState=COMPLETING Restarts=0" ;; *) echo requeued ;; esac'
    put_program(job_programs(home), "scontrol", asked)
    ended, said = run_script(home, code, "slurm_script", SLURM_JOB_ID="7")
    assert ended == (0 if code == 85 else code)
    assert "run one: cancelled; submit it again to go on" in said
    assert "requeued" not in said


@pytest.mark.parametrize(("code", "goes_on"), [(0, False), (1, True), (85, True), (2, False)])
def test_a_chain_goes_on_after_time_and_crashes(home: Path, code: int, goes_on: bool) -> None:
    put_program(job_programs(home), "scontrol", 'echo "$1 $2"')
    ended, said = run_script(home, code, "slurm_script", SLURM_JOB_ID="7")
    assert ("requeue 7" in said) == goes_on
    assert ended == (0 if goes_on else code)


@pytest.mark.parametrize("code", [85, 9])
def test_a_requeue_that_fails_is_tried_again_and_then_told(home: Path, code: int) -> None:
    put_program(job_programs(home), "scontrol", f"{REQUEUE} echo tried >> tries; exit 1")
    put_program(job_programs(home), "sleep", "true")
    ended, said = run_script(home, code, "slurm_script", SLURM_JOB_ID="7")
    assert ended == code
    assert "SLURM has not requeued this job; submit it again" in said
    assert (home / "tries").read_text().count("tried") == 5


@pytest.mark.parametrize("answer", ["Requested operation is presently disabled for job 7", None])
def test_a_requeue_that_cannot_come_is_not_waited_for(home: Path, answer: str | None) -> None:
    """No scontrol on the PATH of the node; a job that was submitted with --no-requeue."""
    if answer:
        put_program(job_programs(home), "scontrol", f"{REQUEUE} echo tried >> tries; echo '{answer}' >&2; exit 1")
    put_program(job_programs(home), "sleep", "echo slept >> tries")
    bare = home / "bare"  # a SLURM may be installed in /usr/bin
    bare.mkdir()
    for name in ("bash", "basename", "env"):
        (bare / name).symlink_to(shutil.which(name, path="/usr/bin:/bin") or name)
    ended, said = run_script(home, 85, "slurm_script", SLURM_JOB_ID="7", PATH=f"{job_programs(home)}:{bare}")
    assert ended == 85
    assert (answer or "no scontrol on this job's PATH") in said
    assert "submit it again" in said
    assert not answer or (home / "tries").read_text() == "tried\n"


def test_a_requeue_is_not_set_up_by_the_user(home: Path) -> None:
    put_program(job_programs(home), "scontrol", "env")
    _, said = run_script(home, 85, "slurm_script", SLURM_JOB_ID="7", SCONTROL_ALL="1", SCONTROL_SIBLING="1")
    assert "SLURM_JOB_ID=7" in said
    assert "SCONTROL_" not in said


def test_a_job_that_is_cancelled_while_it_tries_to_requeue(home: Path) -> None:
    put_program(job_programs(home), "scontrol", f"{REQUEUE} echo tried >> tries; kill -TERM $PPID; exit 1")
    put_program(job_programs(home), "sleep", "true")
    ended, said = run_script(home, 85, "slurm_script", SLURM_JOB_ID="7")
    assert ended == 0
    assert "has not requeued" not in said
    assert (home / "tries").read_text() == "tried\n"


@pytest.mark.parametrize(
    ("given", "run_name", "base_seed"),
    [
        (["--run-name", "red"], "red-s3", "3"),
        (["--batch_size", "8", "--run-name=red"], "red-s3", "3"),
        (["--run_name", "red"], "red-s3", "3"),
        (["--run_name=red", "--batch_size", "8"], "red-s3", "3"),
        (["--run-name", "red", "--base_seed", "9"], "red-s3", "9"),
        ([], "own-3", None),
    ],
)
def test_a_task_of_an_array_is_a_run_of_its_own(
    home: Path, given: list[str], run_name: str, base_seed: str | None
) -> None:
    put_program(job_programs(home), "echo-python", 'case "$*" in *run-name*) echo "said $*"; exit 85 ;; esac')
    put_program(job_programs(home), "scontrol", 'echo "$1 $2"; [ "$1" != show ] || echo "JobId=8 ArrayTaskId=3"')
    script = '. slurm/job.sh || exit 2; run_job train_cluster --run-name "own-$SLURM_ARRAY_TASK_ID" "$@"\n'
    Path("slurm_script").write_text(script)
    python = job_programs(home) / "echo-python"
    job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(
        ["/bin/bash", "slurm_script", *given],
        env={"PATH": f"{job_programs(home)}:/usr/bin:/bin", "CLUSTER_RL_PYTHON": str(python)} | job,
        capture_output=True,
        text=True,
        check=False,
    )
    trained, concluded = (line.split() for line in done.stdout.splitlines() if line.startswith("said "))
    for words in (trained, concluded):
        names = " ".join(words).replace("--run-name=", "--run-name ").split("--run-name ")[1:]
        assert names[-1].split()[0] == run_name
    seeds = [after for word, after in itertools.pairwise(trained) if word == "--base_seed"]
    assert (seeds[-1] if seeds else None) == base_seed
    assert "requeue 7_3" in done.stdout


def test_actors_of_an_array_join_the_run_of_their_task(home: Path) -> None:
    put_program(job_programs(home), "echo-python", 'case "$*" in *run-name*) echo "said $*" ;; esac')
    python = job_programs(home) / "echo-python"
    done = subprocess.run(
        ["/bin/bash", "slurm/actors.sbatch", "--run-name", "red", "--job", "2"],
        env={"PATH": "/usr/bin:/bin", "CLUSTER_RL_PYTHON": str(python)}
        | {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-m cluster_rl.jobs.actor_job --run-name red --job 2 --run-name red-s3\n" in done.stdout


def test_a_dry_run_is_no_job(home: Path) -> None:
    python = job_programs(home) / "echo-python"
    put_program(job_programs(home), "echo-python", 'echo "$*"')
    done = subprocess.run(
        ["/bin/bash", "slurm/train_cpu.sbatch", "--run-name", "one", "--dry-run"],
        env={"PATH": "/usr/bin:/bin", "CLUSTER_RL_PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-m cluster_rl.train_cluster --default-config cpu --run-name one --dry-run" in done.stdout
    assert "after-job" not in done.stdout


def test_a_log_on_a_full_disk_fails_no_complete_run(home: Path) -> None:
    command = [sys.executable, "-m", "cluster_rl.cluster", "after-job", "--module", "train_slim", "--exit-code", "0"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, "--", "--run-name", "one"], env={"PYTHONPATH": str(REPOSITORY)}, stdout=full)
    assert done.returncode == EXIT_OK


def test_a_job_without_a_run_name_concludes_the_run_of_its_config(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster_rl import cluster

    # As the job scripts call it: the script's own config first, then what was given.
    after_job = ["cluster", "after-job", "--module", "train_slim", "--exit-code", "85", "--"]
    monkeypatch.setattr(sys, "argv", [*after_job, "--config", "slim_cpu", "--config", "my/small.yaml"])
    assert cluster.main() == EXIT_UNFINISHED
    assert capsys.readouterr().out.startswith("run small: ")
    assert RunDir("cluster_runs", "small").chain.exists()


@pytest.mark.parametrize("begun", [True, False])
def test_a_full_disk_ends_no_chain(
    disk: SmallDisk, begun: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the trainer's exit code for it, nor chain.json that cannot be written."""
    from cluster_rl.cluster import conclude

    run_dir = RunDir(disk.folder / "runs", "one")
    if begun:
        run_dir.create()
    with disk.full():
        assert conclude(run_dir, None, EXIT_STORAGE, cancelled=False) == EXIT_UNFINISHED
    said = capsys.readouterr().out
    assert "this job is not counted: " in said
    assert "No space left on device" in said
    codes = [conclude(run_dir, None, EXIT_STORAGE, cancelled=False) for _ in range(3)]
    assert codes == [EXIT_UNFINISHED, EXIT_UNFINISHED, EXIT_STORAGE], "a run whose every job fails so must end"
    assert "crash 2 of 3 in a row, exit code 75: storage did not take what must be kept" in capsys.readouterr().out


def test_damaged_files_end_no_chain(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster_rl.cluster import conclude

    run_dir = RunDir("cluster_runs", "one").create()
    run_dir.progress.write_text("{")
    run_dir.chain.write_text("{")
    assert conclude(run_dir, None, EXIT_UNFINISHED, cancelled=False) == EXIT_UNFINISHED
    said = capsys.readouterr().out
    assert "progress.json: damaged" in said
    assert "chain.json: damaged" in said
    assert read_chain(run_dir.chain).stalls == 1
    assert conclude(run_dir, None, EXIT_OK, cancelled=False) == EXIT_OK


def test_what_a_newer_program_counted_is_kept(home: Path) -> None:
    from cluster_rl.cluster import conclude

    run_dir = RunDir("cluster_runs", "one").create()
    newer = b'{"schema_version": 2, "crashes": 1}'
    run_dir.chain.write_bytes(newer)
    with pytest.raises(UserError, match=r"chain\.json: format 2, this program reads 1; use the newer program"):
        conclude(run_dir, None, EXIT_UNFINISHED, cancelled=False)
    assert run_dir.chain.read_bytes() == newer


@pytest.mark.parametrize("reader", ["read_chain", "read_progress"])
def test_what_storage_does_not_give_is_not_counted_anew(
    home: Path, reader: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster_rl.cluster import conclude

    run_dir = RunDir("cluster_runs", "one").create()
    assert conclude(run_dir, None, EXIT_UNFINISHED, cancelled=False) == EXIT_UNFINISHED
    before, away = run_dir.chain.read_bytes(), StorageError("away", run_dir.chain, errno.EIO)

    def fails(path: Path) -> None:
        raise away

    monkeypatch.setattr(f"cluster_rl.cluster.{reader}", fails)
    assert conclude(run_dir, None, EXIT_UNFINISHED, cancelled=False) == EXIT_UNFINISHED
    assert "this job is not counted: away" in capsys.readouterr().out
    assert run_dir.chain.read_bytes() == before


@pytest.mark.parametrize(
    ("program", "environment", "words"),
    [
        ("exit 1", {}, ""),
        ("echo one >&2; echo libx.so: no such file >&2; echo >&2; exit 127", {}, "libx.so: no such file"),
        (f'exec {sys.executable} -S "$@"', {}, "ModuleNotFoundError: No module named 'msgspec'"),
        # Packages of another Python: a half of zmq that this one cannot load.
        (
            f'exec {sys.executable} "$@"',
            {"PYTHONPATH": "stale"},
            "ImportError: built for another Python; PYTHONPATH is set (stale): if what lies there is not for this "
            "Python, unset it",
        ),
        (
            f'exec {sys.executable} "$@"',
            {"PYTHONHOME": "/nowhere"},
            "No module named 'encodings'; PYTHONHOME is set "
            "(/nowhere): if what lies there is not for this Python, unset it",
        ),
    ],
)
def test_a_python_without_what_the_package_needs(
    home: Path, program: str, environment: dict[str, str], words: str
) -> None:
    put_program(job_programs(home), "bare-python", program)
    (home / "stale" / "zmq").mkdir(parents=True)
    (home / "stale" / "zmq" / "__init__.py").write_text("raise ImportError('built for another Python')")
    done = subprocess.run(
        ["/bin/bash", "slurm/train_cpu.sbatch", "--run-name", "one"],
        env={"PATH": "/usr/bin:/bin", "CLUSTER_RL_PYTHON": str(job_programs(home) / "bare-python"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot import cluster_rl and what it needs: " in done.stderr
    assert f"{words}; scripts/env_setup.sh" in done.stderr


def test_no_python_at_all(home: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", "slurm/train_cpu.sbatch", "--run-name", "one"],
        env={"PATH": "/usr/bin:/bin", "CLUSTER_RL_PYTHON": "/nowhere/python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "what it needs: slurm/job.sh: line" in done.stderr
    assert "/nowhere/python: No such file or directory; scripts/env_setup.sh makes" in done.stderr


def test_not_in_the_repository(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(REPOSITORY / "slurm" / "train_cpu.sbatch")], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 2
