"""What a file is that was given for a ROM or a savestate and is neither, by its first bytes and its length.

`rom.py` and the readers of savestates ask, once a file is not what they want. In: its bytes. Out: what it is
and what to do with it, in words.
"""

from __future__ import annotations

HOW_TO_MAKE_A_STATE = (
    "make a savestate: python -m cluster_rl.start_state --rom ROM OUT.state plays to the first room; in PyBoy's window "
    "the key Z writes one anywhere"
)

MOST_ROM_BYTES = 0x800000
_HEADER_END = 0x150
# The battery-backed RAM that a Game Boy cartridge can have; emulators with a clock append 44 or 48 bytes.
_BATTERY_BYTES = (0x200, 0x800, 0x2000, 0x8000, 0x10000, 0x20000)
_CLOCK_BYTES = (0, 44, 48)

_UNPACK = "unpack it, and give the file in it"
_OPENINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (b"PK\x05\x06", "a ZIP archive with nothing in it", "get it again"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x1f\x8b", "packed by gzip", "unpack it (gzip -d), and give the file in it"),
    (b"\xfd7zXZ\0", "packed by xz", "unpack it (xz -d), and give the file in it"),
    (b"BZh", "packed by bzip2", "unpack it (bzip2 -d), and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it (zstd -d), and give the file in it"),
    (b"PATCH", "an IPS patch", "apply it to its ROM, and give the patched ROM"),
    (b"BPS1", "a BPS patch", "apply it to its ROM, and give the patched ROM"),
    (b"UPS1", "a UPS patch", "apply it to its ROM, and give the patched ROM"),
    (b"NES\x1a", "a ROM of the NES", "give a Game Boy ROM (.gb)"),
    (b"\x89PNG", "a PNG picture (mGBA's savestates are such)", ""),
    (b"GIF8", "a GIF picture", ""),
    (b"\xff\xd8\xff", "a JPEG picture", ""),
    (b"%PDF", "a PDF", ""),
    (b"\x7fELF", "a program for Linux", ""),
    (b"MZ", "a program for Windows", ""),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with: git lfs pull"),
    (b"\x89GBSNAP", "a savestate of this program", "it is for --initial_state or --state"),
    (b"\x89EPLOG", "an episode log", "python -m cluster_rl.start_state --from LOG --step N makes a savestate of it"),
)


def other_kind(data: bytes) -> str:
    """`it is a ZIP archive; unpack it, ...` for a file of a kind that is known; empty for any other.

    It says nothing of Game Boy ROMs and battery saves: whether those are wrong depends on what was asked for.
    """
    for opening, name, hint in _OPENINGS:
        if data.startswith(opening):
            return _said(name, hint)
    if data[4:8] == b"ftyp":
        return _said("an MP4 video", "")
    if _is_advance_rom(data):
        return _said("a ROM of the Game Boy Advance", "give one of the original Game Boy (.gb)")
    if not data:
        return _said("empty", "get it again")
    if _is_text(data):
        page = data.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))
        return _said("a web page" if page else "a text file", "the download failed; get it again" if page else "")
    return ""


def is_rom(data: bytes) -> bool:
    """Whether the bytes are a whole Game Boy ROM: its header's checksum holds, and its length is what that says."""
    return header_holds(data) and len(data) == stated_bytes(data)


def header_holds(data: bytes) -> bool:
    """The boot ROM's own check over 0x134-0x14C; false for what is too short for a header."""
    if len(data) < _HEADER_END:
        return False
    total = 0
    for byte in data[0x134:0x14D]:
        total = (total - byte - 1) & 0xFF
    return total == data[0x14D]


def stated_bytes(data: bytes) -> int:
    """The ROM's length in bytes by its header, which must be there; 0 where that says nothing known."""
    return 0x8000 << data[0x148] if data[0x148] <= 8 else 0


def is_battery_save(data: bytes) -> bool:
    """Whether the length is that of a cartridge's battery-backed RAM, which emulators keep as .sav, .srm or .ram."""
    return any(len(data) == size + clock for size in _BATTERY_BYTES for clock in _CLOCK_BYTES)


def not_a_savestate(data: bytes) -> str:
    """What was given in a savestate's place, and how one is made; empty where it may be one."""
    if is_rom(data):
        return f"it is a Game Boy ROM, which --rom takes; {HOW_TO_MAKE_A_STATE}"
    kind = other_kind(data)
    if kind:
        return kind
    if is_battery_save(data):
        return (
            f"it is as long as a battery save, the game's own file, and that is no running game; {HOW_TO_MAKE_A_STATE}"
        )
    return ""


def _said(name: str, hint: str) -> str:
    return f"it is {name}" + (f"; {hint}" if hint else "")


def _is_advance_rom(data: bytes) -> bool:
    """It begins with an ARM branch, 0xB2 is 0x96, and 0xBD checks 0xA0-0xBC."""
    marked = len(data) >= 0xC0 and data[3] == 0xEA and data[0xB2] == 0x96
    return marked and data[0xBD] == (-sum(data[0xA0:0xBD]) - 0x19) & 0xFF


def _is_text(data: bytes) -> bool:
    """Whether it begins with nothing but text: no control characters besides blanks."""
    beginning = data[:512]
    if not beginning.strip() or any(byte < 0x20 and byte not in b"\t\n\r\f" for byte in beginning):
        return False
    try:
        beginning.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # cut within a letter
    return True
