"""Trainer: everything the learner owns, without sockets or threads of its own.

The learner process (`learner.py`) feeds it from the wire; serial mode (`train_slim.py`) feeds it directly. In: sequence
blocks. Out: updates, published parameters, checkpoints, `progress.json` and metrics.
"""

from __future__ import annotations

import collections
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.config import Config
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.learning.rate_limiter import RateLimiter
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.model import ObservationSpec
from cluster_rl.replay_buffer import AppendResult, Replay
from cluster_rl.replay_totals import ends_whole_episode
from cluster_rl.runs.checkpoint import (
    flatten_state,
    load_checkpoint,
    publish_params,
    save_checkpoint,
    unflatten_state,
)
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, Rates, ReplayProgress, recover_progress, save_progress
from cluster_rl.telemetry import MetricsWriter, RateMeter
from cluster_rl.wire.codec import SequenceHeader

_RECENT_EPISODES = 100


def pick_device(config: Config) -> torch.device:
    """The learner's device; where no CUDA device is, the CPU, with a line that says so."""
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    print(f"no CUDA device (CUDA_VISIBLE_DEVICES={visible!r}): the learner runs on the CPU", flush=True)
    return torch.device("cpu")


class Sampled(NamedTuple):
    """A batch on its device, with what the host needs of it."""

    batch: Batch
    ids: npt.NDArray[np.int64]  # [N], of its sequences
    positions: int  # trained positions in it


