"""Bytes made wrong: by what disks and strangers do to any bytes, and by what can be wrong inside JSON and msgpack."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgpack

Form = Literal["json", "msgpack", "plain"]

MAX_BYTES = 1 << 20
_NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1),
    *(0.0, -0.0, 1.7e308, -1.7e308, 5e-324, float("inf"), float("-inf"), float("nan")),
)
_VALUES: tuple[Any, ...] = (*_NUMBERS, None, True, False, "", "x" * 5000, "\0", "é\u2028😀", [], {}, [[]], b"\xff\xfe")
_NAMES = ("type", "", "format", "x" * 300, "__class__", "$", "value", "é")
# What parsers stumble over: depth, bytes that are no text, numbers without an end, lengths without content.
_TOKENS: tuple[bytes, ...] = (
    *(b"[" * 3000, b'{"a":' * 3000, b"\x91" * 3000, b"\x81\xa1a" * 3000, b"- " * 3000, b"&a [*a]"),
    *(b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\0", b"\r\n", b"\xef\xbb\xbf", b"9" * 6000, b"1e999999", b"NaN"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xd9\xff", b"\xc1"),
    *(
        b"\xff" * 8,
        b"\x7f" + b"\xff" * 7,
        b"\0" * 8,
        b"\x28\xb5\x2f\xfd",
        b"'",
        b'"',
        b"$(x)",
        b"`",
        b"!!python/name:os",
    ),
)


def mutate(data: bytes, chance: random.Random, form: Form = "plain", others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to four things wrong; `others` are spliced in."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        if form != "plain" and chance.random() < 0.5:
            data = _mutate_tree(data, chance, form)
        else:
            data = chance.choice(_OF_BYTES)(data, chance, others)
        data = data[:MAX_BYTES]
    return data


def _flip(data: bytes, chance: random.Random, _others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 7, 7))  # the last spoils text
    return bytes(changed)


def _overwrite(data: bytes, chance: random.Random, _others: Sequence[bytes]) -> bytes:
    """A byte, or a little-endian number of up to eight, as lengths and counts are."""
    number = chance.choice([value for value in _NUMBERS if isinstance(value, int) and value >= 0])
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(len(data) + 1)
    return data[:at] + struct.pack("<Q", number)[:size] + data[at + size :]


def _truncate(data: bytes, chance: random.Random, _others: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _cut_out(data: bytes, chance: random.Random, _others: Sequence[bytes]) -> bytes:
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def _repeat(data: bytes, chance: random.Random, _others: Sequence[bytes]) -> bytes:
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:last] * chance.choice((1, 1, 2, 50)) + data[last:]


def _insert(data: bytes, chance: random.Random, _others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice((*_TOKENS, chance.randbytes(chance.randrange(1, 40)))) + data[at:]


def _splice(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others) if others else data
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


_OF_BYTES: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    *(_flip, _flip, _flip, _insert, _insert, _overwrite, _truncate, _cut_out, _repeat, _splice),
)


def _mutate_tree(data: bytes, chance: random.Random, form: Form) -> bytes:
    """One value, name or level of what the bytes hold is another; bytes that hold nothing stay as they are."""
    try:
        tree = json.loads(data) if form == "json" else msgpack.unpackb(data, strict_map_key=False)
        changed = _change(tree, chance)
        return json.dumps(changed, default=repr).encode() if form == "json" else bytes(msgpack.packb(changed))
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException):
        return data


def _change(tree: Any, chance: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    ahead = [tree]
    while ahead and len(places) < 2000:
        node = ahead.pop()
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key))
            if isinstance(value, dict | list):
                ahead.append(value)
    if not isinstance(tree, dict | list) or not places or chance.random() < 0.03:
        return chance.choice(_VALUES)
    node, key = chance.choice(places)
    match chance.randrange(6):
        case 0 | 1 | 2:
            node[key] = chance.choice(_VALUES)
        case 3:
            del node[key]
        case 4 if isinstance(node, dict):
            node[chance.choice(_NAMES)] = chance.choice(_VALUES)
        case 4:
            node.extend([node[key]] * chance.choice((1, 300)))
        case _:
            other_node, other_key = chance.choice(places)
            node[key] = other_node.get(other_key) if isinstance(other_node, dict) else None
    return tree
