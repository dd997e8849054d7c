"""Another reader of our bytes: messages, sequence blocks and replay segments, as docs/wire.md and docs/run_directory.md
describe them. It uses no code of `cluster_rl`, so what it cannot read, another client could not either."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import zstandard

Arrays = dict[str, npt.NDArray[Any]]

PROTOCOL_VERSION = 5
HEADER_VALUES = (
    *("actor", "incarnation", "emulator", "episode", "first_step", "burn_in_length", "train_length", "positions"),
    *("num_actions", "context_size", "crop_side", "hidden_size", "first_prev_action", "first_prev_reward"),
    *("terminated", "segment_ended", "params_version", "epsilon", "initial_priority", "milestones", "start_tag"),
    "summary",
)


def schema_hash(config: dict[str, Any]) -> str:
    """What a `hello` says of a run's `config.json`."""
    shapes = ("unroll_length", "burn_in", "n_step", "occupancy_crop_radius", "lstm_hidden_size", "num_quantiles")
    agreed = {name: config[name] for name in (*shapes, "use_spatial_attention", "frame_skip", "model")}
    agreed["intrinsic_stream"] = config["intrinsic_gamma"] > 0 and config["rewards"]["novelty"] + config["w_rnd"] > 0
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:16]


def read_message(frames: list[bytes]) -> dict[str, Any]:
    """The fields of a message, `type` included; its raw frame, where it has one, is held against them."""
    version, fields = frames[0][0], msgpack.unpackb(frames[0][1:])
    assert version == PROTOCOL_VERSION
    if fields["type"] == "sequence":
        (block,) = frames[1:]
        assert (len(block), zlib.crc32(block)) == (fields["block_bytes"], fields["crc32"])
    elif fields["type"] == "params":
        (weights,) = frames[1:]
        assert (len(weights), hashlib.sha256(weights).hexdigest()) == (fields["size_bytes"], fields["sha256"])
    else:
        assert len(frames) == 1
    return dict(fields)


def read_weights(frame: bytes) -> Arrays:
    """The tensors of a safetensors file, as far as ours need it."""
    (length,) = struct.unpack_from("<Q", frame)
    tensors = json.loads(frame[8 : 8 + length])
    data = frame[8 + length :]
    arrays = {}
    for name, entry in tensors.items():
        assert entry["dtype"] == "F32"
        first, end = entry["data_offsets"]
        arrays[name] = np.frombuffer(data[first:end], "<f4").reshape(entry["shape"])
    return arrays


def read_block_header(block: bytes) -> dict[str, Any]:
    """Header values by name."""
    return _split_block(block)[0]


def _split_block(block: bytes) -> tuple[dict[str, Any], bytes]:
    magic, header_length = struct.unpack_from("<4sI", block)
    assert magic == b"SQ\x03\x00"
    assert struct.unpack("<I", block[-4:])[0] == zlib.crc32(block[:-4])
    header = dict(zip(HEADER_VALUES, msgpack.unpackb(block[8 : 8 + header_length]), strict=True))
    return header, block[8 + header_length : -4]


def read_block(block: bytes) -> tuple[dict[str, Any], Arrays]:
    """Header values and arrays by name; screens and masks are unpacked."""
    header, frame = _split_block(block)
    p, a, s, h = (header[name] for name in ("positions", "num_actions", "crop_side", "hidden_size"))
    layout = (
        ("screen", "u1", (p, 72, 20)),
        ("context", "u1", (p, header["context_size"])),
        ("crop", "u1", (p, 2, s, s)),
        ("mask", "u1", (p, -(-a // 8))),
        ("action", "u1", (p,)),
        ("greedy", "u1", (-(-p // 8),)),
        ("reward", "<f4", (p,)),
        ("visits", "u1", (p,)),
        ("state_h", "<f2", (h,)),
        ("state_c", "<f2", (h,)),
    )
    payload_bytes = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for _, kind, shape in layout)
    assert zstandard.frame_content_size(frame) == payload_bytes
    payload = zstandard.ZstdDecompressor().decompress(frame)
    arrays, offset = {}, 0
    for name, kind, shape in layout:
        arrays[name] = np.frombuffer(payload, kind, int(np.prod(shape)), offset).reshape(shape)
        offset += arrays[name].nbytes
    arrays["screen"] = np.stack([arrays["screen"] >> 2 * j & 3 for j in range(4)], axis=-1).reshape(p, 72, 80)
    actions = range(a)
    arrays["mask"] = np.stack([arrays["mask"][:, i // 8] >> i % 8 & 1 for i in actions], axis=-1).astype(np.bool_)
    arrays["greedy"] = np.array([arrays["greedy"][i // 8] >> i % 8 & 1 for i in range(p)], np.bool_)
    return header, arrays


def read_segment(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header of a replay segment, and its records: `id`, `actor`, `incarnation`, `seq` and `block`."""
    magic, length, crc = struct.unpack_from("<8sII", content)
    assert magic == b"CRLSEG\x04\n"
    body = content[16 : 16 + length]
    assert zlib.crc32(body) == crc
    records, offset = [], 16 + length
    while offset < len(content):
        marker, length, number, actor, incarnation, seq = struct.unpack_from("<4sIQIQQ", content, offset)
        assert marker == b"\xf1\x9eRC"
        assert struct.unpack_from("<I", content, offset + 36)[0] == zlib.crc32(content[offset : offset + 36])
        offset += 40
        block = content[offset : offset + length]
        records.append({"id": number, "actor": actor, "incarnation": incarnation, "seq": seq, "block": block})
        offset += length
    return msgpack.unpackb(body, strict_map_key=False), records
