"""One Game Boy: buttons in, picture and RAM out. The only module that drives PyBoy.

Actor processes, the replayer and `debug_rollout` use it. A state and a list of steps give the same bytes again, on any
machine with the same PyBoy: no sound, no clock, no files, and no button outlives its step.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cluster_rl.emulator import snapshot
from cluster_rl.emulator.script import Input, Script, Write
from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.rom import Rom

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDL package announces itself, and nothing here opens a window
    from pyboy import PyBoy
    from pyboy.core import ram as pyboy_ram
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


def _live_mask() -> npt.NDArray[np.uint8]:
    """0xFF for each byte of WRAM that a live image holds, 0 for the others; no HRAM is live."""
    mask = np.zeros(ram.WRAM_BYTES, np.uint8)
    for start, stop in ram.LIVE_RANGES:
        mask[start - ram.WRAM_START : stop - ram.WRAM_START] = 0xFF
    return mask


_LIVE_MASK = _live_mask()
_MAP_AT, _X_AT, _Y_AT = (address - ram.WRAM_START for address in (ram.wCurMap, ram.wXCoord, ram.wYCoord))


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
        self.reward = 0.0
        """What the game's own environment paid for the last step; 0 but where there is one, see `puffer_env`."""
        self.ended = False
        """Whether that environment ended the episode in it."""
        try:
            with _made_by_pyboy() as arrays:
                self._pyboy = self._make_pyboy()
        except PyBoyException as error:
            raise UserError(f"ROM {rom.path or rom.title}: PyBoy cannot run it: {error}") from None
        self._pyboy.set_emulation_speed(0)
        self._memory = self._pyboy.memory
        self._wram = _find_wram(arrays, self._memory)
        self._wram_bytes = self._wram.data
        self._pixels = self._pyboy.screen.ndarray  # uint8 [144, 160, 4], a live view
        # Every second pixel of every second row, in the lowest byte of the two that it is the first of.
        self._every_second = self._pixels.reshape(144, -1).view(np.uint64)[::2]  # [72, 80]
        self._live = np.zeros(ram.IMAGE_BYTES, np.uint8)
        self._open = True

    def _make_pyboy(self, kind: type[PyBoy] = PyBoy, symbols: str | None = None) -> PyBoy:
        # The cartridge's RAM is a buffer of ours: PyBoy would else read and write a file beside the ROM.
        return kind(
            io.BytesIO(self.rom.data),
            window="null",
            sound_emulated=False,
            ram_file=io.BytesIO(bytes(max(self.rom.cartridge_ram_bytes, 0x8000))),
            cgb=False,
            log_level="CRITICAL",
            symbols=symbols,
        )

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

    def perform(self, script: Script, on_frame: Callable[[Frame], None] | None = None) -> None:
        """Does again what a step's script says, and so comes to the same state.

        With `on_frame`, `frame_skip` frames are handed over, as for any step: of a longer step every so many-th one, so
        that what its scripts do is seen in fast motion. Raises `UserError` for a snapshot that does not fit.
        """
        total, done = script.frames, 0
        for deed in script.deeds:
            if isinstance(deed, Write):
                self._memory[deed.address : deed.address + len(deed.data)] = deed.data
            elif isinstance(deed, Input):
                self._pyboy.send_input(deed.event, deed.delay_frames)
            elif on_frame is None:
                self._pyboy.tick(deed.count, True, False)
            else:
                for frame in range(done, done + deed.count):
                    shown = (frame + 1) * self.frame_skip // total - frame * self.frame_skip // total
                    self._pyboy.tick(1, shown > 0, False)
                    for _ in range(shown):
                        on_frame(self.rgb())
                done += deed.count
        if script.snapshot:
            # What is pressed stays so, as it did then.
            self._load(script.snapshot, "the snapshot in a step")

    def script(self) -> bytes:
        """The last step as a packed `Script`; empty where its button says all of it."""
        return b""

    def idle(self, frames: int) -> None:
        """Runs for some frames with no button, and draws the last."""
        if frames > 0:
            self._pyboy.tick(frames, True, False)

    def hold(self, buttons: Iterable[str], frames: int) -> None:
        """Holds several buttons together for some frames, SELECT among them if need be, and lets them go."""
        for button in buttons:
            self._pyboy.button_press(button)
        self.idle(frames)
        for event in _RELEASE_ALL:
            self._pyboy.send_input(event)

    def screen(self) -> npt.NDArray[np.uint8]:
        """Every second pixel of the picture as shades, uint8 [72, 80]: 0 the lightest, 3 the darkest."""
        shades: npt.NDArray[np.uint8] = self._every_second.astype(np.uint8)  # on words, half again as fast as bytes
        np.invert(shades, out=shades)
        shades >>= 6
        return shades

    def rgb(self) -> Frame:
        """The picture, uint8 [144, 160, 3]."""
        picture: Frame = self._pixels[:, :, :3].copy()
        return picture

    def image(self) -> bytes:
        """RAM image with only `ram.LIVE_RANGES` filled in: what `GameState` reads."""
        np.bitwise_and(self._wram, _LIVE_MASK, out=self._live[: ram.WRAM_BYTES])
        return self._live.tobytes()

    def full_image(self) -> bytes:
        """RAM image with every byte."""
        return self._wram.tobytes() + bytes(self._memory[ram.HRAM_START : ram.HRAM_STOP])

    def ram_hash(self) -> int:
        """64-bit hash of the full RAM image."""
        return int.from_bytes(hashlib.blake2b(self.full_image(), digest_size=8).digest(), "little")

    def position(self) -> tuple[int, int, int]:
        """(map id, x, y) of the player."""
        wram = self._wram_bytes
        return wram[_MAP_AT], wram[_X_AT], wram[_Y_AT]

    def save(self) -> bytes:
        """The whole state as a stamped snapshot; 25-60 ms, so not for every step."""
        buffer = io.BytesIO()
        self._pyboy.save_state(buffer)
        return snapshot.pack(buffer.getvalue(), self.rom)

    def load(self, data: bytes, source: str = "snapshot") -> None:
        """Goes to a snapshot's state, with all buttons let go before the next frame; 6-15 ms.

        Raises `UserError` where it does not fit the ROM or the installed PyBoy; the console is then in no useful state.
        """
        self._load(data, source)
        for event in _RELEASE_ALL:
            self._pyboy.send_input(event)

    def _load(self, data: bytes, source: str) -> None:
        state = snapshot.unpack(data, self.rom, source)
        buffer = io.BytesIO(state)
        try:
            self._pyboy.load_state(buffer)
        except PyBoyException as error:
            raise UserError(f"{source}: PyBoy cannot load it ({error}); was it made with another ROM?") from None
        if buffer.tell() != len(state):
            raise UserError(f"{source}: {len(state) - buffer.tell()} bytes too long; was it made with another ROM?")

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


