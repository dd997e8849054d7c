"""ROM checks, snapshots and the console, on the embedded cartridge in the real emulator."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard

from cluster_rl import rom as rom_module
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.console import Console, live_check
from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.savestate import PINNED_VERSION, import_state
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rom import RED_SHA1, Rom, load_rom, preflight

FRAME_SKIP = 24
ROM = load_rom("")


@pytest.fixture(scope="module")
def console() -> Iterator[Console]:
    with Console(ROM, FRAME_SKIP) as console:
        console.boot()
        yield console


@pytest.fixture(scope="module")
def booted(console: Console) -> bytes:
    return console.save()


def raw_state(console: Console) -> bytes:
    buffer = io.BytesIO()
    console._pyboy.save_state(buffer)
    return buffer.getvalue()


def run(console: Console, start: bytes, steps: int = 40) -> list[int]:
    """RAM hash after each of some steps that press all buttons in turn, and none."""
    console.load(start)
    hashes = []
    for number in range(steps):
        console.step([*range(len(BUTTONS)), None][number % 8])
        hashes.append(console.ram_hash())
    return hashes


# ROM


def test_embedded_cartridge() -> None:
    assert ROM.kind == "cartridge"
    assert ROM.sha1 == hashlib.sha1(ROM.data).hexdigest()
    assert load_rom(str(Path(rom_module.cartridge.rom_path()))).kind == "cartridge"
    line = preflight(ROM)
    assert ROM.sha1 in line
    assert "PyBoy 2.8.1" in line
    assert f"savestate version {PINNED_VERSION}" in line
    assert "\n" not in line


@pytest.mark.parametrize("world", rom_module.cartridge.world_names())
def test_embedded_worlds_by_name(world: str) -> None:
    rom = load_rom(world)
    assert (rom.kind, rom.data) == ("cartridge", rom_module.cartridge.rom_bytes(world))
    assert World.for_rom(rom.sha1).title == rom.title
    assert world != rom_module.cartridge.SMALL or rom.data == ROM.data


def test_keys_held_together_are_let_go() -> None:
    with Console(ROM, 24) as console:
        console.boot()
        console.hold(("a", "select", "left", "b"), 4)
        assert console.full_image()[ram.image_index(0xFFF8)] == 0x27
        console.idle(2)
        assert console.full_image()[ram.image_index(0xFFF8)] == 0


def test_rom_kinds(tmp_path: Path) -> None:
    changed = bytearray(ROM.data)
    changed[0x4000] ^= 1  # beyond the header, so that its checksum still holds
    path = tmp_path / "other.gb"
    path.write_bytes(changed)
    assert load_rom(str(path)).kind == "unknown"
    assert rom_module._kind(RED_SHA1) == "red"


def text_file(data: bytes) -> bytes:
    return b"This is a text file, not a game. " * 2000


def bad_header(data: bytes) -> bytes:
    return data[:0x134] + bytes([data[0x134] ^ 1]) + data[0x135:]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[:0x8000], "cut short"),
        (lambda data: data + b"\0", "padded"),
        (lambda data: b"", "it is empty"),
        (text_file, "not a Game Boy ROM"),
        (bad_header, "not a Game Boy ROM"),
    ],
)
def test_bad_roms_are_refused(tmp_path: Path, spoil: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "bad.gb"
    path.write_bytes(spoil(ROM.data))
    with pytest.raises(UserError, match=words) as error:
        load_rom(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_rom_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_rom(str(tmp_path / "none.gb"))
    with pytest.raises(UserError, match="folder"):
        load_rom(str(tmp_path))


# Console


def test_same_start_and_steps_give_the_same_bytes(console: Console, booted: bytes) -> None:
    first = run(console, booted)
    assert len(set(first)) == len(first)  # the game does move, so equality below means something
    assert run(console, booted) == first
    with Console(ROM, FRAME_SKIP) as other:
        other.idle(333)  # a past of its own
        assert run(other, booted) == first


def test_the_same_bytes_in_another_process(console: Console, booted: bytes, tmp_path: Path) -> None:
    (tmp_path / "start").write_bytes(booted)
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
        "from test_console import *; start = Path(sys.argv[1]).read_bytes();"
        "c = Console(ROM, FRAME_SKIP); print(json.dumps(run(c, start, 20)))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "start"), str(Path(__file__).parent)]
    output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert json.loads(output.splitlines()[-1]) == run(console, booted, 20)


def test_drawing_every_frame_changes_nothing(console: Console, booted: bytes) -> None:
    frames: list[np.ndarray] = []
    states = []
    for on_frame in (None, frames.append):
        console.load(booted)
        for number in range(12):
            console.step(number % 7, on_frame)
        states.append(console.save())
    assert states[0] == states[1]
    assert len(frames) == 12 * FRAME_SKIP
    assert {frame.shape for frame in frames} == {(144, 160, 3)}
    assert len({frame.tobytes() for frame in frames}) > 20  # copies, each of its own moment


def test_screen_is_shades_of_every_second_pixel(console: Console, booted: bytes) -> None:
    console.load(booted)
    console.step(None)
    screen, rgb = console.screen(), console.rgb()
    assert (screen.shape, screen.dtype) == ((72, 80), np.uint8)
    brightness = np.sort(np.unique(rgb))[::-1]
    expected = np.searchsorted(-brightness.astype(int), -rgb[::2, ::2, 0].astype(int))
    assert len(brightness) == 4
    np.testing.assert_array_equal(screen, expected)


def test_picture_comes_back_with_a_load(console: Console, booted: bytes) -> None:
    console.load(booted)
    console.step(None)
    rgb, state = console.rgb(), console.save()
    console.step(BUTTONS.index("start"))
    assert not np.array_equal(console.rgb(), rgb)
    console.load(state)
    np.testing.assert_array_equal(console.rgb(), rgb)


def test_images_and_hash(console: Console, booted: bytes) -> None:
    console.load(booted)
    live, full = console.image(), console.full_image()
    assert len(live) == len(full) == ram.IMAGE_BYTES
    in_range = np.zeros(ram.IMAGE_BYTES, bool)
    for start, stop in ram.LIVE_RANGES:
        in_range[ram.image_index(start) : ram.image_index(stop - 1) + 1] = True
    live_bytes, full_bytes = np.frombuffer(live, np.uint8), np.frombuffer(full, np.uint8)
    np.testing.assert_array_equal(live_bytes[in_range], full_bytes[in_range])
    assert not live_bytes[~in_range].any()
    assert full_bytes[~in_range].any()
    assert full == bytes(console._memory[a] for a in (*range(0xC000, 0xE000), *range(0xFF80, 0xFFFF)))
    assert console.ram_hash() == int.from_bytes(hashlib.blake2b(full, digest_size=8).digest(), "little")
    assert 0 <= live_check(live) <= 0xFFFF
    assert live_check(live) != live_check(live[:-1] + b"\1")
    assert console.position() == (full[0xD35E - 0xC000], full[0xD362 - 0xC000], full[0xD361 - 0xC000])


def test_images_follow_the_emulator(console: Console, booted: bytes) -> None:
    def addressed(one: Console) -> bytes:
        return bytes(one._memory[ram.WRAM_START : ram.WRAM_STOP])

    console.load(booted)
    with Console(console.rom, 24) as other:  # whose RAM must not be taken for the first one's
        images = set()
        for step in range(30):
            console.step(step % len(BUTTONS))
            images.add(console.image())
            live, full = console.image(), console.full_image()
            assert full[: ram.WRAM_BYTES] == addressed(console)
            assert GameState(live).tile_map == GameState(full).tile_map
        assert len(images) > 1
        assert other.full_image()[: ram.WRAM_BYTES] == addressed(other) != addressed(console)
        other.load(console.save())
        assert other.image() == console.image()
        console.load(booted)
        assert other.image() != console.image()
        assert console.full_image()[: ram.WRAM_BYTES] == addressed(console)


def test_a_button_held_in_a_state_is_let_go_by_load(console: Console, booted: bytes) -> None:
    console.load(booted)
    before = console.position()
    console._pyboy.send_input(rom_press("left"))
    console.idle(1)
    held = raw_state(console)
    # What a plain load of PyBoy would do: the button is still down and the player walks on.
    console._pyboy.load_state(io.BytesIO(held))
    console.idle(40)
    assert console.position() != before
    console.load(snapshot.pack(held, ROM))
    console.idle(40)
    moved = console.position()
    console.idle(40)
    assert console.position() == moved  # at most the step begun in that frame


def rom_press(button: str) -> int:
    from cluster_rl.emulator import console as console_module

    return console_module._PRESS[BUTTONS.index(button)]


def test_nothing_is_written_beside_the_rom(tmp_path: Path) -> None:
    path = tmp_path / "game.gb"
    path.write_bytes(ROM.data)
    with Console(load_rom(str(path)), FRAME_SKIP) as console:
        console.boot()
        console.step(0)
    console.close()  # a second time does nothing
    assert [p.name for p in tmp_path.iterdir()] == ["game.gb"]


def test_frame_skip_must_leave_frames_without_the_button() -> None:
    with pytest.raises(UserError, match="frame_skip"):
        Console(ROM, 8)


# Snapshots


def test_snapshot_comes_back_whole(console: Console, booted: bytes) -> None:
    console.load(booted)
    state = raw_state(console)
    packed = snapshot.pack(state, ROM)
    assert snapshot.unpack(packed, ROM) == state
    assert len(packed) < len(state) / 5
    header = snapshot.read_header(packed)
    assert (header.rom_sha1, header.state_version, header.pyboy_version) == (ROM.sha1, PINNED_VERSION, "2.8.1")


def other_rom(data: bytes) -> Rom:
    changed = bytearray(data)
    changed[0x4000] ^= 1
    return Rom(bytes(changed), hashlib.sha1(changed).hexdigest(), "unknown", "OTHER", "other.gb")


def test_snapshot_of_another_rom_is_refused(console: Console, booted: bytes) -> None:
    with pytest.raises(UserError, match="made for the ROM"):
        snapshot.unpack(booted, other_rom(ROM.data))
    state = snapshot.unpack(booted, ROM)
    old = snapshot.pack(bytes([PINNED_VERSION - 1]) + state[1:], ROM)
    with pytest.raises(UserError, match=f"savestate version {PINNED_VERSION - 1}"):
        console.load(old)


@pytest.mark.parametrize("length", [0, 5, 11, 40, 400, -1])
def test_cut_snapshot_is_refused(console: Console, booted: bytes, length: int) -> None:
    with pytest.raises(UserError, match=r"damaged|not a snapshot"):
        console.load(booted[:length])


def test_savestate_of_another_cartridge_size_is_refused(console: Console, booted: bytes) -> None:
    state = snapshot.unpack(booted, ROM)
    for wrong, words in ((state + bytes(0x6000), "too long"), (state[:-0x100], "cannot load")):
        with pytest.raises(UserError, match=words):
            console.load(snapshot.pack(wrong, ROM))
    console.load(booted)


def test_a_stamped_state_of_version_7_is_completed_as_it_is_loaded() -> None:
    """Snapshots from before such states were completed hold one as it was."""
    path = Path(__file__).resolve().parents[2] / "data" / "savestates" / "pyboy-1.4.7.state.zst"
    old = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    stamped = snapshot.pack(old, ROM)
    assert snapshot.unpack(stamped, None) == old
    assert snapshot.unpack(stamped, ROM) == import_state(old) != old


def test_savestate_files(console: Console, booted: bytes, tmp_path: Path) -> None:
    ours, raw, bad = (tmp_path / name for name in ("ours.snap", "raw.state", "bad.state"))
    ours.write_bytes(booted)
    raw.write_bytes(snapshot.unpack(booted, ROM))
    for path in (ours, raw):
        console.load(snapshot.load_savestate_file(str(path), ROM), str(path))
        assert console.position() == (37, 3, 3)
    for data in (b"", bytes([15]) + bytes(1000), bytes([PINNED_VERSION + 1]) + bytes(1000), b"text, no state at all"):
        bad.write_bytes(data)
        with pytest.raises(UserError, match=r"bad\.state"):
            snapshot.load_savestate_file(str(bad), ROM)
    with pytest.raises(UserError, match="cannot be read"):
        snapshot.load_savestate_file(str(tmp_path / "none"), ROM)
