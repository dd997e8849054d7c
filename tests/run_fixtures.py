"""Real runs for tests: small configs, launchers as processes, and what the replay log says of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster_rl.config import load_config
from cluster_rl.emulator.spaces import block_spec, milestone_names
from cluster_rl.replay.log import LogEntry, ReplayLog
from cluster_rl.replay.totals import Totals
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Job, Progress, read_progress

# A network and sequences so small that a core does hundreds of steps a second with several processes on it.
TINY = {
    "num_actors": 2,
    "envs_per_actor": 2,
    "episode_max_steps": 60,
    "unroll_length": 10,
    "burn_in": 5,
    "n_step": 3,
    "batch_size": 4,
    "min_replay_transitions": 100,
    "replay_capacity_transitions": 100_000,
    "samples_per_insert": 1.0,
    "publish_interval": 2,
    "target_update_interval": 5,
    "lstm_hidden_size": 16,
    "num_quantiles": 4,
    "use_spatial_attention": "false",
    "model.kind": "slim",
    "model.conv_channels": "[4,4,4]",
    "model.context_width": 8,
    "model.trunk_width": 16,
    "learner_threads": 1,
    "max_runtime_seconds": 120,
    "progress_interval_seconds": 0.2,
    "metrics_interval_seconds": 1,
    "checkpoint_interval_seconds": 1,
    "params_file_interval_seconds": 1,
    "credit_sequences": 8,
}


def overrides(**changes: object) -> list[str]:
    """Command-line overrides of the tiny run; names with dots are written with two underscores."""
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in values.items()]


def command(
    module: str, *arguments: str, config: str = "quickstart", run_name: str = "tiny", program: str = ""
) -> list[str]:
    what = ["-c", program] if program else ["-m", f"cluster_rl.{module}"]
    return [sys.executable, *what, "--config", config, "--run-name", run_name, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def make(module: str, run_dir: RunDir, *words: str) -> None:
    """Has one of the commands do its work on a run."""
    named = ["--run-name", run_dir.run_name, "--runs", str(run_dir.root)]
    subprocess.run([sys.executable, "-m", f"cluster_rl.{module}", *named, *words], check=True, env=environment())


class Launcher:
    """A launcher process in `folder`; `output` is what it has said so far.

    `variables` are added to its environment; `own_group` makes it the leader of a process group; `limit_sec` is how
    long is waited where a call names no time. `program` is Python code in the module's place.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        module: str = "train_cluster",
        run_name: str = "tiny",
        variables: Mapping[str, str] | None = None,
        own_group: bool = False,
        limit_sec: float = 240.0,
        program: str = "",
    ) -> None:
        self._limit_sec = limit_sec
        self.run_dir = RunDir(folder / "cluster_runs", run_name)
        # A file, as a long run says more than a pipe holds.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (it goes with this object)
        self.process = subprocess.Popen(
            command(module, *arguments, run_name=run_name, program=program),
            cwd=folder,
            env=environment() | dict(variables or {}),
            stdout=self._said,
            stderr=subprocess.STDOUT,
            process_group=0 if own_group else None,
        )

    @property
    def output(self) -> str:
        return os.pread(self._said.fileno(), 2**24, 0).decode(errors="replace")

    def wait(self, timeout_sec: float | None = None) -> int:
        timeout_sec = timeout_sec or self._limit_sec
        try:
            return self.process.wait(timeout_sec)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the launcher did not end in {timeout_sec} s; it said:\n{self.output}") from None

    def terminate(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Sends a signal; returns the exit code and the seconds until everything was down."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.wait()
        return code, time.monotonic() - started

    def progress(self) -> Progress | None:
        return read_progress(self.run_dir.progress)

    def wait_for(self, reached: Callable[[Progress], bool], timeout_sec: float | None = None) -> Progress:
        """Waits until the progress satisfies `reached`."""
        deadline = time.monotonic() + (timeout_sec or self._limit_sec)
        while time.monotonic() < deadline:
            progress = self.progress()
            if progress is not None and reached(progress):
                return progress
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.kill()
        self.process.wait()
        logs = "\n".join(f"{p.name}: {p.read_text()[-2000:]}" for p in sorted(self.run_dir.logs.glob("*.log")))
        raise AssertionError(f"not reached; progress {self.progress()}; output:\n{self.output}\n{logs}")

    def children(self, module: str) -> dict[int, str]:
        """Process ids and command lines of the launcher's children that run `cluster_rl.<module>`."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if parent == self.process.pid and f"cluster_rl.{module}" in line:
                found[int(folder.name)] = line
        return found


def ended_for(job: Job, reason: str) -> bool:
    """Whether that is all its reason says; of one without an update it also says that nothing was learned."""
    if job.updates_end != job.updates_start:
        return job.reason == reason
    return job.reason.startswith(f"{reason}; nothing was learned")


def processes_of(run_dir: RunDir) -> list[str]:
    """Command lines of all processes that name the run's folder: none may be left after a run."""
    lines = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                cwd = (folder / "cwd").resolve()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended meanwhile
            if cwd == run_dir.root.parent.resolve() and "cluster_rl." in line:
                lines.append(line)
    return lines


def logged_positions(run_dir: RunDir) -> tuple[int, int, int]:
    """(distinct trained positions, trained positions, whole episodes) that the replay log on disk holds."""
    positions: set[tuple[int, int, int, int, int]] = set()
    counts = [0, 0]

    def count(entry: LogEntry) -> None:
        header = entry.header
        ids = (header.actor, header.incarnation, header.emulator, header.episode)
        positions.update((*ids, header.first_step + step) for step in range(header.train_length))
        counts[0] += header.train_length
        counts[1] += header.ends_whole_episode

    read_log(run_dir, count)
    return len(positions), counts[0], counts[1]


def logged_blocks(run_dir: RunDir) -> list[bytes]:
    """Every sequence block in the replay log on disk, in order."""
    blocks: list[bytes] = []
    read_log(run_dir, lambda entry: blocks.append(entry.segment.read(entry.offset, entry.length)))
    return blocks


def logged_sequences(run_dir: RunDir, actor: int) -> int:
    """How many sequences of one actor are in the replay log; its learner may be writing."""
    actors: list[int] = []
    read_log(run_dir, lambda entry: actors.append(entry.header.actor))
    return actors.count(actor)


@dataclass(frozen=True)
class ReadLog:
    """What opening a replay log gave. `files` are its segments as opening left them, a torn end cut off."""

    totals: Totals
    damaged: int
    notes: list[str]
    files: dict[str, bytes]


def read_log(run_dir: RunDir, on_record: Callable[[LogEntry], None]) -> ReadLog:
    """Opens a copy of a run's replay log: opening the log itself would cut a record that a learner is writing."""
    identity = read_identity(run_dir.identity)
    assert identity is not None
    with tempfile.TemporaryDirectory() as folder:
        log = ReplayLog(
            shutil.copytree(run_dir.replay, Path(folder) / "replay"),
            block_spec(load_config(run_dir.config)),
            owner=identity.run_id,
            milestones=milestone_names(run_dir),
            segment_bytes=2**30,
            segment_transitions=2**30,
            on_record=on_record,
        )
        files = {segment.path.name: segment.path.read_bytes() for segment in log.segments}
        found = ReadLog(log.totals, log.damaged, log.notes, files)
        log.close()
    return found