@contextmanager
def _made_by_pyboy() -> Iterator[list[array[int]]]:
    """The arrays that PyBoy makes for RAM in a console that is made meanwhile.

    PyBoy hands out RAM one byte at a time, so reading what `GameState` needs would take a tenth as long as the emulated
    step itself. Its arrays can be read whole, but it keeps them to itself, so they are caught where it makes them.
    """
    made: list[array[int]] = []

    def make(*arguments: Any) -> array[int]:
        made.append(array(*arguments))
        return made[-1]

    pyboy_ram.array = make
    try:
        yield made
    finally:
        pyboy_ram.array = array


def _find_wram(arrays: list[array[int]], memory: Any) -> npt.NDArray[np.uint8]:
    """A live view of the one of PyBoy's arrays that is WRAM.

    Raises RuntimeError where none follows what is written to WRAM's addresses: PyBoy then is not the version that this
    module was written for.
    """
    for wram in (made for made in arrays if len(made) == ram.WRAM_BYTES):
        last = memory[ram.WRAM_STOP - 1]
        memory[ram.WRAM_STOP - 1] = last ^ 0xFF
        follows = wram[-1] == last ^ 0xFF
        memory[ram.WRAM_STOP - 1] = last
        if follows:
            return np.frombuffer(wram, np.uint8)
    raise RuntimeError("PyBoy's work RAM was not found; is another PyBoy installed than the package asks for?")