class Trainer:
    """Replay, networks, limiter, counters and files of one run.

    `ingest` may be called by one thread, `sample` by a second, everything else by a third.
    """

    def __init__(
        self, config: Config, run_dir: RunDir, observation: ObservationSpec, block: BlockSpec, job_token: str
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.device = pick_device(config)
        replay_dir = Path(config.replay_dir) if config.replay_dir else run_dir.replay
        identity = read_identity(run_dir.identity)
        # First of all: it waits for a learner that still holds the log, and everything below reads what that one wrote.
        self.replay = Replay(config, block, replay_dir, identity.run_id if identity else run_dir.run_name)
        self.r2d2 = R2D2(config, observation, self.device, config.base_seed)
        self.limiter = RateLimiter.from_config(config)
        self.metrics = MetricsWriter(run_dir)
        self.sample_rng = np.random.default_rng([config.base_seed, 1])
        self._sampled_batches = self._trained_batches = 0  # each is advanced by one thread only
        self.restored = self._restore()
        self.progress = self._start_job(job_token)
        self._step_rate, self._update_rate = RateMeter(), RateMeter()
        self.wire_row: dict[str, float] = {}  # the wire's counters, set whole by its thread
        self.actor_rates: dict[int, float] = {}  # actor -> env steps per second, as it says itself
        self._ingested = _IngestStats()
        self._last_update: dict[str, float] = {}
        now = time.monotonic()
        self._progress_due = self._metrics_due = self._params_file_due = now
        self._checkpoint_due = now + config.checkpoint_interval_seconds

    # What the ingesting side calls.

    def ingest(self, actor: int, incarnation: int, seq: int, block: bytes) -> AppendResult:
        """Logs one block; durable after `replay.sync()`. Raises `BlockError` for one that is not of this run."""
        result = self.replay.append(actor, incarnation, seq, block)
        if result.id is not None:
            self.limiter.record_insert(result.header.train_length)
            self._ingested.add(result.header, self.r2d2.updates)
        return result

    def sequences_wanted(self, actors: int) -> int:
        """How many sequences each of `actors` actors may send beyond those that arrived; 0 while they must wait."""
        wanted = self.limiter.room() // (max(1, actors) * self.config.unroll_length)
        return min(self.config.credit_sequences, wanted)

    # What the sampling side calls.

    def may_sample(self) -> bool:
        """Whether a batch may be sampled now, those on their way to an update counted."""
        limiter = self.limiter
        ahead = limiter.ahead + self.batches_in_flight * limiter.sample_chunk
        enough = limiter.inserted >= limiter.min_size and self.replay.sequences > 0
        return enough and ahead + limiter.sample_chunk <= limiter.buffer

    def sample(self) -> Sampled:
        """Draws a batch and moves it to the learner's device."""
        self._sampled_batches += 1
        arrays = self.replay.sample(self.sample_rng, self.config.batch_size)
        # Kept on the host too: reading them back would make the device wait.
        ids, positions = arrays["ids"].copy(), int(arrays["train_length"].sum())
        return Sampled(Batch.from_numpy(arrays, self.device), ids, positions)

    @property
    def batches_in_flight(self) -> int:
        """Batches sampled and not trained yet."""
        return self._sampled_batches - self._trained_batches

    # What the training side calls.

    def update(self, sampled: Sampled) -> None:
        """Trains on one batch and hands its new priorities to the replay."""
        result = self.r2d2.update(sampled.batch)
        self.replay.update_priorities(sampled.ids, result.priorities)
        self._trained_batches += 1
        self.limiter.record_sample(sampled.positions)
        self._last_update = result.metrics

    def publish_due(self) -> bool:
        """Whether the parameters should go out after this update."""
        return self.r2d2.updates % self.config.publish_interval == 0

    def publish(self) -> tuple[int, bytes]:
        """(version, safetensors bytes) for the actors; the version is the update count."""
        self.progress.params_version = self.r2d2.updates
        return self.r2d2.updates, self.r2d2.params_bytes()

    def tick(self) -> None:
        """Writes progress, metrics and checkpoints when they are due."""
        now = time.monotonic()
        if now >= self._progress_due:
            self._progress_due = now + self.config.progress_interval_seconds
            self.write_progress()
        if now >= self._metrics_due:
            self._metrics_due = now + self.config.metrics_interval_seconds
            self.write_metrics()
        if now >= self._params_file_due:
            self._params_file_due = now + self.config.params_file_interval_seconds
            self.write_params_file()
        if now >= self._checkpoint_due:
            self.checkpoint()
            self._checkpoint_due = time.monotonic() + self.config.checkpoint_interval_seconds

    def finished(self, job_started: float) -> str | None:
        """Why the job is over, or None. `job_started` is `time.monotonic()`, which a machine's processes share."""
        if self.replay.env_steps >= self.config.target_total_steps:
            return "target_total_steps reached"
        if self.config.total_episodes and self.replay.episodes >= self.config.total_episodes:
            return "total_episodes reached"
        if self.config.max_runtime_seconds and time.monotonic() - job_started >= self.config.max_runtime_seconds:
            return "max_runtime_seconds reached"
        return None

    def close(self, reason: str) -> None:
        """Parameters, checkpoint, progress with the reason of stopping, and the last metrics; then closes the files."""
        self.write_params_file()
        self.checkpoint()
        self.write_progress(reason)
        self.write_metrics()
        self.metrics.close()
        self.replay.close()

    # Files.

    def write_params_file(self) -> None:
        """Writes online_params.pt, the parameters for people and other programs."""
        publish_params(self.run_dir.online_params, self.r2d2.online.state_dict())

    def checkpoint(self) -> None:
        """Saves what the log cannot tell."""
        self.replay.sync()
        state: dict[str, Any] = {
            "r2d2": self.r2d2.state_dict(),
            "replay": self.replay.state_dict(),
            "limiter": self.limiter.state_dict(),
            "sample_rng": self.sample_rng.bit_generator.state,
            "totals": self.replay.totals(),
        }
        tensors, tree = flatten_state(state)
        save_checkpoint(self.run_dir.checkpoint, tensors, {"updates": self.r2d2.updates, "state": tree})

    def write_progress(self, reason: str | None = None) -> None:
        """Brings progress.json up to date; with a reason, the job ends here."""
        progress, replay = self.progress, self.replay
        progress.env_steps, progress.episodes = replay.env_steps, replay.episodes
        progress.updates = self.r2d2.updates
        progress.sequences = replay.logged_sequences
        progress.rates = Rates(
            env_steps_per_sec=self._step_rate.update(progress.env_steps),
            updates_per_sec=self._update_rate.update(progress.updates),
        )
        progress.samples_per_insert = self.samples_per_insert
        progress.replay = ReplayProgress(
            transitions=replay.transitions,
            capacity=self.config.replay_capacity_transitions,
            bytes=replay.bytes_on_disk,
        )
        progress.milestones = replay.milestones
        progress.mean_return_recent = self._ingested.mean_return()
        if reason is not None:
            progress.end_job(reason)
        save_progress(self.run_dir.progress, progress)

    def write_metrics(self) -> None:
        """One row of metrics."""
        row: dict[str, float] = {
            "episodes": self.replay.episodes,
            "env_steps_per_sec": self.progress.rates.env_steps_per_sec,
            "updates_per_sec": self.progress.rates.updates_per_sec,
            "samples_per_insert": self.samples_per_insert,
            "limiter_ahead": self.limiter.ahead,
            "replay/transitions": self.replay.transitions,
            "replay/sequences": self.replay.sequences,
            "replay/gaps": self.replay.gaps,
            "replay/damaged": self.replay.damaged,
            "replay/stale_updates": self.replay.stale_updates,
        }
        row |= {f"priority/{name}": value for name, value in self.replay.priority_stats().items()}
        row |= {f"learner/{name}": value for name, value in self._last_update.items()}
        row |= self._ingested.take_row() | self.wire_row
        row |= {f"milestone/{name}": float(step) for name, step in self.replay.milestones.items()}
        row["queue/batches_in_flight"] = self.batches_in_flight
        if self.actor_rates:
            row["actor/env_steps_per_sec"] = sum(self.actor_rates.values())
        self.metrics.write(self.replay.env_steps, self.r2d2.updates, row)

    @property
    def samples_per_insert(self) -> float:
        """Trained positions sampled for each one inserted since the replay's minimum size was there."""
        return self.limiter.sampled / max(1, self.limiter.inserted - self.limiter.min_size)

    # Start.

    def _restore(self) -> str:
        """Brings back the newest checkpoint and says in one line what was restored."""
        found = load_checkpoint(self.run_dir.checkpoint)
        for note in self.replay.notes + (found.notes if found is not None else []):
            print(note, flush=True)
        log = f"replay ({self.replay.sequences} sequences, {self.replay.transitions} transitions)"
        if found is None:
            self.limiter.load_state_dict({"sampled": 0}, self.replay.env_steps)
            if not self.replay.env_steps:
                return "new run, nothing to restore"
            return f"restored env_steps {self.replay.env_steps}, {log}; no checkpoint was there, weights start anew"
        state: dict[str, Any] = unflatten_state(found.tensors, found.meta["state"])
        behind = self.replay.adopt_totals(state["totals"])
        self.r2d2.load_state_dict(state["r2d2"])
        self.replay.load_state_dict(state["replay"])
        self.limiter.load_state_dict(state["limiter"], self.replay.env_steps)
        self.sample_rng.bit_generator.state = state["sample_rng"]
        return (
            f"restored weights, target, optimiser, counters (env_steps {self.replay.env_steps}, episodes "
            f"{self.replay.episodes}, updates {self.r2d2.updates}), {log}, priorities "
            f"({len(state['replay']['ids'])}), RNG, limiter (sampled {self.limiter.sampled})"
            + ("; the replay log had lost sequences, counters are the checkpoint's" if behind else "")
        )

    def _start_job(self, job_token: str) -> Progress:
        """The run's progress with this job as its last; a learner that was restarted goes on with its job."""
        progress, note = recover_progress(self.run_dir.progress)
        if note:
            print(note, flush=True)
        if progress is None:
            progress = Progress(run_name=self.run_dir.run_name, target_total_steps=self.config.target_total_steps)
        progress.target_total_steps = self.config.target_total_steps
        progress.env_steps, progress.updates = self.replay.env_steps, self.r2d2.updates
        progress.continue_job(job_token, self.restored)
        return progress


class _IngestStats:
    """What arrived: lags and epsilons since the last row, and the newest episodes. One thread adds, another reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lags: list[int] = []
        self._epsilons: list[float] = []
        self._episodes: collections.deque[dict[str, Any]] = collections.deque(maxlen=_RECENT_EPISODES)

    def add(self, header: SequenceHeader, updates: int) -> None:
        with self._lock:
            self._lags.append(max(0, updates - header.params_version))
            self._epsilons.append(header.epsilon)
            # An episode cut short by a job's end says nothing about the policy.
            if header.summary is not None and ends_whole_episode(header):
                self._episodes.append(header.summary)

    def mean_return(self) -> float | None:
        """Mean return of the newest episodes; None before the first."""
        with self._lock:
            returns = [episode["episode_return"] for episode in self._episodes]
        return float(np.mean(returns)) if returns else None

    def take_row(self) -> dict[str, float]:
        """Metrics of what came since the last call."""
        row: dict[str, float] = {}
        with self._lock:
            lags, self._lags = self._lags, []
            epsilons, self._epsilons = self._epsilons, []
            episodes = list(self._episodes)
        if lags:
            row["actor/params_lag_updates"] = float(np.mean(lags))
            row["actor/epsilon"] = float(np.mean(epsilons))
        if episodes:
            row["episode/return"] = float(np.mean([e["episode_return"] for e in episodes]))
            row["episode/steps"] = float(np.mean([e["episode_steps"] for e in episodes]))
            for term in episodes[-1]["terms"]:
                row[f"reward/{term}"] = float(np.mean([e["terms"].get(term, 0.0) for e in episodes]))
        return row
