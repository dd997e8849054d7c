"""Trainer: everything the learner owns, without sockets or threads of its own.

The learner process (`learner.py`) feeds it from the wire; serial mode (`train_slim.py`) feeds it directly. In: sequence
blocks. Out: updates, published parameters, checkpoints, `progress.json` and metrics.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.config import Config
from cluster_rl.devices import learner_device
from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2, UpdateResult
from cluster_rl.learning.rate_limiter import RateLimiter
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.learning.staleness import q_discrepancy
from cluster_rl.model import ObservationSpec, QNetwork
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
from cluster_rl.wire.codec import BlockArrays, BlockError, SequenceHeader, decode_arrays

_RECENT_EPISODES = 100
_RECENT_STARTS = 16
STALENESS_ROWS = 12  # staleness is measured with every so-manieth row of metrics,
STALENESS_SEQUENCES = 4  # on so many sequences of the newest batch,
STALENESS_STEPS = 500  # over at least so many steps before each, or from its episode's start
_STALENESS_SCAN = 2000  # sequences of all emulators looked through for those of one episode


class Sampled(NamedTuple):
    """A batch on its device, with what the host needs of it."""

    batch: Batch
    ids: npt.NDArray[np.int64]  # [N], of its sequences
    weights: npt.NDArray[np.float32]  # [N], importance weights
    positions: int  # trained positions in it


class _Update(NamedTuple):
    """The newest update, as far as metrics tell of it."""

    ids: npt.NDArray[np.int64]  # [N]
    weights: npt.NDArray[np.float32]  # [N]
    result: UpdateResult


class Trainer:
    """Replay, networks, limiter, counters and files of one run.

    `ingest` may be called by one thread, `sample` by a second, everything else by a third.
    """

    def __init__(
        self, config: Config, run_dir: RunDir, observation: ObservationSpec, block: BlockSpec, job_token: str
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.device = torch.device(learner_device(config).type)
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
        self._newest_update: _Update | None = None
        self._metrics_rows = 0
        self._block_spec = block
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
            if result.header.first_step == 0:
                with contextlib.suppress(BlockError):  # sampling finds it and takes it out
                    self._ingested.add_start(decode_arrays(block, self._block_spec)[1])
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
        ids, weights, positions = arrays["ids"].copy(), arrays["weights"].copy(), int(arrays["train_length"].sum())
        return Sampled(Batch.from_numpy(arrays, self.device), ids, weights, positions)

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
        self._newest_update = _Update(sampled.ids, sampled.weights, result)

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
        """One row of metrics. What only a row needs is computed here, so that updates do not pay for it."""
        self._metrics_rows += 1
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
            "priority/ess": self.replay.priority_stats()["ess"],
        }
        ingested, lags = self._ingested.take_row()
        row |= ingested | self.wire_row
        row |= {f"milestone/{name}": float(step) for name, step in self.replay.milestones.items()}
        row["queue/batches_in_flight"] = self.batches_in_flight
        if self.actor_rates:
            row["actor/env_steps_per_sec"] = sum(self.actor_rates.values())
        starts = self._ingested.starts()
        if starts:
            row["learner/q_start"] = self._q_start(starts)
        distributions: dict[str, npt.NDArray[Any]] = {
            "priority": self.replay.state_dict()["priorities"],
            "lag/acting": lags,
        }
        newest = self._newest_update
        if newest is not None:
            row |= {f"learner/{name}": value for name, value in newest.result.metrics.items()}
            errors = newest.result.td_errors
            distributions["td_error"] = errors[~np.isnan(errors)]
            distributions["importance_weight"] = newest.weights
            batch = {number: found for number in newest.ids.tolist() if (found := self.replay.read(number)) is not None}
            distributions["lag/training"] = np.array([self._age(header) for header, _ in batch.values()])
            if self._metrics_rows % STALENESS_ROWS == 0:
                row |= self._staleness(batch)
        self.metrics.write(self.replay.env_steps, self.r2d2.updates, row, distributions)

    def _q_start(self, starts: list[dict[str, npt.NDArray[Any]]]) -> float:
        """Mean value, in reward units and without noise, of the best valid action where episodes begin."""
        network, count = self.r2d2.online, len(starts)
        columns = [np.stack([start[name] for start in starts]) for name in _FRAME]
        before = [np.full(count, network.spec.num_actions, np.int64), np.zeros(count, np.float32)]
        with torch.no_grad():
            frames = [torch.from_numpy(column).to(self.device) for column in (*columns, *before)]
            outputs, _ = network.recur(network.encode(*frames).unsqueeze(0), network.initial_state(count))
            values = _values(network, outputs[-1], self.config.value_rescaling).cpu().numpy()  # [count, A]
        masks = np.stack([start["mask"] for start in starts])
        return float(np.where(masks, values, -np.inf).max(-1).mean())

    def _age(self, header: SequenceHeader) -> int:
        """Updates made since the parameters that a sequence was played with."""
        return max(0, self.r2d2.updates - header.params_version)

    def _staleness(self, batch: dict[int, tuple[SequenceHeader, bytes]]) -> dict[str, float]:
        """How far off the values that are trained are because stored states were computed by older weights.

        For a few sequences of the newest batch that do not begin their episode, evenly spread over it by age:
        `q_discrepancy` at the first and at the last trained position between the values that training sees (from the
        stored state and the burn-in) and those when the steps before are played again with the present weights. These
        are taken from the windows of the same episode in the replay, back to its first step or over at least
        `STALENESS_STEPS` steps; where that is not the episode's start, the oldest window's own stored state and burn-in
        begin. So the measure is exact for the share `from_start` of the sequences, and for the others as good as the
        network forgets within `history_steps`. A sequence without any window before it is left out. No noise.
        """
        later = sorted(number for number, (header, _) in batch.items() if header.first_step > 0)
        picked = np.linspace(0, len(later) - 1, min(STALENESS_SEQUENCES, len(later))).astype(int)
        deltas, lengths, whole, ages = [], [], [], []
        for number in (later[index] for index in picked.tolist()):
            header, block = batch[number]
            try:
                sequence = decode_arrays(block, self._block_spec)
                blocks_before = _history(self.replay.read, number, header)
                history = [decode_arrays(before, self._block_spec) for before in blocks_before]
            except BlockError:
                continue
            if not history:
                continue
            deltas.append(sequence_staleness(self.r2d2.online, sequence, history, self.config.value_rescaling).tolist())
            begin = history[0][0].first_step
            lengths.append(header.first_step - begin)
            whole.append(begin == 0)
            ages.append(self._age(header))
        if not deltas:
            return {}
        return {
            "staleness/delta_q_first": float(np.mean([delta[0] for delta in deltas])),
            "staleness/delta_q_last": float(np.mean([delta[-1] for delta in deltas])),
            "staleness/history_steps": float(np.mean(lengths)),
            "staleness/from_start": float(np.mean(whole)),
            "staleness/age_updates": float(np.mean(ages)),
        }

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


_FRAME = ("screen_packed", "context", "crop")
_Window = tuple[SequenceHeader, BlockArrays]


def sequence_staleness(network: QNetwork, sequence: _Window, history: list[_Window], rescaling: bool) -> torch.Tensor:
    """`q_discrepancy` at each trained position of a sequence, [t]: as it is trained, from its stored state and burn-in,
    against the same weights having played `history` before it.

    `history` are the windows of the same episode right before the sequence, oldest first, at least one. The oldest
    starts from its own stored state, which is exact (zeros) at an episode's start.
    """
    header, arrays = sequence
    first, stop = header.burn_in_length, header.burn_in_length + header.train_length
    with torch.no_grad():
        replayed, _ = network.recur(_features(network, sequence, 0, stop), _state(network, arrays))
        state = _state(network, history[0][1])
        for index, window in enumerate(history):
            # A window after the oldest goes on where the one before ended: its own burn-in was played already.
            start, burn_in = (0 if index == 0 else window[0].burn_in_length), window[0].burn_in_length
            _, state = network.recur(_features(network, window, start, burn_in + window[0].train_length), state)
        true, _ = network.recur(_features(network, sequence, first, stop), state)
        return q_discrepancy(_values(network, replayed[first:, 0], rescaling), _values(network, true[:, 0], rescaling))


def _features(network: QNetwork, window: _Window, start: int, stop: int) -> torch.Tensor:
    """Features [stop - start, 1, F] of a window's positions."""
    header, arrays = window
    prev_action = np.append(np.int64(header.first_prev_action), arrays.action[:-1])
    prev_reward = np.append(np.float32(header.first_prev_reward), arrays.reward[:-1])
    device = network.head_value.bias.device
    columns = [getattr(arrays, name) for name in _FRAME] + [prev_action, prev_reward]
    # Copied, because a block's arrays are read-only.
    return network.encode(*(torch.from_numpy(column[start:stop].copy()).to(device) for column in columns)).unsqueeze(1)


