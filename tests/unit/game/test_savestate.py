"""RAM out of savestates, and old savestates made loadable, on real states of each PyBoy that wrote another layout."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from cartridge_player import HOME, Player

from cluster_rl.cartridge import rom_bytes
from cluster_rl.errors import UserError
from cluster_rl.game import ram, savestate
from cluster_rl.game.savestate import import_state, ram_image, state_version
from cluster_rl.game.state import GameState

STATE_DIR = Path(__file__).resolve().parents[2] / "data" / "savestates"
EXPECTED = json.loads((STATE_DIR / "expected.json").read_text())
LOADABLE = [name for name, facts in EXPECTED.items() if facts["version"] <= 12 or facts["version"] == 29]
TOO_NEW = [name for name in EXPECTED if name not in LOADABLE]
REFUSED_COLOR_VERSIONS = [name for name, facts in EXPECTED.items() if facts["version"] >= 8]


def read(name: str) -> bytes:
    return zstandard.ZstdDecompressor().decompress((STATE_DIR / name).read_bytes())


def their_rom() -> bytes:
    """The cartridge as it was when the states were saved: elsewhere their program counter points at other code."""
    return read("lantern.gb.zst")


def rom_with_battery_ram() -> bytes:
    """Our cartridge with the real game's type (0x13) and 32 KiB of RAM: only the header differs."""
    rom = bytearray(rom_bytes())
    rom[0x147], rom[0x149] = 0x13, 3
    checksum = 0
    for byte in rom[0x134:0x14D]:
        checksum = (checksum - byte - 1) & 0xFF
    rom[0x14D] = checksum
    return bytes(rom)


def test_every_known_layout_has_a_state() -> None:
    versions = [facts["version"] for facts in EXPECTED.values()]
    assert set(versions) == set(savestate._LAYOUTS)
    assert len(versions) == sum(map(len, savestate._LAYOUTS.values()))


@pytest.mark.parametrize("name", EXPECTED)
def test_ram_is_what_that_release_read_itself(name: str) -> None:
    raw = read(name)
    assert state_version(raw) == EXPECTED[name]["version"]
    image = ram_image(raw)
    assert hashlib.sha256(image).hexdigest() == EXPECTED[name]["ram_sha256"]
    state = GameState(image)
    assert (state.map_id, state.x, state.y, state.player_name) == (HOME, 2, 3, "WREN")


@pytest.mark.parametrize("name", LOADABLE)
def test_imported_states_load_and_play_on(name: str) -> None:
    with Player(their_rom()) as player:
        player.load(import_state(read(name)))
        assert hashlib.sha256(player.image()).hexdigest() == EXPECTED[name]["ram_sha256"]
        player.tap("left", 8, 30)
        assert player.place() == (HOME, 1, 3)


@pytest.mark.parametrize("name", LOADABLE)
def test_a_state_goes_on_alike_whatever_was_played_before(name: str) -> None:
    """What a state leaves out, its import puts in: PyBoy would take it from where it was."""
    images = []
    for before in (None, "pyboy-2.2.1.state.zst", "pyboy-2.8.0.state.zst"):
        with Player(their_rom()) as player:
            if before is not None:
                player.load(import_state(read(before)))
            player.load(import_state(read(name)))
            player.run(5)
            images.append(player.image())
    assert images[0] == images[1] == images[2]


@pytest.mark.parametrize("line", [0, 20, 143, 144, 153, 255])
@pytest.mark.parametrize("lcd_is_on", [True, False])
def test_a_line_of_version_7_is_where_the_lcd_goes_on(line: int, lcd_is_on: bool) -> None:
    """None below the screen is taken for one of it: PyBoy would draw it beyond its memory."""
    old = bytearray(read("pyboy-1.4.7.state.zst"))
    old[8_375] = line
    old[8_370] = old[8_370] & 0x7F | 0x80 * lcd_is_on
    new = import_state(bytes(old))
    assert new[0] == 8
    clock, until = (int.from_bytes(new[at : at + 8], "little") for at in (8_388, 8_396))
    mode, transition = new[8_404:8_406]
    assert transition == 0
    assert 0 <= clock < until <= 154 * 456
    if not lcd_is_on:
        assert (clock, until) == (0, 154 * 456)
    elif line < 144:
        assert (clock, until, mode) == (456 * line, 456 * line + 80, 3)
    else:
        assert (clock, until, mode) == (456 * min(line, 153), 456 * min(line, 153) + 456, 1)
    with Player(their_rom()) as player:
        file = io.BytesIO(new)
        player.pyboy.load_state(file)
        assert file.tell() == len(new)
        player.run(3)


