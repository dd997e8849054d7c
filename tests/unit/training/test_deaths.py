"""SIGKILL wherever a trainer writes or reads its run, one life after another in one folder: nothing is lost.

Processes, signals and files are real; what actors send is made up. Whole runs die so in
`tests/chaos/test_crash_point_runs.py`.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path

from sequence_fixtures import make_builder, play, summary_of
from trainer_fixtures import BLOCK, changed, open_trainer

from cluster_rl.runs import crash_points
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.checkpoint import load_checkpoint
from cluster_rl.runs.layout import RunDir
from cluster_rl.training import quest_rows
from cluster_rl.training.episode_rows import read_episode_rows
from cluster_rl.wire.codec import encode_block

# In this order: what has to be there for a death, such as half a record, is left by the one before.
DEATHS = (
    *("replay.before_append", "replay.appended", "replay.before_sync", "replay.synced"),
    *("replay.half_a_record", "restore.tail_cut"),
    *("checkpoint.begin", "checkpoint.folder_made"),
    *(f"checkpoint.file_written@{name}" for name in ("tensors.safetensors", "state.json", "manifest.json")),
    *("checkpoint.before_rename", "checkpoint.renamed", "checkpoint.verified"),
    *("checkpoint.prune_renamed", "checkpoint.pruned"),
    *(f"atomic.{when}@{name}" for name in ("progress.json", "online_params.pt") for when in ("begin", "renamed")),
    *("metrics.half_a_row", "metrics.row_written", "quests.half_a_row", "quests.row_written"),
    *("learner.updated", "learner.priorities_set"),
    *("episodes.half_a_row", "episodes.rows_written"),
    *("restore.folder_locked", "restore.segment_opened", "restore.record_found", "restore.log_scanned"),
    *("restore.weights", "restore.priorities", "restore.limiter", "restore.job_continued"),
)
OFTEN = changed(
    checkpoint_interval_seconds=1e-6,
    progress_interval_seconds=1e-6,
    metrics_interval_seconds=1e-6,
    params_file_interval_seconds=1e-6,
)
AT_ONCE = 3  # sequences that are acknowledged together
ROUNDS = 8


class Lives:
    """A run, the sequences that its one actor has to send, and the file that says how many were acknowledged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._requests, self._acknowledged = folder / "requests", folder / "acknowledged"
        self._requests.mkdir()
        self._acknowledged.write_text("0")
        builder, summary = make_builder(BLOCK), summary_of(40)
        sequences = [sequence for number in range(120) for sequence in play(builder, number, 40, summary=summary)]
        self._blocks = [encode_block(sequence) for sequence in sequences]
        self._steps = [sequence.train_length for sequence in sequences]
        self._endings = {seq for seq, sequence in enumerate(sequences) if sequence.summary is not None}
        self._of_actor = (sequences[0].actor, sequences[0].incarnation)

    def end_at(self, point: str) -> int:
        """The exit code of a life in a process of its own that is asked to end there.

        It is forked from a process that has imported PyTorch and has not computed with it: that of these tests may
        have, and its threads do not outlive a fork.
        """
        (self._requests / point).touch()
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["trainer_fixtures", "torch._dynamo"])
        life = forks.Process(target=self._live_until, args=(self._requests,))
        life.start()
        life.join()
        assert life.exitcode is not None
        return life.exitcode

    def _live_until(self, requests: Path) -> None:
        crash_points._FOLDER = str(requests)
        quest_rows.ROW_EPISODES = 1
        self.live()

    def live(self) -> int:
        """Opens the run, looks at what is there, and trains a little; returns how many updates were there."""
        run_dir = RunDir(self._folder, "run").create()
        checkpoint = load_checkpoint(run_dir.checkpoint)
        trainer = open_trainer(self._folder, OFTEN)
        seq = trainer.replay.expected_seq(*self._of_actor)
        assert seq >= int(self._acknowledged.read_text())
        assert trainer.replay.env_steps == sum(self._steps[:seq])
        assert (trainer.replay.damaged, trainer.replay.notes, trainer.episode_rows.notes) == (0, [], [])
        trainer.write_episodes()
        self._check_rows(run_dir, seq)
        restored = trainer.r2d2.updates
        assert restored == (0 if checkpoint is None else checkpoint.updates)
        assert checkpoint is None or checkpoint.notes == []
        for _ in range(ROUNDS):
            for _ in range(AT_ONCE):
                trainer.ingest(*self._of_actor, seq, self._blocks[seq])
                seq += 1
            trainer.replay.sync()
            write_atomic(self._acknowledged, str(seq).encode())
            if (batch := trainer.try_sample()) is not None:
                trainer.update(batch)
            trainer.tick()
        trainer.close("test")
        self._check_rows(run_dir, seq)
        return restored

    def _check_rows(self, run_dir: RunDir, logged: int) -> None:
        """Each episode that ended among the first `logged` sequences has one row, in their order."""
        records = [row.record for row, _ in read_episode_rows(run_dir.episodes)]
        # No sequence was lost, so the log's numbers are the actor's.
        assert records == sorted(seq for seq in self._endings if seq < logged)


def test_a_run_survives_a_death_at_every_file(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    for point in DEATHS:
        assert lives.end_at(point) == -signal.SIGKILL, point
    assert list((tmp_path / "requests").iterdir()) == []
    assert lives.live() > 0
    rows = [json.loads(line) for line in RunDir(tmp_path, "run").quests.read_text().splitlines()]
    told = [(row["episodes"], row["quests"]["town"]["trials"]) for row in rows]
    assert told == sorted(set(told))
    assert all(episodes == trials for episodes, trials in told)
