"""PyBoy savestates as bytes: the RAM in them, and older ones made loadable by the pinned PyBoy.

Commands that look into a savestate use it, and the emulator before loading one. In: the bytes of a savestate file. Out:
a RAM image (see `ram.py`), or the bytes to load. It needs neither PyBoy nor the ROM.

A savestate has no magic number, no lengths and no checksum: its first byte is its version, and everything else lies
where that version put it. The places below were measured on states of the embedded cartridge made by each release, by
comparing with what that release read from its memory; tests hold them against such states.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.file_kinds import not_a_savestate

PINNED_PYBOY = "2.8.1"
PINNED_VERSION = 29

_RAM_BANK_BYTES = 0x2000
_MOST_RAM_BANKS = 16
# What cartridges with a clock or another mapper than MBC3 add at the end.
_MAPPER_EXTRA_BYTES = 64
# Between WRAM and HRAM a state holds 0xFEA0-0xFEFF and 0xFF00-0xFF4B.
_WRAM_TO_HRAM_BYTES = ram.WRAM_BYTES + 0x60 + 0x4C
_FIRST_SOUND_VERSION = 14
_MOST_SAMPLES_PER_FRAME = 8192


class _Layout(NamedTuple):
    """One release's layout of an original Game Boy's state.

    `wram` is WRAM's offset, without the sound buffer where there is one; `tail_bytes` is what follows HRAM, without
    the cartridge's RAM. The sound buffer's length follows from the 64-bit number of samples a frame at `samples_at`.
    """

    wram: int
    tail_bytes: int
    samples_at: int = 0


_LAYOUTS: dict[int, tuple[_Layout, ...]] = {
    7: (_Layout(101_261, 66),),  # PyBoy 1.4
    8: (_Layout(101_285, 66),),  # 1.5.0-1.5.5
    9: (_Layout(101_285, 66),),  # 1.5.6-1.6
    10: (_Layout(124_325, 66),),  # 2.0-2.2.1
    11: (_Layout(124_325, 66),),  # 2.2.2-2.3
    12: (_Layout(124_341, 74),),  # 2.4
    14: (_Layout(124_697, 82, 9_152),),  # 2.5
    15: (_Layout(124_697, 118, 9_152), _Layout(124_698, 118, 9_152)),  # 2.6; 2.7.0 under the same number
    17: (_Layout(124_701, 67, 9_155),),  # 2.7.1
    PINNED_VERSION: (_Layout(124_784, 10_447, 9_169),),  # 2.8
}

# These versions left out one byte of the LCD's state that the pinned PyBoy reads; zero is its value at rest.
_MISSING_BYTE_AT = {8: 8_405, 9: 8_405, 10: 8_405, 11: 9_125, 12: 9_141}
# Version 7 left out more: at what point of a frame the LCD is. PyBoy then goes on from where it was itself, and a line
# that it takes for one of the screen, while the state is past the last of them, is drawn beyond the end of its memory.
_CPU_7, _CPU_END_7, _LCDC_7, _LY_7, _LCD_END_7 = 2, 18, 8_370, 8_375, 8_381
_LCD_ON = 0x80
_SCREEN_LINES, _LINES = 144, 154
_LINE_CYCLES = 456
# These wrote a pixel as four bytes (one that is no colour, blue, green, red), and the others red first. Until a frame
# is drawn, the picture is the one in the state.
_PICTURE_TURNED = (7, 8, 9)
_PICTURE_BYTES = 4 * 144 * 160  # right before WRAM, in these versions
_LOADABLE = (7, *_MISSING_BYTE_AT, PINNED_VERSION)


def state_version(state: bytes) -> int:
    """The version of a savestate, its first byte. Raises UserError for an empty file."""
    if not state:
        raise UserError("savestate: the file is empty; save it again in PyBoy")
    return state[0]


def ram_image(state: bytes) -> bytes:
    """WRAM and HRAM, 0x207F bytes, of a savestate of the versions 7 to 29 that PyBoy was released with.

    Raises UserError for an empty, truncated or foreign file and for states of Game Boy Color games.
    """
    wram = _find_wram(state)
    hram = wram + _WRAM_TO_HRAM_BYTES
    return state[wram : wram + ram.WRAM_BYTES] + state[hram : hram + ram.HRAM_BYTES]


def import_state(state: bytes) -> bytes:
    """The bytes that the pinned PyBoy loads: as they are (version 29), or completed and with the picture as it has it
    (8-12, and 7 as version 8).

    Raises UserError for other versions and for what `ram_image` refuses.
    """
    version = state_version(state)
    wram = _find_wram(state)
    if version not in _LOADABLE:
        raise UserError(
            f"savestate of version {version}: PyBoy {PINNED_PYBOY} cannot load states of PyBoy 2.5 to 2.7; "
            f"make it again with PyBoy {PINNED_PYBOY}"
        )
    if version in _PICTURE_TURNED:
        picture = wram - _PICTURE_BYTES
        state = state[:picture] + _turned(state[picture:wram]) + state[wram:]
    if version in _MISSING_BYTE_AT:
        at = _MISSING_BYTE_AT[version]
        state = state[:at] + b"\0" + state[at:]
    return _as_version_8(state) if version == 7 else state


def _as_version_8(state: bytes) -> bytes:
    """A state of version 7 with what version 8 has besides: the original Game Boy, no interrupt that waits, and the
    LCD's clock by its line, at the line's start."""
    line = min(state[_LY_7], _LINES - 1)
    clock, until, mode = _LINE_CYCLES * line, _LINE_CYCLES * (line + 1), 1
    if not state[_LCDC_7] & _LCD_ON:
        clock, until, mode = 0, _LINE_CYCLES * _LINES, 2
    elif line < _SCREEN_LINES:
        until, mode = clock + 80, 3
    lcd = bytes(2) + clock.to_bytes(8, "little") + until.to_bytes(8, "little") + bytes((mode, 0))
    head = bytes((8, state[1])) + bytes(3) + state[_CPU_7:_CPU_END_7] + bytes(2)
    return head + state[_CPU_END_7:_LCD_END_7] + lcd + state[_LCD_END_7:]


def _turned(pixels: bytes) -> bytes:
    """Pixels of four bytes, red last, as red, green, blue and full opacity."""
    turned = bytearray(len(pixels))
    for channel in range(3):
        turned[channel::4] = pixels[3 - channel :: 4]
    turned[3::4] = b"\xff" * (len(pixels) // 4)
    return bytes(turned)


def _find_wram(state: bytes) -> int:
    """The offset of WRAM, after checking that the file's length is one that its version can have."""
    version = state_version(state)
    kind = not_a_savestate(state)
    if kind:
        raise UserError(f"not a savestate: {kind}")
    if version not in _LAYOUTS:
        known = ", ".join(map(str, _LAYOUTS))
        raise UserError(f"savestate: version {version} is unknown (known: {known}); is it a PyBoy savestate?")
    _refuse_color(state, version)
    fits = []
    for layout in _LAYOUTS[version]:
        wram = layout.wram + _sound_buffer_bytes(state, version, layout)
        rest = len(state) - wram - _WRAM_TO_HRAM_BYTES - ram.HRAM_BYTES - layout.tail_bytes
        banks, extra = divmod(rest, _RAM_BANK_BYTES)
        if 0 <= banks <= _MOST_RAM_BANKS and extra <= _MAPPER_EXTRA_BYTES:
            fits.append((extra, wram))
    if not fits:
        raise UserError(
            f"savestate of version {version}: {len(state)} bytes is no length of such a file; it is cut off or damaged"
        )
    return min(fits)[1]


def _sound_buffer_bytes(state: bytes, version: int, layout: _Layout) -> int:
    if version < _FIRST_SOUND_VERSION:
        return 0
    samples_per_frame = int.from_bytes(state[layout.samples_at : layout.samples_at + 8], "little")
    if not 0 < samples_per_frame <= _MOST_SAMPLES_PER_FRAME:
        raise UserError(f"savestate of version {version}: it is damaged (its sound buffer has an impossible length)")
    return (samples_per_frame + 1) * 2


def _refuse_color(state: bytes, version: int) -> None:
    """States since version 8 tell whether the emulator ran as a Game Boy Color; those have more RAM."""
    flag_at = 5 if version >= 16 else 4
    if version >= 8 and state[flag_at : flag_at + 1] not in (b"", b"\0"):
        raise UserError("savestate: it was made in Game Boy Color mode; make it again as an original Game Boy")