@pytest.mark.parametrize("name", LOADABLE)
def test_the_picture_in_a_state_is_the_one_that_is_drawn_next(name: str) -> None:
    """Nothing moves in these states."""
    with Player(their_rom()) as player:
        player.load(import_state(read(name)))
        at_once = player.pyboy.screen.ndarray.copy()
        player.pyboy.tick(3, True, False)
        assert (at_once == player.pyboy.screen.ndarray).all()
        assert len(np.unique(at_once[:, :, 0])) == 4


@pytest.mark.parametrize("name", [name for name in LOADABLE if EXPECTED[name]["version"] in range(8, 13)])
def test_without_the_import_pyboy_refuses(name: str) -> None:
    """Why the import is there. Without it the file ends a byte too soon."""
    with Player(their_rom()) as player, pytest.raises(BaseException, match="No data"):
        player.load(read(name))


@pytest.mark.parametrize("name", TOO_NEW)
def test_states_that_cannot_be_loaded_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"PyBoy 2\.8\.1 cannot load states of PyBoy 2\.5 to 2\.7"):
        import_state(read(name))


def test_states_of_the_pinned_pyboy_are_left_alone() -> None:
    with Player() as player:
        raw = player.save()
        image = player.image()
    assert raw[0] == savestate.PINNED_VERSION
    assert import_state(raw) is raw
    assert ram_image(raw) == image


@pytest.mark.parametrize(
    "options", [{"sound_emulated": True}, {"sound_sample_rate": 24_000}, {"sound_sample_rate": 44_100}]
)
def test_the_sound_buffer_moves_the_ram(options: dict[str, object]) -> None:
    with Player(**options) as player:  # type: ignore[arg-type]
        assert ram_image(player.save()) == player.image()


def test_battery_ram_follows_the_ram() -> None:
    with Player(rom_with_battery_ram()) as player:
        raw = player.save()
        assert len(raw) == len(read("pyboy-2.8.0.state.zst")) + 3 * 0x2000
        assert ram_image(raw) == player.image()


def test_color_states_are_refused() -> None:
    with Player(cgb=True) as player:
        raw = player.save()
    with pytest.raises(UserError, match="Game Boy Color"):
        ram_image(raw)
    for name in REFUSED_COLOR_VERSIONS:
        old = bytearray(read(name))
        old[5 if old[0] >= 16 else 4] = 1
        with pytest.raises(UserError, match="Game Boy Color"):
            import_state(bytes(old))


@pytest.mark.parametrize("read_state", [ram_image, import_state])
def test_empty_files_are_refused(read_state) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="the file is empty"):
        read_state(b"")


@pytest.mark.parametrize("version", [0, 6, 13, 16, 18, 28, 30, 255])
def test_unknown_versions_are_refused(version: int) -> None:
    raw = bytes([version]) + read("pyboy-2.8.0.state.zst")[1:]
    for read_state in (ram_image, import_state):
        with pytest.raises(UserError, match=f"version {version} is unknown"):
            read_state(raw)


@pytest.mark.parametrize("name", EXPECTED)
def test_truncated_files_are_refused(name: str) -> None:
    raw = read(name)
    missing = [10, 100, 10_000, len(raw) // 2, len(raw) - 9_156, len(raw) - 9_000, len(raw) - 5, len(raw) - 1]
    if name != "pyboy-2.7.0.state.zst":  # less a byte it has the length of 2.6, which shares its version
        missing.append(1)
    for count in missing:
        with pytest.raises(UserError, match=r"cut off|damaged"):
            ram_image(raw[:-count])
        with pytest.raises(UserError, match=r"cut off|damaged"):
            import_state(raw[:-count])


def test_files_with_much_behind_them_are_refused() -> None:
    with pytest.raises(UserError, match="cut off or damaged"):
        ram_image(read("pyboy-2.8.0.state.zst") + bytes(1_000))


@pytest.mark.parametrize("raw", [b"not a savestate", b"\x1d" * 153_524, bytes(153_524), b"PK\x03\x04" + bytes(99)])
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(UserError):
        ram_image(raw)


def test_a_damaged_sound_buffer_is_refused() -> None:
    raw = bytearray(read("pyboy-2.8.0.state.zst"))
    at = savestate._LAYOUTS[29][0].samples_at
    for samples in (0, 2**63, 9_000):
        raw[at : at + 8] = samples.to_bytes(8, "little")
        with pytest.raises(UserError, match="sound buffer"):
            ram_image(bytes(raw))
    raw[at : at + 8] = (805).to_bytes(8, "little")  # one sample more than there is
    with pytest.raises(UserError, match="cut off or damaged"):
        ram_image(bytes(raw))


def test_image_holds_wram_and_hram() -> None:
    assert len(ram_image(read("pyboy-1.4.7.state.zst"))) == ram.IMAGE_BYTES
