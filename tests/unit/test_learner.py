"""The learner's wire thread with a real actor's channel, and a disk that takes its time."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from channel_fixtures import until
from trainer_fixtures import changed, episodes, ingest, open_trainer

from cluster_rl import learner
from cluster_rl.config import Config, sequence_schema_hash
from cluster_rl.learner import SamplerThread, WireThread
from cluster_rl.learning.sequences import Sequence
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.training.trainer import Trainer
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.codec import encode_block

CONFIG = changed(num_actors=1, curve=False, credit_sequences=4)


def actor_of(trainer: Trainer, config: Config) -> ActorChannel:
    path = trainer.run_dir.rendezvous
    return ActorChannel(lambda: read_rendezvous(path), 0, trainer.run_dir.run_name, sequence_schema_hash(config))


class WatchedWire(WireThread):
    """Keeps how many actors it held for alive, round by round."""

    rounds: list[int]

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "live_actors":
            self.__dict__.setdefault("rounds", []).append(value)


def test_a_long_sync_makes_nobody_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner hears nobody while it waits for the disk; `drain` would then leave out the actors' last sequences."""
    monkeypatch.setattr(learner, "_LIVE_SEC", 0.5)
    trainer = open_trainer(tmp_path, CONFIG)
    sync = trainer.replay.sync
    monkeypatch.setattr(trainer.replay, "sync", lambda: (time.sleep(1.0), sync()))
    wire = WatchedWire(trainer, CONFIG, trainer.run_dir)
    wire.start()
    with contextlib.closing(actor_of(trainer, CONFIG)) as actor:
        until(actor.can_send, lambda: actor.poll(5))
        (made, *_) = episodes(0, 1)
        before = len(wire.rounds)
        actor.send(encode_block(dataclasses.replace(made, actor=0, incarnation=actor.incarnation)))
        until(lambda: actor.unacknowledged == 0, lambda: (actor.send_stats(1.0, 0, {}), actor.poll(5)))
        until(lambda: len(wire.rounds) > before + 1)
        after = len(wire.rounds)
        wire.say_goodbye("time is up", complete=False)
    wire.drain(0.0)
    assert wire.error is None
    assert set(wire.rounds[before:after]) == {1}
    trainer.close("test")


def test_syncs_and_their_time_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics tell whether storage is what actors wait for."""
    trainer = open_trainer(tmp_path, CONFIG)
    sync = trainer.replay.sync
    monkeypatch.setattr(trainer.replay, "sync", lambda: (time.sleep(0.2), sync()))
    wire = WireThread(trainer, CONFIG, trainer.run_dir)
    wire.start()
    with contextlib.closing(actor_of(trainer, CONFIG)) as actor:
        first, second, *_ = episodes(0, 2)

        def send(made: Sequence) -> None:
            until(actor.can_send, lambda: actor.poll(5))
            actor.send(encode_block(dataclasses.replace(made, actor=0, incarnation=actor.incarnation)))
            until(lambda: actor.unacknowledged == 0, lambda: actor.poll(5))

        send(first)
        until(lambda: trainer.wire_row.get("wire/syncs") == 1)
        send(second)
        until(lambda: trainer.wire_row.get("wire/syncs") == 2)
    assert 0.4 <= trainer.wire_row["wire/sync_sec"] < 10.0
    wire.say_goodbye("time is up", complete=False)
    wire.drain(0.0)
    trainer.close("test")


def test_the_system_knows_threads_by_name(tmp_path: Path) -> None:
    """`top -H` shows which of them is busy."""
    trainer = open_trainer(tmp_path, CONFIG)
    wire, sampler = WireThread(trainer, CONFIG, trainer.run_dir), SamplerThread(trainer)

    def names() -> list[str]:
        threads = [Path(f"/proc/self/task/{thread.native_id}/comm") for thread in (wire, sampler)]
        return [path.read_text().strip() for path in threads]

    wire.start()
    sampler.start()
    until(lambda: names() == ["wire", "sampler"])
    sampler.end()
    wire.drain(0.0)
    trainer.close("test")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(b'{"protocol"'),
    "others may write it": lambda path: path.chmod(0o666),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_rendezvous_is_no_bad_end(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """It would only be taken away."""
    trainer = open_trainer(tmp_path, CONFIG)
    ingest(trainer, episodes(0, 1))
    wire = WireThread(trainer, CONFIG, trainer.run_dir)
    wire.start()
    until(trainer.run_dir.rendezvous.exists)
    damage(trainer.run_dir.rendezvous)
    wire.say_goodbye("time is up", complete=False)
    wire.drain(10.0)
    assert wire.error is None
    trainer.close("test")
