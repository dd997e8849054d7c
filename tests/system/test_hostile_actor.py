"""A learner process against actors gone wild: what they send ends no run, and is counted in nothing but refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from run_fixtures import TINY, environment, logged_positions, overrides
from sequence_fixtures import play, resealed, summary_of, with_header

from cluster_rl.config import Config, load_config, sequence_schema_hash
from cluster_rl.emulator.spaces import block_spec, milestone_names
from cluster_rl.jobs.opening import begin_job, check_config
from cluster_rl.learning.sequences import Sequence, SequenceBuilder
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.training.metrics import read_metrics
from cluster_rl.wire import messages
from cluster_rl.wire.codec import SequenceHeader, encode_block
from cluster_rl.wire.keys import load_actor_keys
from cluster_rl.wire.sockets import identity_of

STEPS = 25  # of an episode: windows of 10, 10 and 5
WAIT_SEC = 120.0


def until(reached: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SEC
    while not (found := reached()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


class Client:
    """A process that calls itself an actor. It may send what it likes, within its credit."""

    def __init__(self, run_dir: RunDir, config: Config, number: int, lowest_unacked: int = 0) -> None:
        rendezvous = until(lambda: read_rendezvous(run_dir.rendezvous), "rendezvous.json")
        self.number, self.incarnation = number, time.time_ns()
        self.next_seq, self.acknowledged, self.may_send_up_to, self.refused = lowest_unacked, 0, 0, ""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTING_ID, identity_of(number, self.incarnation))
        if rendezvous.public_key is not None:
            keys = load_actor_keys(run_dir.keys)
            self._socket.curve_serverkey = rendezvous.public_key.encode()
            self._socket.curve_publickey, self._socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self._socket.connect(rendezvous.endpoint)
        hello = messages.Hello(
            run=run_dir.run_name,
            schema_hash=sequence_schema_hash(config),
            actor=number,
            incarnation=self.incarnation,
            lowest_unacked=lowest_unacked,
            next_seq=lowest_unacked,
        )
        self._socket.send(messages.encode(hello))
        until(lambda: self.listen() and (self.refused or self.may_send_up_to), f"credit of actor {number}")
        self._builder = SequenceBuilder(
            block_spec(config), actor=number, incarnation=self.incarnation, emulator=0, epsilon=0.1
        )

    def listen(self) -> bool:
        while self._socket.poll(0):
            message, _ = messages.decode_from_learner(self._socket.recv_multipart())
            if isinstance(message, messages.Refused):
                self.refused = message.reason
            if isinstance(message, messages.Ack):
                self.acknowledged, self.may_send_up_to = message.next_seq, message.may_send_up_to
        return True

    def send(self, *blocks: bytes) -> None:
        """Sends blocks under the numbers that come next, and waits until they are acknowledged."""
        for block in blocks:
            until(lambda: self.listen() and self.next_seq < self.may_send_up_to, f"credit of actor {self.number}")
            header = messages.SequenceMessage(
                incarnation=self.incarnation, seq=self.next_seq, block_bytes=len(block), crc32=zlib.crc32(block)
            )
            self._socket.send_multipart([messages.encode(header), block])
            self.next_seq += 1
        until(lambda: self.listen() and self.acknowledged == self.next_seq, f"actor {self.number}'s acknowledgement")

    def episode(self, number: int, **summary: Any) -> list[Sequence]:
        """A good one, window by window."""
        return play(self._builder, number, STEPS, summary=summary_of(STEPS, **summary))

    def leave(self) -> None:
        """Says goodbye; else a learner that ends waits for what it may still send."""
        self._socket.send(messages.encode(messages.Goodbye(reason="test")))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def whole_summary(**changes: Any) -> dict[str, Any]:
    return {**msgspec.to_builtins(summary_of(STEPS)), **changes}


def without_return() -> dict[str, Any]:
    return {name: value for name, value in whole_summary().items() if name != "episode_return"}


def array(name: str, value: float) -> Callable[[list[Sequence]], bytes]:
    """The second episode's first window with one value in an array changed."""

    def spoil(episode: list[Sequence]) -> bytes:
        changed = getattr(episode[0], name).copy()
        changed[1] = value
        return encode_block(dataclasses.replace(episode[0], **{name: changed}))

    return spoil


def head(window: int, **changes: Any) -> Callable[[list[Sequence]], bytes]:
    """A window of the second episode with other values in its header."""
    return lambda episode: with_header(encode_block(episode[window]), **changes)


def nested(episode: list[Sequence]) -> bytes:
    block = encode_block(episode[2])
    values = [b"\x00"] * (len(SequenceHeader.__struct_fields__) - 1)
    return resealed(block, header=b"\xdc\x00\x15" + b"".join(values) + b"\x91" * 50_000)


