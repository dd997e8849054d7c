"""What was done to an emulator within one step, where a button alone does not say it: the step's script.

`PufferConsole` writes one for each step, episode logs keep them, `Console.perform` does one again. In and out: a
`Script`, or its bytes (msgpack). Another project's environment presses, waits and writes RAM within a step. All of that
passes PyBoy's own functions in a known order, so that doing the same again gives the same bytes, with no snapshot and
nothing of that project. What is written while the emulator runs (by a hook, in the middle of a frame) cannot be placed
so: such a step's script ends with a snapshot.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cluster_rl.runs.small_file import decode_msgpack

MAX_FRAMES = 1 << 20
"""Nearly five hours."""
_Bytes = Annotated[bytes, msgspec.Meta(max_length=1 << 16)]


class Frames(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The emulator ran for so many frames."""

    count: Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAMES)]


class Input(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A button went down or up: PyBoy's number of that event, and after how many frames it comes."""

    event: Annotated[int, msgspec.Meta(ge=1, le=16)]
    delay_frames: Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAMES)]


class Write(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Bytes were written from this address on, one after another."""

    address: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    data: _Bytes


class Script(msgspec.Struct, frozen=True, array_like=True):
    """One step: what was done in order, what the environment paid for it, and the state after it where the rest does
    not lead there (else empty)."""

    deeds: list[Frames | Input | Write]
    reward: float
    snapshot: bytes = b""

    @property
    def frames(self) -> int:
        """How many frames the step took."""
        return sum(deed.count for deed in self.deeds if isinstance(deed, Frames))


def pack_script(script: Script) -> bytes:
    """Its bytes."""
    return msgspec.msgpack.encode(script)


def unpack_script(data: bytes, source: str) -> Script:
    """The inverse. Raises `UserError` for bytes that are no script."""
    return decode_msgpack(data, Script, source)
