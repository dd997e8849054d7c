"""The measurements: whole runs, and their parts apart from each other. All processes are the real ones.

    actors    `train_cluster` that only collects (its replay never has enough to learn), an actor for each core
    updates   a learner alone on what they played, free of its limiter; no actors
    sampling  batches drawn from it in this process
    ingest    a learner that only collects, and this process, which sends it those sequences as fast as it takes them;
              then asks for parameters as often as a learner allows
    point     `train_cluster` as anybody starts it, once its limiter holds both sides

In: a config and a folder for the runs. Out: one record each, plain data. What counts is read at both ends of a window:
`progress.json`, metrics, and what /proc says of processes and threads.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch

from cluster_rl.config import Config, sequence_schema_hash
from cluster_rl.emulator.spaces import block_spec, milestone_names
from cluster_rl.errors import EXITS_WELL, UserError
from cluster_rl.jobs.opening import begin_job
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.learning.batch import Batch
from cluster_rl.replay.segments import RECORD_HEADER_BYTES
from cluster_rl.replay_buffer import Replay
from cluster_rl.rom import load_rom
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, readable_progress
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.rate_limiter import RateLimiter
from cluster_rl.wire import messages
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.codec import decode_header, max_block_bytes
from cluster_rl.wire.keys import load_actor_keys

from .processes import MAIN, Times, children, machine_cpu_sec, process_cpu_sec, threads

SENDERS = 4  # connections; more than one, so that the wire thread has something to group
UNACKNOWLEDGED = 64  # sequences of each of them
BATCHES = 30
IO_THREAD = "ZMQbg/IO/0"
# On the wire beside block and header: ZMTP's frames (9 bytes each), CURVE (33 and 16), TCP and IP for 1,448 at a time.
_FRAME_BYTES, _SEGMENT_BYTES, _SEGMENT_OVERHEAD_BYTES = 58, 1448, 52
_START_SEC, _END_SEC = 180.0, 120.0
_STEADY_SEC, _STEADY_WAIT_SEC = 5.0, 120.0
_ASK_EVERY_SEC = 0.15  # more often, and the learner mutes who asks


def ingest_seconds(seconds: float) -> float:
    """The shortest window of all: a learner that takes what it can fills a disk."""
    return min(20.0, seconds)


def common(seconds: float) -> list[str]:
    """What all runs are given beside their config: counters that are fresh, and no end before they are stopped.

    The shortest window has some rows of metrics, for without two of them nothing is known of syncs.
    """
    return [
        *("device=cpu", "total_episodes=0", "target_total_steps=1000000000"),
        "samples_per_insert_schedule=[]",
        *("progress_interval_seconds=0.5", f"metrics_interval_seconds={ingest_seconds(seconds) / 12:g}"),
        f"max_runtime_seconds={round(_START_SEC + _STEADY_WAIT_SEC + seconds + 600)}",
    ]


# ---- what is read ----


@dataclass(frozen=True)
class Reading:
    """Counters of a run, and what its processes have used, at one moment."""

    at_sec: float  # Unix time
    progress: Progress
    threads: dict[str, dict[str, Times]]  # by process, then by thread
    cpu_sec: dict[str, float]  # by process
    machine_cpu_sec: float
    log_bytes: int


class Window:
    """The difference between two readings."""

    def __init__(self, first: Reading, last: Reading) -> None:
        if first.threads.keys() != last.threads.keys():
            raise UserError("a process of the run ended meanwhile; look at the run's logs")
        self.first, self.last = first, last
        self.seconds = last.at_sec - first.at_sec
        self.env_steps = last.progress.env_steps - first.progress.env_steps
        self.updates = last.progress.updates - first.progress.updates
        self.sequences = last.progress.sequences - first.progress.sequences
        self.replay_bytes = last.progress.replay.bytes - first.progress.replay.bytes
        self.log_bytes = last.log_bytes - first.log_bytes

    def cpu_sec(self, kind: str) -> float:
        """CPU seconds of all processes whose name begins so."""
        return sum(
            self.last.cpu_sec[name] - self.first.cpu_sec[name] for name in self.first.cpu_sec if name.startswith(kind)
        )

    def thread(self, process: str, name: str) -> Times:
        """What a thread used."""
        return self.last.threads[process].get(name, Times()) - self.first.threads[process].get(name, Times())

    @property
    def others_cpus(self) -> float:
        """Cores that other programs of the machine took."""
        busy = self.last.machine_cpu_sec - self.first.machine_cpu_sec
        return max(0.0, (busy - self.cpu_sec("")) / self.seconds)

    def syncs(self, rows: Sequence[dict[str, float | None]]) -> tuple[float, float]:
        """(a second, seconds each) of the replay log, by the rows of metrics within; NaN without two of them,
        seconds each also without a sync."""
        inside = [row for row in rows if self.first.at_sec <= (row["time"] or 0.0) <= self.last.at_sec]
        if len(inside) < 2:
            return float("nan"), float("nan")
        first, last = inside[0], inside[-1]
        count, spent, passed = (
            float(last[name] or 0) - float(first[name] or 0) for name in ("wire/syncs", "wire/sync_sec", "time")
        )
        return count / passed, spent / count if count else float("nan")


class Run:
    """A program that is measured, and the children that it has started. Ended by `close`."""

    def __init__(self, command: list[str], run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._said = run_dir.path.parent / f"{run_dir.run_name}.log"
        parent_pid = os.getpid()
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=said,
                stderr=said,
                preexec_fn=lambda: die_with_parent(parent_pid),
            )

    def pids(self) -> dict[str, int]:
        """By what they are: `launcher`, `learner`, `actor-N`; of a learner alone just that."""
        found = {name_of(command): pid for pid, command in children(self._process.pid)}
        own = "launcher" if found else "learner"
        return {own: self._process.pid, **{name: pid for name, pid in found.items() if name}}

    def wait_for(self, reached: Callable[[Progress], bool], timeout_sec: float, what: str) -> Progress:
        """Waits until the run's progress is as it should be."""
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            progress = readable_progress(self.run_dir.progress)
            if progress is not None and reached(progress):
                return progress
            if self._process.poll() is not None:
                words = self._said.read_text(errors="replace").splitlines()[-3:]
                raise UserError(f"{self.run_dir.path}: ended before {what}: {' / '.join(words)}")
            time.sleep(0.05)
        raise UserError(f"{self.run_dir.path}: no {what} within {timeout_sec:.0f} s; see {self._said}")

    def read(self, changed: Callable[[Progress], Any]) -> Reading:
        """A reading at the moment when what `changed` picks of progress.json is next written anew."""
        before: list[Any] = []

        def is_new(progress: Progress) -> bool:
            before[:] = before or [changed(progress)]
            return changed(progress) != before[0]

        progress = self.wait_for(is_new, _START_SEC, "progress")
        pids = self.pids()
        return Reading(
            at_sec=progress.updated,
            progress=progress,
            threads={name: threads(pid) for name, pid in pids.items()},
            cpu_sec={name: process_cpu_sec(pid) for name, pid in pids.items()},
            machine_cpu_sec=machine_cpu_sec(),
            log_bytes=sum(path.stat().st_size for path in self.run_dir.episode_logs.glob("*.eplog")),
        )

    def window(self, seconds: float, changed: Callable[[Progress], Any]) -> Window:
        """Two readings, at least so long apart."""
        first = self.read(changed)
        time.sleep(max(0.0, seconds - (time.time() - first.at_sec)))
        return Window(first, self.read(changed))

    def close(self) -> None:
        """Ends the run as a signal does; raises `UserError` if that goes wrong."""
        self._process.terminate()
        try:
            code = self._process.wait(_END_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code not in EXITS_WELL:
            raise UserError(f"{self.run_dir.path}: ended with exit code {code}; see {self._said}")


def name_of(command: Sequence[str]) -> str:
    """What a child of the launcher is, by its command line; empty if it is none of ours."""
    if "cluster_rl.learner" in command:
        return "learner"
    return f"actor-{command[command.index('--slot') + 1]}" if "cluster_rl.actor" in command else ""


def train_command(config_name: str, run_dir: RunDir, overrides: Sequence[str]) -> list[str]:
    return [
        *("cluster_rl.train_cluster", "--config", config_name, "--runs", str(run_dir.path.parent)),
        *("--run-name", run_dir.run_name, *overrides),
    ]


@contextlib.contextmanager
def learner_alone(config: Config, run_dir: RunDir) -> Iterator[Run]:
    """A learner process without a launcher, on the run as it is."""
    begin_job(config, run_dir.create(), load_rom(config.rom))
    with contextlib.closing(Run(["cluster_rl.learner", "--run-dir", str(run_dir.path)], run_dir)) as run:
        yield run


# ---- whole runs ----


def measure_point(
    config_name: str, config: Config, overrides: Sequence[str], run_dir: RunDir, seconds: float
) -> dict[str, Any]:
    """Env steps and updates a second of a whole run, and what each thread did meanwhile."""
    with contextlib.closing(Run(train_command(config_name, run_dir, overrides), run_dir)) as run:
        limiter = RateLimiter.from_config(config)
        is_steady = Steadiness(limiter)
        run.wait_for(lambda progress: progress.updates > 0, _START_SEC + _STEADY_WAIT_SEC, "first update")
        run.wait_for(is_steady, 2 * _STEADY_WAIT_SEC, "balance of the limiter")
        window = run.window(seconds, lambda progress: progress.updated)
        figures = {
            "env_steps_per_sec": window.env_steps / window.seconds,
            "updates_per_sec": window.updates / window.seconds,
            "env_steps": window.last.progress.env_steps,
            "limiter_ahead": [
                limiter_ahead(limiter, one.progress) / limiter.buffer for one in (window.first, window.last)
            ],
            "limiter_reached_an_end": is_steady.reached,
            **usage(window),
        }
        rows = read_metrics(run_dir.metrics)
    figures["syncs_per_sec"], figures["sync_sec"] = window.syncs(rows)
    return figures


class Steadiness:
    """Whether one side waits for the other for some seconds now, at an end of what the limiter lets either run ahead.

    After `_STEADY_WAIT_SEC` also where they are as fast as each other.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._since = self._first = float("nan")
        self.reached = False

    def __call__(self, progress: Progress) -> bool:
        now, ahead = time.monotonic(), limiter_ahead(self._limiter, progress) / self._limiter.buffer
        if np.isnan(self._first):
            self._first = now
        # Further behind, the samples that the first transitions are owed are still being made up for.
        is_at_end = -1.2 < ahead < -0.6 or ahead > 0.6
        if not is_at_end:
            self._since = float("nan")
        elif np.isnan(self._since):
            self._since = now
        self.reached = now - self._since > _STEADY_SEC
        return self.reached or (now - self._first > _STEADY_WAIT_SEC and ahead > -1.2)


def limiter_ahead(limiter: RateLimiter, progress: Progress) -> float:
    """Positions sampled beyond what is owed."""
    return sampled(progress) - limiter.owed(progress.env_steps)


def usage(window: Window) -> dict[str, Any]:
    """CPUs of each process and thread, and of what else ran."""
    return {
        "seconds": window.seconds,
        "others_cpus": window.others_cpus,
        "load": os.getloadavg()[0],
        "cpus": {name: window.cpu_sec(name) / window.seconds for name in ("launcher", "learner", "actor")},
        "queued": {
            name: sum(
                window.thread(process, MAIN).queued_sec for process in window.first.threads if process.startswith(name)
            )
            / window.seconds
            for name in ("learner", "actor")
        },
        "learner_threads": {
            name: window.thread("learner", name).cpu_sec / window.seconds
            for name in (MAIN, "sampler", "wire", IO_THREAD)
        },
    }


# ---- parts ----


def measure_actors(
    config_name: str, overrides: Sequence[str], run_dir: RunDir, seconds: float, actors: int
) -> dict[str, Any]:
    """What a step costs an actor, and a sequence's size; every core has an actor, as it would in a run."""
    with contextlib.closing(Run(train_command(config_name, run_dir, overrides), run_dir)) as run:
        run.wait_for(lambda progress: progress.sequences >= 3 * actors, _START_SEC, "sequences")
        # From one arrival to another, as sequences come in bunches.
        window = run.window(seconds, lambda progress: progress.env_steps)
        rows = read_metrics(run_dir.metrics)
    syncs_per_sec, sync_sec = window.syncs(rows)
    cpu = window.cpu_sec("actor")
    queued = sum(window.thread(name, MAIN).queued_sec for name in window.first.threads if name.startswith("actor"))
    main = sum(window.thread(name, MAIN).cpu_sec for name in window.first.threads if name.startswith("actor"))
    idle = sum(window.thread("learner", name).cpu_sec for name in (MAIN, "sampler"))
    return {
        "step_cpu_sec": cpu / window.env_steps,
        "step_wait_sec": max(0.0, actors * window.seconds - main - queued) / window.env_steps,
        "steps_per_sequence": window.env_steps / window.sequences,
        "sequence_disk_bytes": window.replay_bytes / window.sequences,
        "sequence_wire_bytes": wire_bytes(window.replay_bytes / window.sequences - RECORD_HEADER_BYTES),
        "log_bytes_per_step": window.log_bytes / window.env_steps,
        "idle_cpus": (window.cpu_sec("launcher") + idle) / window.seconds,
        "env_steps_per_sec": window.env_steps / window.seconds,
        "syncs_per_sec": syncs_per_sec,
        "sync_sec_among_actors": sync_sec,
        "actors": actors,
        **usage(window),
    }


def wire_bytes(block_bytes: float) -> float:
    """Of a sequence on the network, with its header and what ZeroMQ, CURVE, TCP and IP add."""
    header = messages.SequenceMessage(incarnation=time.time_ns(), seq=10**6, block_bytes=10**5, crc32=2**31)
    payload = block_bytes + len(messages.encode(header)) + 2 * _FRAME_BYTES
    return payload + _SEGMENT_OVERHEAD_BYTES * np.ceil(payload / _SEGMENT_BYTES)


def measure_updates(config: Config, run_dir: RunDir, seconds: float) -> dict[str, Any]:
    """What an update costs the learner's main thread with no actor beside it, files and publications included."""
    with learner_alone(config, run_dir) as run:
        started = run.wait_for(
            lambda progress: bool(progress.jobs) and progress.jobs[-1].ended is None, _START_SEC, "start"
        )
        run.wait_for(lambda progress: progress.updates > started.updates + 20, _START_SEC, "updates")
        window = run.window(seconds, lambda progress: progress.updated)
    main = window.thread("learner", MAIN)
    return {
        "update_cpu_sec": main.cpu_sec / window.updates,
        "update_wait_sec": max(0.0, window.seconds - main.cpu_sec - main.queued_sec) / window.updates,
        "updates_per_sec": window.updates / window.seconds,
        # By learned priorities, which take longer sequences than those that sampling finds.
        "positions_per_update": (sampled(window.last.progress) - sampled(window.first.progress)) / window.updates,
        **usage(window),
    }


def sampled(progress: Progress) -> float:
    """Trained positions of all updates."""
    return progress.samples_per_insert * progress.env_steps


def measure_sampling(config: Config, run_dir: RunDir) -> dict[str, Any]:
    """What a batch costs the sampling thread, and the positions that it trains by the actors' own priorities."""
    torch.set_num_threads(1)
    with contextlib.closing(open_replay(config, run_dir)) as replay:
        rng = np.random.default_rng(0)
        seconds, positions = [], []
        for _ in range(BATCHES):
            began = time.thread_time()
            arrays = replay.sample(rng, config.batch_size)
            Batch.from_numpy(arrays, torch.device("cpu"))
            seconds.append(time.thread_time() - began)
            positions.append(int(arrays["train_length"].sum()))
    # The first fill the page cache and the kept buffers.
    return {"batch_cpu_sec": float(np.mean(seconds[3:])), "positions_per_update": float(np.mean(positions))}


def open_replay(config: Config, run_dir: RunDir) -> Replay:
    identity = read_identity(run_dir.identity)
    assert identity is not None
    return Replay(config, block_spec(config), run_dir.replay, identity.run_id, milestone_names(run_dir))


def recorded_blocks(config: Config, run_dir: RunDir) -> list[bytes]:
    """The sequences of the run's first actor, in their order."""
    with contextlib.closing(open_replay(config, run_dir)) as replay:
        found = [entry for number in range(replay.logged_sequences) if (entry := replay.read(number)) is not None]
    return [block for header, block in found if header.actor == 0]


class Recording:
    """Sequences of one actor, for others to send: over and over, each time as later episodes."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
        self._headers = [decode_header(block) for block in blocks]
        self._parts = [(block[:4], block[8 + int.from_bytes(block[4:8], "little") : -4]) for block in blocks]
        self._episodes = 1 + max(header.episode for header in self._headers)

    def block(self, number: int, actor: int, incarnation: int) -> bytes:
        """What an actor sends under a number."""
        passes, index = divmod(number, len(self._parts))
        header, (magic, payload) = self._headers[index], self._parts[index]
        changed = msgspec.structs.replace(
            header, actor=actor, incarnation=incarnation, episode=passes * self._episodes + header.episode
        )
        encoded = msgspec.msgpack.encode(changed)
        body = b"".join((magic, len(encoded).to_bytes(4, "little"), encoded, payload))
        return body + zlib.crc32(body).to_bytes(4, "little")


def measure_ingest(config: Config, run_dir: RunDir, recording: Recording, seconds: float) -> dict[str, Any]:
    """What a sequence costs the learner's wire thread and ZeroMQ's when they do nothing else, and a byte of parameters.

    As many sequences together as there are; syncs are counted apart.
    """
    with learner_alone(config, run_dir) as run:
        run.wait_for(lambda _: read_rendezvous(run_dir.rendezvous) is not None, _START_SEC, "rendezvous")
        channels = [connect(config, run_dir, number) for number in range(SENDERS)]
        try:
            senders = [Sender(channel, number, recording) for number, channel in enumerate(channels)]
            go_on(senders, 2.0)
            first = run.read(lambda progress: progress.updated)
            go_on(senders, seconds)
            window = Window(first, run.read(lambda progress: progress.updated))
            rows = read_metrics(run_dir.metrics)
            for channel in channels:
                channel.flush(10.0)
            asked = ask_for_params(run, channels, seconds / 2)
        finally:
            for channel in channels:
                channel.close()
    syncs_per_sec, sync_sec = window.syncs(rows)
    # A thread that waits for the disk takes no CPU, but a sync does some of the writing.
    wire, io = window.thread("learner", "wire"), window.thread("learner", IO_THREAD)
    return {
        "sequence_cpu_sec": wire.cpu_sec / window.sequences,
        "sequence_io_cpu_sec": io.cpu_sec / window.sequences,
        "sync_sec": sync_sec,
        "ingest_syncs_per_sec": syncs_per_sec,
        "sequences_per_sec": window.sequences / window.seconds,
        "together": min(config.credit_sequences, UNACKNOWLEDGED) * SENDERS,
        **asked,
        **usage(window),
    }


class Sender:
    """Sends as fast as the learner takes it."""

    def __init__(self, channel: ActorChannel, actor: int, recording: Recording) -> None:
        self._channel, self._actor, self._recording, self._number = channel, actor, recording, 0

    def step(self) -> None:
        self._channel.poll(0)
        while self._channel.can_send() and self._channel.unacknowledged < UNACKNOWLEDGED:
            self._channel.send(self._recording.block(self._number, self._actor, self._channel.incarnation))
            self._number += 1


def connect(config: Config, run_dir: RunDir, number: int) -> ActorChannel:
    return ActorChannel(
        lambda: read_rendezvous(run_dir.rendezvous),
        number,
        run_dir.run_name,
        sequence_schema_hash(config),
        load_keys=lambda: load_actor_keys(run_dir.keys),
        max_block_bytes=max_block_bytes(block_spec(config)),
    )


def go_on(senders: list[Sender], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for sender in senders:
            sender.step()
        time.sleep(0.0005)


def ask_for_params(run: Run, channels: list[ActorChannel], seconds: float) -> dict[str, float]:
    """CPU seconds of ZeroMQ's thread for each byte of parameters that it sends."""
    pid = run.pids()["learner"]
    before, began = threads(pid)[IO_THREAD].cpu_sec, time.monotonic()
    count = size = 0
    due = [began] * len(channels)
    while time.monotonic() - began < seconds:
        for index, channel in enumerate(channels):
            channel.poll(0)
            if channel.latest_params is not None:
                count, size = count + 1, len(channel.latest_params.data)
                channel.latest_params = None  # so that it is sent again
            elif time.monotonic() >= due[index]:
                due[index] = time.monotonic() + _ASK_EVERY_SEC
                channel.request_params()
        time.sleep(0.001)
    spent = threads(pid)[IO_THREAD].cpu_sec - before
    if not count:
        raise UserError(f"{run.run_dir.path}: the learner sent no parameters")
    return {"params_bytes": size, "params_io_sec_per_byte": spent / (count * size), "params_sent": count}
