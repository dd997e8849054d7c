"""A terminal that is closed, for real: a run ends in it as it does at TERM, and goes on where hang-ups are ignored."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from run_fixtures import command, environment, logged_positions, overrides, processes_of

from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress

REPOSITORY = Path(__file__).resolve().parents[2]


class Terminal:
    """A terminal with a command in its foreground, as after a login; `close` is what closing its window does."""

    def __init__(self, folder: Path, *argv: str, **more: str) -> None:
        self.run_dir = RunDir(folder / "cluster_runs", "tiny")
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment() | more,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def wait_for(self, reached: Callable[[Progress], bool], timeout_sec: float = 120) -> Progress:
        """Reads along until the progress satisfies `reached`."""
        said, deadline = b"", time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            try:
                said += os.read(self._master, 65536)
            except OSError:
                time.sleep(0.05)  # nothing to read, or closed
            progress = read_progress(self.run_dir.progress)
            if progress is not None and reached(progress):
                return progress
            if self.process.poll() is not None:
                break
        self.process.kill()
        raise AssertionError(f"not reached; the terminal shows:\n{said.decode(errors='replace')[-3000:]}")

    def close(self) -> None:
        os.close(self._master)

    def ended(self) -> int:
        """The exit code, once it is over."""
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def assert_ended_well(run_dir: RunDir, reason: str) -> None:
    """A checkpoint, the reason, every step counted, and nobody left."""
    progress = read_progress(run_dir.progress)
    assert progress is not None
    assert [job.reason for job in progress.jobs] == [reason]
    assert list(run_dir.checkpoint.iterdir())
    distinct, counted, _ = logged_positions(run_dir)
    assert distinct == counted == progress.env_steps == progress.jobs[0].env_steps_end
    assert processes_of(run_dir) == []


def test_the_launcher_and_its_group_end_with_the_terminal(tmp_path: Path) -> None:
    """As typed to a shell, which tells the whole group: launcher, learner and actor at once."""
    terminal = Terminal(tmp_path, "bash", "--norc", "-i")
    terminal.type(shlex.join(command("train_cluster", *overrides(num_actors=1))))
    terminal.wait_for(lambda progress: progress.updates > 0)
    terminal.close()
    terminal.ended()
    deadline = time.monotonic() + 60
    while processes_of(terminal.run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert_ended_well(terminal.run_dir, "signal SIGHUP")


def test_a_job_script_ends_with_the_terminal(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "slurm", tmp_path / "slurm", ignore=shutil.ignore_patterns("logs"))
    (tmp_path / "slurm" / "settings.env").write_text("")
    arguments = ["--run-name", "tiny", "--no-video", "--config", "quickstart", *overrides(num_actors=1)]
    terminal = Terminal(tmp_path, "bash", "slurm/slim_cpu.sbatch", *arguments, CLUSTER_RL_PYTHON=sys.executable)
    terminal.wait_for(lambda progress: progress.updates > 0)
    terminal.close()
    assert terminal.ended() == 0
    assert_ended_well(terminal.run_dir, "signal SIGHUP")
    assert terminal.run_dir.chain.exists(), "it was not concluded"


def test_a_run_under_nohup_goes_on(tmp_path: Path) -> None:
    """Its output goes to the terminal all the same, which takes no more of it."""
    to_terminal = ["sh", "-c", 'exec "$@" >/dev/tty 2>&1', "sh"]
    arguments = ["--no-video", *overrides(num_actors=1)]
    terminal = Terminal(tmp_path, "nohup", *to_terminal, *command("train_slim", *arguments))
    before = terminal.wait_for(lambda progress: progress.env_steps > 0)
    terminal.close()
    terminal.wait_for(lambda progress: progress.env_steps > before.env_steps + 500)
    terminal.process.terminate()
    assert terminal.ended() == 0
    assert_ended_well(terminal.run_dir, "signal SIGTERM")
