"""Golden bytes of the wire and the replay log: a reader of its own finds in them what we put there, our encoders still
make them, and docs/wire.md names every field. A change of format fails here before it meets an older peer or log."""

from __future__ import annotations

import json
import re
import typing
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import wire_golden
import zmq
import zstandard
from wire_reader import (
    HEADER_VALUES,
    PROTOCOL_VERSION,
    read_block,
    read_message,
    read_segment,
    read_weights,
    schema_hash,
)

from cluster_rl.config import config_to_json, load_config, sequence_schema_hash
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.wire import messages
from cluster_rl.wire.codec import Refusal, SequenceHeader
from cluster_rl.wire.events import Event, SequenceReceived
from cluster_rl.wire.learner_channel import LearnerChannel

TODAY = wire_golden.files()
GOLDEN = {name: (wire_golden.FOLDER / name).read_bytes() for name in TODAY}
DOC = (Path(__file__).resolve().parents[3] / "docs" / "wire.md").read_text(encoding="utf-8")
CONFIG = load_config("slim_cpu")
INCARNATION = 1_700_000_000_123_456_789

FIELDS: dict[str, dict[str, Any]] = {
    "hello": {
        "run": "red-1",
        "schema_hash": "0123456789abcdef",
        "actor": 3,
        "incarnation": INCARNATION,
        "lowest_unacked": 5,
        "next_seq": 9,
    },
    "sequence": {
        "incarnation": INCARNATION,
        "seq": 300,
        "block_bytes": len(GOLDEN["sequence-block.bin"]),
        "crc32": zlib.crc32(GOLDEN["sequence-block.bin"]),
    },
    "params_request": {"newer_than": -1},
    "actor_stats": {"env_steps_per_sec": 812.5, "params_version": 70_000, "values": {"masked": 0.25}},
    "goodbye": {"reason": "Zeit um – fini"},
    "welcome": {
        "learner_incarnation": INCARNATION + 1,
        "incarnation": INCARNATION,
        "expected_seq": 5,
        "may_send_up_to": 69,
        "params_version": -1,
    },
    "ack": {"incarnation": INCARNATION, "next_seq": 9, "may_send_up_to": 73},
    "params": {
        "version": 12,
        "updates": 12,
        "size_bytes": 140,
        "sha256": "7846c4caa38e31bf47531f48131d913ada6d68be1084884a69ed4b45b372100b",
    },
    "params_unchanged": {"version": 12},
    "stop": {"reason": "target_total_steps reached", "complete": True},
    "wait": {"reason": "another process plays as actor 3"},
    "refused": {"reason": "a newer process runs actor 3"},
}
RAW_FRAMES = {"sequence": ["sequence-block.bin"], "params": ["params-weights.bin"]}
LAST_HEADER = {
    "actor": 3,
    "incarnation": INCARNATION,
    "emulator": 1,
    "episode": 5,
    "first_step": 2,
    "burn_in_length": 1,
    "train_length": 2,
    "positions": 4,
    "num_actions": 9,
    "context_size": 5,
    "crop_side": 3,
    "hidden_size": 3,
    "first_prev_action": 6,
    "first_prev_reward": 0.125,
    "terminated": True,
    "segment_ended": True,
    "params_version": 12,
    "epsilon": 0.4,
    "initial_priority": 2.5,
    "milestones": ["LEFT_HOME", "FERN_BADGE"],
    "start_tag": "archive",
    "summary": {
        "episode_steps": 4,
        "episode_return": 3.5,
        "terms": {"event": 3.0, "step": 0.5},
        "milestones": [["TALKED_ELDER", 2], ["LEFT_HOME", 3], ["FERN_BADGE", 4]],
        "final_map": 12,
        "reason": "terminated",
        "seed": 77,
        "start": {"id": "0123456789abcdef", "tag": "archive", "milestones": ["LEFT_SCHOOL"]},
        "cells": 3,
        "loop_share": 0.25,
        "entropy": 1.5,
    },
}


@pytest.mark.parametrize("name", TODAY)
def test_our_encoders_make_the_same_bytes(name: str) -> None:
    if name in wire_golden.HOLD_ZSTD and zstandard.ZSTD_VERSION != wire_golden.ZSTD_VERSION:
        pytest.skip(f"made with zstd {wire_golden.ZSTD_VERSION}, which may compress to other bytes than this one")
    assert TODAY[name] == GOLDEN[name]


def test_there_is_a_golden_message_of_each_type_and_no_other_file() -> None:
    unions = (messages.ActorMessage, messages.LearnerMessage)
    tags = {kind.__struct_config__.tag for union in unions for kind in typing.get_args(union)}
    assert tags == FIELDS.keys()
    assert {path.name for path in wire_golden.FOLDER.iterdir()} == TODAY.keys()
    assert TODAY.keys() - {f"{tag}.bin" for tag in tags} == {"sequence-block.bin", "params-weights.bin", "segment.bin"}


@pytest.mark.parametrize("tag", FIELDS)
def test_messages(tag: str) -> None:
    frames = [GOLDEN[name] for name in (f"{tag}.bin", *RAW_FRAMES.get(tag, []))]
    assert read_message(frames) == {"type": tag, **FIELDS[tag]}
    # And msgpack writes what we write.
    assert bytes([PROTOCOL_VERSION]) + msgpack.packb({"type": tag, **FIELDS[tag]}) == GOLDEN[f"{tag}.bin"]


