"""Files of parts: a prefix with each part's length and checksum, then the parts. So are episode logs and start states.

Whoever writes or reads one uses it. In: parts, or a file's first bytes. Out: a file's bytes, or what its prefix says.

    prefix      magic, 8 bytes; format version; (length, crc32) of each part; crc32 of all that
    parts       one after another

Numbers are little-endian; a length has 8 bytes, all others 4. The prefix has a checksum of its own, so a file that was
cut, grew or changed is told from a whole one before anything in it is used.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from cluster_rl.runs.small_file import check_version

_START = struct.Struct("<8sI")
_PART = struct.Struct("<QI")
_CRC = struct.Struct("<I")


class PartsFormat(NamedTuple):
    """One kind of such files; `parts` is how many each has."""

    magic: bytes
    version: int
    parts: int

    @property
    def prefix_bytes(self) -> int:
        return _START.size + self.parts * _PART.size + _CRC.size

    def pack(self, *parts: bytes) -> bytes:
        """A file's bytes."""
        assert len(parts) == self.parts, len(parts)
        prefix = _START.pack(self.magic, self.version)
        prefix += b"".join(_PART.pack(len(part), zlib.crc32(part)) for part in parts)
        return b"".join((prefix, _CRC.pack(zlib.crc32(prefix)), *parts))

    def is_version(self, data: bytes) -> bool:
        """Whether bytes that begin with the magic are of this version."""
        return len(data) >= _START.size and bool(_START.unpack_from(data)[1] == self.version)

    def check_version(self, data: bytes, source: str | Path) -> None:
        """Of bytes that begin with the magic; nothing where they end before it. Raises as its namesake."""
        if len(data) >= _START.size:
            check_version(_START.unpack_from(data)[1], self.version, source)

    def table(self, prefix: bytes) -> list[tuple[int, int]] | None:
        """(length, crc32) of each part, by a whole prefix; None where that does not match its checksum."""
        end = self.prefix_bytes - _CRC.size
        if zlib.crc32(prefix[:end]) != _CRC.unpack_from(prefix, end)[0]:
            return None
        return list(_PART.iter_unpack(prefix[_START.size : end]))