ATTACKS: dict[str, Callable[[list[Sequence]], bytes]] = {
    "a summary without its return": head(2, summary=without_return()),
    "a return that is no number": head(2, summary=whole_summary(episode_return=float("nan"))),
    "terms that there are not": head(2, summary=whole_summary(terms={f"t{n}": 1.0 for n in range(60)})),
    "a term that is text": head(2, summary=whole_summary(terms={"event": "much"})),
    "milestones of a summary that there are not": head(2, summary=whole_summary(milestones=[["graffiti", 3]])),
    "a priority that is infinite in float32": head(0, initial_priority=1.7e308),
    "256 names of milestones": head(0, milestones=[f"graffiti {n}" for n in range(256)]),
    "an emulator that there is not": head(0, emulator=2**31 - 1),
    "parameters of the far future": head(0, params_version=2**62),
    "a step that no episode reaches": head(1, first_step=2**40),
    "a block of another actor": head(0, actor=0),
    "a block of another incarnation": head(0, incarnation=1),
    "rewards that are no numbers": array("reward", np.nan),
    "rewards without measure": array("reward", 1e30),
    "an infinite state": array("state_h", np.inf),
    "a button that there is not": array("action", 200),
    "no button at all": array("mask", False),
    "50,000 lists in one another": nested,
    "the same block again": lambda episode: head(0, episode=0)(episode),
    "half of a block again": lambda episode: head(1, episode=0, first_step=20)(episode),
}


@contextlib.contextmanager
def learner(run_dir: RunDir) -> Iterator[subprocess.Popen[bytes]]:
    with (run_dir.logs / "learner.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster_rl.learner", "--run-dir", str(run_dir.path)],
            stdout=log,
            stderr=log,
            env=environment(),
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def progress_of(run_dir: RunDir, env_steps: int) -> Progress | None:
    progress = read_progress(run_dir.progress)
    return progress if progress is not None and progress.env_steps == env_steps and progress.updates else None


def test_nothing_that_an_actor_sends_ends_a_run(tmp_path: Path) -> None:
    config = load_config("quickstart", [o.removeprefix("--") for o in overrides(num_actors=len(ATTACKS) + 2)])
    assert TINY["unroll_length"] == 10
    run_dir = RunDir(tmp_path, "run").create()
    begin_job(config, run_dir, check_config(config))
    clients: list[Client] = []
    milestone = min(milestone_names(run_dir))
    try:
        with learner(run_dir) as process:
            for number, spoil in enumerate(ATTACKS.values(), start=1):
                clients.append(client := Client(run_dir, config, number))
                good, second, third = (
                    client.episode(episode, milestones=[(milestone, 3)] if episode == 0 else []) for episode in range(3)
                )
                client.send(*map(encode_block, good), spoil(second), encode_block(third[0]))
            liar = Client(run_dir, config, 0, lowest_unacked=2**61)
            clients.append(liar)
            if not liar.refused:
                liar.send(encode_block(liar.episode(0)[0]))
            steps = len(ATTACKS) * (STEPS + 10)
            until(lambda: progress_of(run_dir, steps) or process.poll() is not None, f"{steps} env steps")
            assert process.poll() is None, (run_dir.logs / "learner.log").read_text()[-3000:]
            until(lambda: list(run_dir.checkpoint.glob("*/manifest.json")), "a checkpoint")
            process.send_signal(signal.SIGKILL)
            process.wait()

        run_dir.rendezvous.unlink()
        with learner(run_dir) as process:
            clients.append(client := Client(run_dir, config, len(ATTACKS) + 1))
            first = [encode_block(sequence) for sequence in client.episode(0)]
            client.send(*first, *first)
            steps += STEPS
            until(lambda: progress_of(run_dir, steps) or process.poll() is not None, f"{steps} env steps")
            client.leave()
            process.terminate()
            assert process.wait(WAIT_SEC) == 0, (run_dir.logs / "learner.log").read_text()[-3000:]
    finally:
        for client in clients:
            client.close()
    assert logged_positions(run_dir) == (steps, steps, len(ATTACKS) + 1)
    progress = read_progress(run_dir.progress)
    assert progress is not None
    assert (progress.env_steps, set(progress.milestones)) == (steps, set())
    rows = read_metrics(run_dir.metrics)
    # Each refused number is a gap once its actor's next block has come, and nothing else is.
    assert rows[-1]["replay/gaps"] == len(ATTACKS)
    assert (rows[-1]["wire/refused_blocks"], rows[-1]["wire/refused_blocks/order"]) == (3, 3)
    assert not [name for row in rows for name in row if "graffiti" in name]
    assert not [name for row in rows for name, value in row.items() if value is None]
    assert "Traceback" not in (run_dir.logs / "learner.log").read_text()
