"""The learner process: receive -> replay -> update -> publish -> checkpoint.

Started by the launcher (`python -m cluster_rl.learner`). In: sequence blocks from the wire. Out: acknowledgements,
parameters, and the files of the run directory. Three threads share one `Trainer`: the wire thread logs what arrives and
acknowledges it once it is on disk, the sampling thread keeps one batch ready, the main thread trains.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

import argparse
import collections
import contextlib
import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cluster_rl.config import Config, load_config, sequence_schema_hash
from cluster_rl.emulator.spaces import block_spec, milestone_names, observation_spec, quests_of
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.jobs.deadline import job_deadline
from cluster_rl.jobs.grace import SavingTime
from cluster_rl.jobs.process_log import logged
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.rendezvous import remove_rendezvous, write_rendezvous
from cluster_rl.training.outage import Writer
from cluster_rl.training.trainer import Sampled, Trainer
from cluster_rl.wire.codec import BlockError, max_block_bytes
from cluster_rl.wire.events import Joined, Left, SequenceReceived, Stats
from cluster_rl.wire.keys import learner_keys
from cluster_rl.wire.learner_channel import LearnerChannel
from cluster_rl.wire.limited_log import LimitedLog
from cluster_rl.wire.sockets import listening_host, resolve_bind_host

_POLL_MS = 20
_IDLE_SEC = 0.005
# The launcher hurries whoever takes too long; this bound is for a learner whose launcher was killed.
_DRAIN_SEC = 60.0
_LIVE_SEC = 6.0  # a connection may be broken and made again
# Sequences that a process may send before the limiter is asked: those who have sent one share what may come.
_FIRST_CREDIT = 1
_OPEN_SEQUENCES = 4  # of an emulator at most: one with its tail to come, the open window, and what a step has ended
# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_PR_SET_NAME = 15  # of prctl, from linux/prctl.h


def overdraft_sequences(config: Config) -> int:
    """How many sequences an actor may send beyond its credit: what it can hold when it ends, or its learner did."""
    return config.credit_sequences + _OPEN_SEQUENCES * config.envs_per_actor


class WireThread(threading.Thread):
    """Owns the channel: logs blocks, syncs once for all that came together, then acknowledges and grants credit.

    Blocks that storage does not take wait here, in their order: at most as many as the run's actors can hold,
    whose processes may start again and again meanwhile. Nothing is acknowledged and no credit given.
    """

    def __init__(self, trainer: Trainer, config: Config, run_dir: RunDir) -> None:
        super().__init__(name="wire", daemon=True)
        self._trainer = trainer
        self._config = config
        self._run_dir = run_dir
        self._params: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._goodbye: tuple[str, bool] | None = None
        self._ended = threading.Event()
        self.error: BaseException | None = None
        self.live_actors = 0  # one that was killed is connected until it is missed
        self._refused_blocks: collections.Counter[str] = collections.Counter()  # by the reason
        self._log = LimitedLog()
        self._unlogged: collections.deque[SequenceReceived] = collections.deque()
        self._most_waiting = config.total_actors * overdraft_sequences(config)
        self._unsynced = 0  # logged, and not on disk for sure: the log keeps these too
        self._syncs, self._sync_sec = 0, 0.0  # of the log, and what they took in all
        self._log_writer = Writer(trainer.outage, "the replay log")
        self._rendezvous_writer = Writer(trainer.outage, "rendezvous.json")

    @property
    def all_logged(self) -> bool:
        """Whether everything that arrived is on disk."""
        return not self._waiting

    @property
    def _waiting(self) -> int:
        """Sequences in memory that arrived and are not on disk for sure."""
        return len(self._unlogged) + self._unsynced

    def publish(self, version: int, data: bytes) -> None:
        """Makes parameters available to the actors. Called from the training thread."""
        self._params.put((version, data))

    def say_goodbye(self, reason: str, complete: bool) -> None:
        """Asks the actors to send what is open and end. What comes is logged and acknowledged meanwhile.

        `complete`: the run has reached its target, and no later learner will want them.
        """
        self._goodbye = (reason, complete)
        self._log_writer.hurry()

    def drain(self, timeout_sec: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Waits until all actors have left or are silent, but not longer than `timeout_sec` or once it is `hurried`.

        Then ends the thread; after `say_goodbye`.
        """
        deadline = time.monotonic() + timeout_sec
        while self.is_alive() and self.live_actors and time.monotonic() < deadline and not hurried():
            time.sleep(_IDLE_SEC)
        self._ended.set()
        self.join()

    def run(self) -> None:
        name_for_system(self.name)
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread, which looks at it
            self.error = error

    def _serve(self) -> None:
        spec = block_spec(self._config)
        others_come = self._config.actor_jobs > 0
        host = listening_host(self._config.bind_host, others_come)
        channel = LearnerChannel(
            host,
            self._run_dir.run_name,
            sequence_schema_hash(self._config),
            max_block_bytes(spec),
            keys=learner_keys(
                self._run_dir.keys,
                self._config.curve or not resolve_bind_host(host).is_loopback,
                self._trainer.run_id,
            ),
            total_actors=self._config.total_actors,
            overdraft=overdraft_sequences(self._config),
            expected_seq=self._trainer.replay.expected_seq,
            initial_credit=_FIRST_CREDIT,
            log=self._log,
        )
        place = channel.rendezvous()
        try:
            told_stop = can_be_found = False
            while not self._ended.is_set():
                if not can_be_found and self._rendezvous_writer.is_due:
                    can_be_found = self._rendezvous_writer.write(
                        lambda: write_rendezvous(self._run_dir.rendezvous, place)
                    )
                while not self._params.empty():
                    version, data = self._params.get()
                    channel.set_params(version, data, version)
                self._receive(channel)
                if self._goodbye is not None and not told_stop:
                    told_stop = True
                    channel.broadcast_stop(*self._goodbye)
                self.live_actors = channel.count_live(_LIVE_SEC)
                self._trainer.connected_actors = sum(link.connected for link in channel.actors.values())
                self._trainer.wire_row = self._counters(channel)
            if not self.all_logged:
                self._log_arrivals(channel)
        finally:
            # It is older than what the next learner writes, whether or not it can be read.
            with contextlib.suppress(OSError, UserError):
                remove_rendezvous(self._run_dir.rendezvous, channel.incarnation)
            channel.close()

    def _counters(self, channel: LearnerChannel) -> dict[str, float]:
        return {
            "wire/actors": self._trainer.connected_actors or 0,
            "wire/syncs": self._syncs,
            "wire/sync_sec": self._sync_sec,
            "wire/refused_blocks": self._refused_blocks.total(),
            **{f"wire/refused_blocks/{reason}": count for reason, count in self._refused_blocks.items()},
            "wire/bad_messages": channel.bad_messages,
            "wire/muted": channel.muted,
            "wire/refused_actors": channel.refused,
            "wire/waiting_actors": channel.waiting,
            "wire/unexpected": channel.unexpected,
            "wire/over_credit": channel.over_credit,
            "wire/duplicates": channel.duplicates,
            "wire/out_of_order": channel.out_of_order,
            "wire/lost_sequences": channel.lost_sequences,
            "wire/unsent": channel.unsent,
        }

    def _receive(self, channel: LearnerChannel) -> None:
        channel.room = self._most_waiting - self._waiting
        for event in channel.poll(_POLL_MS):
            match event:
                case SequenceReceived():
                    self._unlogged.append(event)
                case Joined():
                    lost = f", {event.lost_sequences} sequences lost" if event.lost_sequences else ""
                    self._log.say("joined", f"actor {event.actor} joined at sequence {event.expected_seq}{lost}")
                case Left():
                    self._log.say("left", f"actor {event.actor} left: {event.reason}")
                    self._trainer.actor_rates.pop(event.actor, None)
                case Stats():
                    self._trainer.actor_rates[event.actor] = event.env_steps_per_sec
        if not self.all_logged and not (self._log_writer.is_due and self._log_arrivals(channel)):
            return
        channel.acknowledge_all(self._trainer.sequences_wanted(), self._config.credit_sequences)

    def _log_arrivals(self, channel: LearnerChannel) -> bool:
        """Logs what waits, in its order, and syncs it; whether storage took all of it."""

        def log() -> None:
            while self._unlogged:
                self._ingest(channel, self._unlogged[0])
                self._unlogged.popleft()
                self._unsynced += 1
            began = time.monotonic()
            self._trainer.replay.sync()
            self._syncs, self._sync_sec = self._syncs + 1, self._sync_sec + time.monotonic() - began
            self._unsynced = 0

        return self._log_writer.write(log)

    def _ingest(self, channel: LearnerChannel, event: SequenceReceived) -> None:
        try:
            self._trainer.ingest(event.actor, event.incarnation, event.seq, event.block)
        except BlockError as error:
            self._refused_blocks[error.reason] += 1
            self._log.say("refused blocks", f"actor {event.actor}, sequence {event.seq}: {error}; dropped")
            channel.charge_for_block(event.actor, event.incarnation)

    @property
    def lost_words(self) -> str:
        """What arrived and is not on disk, for the job's last words; empty if nothing."""
        if self.all_logged:
            return ""
        return f"{self._waiting} sequences that arrived"


