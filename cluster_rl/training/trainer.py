"""Trainer: everything the learner owns, without sockets or threads of its own.

The learner process (`learner.py`) feeds it from the wire; serial mode (`train_slim.py`) feeds it directly. In: sequence
blocks. Out: updates, published parameters, checkpoints, `progress.json` and metrics.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.config import Config, config_to_json, config_values
from cluster_rl.errors import EXIT_OK, EXIT_UNFINISHED, StorageError
from cluster_rl.exploration.archive import Archive
from cluster_rl.exploration.bayes_quests import Quest, QuestRules
from cluster_rl.exploration.rnd import Rnd
from cluster_rl.jobs.continuity import check_whole, run_id_of
from cluster_rl.jobs.deadline import Deadline, why_complete
from cluster_rl.jobs.devices import learner_device
from cluster_rl.jobs.grace import LAST_TRIES_SEC, LATE_TRIES_SEC
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2, UpdateResult
from cluster_rl.learning.sequences import BlockSpec, is_elsewhere
from cluster_rl.model import ObservationSpec
from cluster_rl.replay_buffer import AppendResult, Replay
from cluster_rl.runs.checkpoint import flatten_state, load_checkpoint, publish_params, unflatten_state
from cluster_rl.runs.checkpoint_writer import CheckpointWriter
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.evaluation import ParamsPoint
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.job_record import config_sha256, newest_number, package_versions
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, Rates, ReplayProgress, recover_progress, save_progress
from cluster_rl.training.arrivals import Arrivals
from cluster_rl.training.episode_rows import EpisodeRows, UnreadableRowError, read_episode_rows
from cluster_rl.training.evaluation_rows import EvaluationRows
from cluster_rl.training.event_file import About
from cluster_rl.training.metrics import MetricsWriter, RateMeter
from cluster_rl.training.outage import Outage, Writer
from cluster_rl.training.probes import screens_picture, staleness_row, start_value
from cluster_rl.training.quest_monitor import QuestMonitor
from cluster_rl.training.rate_limiter import RateLimiter

_EVICTED_FILES = "deleting evicted segments"
STALENESS_ROWS = 12  # staleness is measured with every so-manieth row of metrics
PICTURE_ROWS = 60  # and screens are drawn for TensorBoard


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
        self,
        config: Config,
        run_dir: RunDir,
        observation: ObservationSpec,
        block: BlockSpec,
        milestones: frozenset[str],
        job_token: str,
        quests: Iterable[Quest] = (),
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.device = torch.device(learner_device(config).type)
        folder = run_dir.replay_in(config.replay_dir)
        self.run_id = run_id_of(run_dir, folder) or run_dir.run_name
        check_whole(run_dir, folder)  # the launcher asked before; a learner may be started again much later
        rules = QuestRules.from_config(config, quests)
        # Before all else: it waits for a learner that holds the log, and everything below reads what that one wrote.
        self.replay = Replay(config, block, folder, self.run_id, milestones, rules)
        crash_point("restore.log_scanned")
        self.r2d2 = R2D2(config, observation, self.device, config.base_seed)
        # Another seed than the learner's networks have; nothing is built where it would pay nothing.
        self.rnd = Rnd(config, observation, self.device, config.base_seed + 1) if config.w_rnd else None
        self.limiter = RateLimiter.from_config(config)
        self.metrics = MetricsWriter(run_dir, _about(config))
        self.evaluations = EvaluationRows(run_dir)
        self.quests = QuestMonitor(config, run_dir, self.replay, rules, self.device)
        self.sample_rng = np.random.default_rng([config.base_seed, 1])
        self._checkpoints = CheckpointWriter(run_dir.checkpoint, self.replay.sync)
        self._sampled_batches = self._trained_batches = 0  # each is advanced by one thread only
        self.restored = self._restore()
        self.episode_rows = EpisodeRows(run_dir.episodes, self.replay.next_id)
        for note in self.episode_rows.notes:
            print(note, flush=True)
        self._counted_bytes = 0  # of `episodes.jsonl`, whose episodes the archive has counted
        self._arrivals = Arrivals()
        for ending in self.replay.found_endings:
            self.episode_rows.offer(*ending)
            self._arrivals.add_ending(ending.header)
        self.replay.found_endings.clear()
        self.archive = self._open_archive() if config.starts_elsewhere else None
        self.progress = self._start_job(job_token)
        self._was_complete = bool(self._complete())
        self._step_rate, self._update_rate = RateMeter(), RateMeter()
        self.wire_row: dict[str, float] = {}  # the wire's counters, set whole by its thread
        self.connected_actors: int | None = None  # set by the wire's thread; None where there is no wire
        self.actor_rates: dict[int, float] = {}  # actor -> env steps per second, as it says itself
        self._newest_update: _Update | None = None
        self._metrics_rows = self._next_picture_row = 0
        self._left_out: list[str] | None = None  # of what a job must leave; None before `save`
        self._block_spec = block
        self.outage = Outage()
        self._progress_writer = Writer(self.outage, "progress.json", config.progress_interval_seconds)
        self._metrics_writer = Writer(self.outage, "metrics", config.metrics_interval_seconds, "rows of metrics")
        self._episodes_writer = Writer(self.outage, "episodes.jsonl", config.progress_interval_seconds)
        self._quest_writer = Writer(self.outage, "quests.jsonl", config.metrics_interval_seconds)
        self._archive_writer = Writer(self.outage, "the archive of start states", config.progress_interval_seconds)
        self._params_writer = Writer(self.outage, "online_params.pt", config.params_file_interval_seconds)
        self._params_file_updates = 0  # of the parameters that this process wrote last
        self._checkpoint_writer = Writer(self.outage, "checkpoint", config.checkpoint_interval_seconds)
        self._checkpoint_writer.put_off()
        self._reader = Writer(self.outage, "reading the replay log")

    # What the ingesting side calls.

    def ingest(self, actor: int, incarnation: int, seq: int, block: bytes) -> AppendResult:
        """Logs one block; durable after `replay.sync()`. Raises `BlockError` for one that `Replay.append` refuses."""
        result = self.replay.append(actor, incarnation, seq, block)
        if self.replay.undeleted is not None:
            self.outage.begin(_EVICTED_FILES, self.replay.undeleted)
        else:
            self.outage.end(_EVICTED_FILES)
        if result.id is not None:
            self.limiter.record_insert(result.header.train_length)
            self._arrivals.add(result.header, self.r2d2.updates)
            self.episode_rows.offer(result.id, self.replay.env_steps, result.header)
            if result.header.first_step == 0 and not result.header.elsewhere:
                self._arrivals.add_start(result.arrays)
        return result

    def sequences_wanted(self) -> int:
        """How many sequences all actors together may send beyond those that arrived; 0 while they must wait."""
        return self.limiter.room() // self.config.unroll_length

    # What the sampling side calls.

    def may_sample(self) -> bool:
        """Whether a batch may be sampled now, those on their way to an update counted."""
        batch = self.limiter.sample_chunk
        return self.replay.sequences > 0 and self.limiter.may_sample(batch, self.batches_in_flight * batch)

    def try_sample(self) -> Sampled | None:
        """A batch, see `sample`; None while none may be sampled, or storage does not give it."""
        sampled: list[Sampled] = []
        if self._reader.is_due and self.may_sample():
            self._reader.write(lambda: sampled.append(self.sample()))
        return sampled[0] if sampled else None

    def sample(self) -> Sampled:
        """Draws a batch and moves it to the learner's device. Raises `StorageError` if the replay cannot be read."""
        arrays = self.replay.sample(self.sample_rng, self.config.batch_size)
        self._sampled_batches += 1
        # Kept on the host too: reading them back would make the device wait.
        ids, weights, positions = arrays["ids"].copy(), arrays["weights"].copy(), int(arrays["train_length"].sum())
        return Sampled(self.quests.shape(Batch.from_numpy(arrays, self.device)), ids, weights, positions)

    @property
    def batches_in_flight(self) -> int:
        """Batches sampled and not trained yet."""
        return self._sampled_batches - self._trained_batches

    # What the training side calls.

    def update(self, sampled: Sampled) -> None:
        """Trains on one batch and hands its new priorities to the replay."""
        batch = sampled.batch
        if self.rnd is not None:
            batch = self.rnd.update(batch, self.config.w_rnd * self.quests.curiosity_scale())
        result = self.r2d2.update(batch)
        crash_point("learner.updated")
        self.replay.update_priorities(sampled.ids, result.priorities)
        crash_point("learner.priorities_set")
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
        """Writes progress and metrics when they are due, and has checkpoints written, without waiting for them.

        What storage does not take is written again later.
        """
        if self._progress_writer.is_due:
            self._progress_writer.write(self.write_progress)
        if self._metrics_writer.is_due:
            self._metrics_writer.write(self._write_next_metrics)
        if self._episodes_writer.is_due:
            self._episodes_writer.write(self.write_episodes)
        if self._quest_writer.is_due:
            self._quest_writer.write(self.quests.write_due)
        if self.archive is not None and self._archive_writer.is_due:
            self._archive_writer.write(self.tend_archive)
        # Before the first update nobody wants random weights, and the file tells of more.
        if self._params_writer.is_due and self.r2d2.updates != self._params_file_updates:
            self._params_writer.write(self.write_params_file)
        if self._checkpoints.pending:
            if not self._checkpoints.busy:
                self._checkpoint_writer.write(self._checkpoints.wait)
        elif self._checkpoint_writer.is_due:
            self.begin_checkpoint()

    def finished(self, deadline: Deadline) -> tuple[str, int] | None:
        """Why the job is over and the exit code that says so, or None: 0 where the run is complete."""
        complete = self._complete()
        if complete:
            return complete, EXIT_OK
        if deadline.is_over():
            return deadline.reason, EXIT_UNFINISHED
        return None

    def _complete(self) -> str:
        return why_complete(self.config, self.replay.env_steps, self.replay.episodes)

    @property
    def is_saved(self) -> bool:
        """Whether `save` has done what it could."""
        return self._left_out is not None

    def save(self, reason: str, left_sec: Callable[[], float] | None = None) -> None:
        """The last checkpoint, parameters, and progress with the reason of stopping: what a job must leave.

        What storage does not take while `left_sec()` leaves time, by default within seconds, is left out, as is what
        cannot be written for another reason, after half a minute at most; `close` raises it.
        Sequences may be ingested meanwhile and afterwards: the log has them, as after a crash.
        """
        began = time.monotonic()
        given_sec = left_sec or (lambda: began + LAST_TRIES_SEC - time.monotonic())
        told = False

        def time_left() -> float:
            late = math.inf if self.outage.is_of_storage else began + LATE_TRIES_SEC - time.monotonic()
            return min(given_sec(), late)

        def waiting_sec() -> float:
            """Between tries: tells that there are, once and in progress.json."""
            nonlocal told
            left = time_left()
            if left > LAST_TRIES_SEC:
                if not told:
                    told = True
                    print(f"{reason}; what is saved last is tried again until storage takes it", flush=True)
                self._tell("writing the last checkpoint")
            return left

        left_out = []
        self._tell("writing the last checkpoint", now=True)
        if not self._checkpoint_writer.write_while(self.checkpoint, waiting_sec):
            left_out.append("the last checkpoint")
        if not self._params_writer.write_while(self.write_params_file, waiting_sec):
            left_out.append("online_params.pt")
        reason += _not_saved(left_out)
        self._progress_writer.write_while(lambda: self.write_progress(reason), time_left)
        self._left_out = left_out

    def close(self, reason: str, lost: str = "", left_sec: Callable[[], float] | None = None) -> None:
        """Saves, unless `save` has; then the last figures, with what has come since, and closes the files.

        Raises `StorageError`, when all is done that can be, if storage does not take something in time, see `save`;
        `lost` says what was before.
        """
        if self._left_out is None:
            self.save(reason, left_sec)
        assert self._left_out is not None
        left_out = [lost] * bool(lost) + self._left_out
        self.progress.correct_reason(reason + _not_saved(self._left_out), reason + _not_saved(left_out))
        if not self._progress_writer.write(lambda: self.write_progress(reason)):
            left_out.append("progress.json")
        why = self.outage.words
        self._metrics_writer.write(self._write_next_metrics)
        self.metrics.close()
        self._episodes_writer.write(self.write_episodes)  # else the next start writes them from the log
        self.episode_rows.close()
        self._quest_writer.write(self.quests.write_due)
        self.quests.close()
        if self.archive is not None:
            self._archive_writer.write(self.tend_archive)
        try:
            self.replay.close()
        except StorageError as error:
            left_out.append(f"the replay log's end ({error})")
        if left_out:
            raise StorageError(f"not saved: {', '.join(left_out)}{'; ' if why else ''}{why}", self.run_dir.path, None)

    # Files.

    def write_params_file(self) -> None:
        """Writes online_params.pt, the averaged parameters for people and other programs."""
        point = ParamsPoint(self.replay.env_steps, self.r2d2.updates)
        publish_params(self.run_dir.online_params, self.r2d2.averaged.state_dict(), point)
        self._params_file_updates = point.updates

    def checkpoint(self) -> None:
        """Saves what the log cannot tell; it is on disk when this returns.

        One that is being written and has all updates will do: the log has what came since.
        """
        if not self._checkpoints.is_of(self.r2d2.updates):
            self.begin_checkpoint()
        self._checkpoints.wait()

    def begin_checkpoint(self) -> None:
        """Takes what the log cannot tell as it is now, and has it written while training goes on."""
        state: dict[str, Any] = {
            "r2d2": self.r2d2.state_dict(),
            "replay": self.replay.state_dict(),
            "limiter": self.limiter.state_dict(),
            "sample_rng": self.sample_rng.bit_generator.state,
            "totals": self.replay.totals(),
        }
        if self.rnd is not None:
            state["rnd"] = self.rnd.state_dict()
        tensors, tree = flatten_state(state)
        meta = {"updates": self.r2d2.updates, "run_id": self.run_id, "state": tree}
        self._checkpoints.begin(tensors, meta)

    def write_episodes(self) -> None:
        """Writes the rows of the episodes that have ended. Raises `StorageError`."""
        self.episode_rows.write(self.replay.sync)

    def tend_archive(self) -> None:
        """Counts what followed from its states, lets in what waits, and publishes its index. Raises `StorageError`."""
        archive = self.archive
        assert archive is not None
        archive.admit()  # first: what an episode found comes before its end
        while not self._count_rows(archive):
            archive.pass_damage()
        archive.weigh_by(self.quests.start_weights())
        archive.publish()

    def _count_rows(self, archive: Archive) -> bool:
        """Counts the rows that came since the last call; False, and a line, where it stopped behind a damaged one."""
        try:
            for row, end in read_episode_rows(self.run_dir.episodes, self._counted_bytes):
                self._counted_bytes = end
                if row.record < archive.next_record:
                    continue  # the file was begun anew
                archive.next_record = row.record + 1
                # One that a job's end broke off tells only what it had reached by then.
                if is_elsewhere(row.start_tag) and (row.milestones or row.reason != "stopped"):
                    episode = (row.actor, row.incarnation, row.emulator, row.episode)
                    archive.count(row.start_id, episode, reached=bool(row.milestones))
        except UnreadableRowError as error:
            print(f"{error}; start states are weighed without it", flush=True)
            self._counted_bytes = error.end
            return False
        return True

    def write_progress(self, reason: str | None = None) -> None:
        """Brings progress.json up to date; with a reason, the job ends here."""
        progress, replay = self.progress, self.replay
        progress.env_steps, progress.episodes = replay.env_steps, replay.episodes
        progress.updates = self.r2d2.updates
        # What was there once stays noted: the next start then knows that it is missing.
        progress.newest_checkpoint = max(progress.newest_checkpoint or 0, self._checkpoints.newest_number)
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
        progress.milestones, progress.milestones_elsewhere = replay.milestones, replay.milestones_elsewhere
        progress.quests = self.quests.progress()
        progress.mean_return_recent = self._arrivals.mean_return()
        progress.evaluation = self.evaluations.newest or progress.evaluation  # its file may be damaged
        progress.activity = self._activity()
        progress.storage_problem = self.outage.words
        if reason is not None:
            progress.end_job(reason, self._was_complete)
        save_progress(self.run_dir.progress, progress)

    def _tell(self, activity: str, now: bool = False) -> None:
        """For what takes long, and meanwhile writes no other progress: when it is due, or `now`."""
        if now or self._progress_writer.is_due:
            self.progress.activity, self.progress.storage_problem = activity, self.outage.words
            self._progress_writer.write(lambda: save_progress(self.run_dir.progress, self.progress))

    def _activity(self) -> str:
        """What goes on, or who waits for what: why a rate may be 0."""
        limiter = self.limiter
        if self.connected_actors == 0 and self.replay.env_steps == self.progress.jobs[-1].env_steps_start:
            return f"waiting for actors, none of {self.config.total_actors} is connected"
        if limiter.inserted < limiter.min_size:
            return f"collecting {limiter.inserted:,} of {limiter.min_size:,} env steps before learning"
        if self.sequences_wanted() == 0:
            return f"playing waits while {-limiter.ahead:,.0f} owed samples are learned (samples_per_insert)"
        if self.connected_actors is None:
            return "playing and learning in turn"
        return "playing and learning" if self.may_sample() else "learning waits for env steps (samples_per_insert)"

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
            "priority/ess": self.replay.effective_sample_size(),
        }
        arrived, lags = self._arrivals.take_row()
        row |= arrived | self.wire_row
        row |= {f"milestone/{name}": float(step) for name, step in self.replay.milestones.items()}
        row |= {f"milestone_elsewhere/{name}": float(s) for name, s in self.replay.milestones_elsewhere.items()}
        row |= self.quests.metrics()
        if self.archive is not None:
            row |= {
                "archive/states": len(self.archive.entries),
                "archive/megabytes": self.archive.size_bytes / 1e6,
                "archive/admitted": self.archive.admitted,
                "archive/evicted": self.archive.evicted,
                "archive/unfit": self.archive.unfit,
                "archive/newer": self.archive.newer,
            }
        row["queue/batches_in_flight"] = self.batches_in_flight
        if self.actor_rates:
            row["actor/env_steps_per_sec"] = sum(self.actor_rates.values())
        starts = self._arrivals.starts()
        if starts:
            row["learner/q_start"] = start_value(self.r2d2.online, starts, self.config)
        distributions: dict[str, npt.NDArray[Any]] = {
            "priority": self.replay.state_dict()["priorities"],
            "lag/acting": lags,
        }
        pictures: dict[str, npt.NDArray[np.uint8]] = {}
        newest = self._newest_update
        if newest is not None:
            row |= {f"learner/{name}": value for name, value in newest.result.metrics.items()}
            if self.rnd is not None:
                row |= {f"rnd/{name}": value for name, value in self.rnd.metrics().items()}
            errors = newest.result.td_errors
            distributions["td_error"] = errors[~np.isnan(errors)]
            distributions["importance_weight"] = newest.weights
            batch = {number: found for number in newest.ids.tolist() if (found := self.replay.read(number)) is not None}
            trained_from = self.r2d2.updates - 1  # of the weights that the newest update began with
            distributions["lag/training"] = np.array([header.age(trained_from) for header, _ in batch.values()])
            if self._metrics_rows % STALENESS_ROWS == 0:
                row |= staleness_row(
                    self.r2d2.online,
                    self.r2d2.updates,
                    batch,
                    self.replay.read,
                    self._block_spec,
                    self.config,
                )
            if self._metrics_rows >= self._next_picture_row:
                self._next_picture_row = self._metrics_rows + PICTURE_ROWS
                pictures["screens/newest_batch"] = screens_picture(batch.values(), self._block_spec)
        row |= self.evaluations.row(self.replay.milestones)
        env_steps, updates = self.replay.env_steps, self.r2d2.updates
        try:
            self.metrics.write(env_steps, updates, row, distributions, pictures)
        finally:
            if not self.metrics.grown(env_steps, updates):  # it may be there, and not in TensorBoard
                self.evaluations.told()

    def _write_next_metrics(self) -> None:
        if self.metrics.grown(self.replay.env_steps, self.r2d2.updates):
            self.write_metrics()

    @property
    def samples_per_insert(self) -> float:
        """Trained positions sampled for each one inserted."""
        return self.limiter.sampled / max(1, self.limiter.inserted)

    # Start.

    def _restore(self) -> str:
        """Brings back the newest checkpoint and says in one line what was restored."""
        restored = self._restore_newest()
        newest = self.metrics.newest_env_steps
        if self.replay.env_steps < newest:  # an older copy of the run was put back
            restored += f"; metrics go on at env step {newest}, where the last row is"
        return restored

    def _restore_newest(self) -> str:
        found = load_checkpoint(self.run_dir.checkpoint)
        of_checkpoint = found.notes if found is not None else []
        for note in self.replay.notes + of_checkpoint + self.metrics.notes + self.quests.notes:
            print(note, flush=True)
        log = f"replay ({self.replay.sequences} sequences, {self.replay.transitions} transitions)"
        if found is None:
            self.limiter.load_state_dict({"sampled": 0}, self.replay.env_steps)
            if not self.replay.env_steps:
                return "new run, nothing to restore"
            return f"restored env_steps {self.replay.env_steps}, {log}; no checkpoint was there, weights start anew"
        self._checkpoints.newest_number = found.number
        state: dict[str, Any] = unflatten_state(found.tensors, found.meta["state"])
        logged, told = self.replay.logged_sequences, len(self.replay.notes)
        behind = self.replay.adopt_totals(state["totals"])
        lost = self.replay.logged_sequences - logged
        for note in self.replay.notes[told:]:
            print(note, flush=True)
        crash_point("restore.totals_adopted")
        self.r2d2.load_state_dict(state["r2d2"])
        is_newly_curious = self.rnd is not None and "rnd" not in state
        if self.rnd is not None and "rnd" in state:
            self.rnd.load_state_dict(state["rnd"])
        crash_point("restore.weights")
        self.replay.load_state_dict(state["replay"])
        crash_point("restore.priorities")
        self.limiter.load_state_dict(state["limiter"], self.replay.env_steps)
        crash_point("restore.limiter")
        self.sample_rng.bit_generator.state = state["sample_rng"]
        return (
            f"restored weights, target, optimiser, counters (env_steps {self.replay.env_steps}, episodes "
            f"{self.replay.episodes}, updates {self.r2d2.updates}), {log}, priorities "
            f"({len(state['replay']['ids'])}), RNG, limiter (sampled {self.limiter.sampled})"
            + ("; w_rnd was 0, curiosity starts anew" if is_newly_curious else "")
            + (f"; the replay log had lost {lost or 'some'} sequences, counters are the checkpoint's" if behind else "")
        )

    def _open_archive(self) -> Archive:
        identity = read_identity(self.run_dir.identity)
        archive = Archive(
            self.run_dir.archive,
            identity.rom_sha1 if identity is not None else "",
            self.config.start_weighting,
            self.config.archive_entries,
            self.config.archive_megabytes * 10**6,
            say=lambda line: print(line, flush=True),
        )
        if self.replay.next_id < archive.next_record:
            # A log that was lost and begun anew gives numbers again. Published before it does: once it has passed the
            # old number, a start after a death could not tell.
            archive.next_record = self.replay.next_id
            archive.weigh_by(self.quests.start_weights())
            archive.publish()
        self._counted_bytes = self.episode_rows.end_before(archive.next_record)
        return archive

    def _start_job(self, job_token: str) -> Progress:
        """The run's progress with this job as its last; a learner that was restarted goes on with its job."""
        progress, note = recover_progress(self.run_dir.progress)
        is_new = progress is None
        if note:
            print(note, flush=True)
        if progress is None:
            if self.replay.env_steps and not note:
                name = self.run_dir.progress.name
                print(f"{name} was not there; it is made anew, without the history of jobs", flush=True)
            progress = Progress(run_name=self.run_dir.run_name, target_total_steps=self.config.target_total_steps)
        # Not what the file says: it may be a copy of another run's.
        progress.run_name, progress.target_total_steps = self.run_dir.run_name, self.config.target_total_steps
        progress.run_id = self.run_id
        progress.env_steps, progress.updates = self.replay.env_steps, self.r2d2.updates
        progress.newest_checkpoint = max(progress.newest_checkpoint or 0, self._checkpoints.newest_number)
        job = progress.continue_job(job_token, self.restored, newest_number(self.run_dir))
        job.config_sha256 = config_sha256(self.config)
        if is_new:  # before the first record: a later start takes a log without it for one that has lost it
            save_progress(self.run_dir.progress, progress)
        crash_point("restore.job_continued")
        return progress


def _about(config: Config) -> About:
    """What TensorBoard says of a job."""
    plain = bool | int | float | str
    values = {name: v if isinstance(v, plain) else str(v) for name, v in config_values(config).items()}
    versions = "\n".join(f"{name} {version or '-'}" for name, version in package_versions().items())
    return About({"config": config_to_json(config).decode(), "versions": versions}, values)


def _not_saved(left_out: list[str]) -> str:
    return f"; not saved: {', '.join(left_out)}" if left_out else ""