def test_weights() -> None:
    weights = read_weights(GOLDEN["params-weights.bin"])
    assert {name: array.tolist() for name, array in weights.items()} == {
        "weight": [[1.5, -2.0]],
        "bias": [float(np.float32(0.1))],
    }


@pytest.mark.parametrize("source", [GOLDEN, TODAY], ids=["golden", "today"])
def test_sequence_block(source: dict[str, bytes]) -> None:
    header, arrays = read_block(source["sequence-block.bin"])
    assert header == LAST_HEADER
    shades = [[[(p + x + y // 3) % 4 for x in range(80)] for y in range(72)] for p in range(4)]
    assert arrays["screen"].tolist() == shades
    assert arrays["context"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    assert arrays["crop"].shape == (4, 2, 3, 3)
    assert arrays["crop"].reshape(-1).tolist() == list(range(100, 172))
    assert [np.flatnonzero(row).tolist() for row in arrays["mask"]] == [[0, 8], [1, 8], [2, 8], [3, 8]]
    assert arrays["mask"].shape == (4, 9)
    assert arrays["action"].tolist() == [8, 1, 2, 0]
    assert arrays["greedy"].tolist() == [True, False, True, False]
    assert arrays["visits"].tolist() == [1, 0, 255, 0]
    assert arrays["reward"].tolist() == [0.5, -0.25, float(np.float32(1e-3)), 0.0]
    assert (arrays["state_h"].tolist(), arrays["state_c"].tolist()) == ([1.5, -2.0, 0.25], [-0.5, 8.0, 65504.0])


@pytest.mark.parametrize("source", [GOLDEN, TODAY], ids=["golden", "today"])
def test_replay_segment(source: dict[str, bytes]) -> None:
    header, records = read_segment(source["segment.bin"])
    assert header == {
        "owner": "run-id",
        "spec": {
            "unroll_length": 2,
            "burn_in": 1,
            "n_step": 1,
            "num_actions": 9,
            "context_size": 5,
            "crop_side": 3,
            "hidden_size": 3,
        },
        "before": {
            "env_steps": 2,
            "sequences": 1,
            "episodes": 0,
            "gaps": 0,
            "next_id": 1,
            "milestones": {},
            "next_seq": {3: {INCARNATION: 1}},
            "frontiers": {3: {INCARNATION: {1: [5, 2]}}},
            "milestones_elsewhere": {"TALKED_ELDER": 2},
            "quests": {},
            "quests_counted_by": [0, 0.0, []],
        },
    }
    block = source["sequence-block.bin"]
    assert records == [{"id": 1, "actor": 3, "incarnation": INCARNATION, "seq": 2, "block": block}]


def first_column(head: str) -> list[str]:
    """The names in the first column of the page's table whose first column is headed so."""
    table = DOC[DOC.index(f"\n| {head} | ") + 1 :].split("\n\n")[0]
    return re.findall(r"\w+", " ".join(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)))


def test_the_page_names_every_field() -> None:
    rows = re.findall(r"^\| (?:actor|learner) \| `(\w+)` \| (.*?) \|", DOC, re.MULTILINE)
    fields = {tag: re.sub(r"\([^)]*\)", "", names).replace(" ", "").split(",") for tag, names in rows}
    assert fields == {tag: list(values) for tag, values in FIELDS.items()}
    assert first_column("header value") == list(HEADER_VALUES) == list(SequenceHeader.__struct_fields__)
    assert first_column("key") == list(LAST_HEADER["summary"]) == list(EpisodeSummary.__struct_fields__)
    assert first_column("array") == list(read_block(GOLDEN["sequence-block.bin"])[1])
    assert first_column("kind") == list(typing.get_args(Refusal))
    assert f"protocol version (now {messages.PROTOCOL_VERSION})" in DOC


def test_a_client_of_its_own_joins_and_delivers() -> None:
    """Nothing of ours on its side but what the page says, and `config.json`."""
    learner = LearnerChannel("127.0.0.1", "red-1", sequence_schema_hash(CONFIG), total_actors=4, overdraft=0)
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.ROUTING_ID, f"actor-3-{INCARNATION}".encode())
    socket.connect(learner.endpoint)

    def send(tag: str, *frames: bytes, **fields: Any) -> list[Event]:
        header = bytes([PROTOCOL_VERSION]) + msgpack.packb({"type": tag, **fields})
        socket.send_multipart([header, *frames])
        return learner.poll(5000)

    def receive() -> dict[str, Any]:
        assert socket.poll(5000), "no answer"
        return read_message(socket.recv_multipart())

    try:
        schema = schema_hash(json.loads(config_to_json(CONFIG)))
        hello = {"actor": 3, "incarnation": INCARNATION, "lowest_unacked": 0, "next_seq": 1}
        send("hello", run="red-1", schema_hash=schema, **hello)
        assert receive()["type"] == "welcome"
        assert receive()["type"] == "ack"
        block = GOLDEN["sequence-block.bin"]
        numbers = {"incarnation": INCARNATION, "seq": 0, "block_bytes": len(block), "crc32": zlib.crc32(block)}
        assert send("sequence", block, **numbers) == [SequenceReceived(3, INCARNATION, 0, block)]
        learner.acknowledge(3, INCARNATION, 1, 9)
        assert receive() == {"type": "ack", "incarnation": INCARNATION, "next_seq": 1, "may_send_up_to": 9}
        learner.set_params(7, GOLDEN["params-weights.bin"], updates=7)
        send("params_request", newer_than=-1)
        assert receive()["version"] == 7
        assert learner.bad_messages == learner.refused == 0
    finally:
        socket.close(0)
        context.term()
        learner.close()
