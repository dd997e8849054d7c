"""One Game Boy: buttons in, picture and RAM out. The only module that drives PyBoy.

Actor processes, the replayer and `debug_rollout` use it. A state and a list of steps give the same bytes again, on any
machine with the same PyBoy: no sound, no clock, no files, and no button outlives its step.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from cluster_rl.buttons import BUTTONS
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.rom import Rom
from cluster_rl.errors import UserError
from cluster_rl.game import ram

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDL package announces itself, and nothing here opens a window
    from pyboy import PyBoy
    from pyboy.utils import PyBoyException, WindowEvent

__all__ = ["BUTTONS", "BUTTON_HELD_FRAMES", "SCREEN_SHAPE", "Console", "live_check"]

SCREEN_SHAPE = (72, 80)
BUTTON_HELD_FRAMES = 8
"""A shorter press can fall between two polls of the game; a longer one walks two cells."""

BOOT_FRAMES = 120
"""Enough for the boot ROM (64 frames) and for the embedded cartridge to read its first button."""

Frame = npt.NDArray[np.uint8]

_EVENT_NAMES = tuple(("BUTTON_" if name in ("a", "b", "start") else "ARROW_") + name.upper() for name in BUTTONS)
_PRESS = tuple(getattr(WindowEvent, f"PRESS_{name}") for name in _EVENT_NAMES)
_RELEASE = tuple(getattr(WindowEvent, f"RELEASE_{name}") for name in _EVENT_NAMES)
_RELEASE_ALL = (*_RELEASE, WindowEvent.RELEASE_BUTTON_SELECT)
_LIVE_SLICES = tuple(
    (ram.image_index(start), ram.image_index(stop - 1) + 1, start, stop) for start, stop in ram.LIVE_RANGES
)


def live_check(image: bytes) -> int:
    """16-bit check of a live image; episode logs hold one for each step."""
    return zlib.crc32(image) & 0xFFFF


class Console:
    """An emulator with a ROM in it. A context manager; `close` it when done.

    `frame_skip` is the number of frames of one step, more than `BUTTON_HELD_FRAMES`. Raises `UserError` for a ROM that
    PyBoy cannot run.
    """

    def __init__(self, rom: Rom, frame_skip: int) -> None:
        if frame_skip <= BUTTON_HELD_FRAMES:
            raise UserError(f"frame_skip: must be more than {BUTTON_HELD_FRAMES}, not {frame_skip}")
        self.rom = rom
        self.frame_skip = frame_skip
        try:
            # The cartridge's RAM is a buffer of ours: PyBoy would else read and write a file beside the ROM.
            self._pyboy = PyBoy(
                io.BytesIO(rom.data),
                window="null",
                sound_emulated=False,
                ram_file=io.BytesIO(bytes(max(rom.cartridge_ram_bytes, 0x8000))),
                cgb=False,
                log_level="CRITICAL",
            )
        except PyBoyException as error:
            raise UserError(f"ROM {rom.path or rom.title}: PyBoy cannot run it: {error}") from None
        self._pyboy.set_emulation_speed(0)
        self._memory = self._pyboy.memory
        self._pixels = self._pyboy.screen.ndarray  # uint8 [144, 160, 4], a live view
        self._live = bytearray(ram.IMAGE_BYTES)
        self._open = True

    def boot(self) -> None:
        """Runs a fresh console until the game reads buttons."""
        self.idle(BOOT_FRAMES)

    def step(self, button: int | None, on_frame: Callable[[Frame], None] | None = None) -> None:
        """One step: the button (an index into `BUTTONS`, None for no button) is held, then let go for the rest.

        With `on_frame`, every frame is drawn and handed over as uint8 [144, 160, 3]; the emulated state is the same.
        """
        if button is not None:
            self._pyboy.send_input(_PRESS[button])
        self._tick(BUTTON_HELD_FRAMES, False, on_frame)
        # Released in the same step: PyBoy keeps a delayed release over a load, so it would leak into another timeline.
        if button is not None:
            self._pyboy.send_input(_RELEASE[button])
        self._tick(self.frame_skip - BUTTON_HELD_FRAMES, True, on_frame)

    def idle(self, frames: int) -> None:
        """Runs for some frames with no button, and draws the last."""
        if frames > 0:
            self._pyboy.tick(frames, True, False)

    def screen(self) -> npt.NDArray[np.uint8]:
        """Every second pixel of the picture as shades, uint8 [72, 80]: 0 the lightest, 3 the darkest."""
        shades: npt.NDArray[np.uint8] = np.invert(self._pixels[::2, ::2, 0])
        shades >>= 6
        return shades

    def rgb(self) -> Frame:
        """The picture, uint8 [144, 160, 3]."""
        picture: Frame = self._pixels[:, :, :3].copy()
        return picture

    def image(self) -> bytes:
        """RAM image with only `ram.LIVE_RANGES` filled in: what `GameState` reads, at a fifth of the cost."""
        live, memory = self._live, self._memory
        for low, high, start, stop in _LIVE_SLICES:
            live[low:high] = memory[start:stop]
        return bytes(live)

    def full_image(self) -> bytes:
        """RAM image with every byte, about 0.4 ms."""
        memory = self._memory
        return bytes(memory[ram.WRAM_START : ram.WRAM_STOP]) + bytes(memory[ram.HRAM_START : ram.HRAM_STOP])

    def ram_hash(self) -> int:
        """64-bit hash of the full RAM image."""
        return int.from_bytes(hashlib.blake2b(self.full_image(), digest_size=8).digest(), "little")

    def position(self) -> tuple[int, int, int]:
        """(map id, x, y) of the player."""
        memory = self._memory
        return memory[ram.wCurMap], memory[ram.wXCoord], memory[ram.wYCoord]

    def save(self) -> bytes:
        """The whole state as a stamped snapshot; 25-60 ms, so not for every step."""
        buffer = io.BytesIO()
        self._pyboy.save_state(buffer)
        return snapshot.pack(buffer.getvalue(), self.rom)

    def load(self, data: bytes, source: str = "snapshot") -> None:
        """Goes to a snapshot's state, with all buttons let go before the next frame; 6-15 ms.

        Raises `UserError` where it does not fit the ROM or the installed PyBoy; the console is then in no useful state.
        """
        state = snapshot.unpack(data, self.rom, source)
        buffer = io.BytesIO(state)
        try:
            self._pyboy.load_state(buffer)
        except PyBoyException as error:
            raise UserError(f"{source}: PyBoy cannot load it ({error}); was it made with another ROM?") from None
        if buffer.tell() != len(state):
            raise UserError(f"{source}: {len(state) - buffer.tell()} bytes too long; was it made with another ROM?")
        for event in _RELEASE_ALL:
            self._pyboy.send_input(event)

    def close(self) -> None:
        """Frees the emulator; writes nothing. A second call does nothing."""
        if self._open:
            self._open = False
            self._pyboy.stop(save=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tick(self, frames: int, draw_last: bool, on_frame: Callable[[Frame], None] | None) -> None:
        if on_frame is None:
            self._pyboy.tick(frames, draw_last, False)
            return
        for _ in range(frames):
            self._pyboy.tick(1, True, False)
            on_frame(self.rgb())