class SamplerThread(threading.Thread):
    """Keeps one batch ready while the limiter allows it."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(name="sampler", daemon=True)
        self._trainer = trainer
        self._batches: queue.Queue[Sampled] = queue.Queue(maxsize=1)
        self._ended = threading.Event()
        self.error: BaseException | None = None

    def next_batch(self, timeout_sec: float) -> Sampled | None:
        """The next batch, or None if none was ready in time."""
        try:
            return self._batches.get(timeout=timeout_sec)
        except queue.Empty:
            return None

    def end(self) -> None:
        """Stops sampling and waits for the thread."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        name_for_system(self.name)
        try:
            while not self._ended.is_set():
                # The queue is asked first: the replay keeps three batches, and one may be in the learner.
                sampled = None if self._batches.full() else self._trainer.try_sample()
                if sampled is None:
                    time.sleep(_IDLE_SEC)
                else:
                    crash_point("learner.sampled")
                    self._batches.put(sampled)
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread, which looks at it
            self.error = error


def train_step(trainer: Trainer, wire: WireThread, sampler: SamplerThread) -> bool:
    """Trains on the next batch, publishes and writes what is due; whether a batch came in time."""
    batch = sampler.next_batch(timeout_sec=0.1)
    if batch is not None:
        trainer.update(batch)
        if trainer.publish_due():
            wire.publish(*trainer.publish())
            crash_point("learner.published")
    trainer.tick()
    return batch is not None


