"""A real SLURM for the tests, and what they ask it: jobs, their state, their logs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL_SLURM = Path(__file__).with_name("local-slurm")


def why_not() -> str:
    """Why no SLURM can be started here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root: nodes are namespaces"
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        return "SLURM is not installed, and there is no apt-get to install it with"
    if subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "this container may make no namespaces, which nodes are"
    return ""


class Slurm:
    """The cluster whose state lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        subprocess.run(["bash", str(LOCAL_SLURM), "start", str(self.folder)], check=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        subprocess.run(["bash", str(LOCAL_SLURM), "stop", str(self.folder), "--wipe"], check=True)

    def node(self, action: str, node: str) -> None:
        """`fail` kills everything on a node at once, `revive` brings it back empty."""
        subprocess.run(["bash", str(LOCAL_SLURM), action, str(self.folder), node], check=True)

    def call(self, *command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a client of SLURM as on the login node."""
        program = str(self.folder / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """For a process that is to find this cluster's commands first."""
        return os.environ | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"} | more

    def submit(self, script: str, *arguments: str, cwd: Path, options: Sequence[str] = (), **environment: str) -> int:
        """The number of the submitted job; `options` are sbatch's."""
        done = self.call("sbatch", "--parsable", *options, script, *arguments, cwd=cwd, **environment)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.strip())

    def show_to_the_hook(self, job: int, cwd: Path) -> None:
        """Makes SLURM's submit hook, which counts a user's jobs, know a job that was submitted just now.

        SLURM lists the jobs for it anew only if one changed in a later second than at its last call: a job that was
        made in that very second stays unknown until another change, however long that takes.
        """
        time.sleep(1.1)
        changed = self.call("scontrol", "update", f"JobId={job}", "Comment=seen", cwd=cwd)
        assert changed.returncode == 0, changed.stderr

    def field(self, job: int | str, name: str) -> str:
        """One field of `scontrol show job`."""
        shown = self.call("scontrol", "show", "job", str(job), "--oneliner", cwd=REPOSITORY).stdout
        found = [part.split("=", 1)[1] for part in shown.split() if part.startswith(f"{name}=")]
        assert found, shown
        return found[0]

    def wait_for(self, reached: Callable[[], bool], what: str, timeout_sec: float = 90) -> None:
        deadline = time.monotonic() + timeout_sec
        while not reached():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def wait_for_state(self, job: int | str, state: str, timeout_sec: float = 90) -> None:
        self.wait_for(lambda: self.field(job, "JobState") == state, f"job {job} never {state}", timeout_sec)


def cluster(
    slurm: Slurm, home: Path, *arguments: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m cluster_rl.cluster`, called in `home` as on the login node; `python` is the jobs'."""
    return subprocess.run(
        [sys.executable, "-m", "cluster_rl.cluster", *arguments],
        cwd=home,
        env=slurm.environment(CLUSTER_RL_PYTHON=python, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY)) | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
