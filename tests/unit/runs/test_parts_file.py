"""Files of parts: their bytes, and that what happened to a prefix is seen."""

from __future__ import annotations

import struct
import zlib

import pytest

from cluster_rl.runs.parts_file import PartsFormat
from cluster_rl.runs.small_file import NewerFormatError, UnreadableError

FORMAT = PartsFormat(b"\x89MAGIC\r\n", version=3, parts=2)
DATA = FORMAT.pack(b"first", b"")


def test_a_file_has_these_bytes() -> None:
    prefix = struct.pack("<8sIQIQI", b"\x89MAGIC\r\n", 3, 5, zlib.crc32(b"first"), 0, 0)
    assert prefix + struct.pack("<I", zlib.crc32(prefix)) + b"first" == DATA
    assert DATA[FORMAT.prefix_bytes :] == b"first"
    assert FORMAT.table(DATA[: FORMAT.prefix_bytes]) == [(5, zlib.crc32(b"first")), (0, 0)]


def test_every_flipped_bit_of_a_prefix_is_seen() -> None:
    for bit in range(8 * FORMAT.prefix_bytes):
        prefix = bytearray(DATA[: FORMAT.prefix_bytes])
        prefix[bit // 8] ^= 1 << bit % 8
        assert FORMAT.table(bytes(prefix)) is None


def test_another_version_is_named() -> None:
    FORMAT.check_version(DATA, "x")
    FORMAT.check_version(DATA[:11], "x")  # cut short before it
    with pytest.raises(NewerFormatError, match="x: format 3, this program reads 2; use the newer program"):
        FORMAT._replace(version=2).check_version(DATA[:12], "x")
    with pytest.raises(UnreadableError, match="x: format 3, this program reads only 4"):
        FORMAT._replace(version=4).check_version(DATA, "x")
