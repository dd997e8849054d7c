"""A file that is no ROM, or no savestate, is told by what it is; the files are made by the programs that make such."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import zstandard

from cluster_rl import cartridge, debug_rollout
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.snapshot import load_savestate_file, unpack
from cluster_rl.errors import UserError
from cluster_rl.rom import MOST_ROM_BYTES, load_rom

ROM = cartridge.rom_bytes()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("game.gb", ROM)
    return file.getvalue()


def video() -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1:s=160x144"]
    command += ["-f", "mp4", "-movflags", "frag_keyframe+empty_moov", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def advance_rom() -> bytes:
    """As the Game Boy Advance's own start-up code checks it."""
    data = bytearray(0x200)
    data[3], data[0xA0:0xAC], data[0xB2] = 0xEA, b"SOMETITLE\0\0\0", 0x96
    data[0xBD] = (-sum(data[0xA0:0xBD]) - 0x19) & 0xFF
    return bytes(data) + bytes(0x400000)


def raw_state() -> bytes:
    with Console(load_rom(""), 24) as console:
        console.boot()
        return unpack(console.save(), None)


def noise(size: int) -> bytes:
    return np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "game.zip": (zipped, "a ZIP archive; unpack it"),
    "game.7z": (lambda: b"7z\xbc\xaf\x27\x1c\0\4" + noise(40_000), "a 7z archive; unpack it"),
    "game.gz": (lambda: gzip.compress(ROM), "packed by gzip"),
    "game.xz": (lambda: lzma.compress(ROM), "packed by xz"),
    "game.bz2": (lambda: bz2.compress(ROM), "packed by bzip2"),
    "game.zst": (lambda: zstandard.compress(ROM), "packed by zstd"),
    "replay.mp4": (video, "an MP4 video"),
    "notes.txt": (lambda: "Pokémon Red, bought in 1999\n".encode() * 40, "a text file"),
    "red.gb.html": (lambda: b"\n<!DOCTYPE html><html>404 Not Found</html>", "a web page; the download failed"),
    "red-lfs.gb": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "hack.ips": (lambda: b"PATCH" + noise(2000) + b"EOF", "an IPS patch; apply it"),
    "hack.bps": (lambda: b"BPS1" + noise(2000), "a BPS patch; apply it"),
    "game.gba": (advance_rom, "a ROM of the Game Boy Advance"),
    "game.nes": (lambda: b"NES\x1a" + noise(0x8000), "a ROM of the NES"),
    "empty.gb": (lambda: b"", "empty"),
}
AS_ROM = KINDS | {
    "red.sav": (lambda: bytes(0x8000), "as long as a battery save"),
    "crystal.sav": (lambda: noise(0x8000 + 48), "as long as a battery save"),
    "red.state": (raw_state, "a savestate of PyBoy"),
    "film.bin": (lambda: noise(MOST_ROM_BYTES + 5000), f"more than {MOST_ROM_BYTES} bytes"),
    "short.gb": (lambda: ROM[:0x8000], "cut short"),
    "noise.gb": (lambda: noise(5000), "no header whose checksum holds"),
}
AS_STATE = KINDS | {
    "red.sav": (lambda: bytes(0x8000), "battery save"),
    "red.srm": (lambda: b"\x1d" + noise(0x7FFF), "battery save"),  # a savestate's version comes first in it
    "game.gb": (lambda: ROM, "a Game Boy ROM, which --rom takes"),
}


@pytest.mark.parametrize("name", AS_ROM)
def test_given_as_a_rom(name: str, tmp_path: Path) -> None:
    make, words = AS_ROM[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(UserError) as error:
        load_rom(str(path))
    assert f"ROM {path}: " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("name", AS_STATE)
def test_given_as_a_savestate(name: str, tmp_path: Path) -> None:
    make, words = AS_STATE[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(UserError) as error:
        load_savestate_file(str(path), load_rom(""))
    with pytest.raises(UserError) as decoding:
        debug_rollout.main(["--steps", "0", "--state", str(path)])
    for text in (str(error.value), str(decoding.value)):
        assert str(path) in text
        assert words in text
        if name in ("red.sav", "red.srm", "game.gb"):
            assert "python -m cluster_rl.start_state --rom ROM OUT.state" in text


def test_a_snapshot_of_ours_given_as_a_rom(tmp_path: Path) -> None:
    path = tmp_path / "start.state"
    with Console(load_rom(""), 24) as console:
        path.write_bytes(console.save())
    with pytest.raises(UserError, match=r"a savestate of this program; it is for --initial_state"):
        load_rom(str(path))
