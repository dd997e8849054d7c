"""What peers that misbehave cost the others: a learner's wire with honest actors beside a flood of each kind.

    python scripts/bench/floods.py [--seconds 10] [--modes plain,curve] [--floods KIND ...] [--json]

Four honest actors send ten real sequence blocks a second in all to a learner that has its real wire thread, replay log
and limiter, with room for 32 sequences at any time, but trains nothing. Beside them one process floods it, over four
connections (silent: 60). In mode `plain` (`curve` off) it knows the run and its schema, in mode `curve` it is a
stranger without a key. Each line is one flood: what arrived of the honest blocks, as a share of what arrived in the
seconds without a flood before it or of what was sent, whichever is less; the 99th percentile of the time until one was
acknowledged, with and without; the CPUs that the learner took; by how much its memory and its log grew. Exits with 1 if
a share is below the goal.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from cluster_rl.config import Config, config_to_json, load_config, sequence_schema_hash
from cluster_rl.emulator.spaces import block_spec, observation_spec
from cluster_rl.errors import run_command
from cluster_rl.learning.sequences import SCREEN_PACKED_SHAPE, SequenceBuilder
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.rendezvous import Rendezvous, read_rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.codec import encode_block, max_block_bytes
from cluster_rl.wire.keys import load_actor_keys
from cluster_rl.wire.sockets import identity_of

GOAL_SHARE = 0.9
ACTORS, BLOCKS_PER_SEC = 4, 2.5  # honest ones, and what each of them sends
CONNECTIONS, SILENT_CONNECTIONS = 4, 60
ROOM_SEQUENCES = 32
SETTLE_SEC = 1.0
START_SEC = 240.0
SHAPE = [
    *("num_actors=64", "envs_per_actor=1", "min_replay_transitions=1", "samples_per_insert=1", "device=cpu"),
    *("model.kind=slim", "model.conv_channels=[4,4,4]", "model.context_width=8", "model.trunk_width=16"),
    *("lstm_hidden_size=128", "num_quantiles=4", "use_spatial_attention=false", "learner_threads=1"),
]

Frames = list[bytes]


def blocks(config: Config, actor: int, incarnation: int) -> Iterator[bytes]:
    """Blocks of short episodes on noise, one after the other."""
    spec = block_spec(config)
    rng = np.random.default_rng(actor)
    builder = SequenceBuilder(spec, actor=actor, incarnation=incarnation, emulator=0)
    screens = rng.integers(0, 256, (spec.unroll_length + 1, *SCREEN_PACKED_SHAPE), np.uint8)
    context, crop = np.zeros(spec.context_size, np.uint8), np.zeros((2, spec.crop_side, spec.crop_side), np.uint8)
    mask, state = np.ones(spec.num_actions, np.bool_), np.zeros(spec.hidden_size, np.float32)
    for episode in itertools.count():
        builder.begin(episode)
        for step in range(spec.unroll_length):
            builder.add(screens[step], context, crop, mask, step % spec.num_actions, False, 0.0, 0, state, state)
        for sequence in builder.end(screens[-1], context, crop, mask, terminated=True):
            yield encode_block(sequence)


# ---- the processes ----


def learner(run_dir: RunDir, config: Config) -> None:
    """The real wire thread on a real trainer that keeps room open and trains nothing."""
    from cluster_rl.learner import WireThread, prepare_process
    from cluster_rl.training.trainer import Trainer

    prepare_process(config)
    trainer = Trainer(config, run_dir, observation_spec(config), block_spec(config), frozenset(), "bench")
    limiter, room = trainer.limiter, ROOM_SEQUENCES * config.unroll_length
    wire = WireThread(trainer, config, run_dir)
    wire.publish(*trainer.publish())
    wire.start()
    while wire.is_alive():
        limiter.sampled = int(limiter.inserted - limiter.buffer) + room
        time.sleep(0.02)
    raise wire.error or RuntimeError("the wire thread ended")


class HonestActor:
    """Sends at its pace, and writes a line for each acknowledged block: when, and after how many seconds."""

    def __init__(self, run_dir: RunDir, config: Config, number: int) -> None:
        self._channel = ActorChannel(
            lambda: read_rendezvous(run_dir.rendezvous),
            number,
            run_dir.run_name,
            sequence_schema_hash(config),
            load_keys=lambda: load_actor_keys(run_dir.keys),
        )
        self._blocks = blocks(config, number, self._channel.incarnation)
        self._sent_at: deque[float] = deque()
        self._due = time.monotonic()
        self._lines = acknowledged(run_dir, number).open("w", buffering=1)

    def step(self) -> None:
        now = time.monotonic()
        if now >= self._due and self._channel.can_send():
            self._channel.send(next(self._blocks))
            self._sent_at.append(time.monotonic())
            self._due = max(self._due + 1 / BLOCKS_PER_SEC, now)
        self._channel.poll(1)
        while len(self._sent_at) > self._channel.unacknowledged:
            self._lines.write(f"{time.time()} {time.monotonic() - self._sent_at.popleft()}\n")


def honest_actors(run_dir: RunDir, config: Config) -> None:
    """All of them, each with a connection of its own."""
    actors = [HonestActor(run_dir, config, number) for number in range(ACTORS)]
    while True:
        for actor in actors:
            actor.step()


def acknowledged(run_dir: RunDir, number: int) -> Path:
    return run_dir.path / f"acknowledged-{number}.txt"


class Stranger:
    """What a flood needs to know, and the process that it claims to be."""

    def __init__(self, config: Config, run: str, number: int) -> None:
        self.config, self.number, self.incarnation = config, number, time.time_ns()
        self.hello = messages.encode(
            messages.Hello(
                run=run,
                schema_hash=sequence_schema_hash(config),
                actor=number,
                incarnation=self.incarnation,
                lowest_unacked=0,
                next_seq=0,
            )
        )

    def sequence(self, seq: int, block: bytes) -> Frames:
        header = messages.SequenceMessage(
            incarnation=self.incarnation, seq=seq, block_bytes=len(block), crc32=zlib.crc32(block)
        )
        return [messages.encode(header), block]

    def message(self, fields: bytes) -> Frames:
        """A header of any bytes behind the version."""
        return [bytes([messages.PROTOCOL_VERSION]) + fields]


def random_bytes(_: Stranger) -> Iterator[Frames]:
    noise = random.Random(1)
    while True:
        yield [noise.randbytes(noise.randrange(1, 2000))]


def deep_nesting(stranger: Stranger) -> Iterator[Frames]:
    return itertools.repeat(stranger.message(b"\x82\xa4type\xa7goodbye\xa6reason" + b"\x91" * 16_000))


def many_parts(_: Stranger) -> Iterator[Frames]:
    return itertools.repeat([b"x"] * 3000)


def unknown_keys(stranger: Stranger) -> Iterator[Frames]:
    fields = {"type": "params_request", "newer_than": 1, **{f"key {n}": "x" * 50 for n in range(200)}}
    return itertools.repeat(stranger.message(msgspec.msgpack.encode(fields)))


def hellos(stranger: Stranger) -> Iterator[Frames]:
    return itertools.repeat([stranger.hello])


def other_hellos(stranger: Stranger) -> Iterator[Frames]:
    """Of another schema: each is refused in words."""
    hello = messages.Hello(run="other", schema_hash="", actor=0, incarnation=1, lowest_unacked=0, next_seq=0)
    return itertools.repeat([messages.encode(hello)])


def goodbyes(stranger: Stranger) -> Iterator[Frames]:
    return itertools.cycle([[stranger.hello], [messages.encode(messages.Goodbye(reason="x" * 900))]])


def params_requests(stranger: Stranger) -> Iterator[Frames]:
    yield [stranger.hello]
    yield from itertools.repeat([messages.encode(messages.ParamsRequest(newer_than=-1))])


def largest_blocks(stranger: Stranger) -> Iterator[Frames]:
    yield [stranger.hello]
    block = random.Random(1).randbytes(max_block_bytes(block_spec(stranger.config)))
    for seq in itertools.count():
        yield stranger.sequence(seq, block)


def duplicates(stranger: Stranger) -> Iterator[Frames]:
    yield [stranger.hello]
    yield from itertools.repeat(
        stranger.sequence(0, next(blocks(stranger.config, stranger.number, stranger.incarnation)))
    )


def beyond_credit(stranger: Stranger) -> Iterator[Frames]:
    yield [stranger.hello]
    for seq, block in enumerate(blocks(stranger.config, stranger.number, stranger.incarnation)):
        for _ in range(20):
            yield stranger.sequence(seq, block)


def silent(stranger: Stranger) -> Iterator[Frames]:
    yield [stranger.hello]


FLOODS: dict[str, Callable[[Stranger], Iterator[Frames]]] = {
    "random-bytes": random_bytes,
    "deep-nesting": deep_nesting,
    "many-parts": many_parts,
    "unknown-keys": unknown_keys,
    "hellos": hellos,
    "other-hellos": other_hellos,
    "goodbyes": goodbyes,
    "params-requests": params_requests,
    "largest-blocks": largest_blocks,
    "duplicates": duplicates,
    "beyond-credit": beyond_credit,
    "silent": silent,
}
OTHERS = ("identities", "endless")  # floods that are not made of messages alone


def attacker(run_dir: RunDir, config: Config, kind: str) -> None:
    """Floods until it is killed."""
    found = read_rendezvous(run_dir.rendezvous)
    assert found is not None
    (run_dir.path / f"flooding-{os.getpid()}").touch()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if kind == "identities":
        flood_with_identities(context, found)
    elif kind == "endless":
        send_endless_message(found)
    first = ACTORS
    sources: dict[zmq.Socket[bytes], Iterator[Frames]] = {}
    for number in range(first, first + (SILENT_CONNECTIONS if kind == "silent" else CONNECTIONS)):
        stranger = Stranger(config, run_dir.run_name, number)
        stream = connect(context, found, identity_of(number, stranger.incarnation))
        sources[stream] = FLOODS[kind](stranger)
    waiting: dict[zmq.Socket[bytes], Frames] = {}
    while True:
        sent = 0
        for stream, source in sources.items():
            frames = waiting.pop(stream, None) or next(source, None)
            while frames is not None:
                try:
                    stream.send_multipart(frames, zmq.DONTWAIT)
                except zmq.Again:
                    waiting[stream] = frames
                    break
                sent += 1
                frames = next(source, None) if sent % 50 else None
        if not sent:
            time.sleep(0.002)


def connect(context: zmq.Context[zmq.Socket[bytes]], found: Rendezvous, identity: bytes) -> zmq.Socket[bytes]:
    """A connection as plain as a stranger can make it."""
    stream = context.socket(zmq.DEALER)
    stream.setsockopt(zmq.LINGER, 0)
    stream.setsockopt(zmq.SNDHWM, 50)
    stream.setsockopt(zmq.IDENTITY, identity)
    stream.connect(found.endpoint)
    return stream


def flood_with_identities(context: zmq.Context[zmq.Socket[bytes]], found: Rendezvous) -> None:
    """A new connection with a new name for every few messages."""
    for number in itertools.count():
        stream = connect(context, found, b"name %d" % number)
        with contextlib.suppress(zmq.Again):
            for _ in range(20):
                stream.send(b"noise", zmq.DONTWAIT)
        time.sleep(0.002)
        stream.close(5)


def send_endless_message(found: Rendezvous) -> None:
    """One message of the wire's own framing (ZMTP 3.0, mechanism NULL) that says of each part that another follows."""
    host, port = found.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as stream:
        stream.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(48))
        stream.recv(64)
        ready = b"\5READY\x0bSocket-Type\0\0\0\6DEALER\x08Identity\0\0\0\0"
        stream.sendall(b"\4" + bytes([len(ready)]) + ready)
        part = b"\1" + bytes([200]) + bytes(200)
        while True:
            stream.sendall(part * 100)