def _state(network: QNetwork, arrays: BlockArrays) -> tuple[torch.Tensor, torch.Tensor]:
    """A block's stored state as the network takes it, [1, 1, H] each."""
    device = network.head_value.bias.device
    hidden, memory = (torch.from_numpy(part.astype(np.float32)) for part in (arrays.state_h, arrays.state_c))
    return hidden.view(1, 1, -1).to(device), memory.view(1, 1, -1).to(device)


def _values(network: QNetwork, outputs: torch.Tensor, rescaling: bool) -> torch.Tensor:
    """Q values [..., A] in reward units, without noise, of recurrent outputs [..., H]."""
    return targets.expected_values(network.head(outputs, noise=False), rescaling)


def _history(
    read: Callable[[int], tuple[SequenceHeader, bytes] | None], sequence_id: int, header: SequenceHeader
) -> list[bytes]:
    """Blocks of the windows right before a sequence in its episode, oldest first, without a hole.

    They reach back to the episode's start or over at least `STALENESS_STEPS` steps, as far as they are in the replay.
    `read` gives a sequence's header and block by its id. An actor sends an emulator's windows in their order:
    those before have lower ids.
    """
    blocks: list[bytes] = []
    start = header.first_step
    for other in range(sequence_id - 1, max(-1, sequence_id - 1 - _STALENESS_SCAN), -1):
        if start == 0 or header.first_step - start >= STALENESS_STEPS:
            break
        entry = read(other)
        if entry is None:
            continue
        found, block = entry
        if _episode(found) == _episode(header) and found.first_step + found.train_length == start:
            blocks.append(block)
            start = found.first_step
    return blocks[::-1]


