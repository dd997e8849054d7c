"""The learner's wire thread while storage takes no sequence: what waits in memory is bounded, and nothing is lost."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from channel_fixtures import until
from sequence_fixtures import with_header
from trainer_fixtures import changed, episodes, open_trainer

from cluster_rl import learner
from cluster_rl.config import sequence_schema_hash
from cluster_rl.errors import StorageError
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.training import outage
from cluster_rl.wire import peers
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.codec import encode_block

CONFIG = changed(num_actors=1, envs_per_actor=1, credit_sequences=2, curve=False)
MOST = learner.overdraft_sequences(CONFIG)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "RETRY_FIRST_SEC", 0.01)
    monkeypatch.setattr(outage, "RETRY_MAX_SEC", 0.05)
    monkeypatch.setattr(peers, "OVERDRAFT_REGAINED_SEC", 20.0)


@pytest.mark.parametrize("refuses", ["append", "sync"])
def test_an_actor_that_starts_again_and_again_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    trainer = open_trainer(tmp_path, CONFIG)
    wire = learner.WireThread(trainer, CONFIG, trainer.run_dir)
    blocks = [encode_block(sequence) for sequence in episodes(0, 2)][:MOST]
    assert len(blocks) == MOST
    most_waiting = 0

    def actor_starts() -> ActorChannel:
        actor = ActorChannel(
            lambda: read_rendezvous(trainer.run_dir.rendezvous),
            0,
            trainer.run_dir.run_name,
            sequence_schema_hash(CONFIG),
            ack_timeout_sec=0.3,
        )
        until(lambda: actor.joined, lambda: actor.poll(5))
        for block in blocks:
            actor.send(with_header(block, actor=0, incarnation=actor.incarnation))
        actor.flush(0.2)
        nonlocal most_waiting
        most_waiting = max(most_waiting, wire._waiting)
        return actor

    def refuse(*_: object) -> None:
        raise StorageError("disk: Input/output error", tmp_path, errno.EIO)

    wire.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(trainer.replay, refuses, refuse)
            for _ in range(4):
                actor_starts().close()
            last = actor_starts()
            assert most_waiting == MOST
        deadline_sec = time.monotonic() + 60
        while last.unacknowledged and time.monotonic() < deadline_sec:
            last.poll(5)
        assert last.unacknowledged == 0
        assert trainer.replay.expected_seq(0, last.incarnation) == MOST
        last.goodbye("test")
    finally:
        wire.say_goodbye("test", complete=False)
        wire.drain(5.0)
    assert wire.error is None
    assert wire.all_logged
    trainer.close("test")