def name_for_system(name: str) -> None:
    """Gives the calling thread its name in `top -H` and /proc on Linux, as Python does from 3.14 on."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_NAME, name.encode())  # of which it takes 15 bytes


def prepare_process(config: Config) -> None:
    """Sets this process's CPU threads, and has glibc keep freed memory instead of giving large blocks back.

    An update allocates the same large blocks each time; fresh pages for them cost up to a third of it on a CPU.
    """
    torch.set_num_threads(config.learner_threads or max(1, len(os.sched_getaffinity(0)) - config.num_actors))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # else another C library
        # Not a high threshold for mmap: before glibc 2.35 that is refused above 32 MiB.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def run_learner(config: Config, run_dir: RunDir, job_token: str, job_started: float) -> int:
    """Trains until the run is complete, time is up or a signal comes. Returns an exit code.

    `job_started` (`time.monotonic()`, which all processes of a machine share) is when the job began, for
    `max_runtime_seconds`. Raises `StorageError` if something could not be saved at the end.
    """
    prepare_process(config)
    stop = StopFlag().install()
    if stop:
        print(f"{stop.reason}: stopping before anything was read", flush=True)
        return stop.exit_code
    deadline = job_deadline(config.max_runtime_seconds, job_started)
    trainer = Trainer(
        config,
        run_dir,
        observation_spec(config),
        block_spec(config),
        milestone_names(run_dir),
        job_token,
        quests_of(run_dir, config.initial_state),
    )
    print(trainer.restored, flush=True)
    trainer.progress.jobs[-1].ends = deadline.unix_sec()
    trainer.connected_actors = 0
    wire, sampler = WireThread(trainer, config, run_dir), SamplerThread(trainer)
    wire.publish(*trainer.publish())
    trainer.tick()
    wire.start()
    sampler.start()
    crash_point("learner.started")
    while not stop:
        train_step(trainer, wire, sampler)
        over = trainer.finished(deadline)
        if over is not None:
            stop.set(*over)
        _raise_error_of(trainer, wire, sampler)
    print(f"stopping: {stop.reason}", flush=True)
    crash_point("learner.stopping")
    complete = stop.signal_number is None and stop.exit_code == EXIT_OK
    saving = SavingTime(stop, deadline)
    if complete:  # its actors stay until storage takes that, which may be long
        sampler.end()
        trainer.save(stop.reason, saving.left_sec)
    wire.say_goodbye(stop.reason, complete)
    sampler.end()
    # Before the actors' last sequences, which are safe in the log as they come: somebody may kill this process soon.
    if not trainer.is_saved:
        trainer.save(stop.reason, saving.left_sec)
    crash_point("learner.saved")
    wire.drain(_DRAIN_SEC, lambda: stop.hurried)
    _raise_error_of(trainer, wire, sampler)
    crash_point("learner.drained")
    trainer.close(stop.reason, wire.lost_words)
    return stop.exit_code


def _raise_error_of(trainer: Trainer, *threads: WireThread | SamplerThread) -> None:
    """Raises what ended a thread, after saving what was learned."""
    for thread in threads:
        if thread.error is not None:
            try:
                if not trainer.is_saved:
                    trainer.checkpoint()
            except UserError as error:  # such as the full disk that may have ended the thread
                print(f"no checkpoint: {error}", flush=True)
            raise thread.error


def main() -> int:
    """`python -m cluster_rl.learner --run-dir DIR`."""
    parser = argparse.ArgumentParser(prog="python -m cluster_rl.learner", description="The learner process of a run.")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run, with its config.json")
    parser.add_argument("--job-token", default="", help="names the job, so that a restarted learner goes on with it")
    parser.add_argument("--job-started", type=float, default=None, help="time.monotonic() when the job began")
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.run_dir.parent, arguments.run_dir.name).require()
    started = time.monotonic() if arguments.job_started is None else arguments.job_started
    with logged("learner"):
        return run_learner(load_config(run_dir.config), run_dir, arguments.job_token, started)


if __name__ == "__main__":
    run_command(main, only_logs=True)