def _episode(header: SequenceHeader) -> tuple[int, int, int, int]:
    return header.actor, header.incarnation, header.emulator, header.episode


class _IngestStats:
    """What arrived: lags and epsilons since the last row, the newest episodes and their starts.

    One thread adds, another reads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lags: list[int] = []
        self._epsilons: list[float] = []
        self._episodes: collections.deque[dict[str, Any]] = collections.deque(maxlen=_RECENT_EPISODES)
        self._starts: collections.deque[dict[str, npt.NDArray[Any]]] = collections.deque(maxlen=_RECENT_STARTS)

    def add(self, header: SequenceHeader, updates: int) -> None:
        with self._lock:
            self._lags.append(max(0, updates - header.params_version))
            self._epsilons.append(header.epsilon)
            # An episode cut short by a job's end says nothing about the policy.
            if header.summary is not None and ends_whole_episode(header):
                self._episodes.append(header.summary)

    def add_start(self, arrays: BlockArrays) -> None:
        """Keeps position 0 of a block that begins an episode."""
        start = {name: getattr(arrays, name)[0].copy() for name in (*_FRAME, "mask")}
        with self._lock:
            self._starts.append(start)

    def starts(self) -> list[dict[str, npt.NDArray[Any]]]:
        """The newest first positions of episodes: screen_packed, context, crop, mask."""
        with self._lock:
            return list(self._starts)

    def mean_return(self) -> float | None:
        """Mean return of the newest episodes; None before the first."""
        with self._lock:
            returns = [episode["episode_return"] for episode in self._episodes]
        return float(np.mean(returns)) if returns else None

    def take_row(self) -> tuple[dict[str, float], npt.NDArray[np.int64]]:
        """Metrics of what came since the last call, and how many updates old each sequence's parameters were."""
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
            reached = collections.defaultdict(list)
            for episode in episodes:
                for name, step in episode["milestones"]:
                    reached[name].append(step)
            for name, steps in reached.items():
                row[f"milestone_recent/{name}"] = len(steps) / len(episodes)  # share of the newest episodes
                row[f"milestone_recent_step/{name}"] = float(np.median(steps))  # of those that reached it
        return row, np.array(lags, np.int64)