# ---- the measurement ----


class Bench:
    """One learner with its honest actors, in processes of their own."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.run_dir = RunDir(folder, mode).create()
        config = load_config(None, [*SHAPE, f"curve={'true' if mode == 'curve' else 'false'}"])
        self.run_dir.config.write_bytes(config_to_json(config))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.said = folder / f"{mode}.log"
        self._learner = self.start("learner")
        self.start("actors")

    def start(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--role", role, "--run-dir", str(self.run_dir.path)]
        with self.said.open("ab") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def wait_for_actors(self) -> None:
        def come_through() -> bool:
            if self._learner.poll() is not None:
                raise RuntimeError(f"the learner ended:\n{self.said.read_text()[-2000:]}")
            return all(self.acknowledged_since(number, 0.0) for number in range(ACTORS))

        wait_for(come_through, "the honest actors did not come through")

    def acknowledged_since(self, number: int, since: float) -> list[float]:
        """Seconds until each of an honest actor's blocks was acknowledged."""
        with contextlib.suppress(FileNotFoundError):
            lines = acknowledged(self.run_dir, number).read_text().split("\n")[:-1]
            pairs = [tuple(map(float, line.split())) for line in lines]
            return [delay for at, delay in pairs if at >= since]
        return []

    def count(self, seconds: float) -> tuple[float, float, float]:
        """In the next `seconds`: honest blocks acknowledged a second, the 99th percentile of how many seconds that
        took, and how many CPUs the learner used."""
        since, before = time.time(), self.cpu_sec()
        time.sleep(seconds)
        delays = [delay for number in range(ACTORS) for delay in self.acknowledged_since(number, since)]
        slowest_sec = float(np.percentile(delays, 99)) if delays else float("inf")
        return len(delays) / seconds, slowest_sec, (self.cpu_sec() - before) / seconds

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self._learner.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def cpu_sec(self) -> float:
        values = Path(f"/proc/{self._learner.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

    def measure(self, kind: str, seconds: float) -> dict[str, Any]:
        quiet_rate, quiet_sec, quiet_cpus = self.count(seconds)
        before_mb, before_lines = self.memory_mb(), self.said.read_bytes().count(b"\n")
        flood = self.start(f"attacker:{kind}")
        wait_for((self.run_dir.path / f"flooding-{flood.pid}").exists, "the flood did not begin")
        time.sleep(SETTLE_SEC)
        rate, ack_sec, cpus = self.count(seconds)
        figures = {
            "flood": kind,
            # A quiet window may hold what an earlier moment was late with.
            "share": rate / min(quiet_rate, ACTORS * BLOCKS_PER_SEC) if quiet_rate else 0.0,
            "blocks_per_sec": rate,
            "ack_p99_ms": 1000 * ack_sec,
            "quiet_ack_p99_ms": 1000 * quiet_sec,
            "learner_cpus": cpus,
            "quiet_learner_cpus": quiet_cpus,
            "memory_growth_mb": self.memory_mb() - before_mb,
            "log_lines": self.said.read_bytes().count(b"\n") - before_lines,
        }
        flood.kill()
        flood.wait()
        time.sleep(SETTLE_SEC)
        return figures


def wait_for(reached: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + START_SEC
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.1)


def word(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def play_role(role: str, run_dir: RunDir) -> None:
    """What the processes of this benchmark run."""
    config = load_config(run_dir.config)
    name, _, detail = role.partition(":")
    # A benchmark that was killed leaves nobody behind.
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    if name == "learner":
        learner(run_dir, config)
    elif name == "actors":
        honest_actors(run_dir, config)
    else:
        attacker(run_dir, config, detail)


def end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement (default 10)")
    parser.add_argument("--modes", default="plain,curve", help="plain, curve or both with a comma (default)")
    parser.add_argument("--floods", nargs="+", choices=[*FLOODS, *OTHERS], default=[*FLOODS, "identities"])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        play_role(arguments.role, RunDir(arguments.run_dir.parent, arguments.run_dir.name))
        return 0
    worst = 1.0
    for mode in arguments.modes.split(","):
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(Bench(Path(folder), mode)) as bench:
            bench.wait_for_actors()
            for kind in arguments.floods:
                figures = {"mode": mode} | bench.measure(kind, arguments.seconds)
                worst = min(worst, figures["share"])
                if arguments.json:
                    print(json.dumps(figures), flush=True)
                else:
                    print("  ".join(f"{name} {word(value)}" for name, value in figures.items()), flush=True)
    return 0 if worst >= GOAL_SHARE else 1


if __name__ == "__main__":
    run_command(main)
