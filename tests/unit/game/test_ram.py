"""Addresses, image layout and live ranges."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster_rl.game import ram
from cluster_rl.game.state import GameState
from cluster_rl.game.text import TILE_CURSOR, decode
from cluster_rl.game.world import World


def test_image_covers_wram_then_hram() -> None:
    assert ram.IMAGE_BYTES == 0x207F
    assert [ram.image_index(a) for a in (0xC000, 0xDFFF, 0xFF80, 0xFFFE)] == [0, 0x1FFF, 0x2000, 0x207E]


@pytest.mark.parametrize("address", [0xBFFF, 0xE000, 0xFF7F, 0xFFFF])
def test_addresses_outside_the_image_are_refused(address: int) -> None:
    with pytest.raises(ValueError, match=f"{address:04X}"):
        ram.image_index(address)


def test_live_ranges_are_sorted_apart_and_small() -> None:
    assert all(start < stop for start, stop in ram.LIVE_RANGES)
    assert all(one[1] < other[0] for one, other in pairwise(ram.LIVE_RANGES))
    # A byte costs about 50 ns of every step, a range about 800.
    assert sum(stop - start for start, stop in ram.LIVE_RANGES) < 1_700
    assert len(ram.LIVE_RANGES) < 25


def test_everything_a_state_reads_is_live() -> None:
    """Each property of GameState, and each condition of both worlds, reads only inside the live ranges."""

    class Watched(bytes):
        """An image that remembers which of its indices were read."""

        def __new__(cls) -> Watched:
            image = bytearray(b"\xff" * ram.IMAGE_BYTES)  # lists as long as they can be, and an open menu
            at = ram.image_index(ram.wMenuCursorLocation)
            image[at : at + 2] = ram.wTileMap.to_bytes(2, "little")
            image[ram.image_index(ram.wTileMap)] = TILE_CURSOR
            watched = super().__new__(cls, bytes(image))
            watched.read = set()
            return watched

        read: set[int]

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            self.read |= set(range(ram.IMAGE_BYTES)[key]) if isinstance(key, slice) else {key}
            return super().__getitem__(key)

    image = Watched()
    state = GameState(image)
    for name in dir(GameState):
        getattr(state, name)
    assert state.menu is not None
    state.events_set()
    for index in range(256):
        state.has_missable(index)
    for world in (World.red(), World.cartridge()):
        world.describe(state)
        for milestone in world.milestones:
            milestone.condition.holds(state)
    live = {ram.image_index(a) for start, stop in ram.LIVE_RANGES for a in range(start, stop)}
    assert image.read <= live
    # And little that nobody reads is copied: only what lies between neighbouring fields.
    assert len(live - image.read) < 100


def test_text_decodes_letters_digits_and_marks() -> None:
    raw = bytes([0x80, 0x99, 0xA0, 0xB9, 0x7F, 0xF6, 0xFF, 0xE7, 0xE0, 0xEE, 0x03, 0x50, 0x80])
    assert decode(raw) == "AZaz 09!'▼~"
