"""Where the game keeps its state: addresses, the layout of a RAM image, and the ranges a live image holds.

Any process reads it; nothing goes in or out. Names are those of the public disassembly of Pokémon Red; the embedded
cartridge keeps its state at the same places. A RAM image is WRAM 0xC000-0xDFFF followed by HRAM 0xFF80-0xFFFE.
"""

from __future__ import annotations

from typing import Final

WRAM_START: Final = 0xC000
WRAM_STOP: Final = 0xE000
HRAM_START: Final = 0xFF80
HRAM_STOP: Final = 0xFFFF
WRAM_BYTES: Final = WRAM_STOP - WRAM_START
HRAM_BYTES: Final = HRAM_STOP - HRAM_START
IMAGE_BYTES: Final = WRAM_BYTES + HRAM_BYTES  # 0x207F

# Sprites: 16 records of 16 bytes, the player first.
wSpriteStateData1: Final = 0xC100
SPRITE_RECORD_BYTES: Final = 16
SPRITE_SLOTS: Final = 16

# The picture as tile numbers: 18 rows of 20.
wTileMap: Final = 0xC3A0
TILE_COLUMNS: Final = 20
TILE_ROWS: Final = 18
TILE_MAP_BYTES: Final = TILE_COLUMNS * TILE_ROWS

# Menus and text. All but wFontLoaded keep their last values after a menu or box closes.
wTopMenuItemY: Final = 0xCC24
wTopMenuItemX: Final = 0xCC25
wCurrentMenuItem: Final = 0xCC26
wMaxMenuItem: Final = 0xCC28
wMenuWatchedKeys: Final = 0xCC29
wMenuCursorLocation: Final = 0xCC30  # 2 bytes, little endian
wListScrollOffset: Final = 0xCC36
wListMenuID: Final = 0xCF94
wFontLoaded: Final = 0xCFC4
wTextBoxID: Final = 0xD125

# Who controls the player.
wSimulatedJoypadStatesIndex: Final = 0xCD38
wJoyIgnore: Final = 0xCD6B
wWalkCounter: Final = 0xCFC5
wTileInFrontOfPlayer: Final = 0xCFC6
wIgnoreInputCounter: Final = 0xD13A

# Battle.
wBattleResult: Final = 0xCF0B
wEnemyMon: Final = 0xCFE5
wIsInBattle: Final = 0xD057
wCurOpponent: Final = 0xD059
wBattleType: Final = 0xD05A

# The player.
wPlayerName: Final = 0xD158
PLAYER_NAME_BYTES: Final = 11
wPartyCount: Final = 0xD163
wPartyMons: Final = 0xD16B
PARTY_MON_BYTES: Final = 44
PARTY_SLOTS: Final = 6
wPokedexOwned: Final = 0xD2F7
wPokedexSeen: Final = 0xD30A
DEX_BYTES: Final = 19
wNumBagItems: Final = 0xD31D
wBagItems: Final = 0xD31E
BAG_SLOTS: Final = 20
wPlayerMoney: Final = 0xD347
wObtainedBadges: Final = 0xD356
wPlayTimeHours: Final = 0xDA41
wPlayTimeMinutes: Final = 0xDA43
wPlayTimeSeconds: Final = 0xDA44

# The map.
wMapPalOffset: Final = 0xD35D  # 6 while the map is dark
wCurMap: Final = 0xD35E
wYCoord: Final = 0xD361
wXCoord: Final = 0xD362
wCurMapTileset: Final = 0xD367
wCurMapHeight: Final = 0xD368  # in blocks of 2 x 2 cells
wCurMapWidth: Final = 0xD369
wNumberOfWarps: Final = 0xD3AE
wWarpEntries: Final = 0xD3AF
WARP_BYTES: Final = 4
WARP_SLOTS: Final = 32
wNumSigns: Final = 0xD4B0
wSignCoords: Final = 0xD4B1
SIGN_SLOTS: Final = 16
wNumSprites: Final = 0xD4E1
wLastBlackoutMap: Final = 0xD719

# Progress.
wMissableObjectFlags: Final = 0xD5A6
MISSABLE_BYTES: Final = 32
wSSAnne2FCurScript: Final = 0xD665
wStatusFlags1: Final = 0xD728
wStatusFlags4: Final = 0xD72E
wEventFlags: Final = 0xD747
EVENT_BYTES: Final = 320
EVENT_COUNT: Final = EVENT_BYTES * 8

# Buttons as the game writes them in joypad masks.
JOYPAD_BITS: Final = {
    "a": 0x01,
    "b": 0x02,
    "select": 0x04,
    "start": 0x08,
    "right": 0x10,
    "left": 0x20,
    "up": 0x40,
    "down": 0x80,
}

# (first address, bytes) of all that `GameState` and the milestones read.
_LIVE_FIELDS: Final = (
    (wSpriteStateData1, SPRITE_SLOTS * SPRITE_RECORD_BYTES),
    (wTileMap, TILE_MAP_BYTES),
    (wTopMenuItemY, wListScrollOffset + 1 - wTopMenuItemY),
    (wSimulatedJoypadStatesIndex, 1),
    (wJoyIgnore, 1),
    (wBattleResult, 1),
    (wListMenuID, 1),
    (wFontLoaded, wTileInFrontOfPlayer + 1 - wFontLoaded),
    (wEnemyMon, 17),  # species .. maximum HP
    (wIsInBattle, wBattleType + 1 - wIsInBattle),
    (wTextBoxID, 1),
    (wIgnoreInputCounter, 1),
    (wPlayerName, PLAYER_NAME_BYTES),
    (wPartyCount, 1),
    (wPartyMons, PARTY_SLOTS * PARTY_MON_BYTES),
    (wPokedexOwned, 2 * DEX_BYTES),
    (wNumBagItems, 1 + 2 * BAG_SLOTS),
    (wPlayerMoney, 3),
    (wObtainedBadges, 1),
    (wMapPalOffset, wCurMapWidth + 1 - wMapPalOffset),
    (wNumberOfWarps, 1 + WARP_SLOTS * WARP_BYTES),
    (wNumSigns, 1 + SIGN_SLOTS * 2),
    (wNumSprites, 1),
    (wMissableObjectFlags, MISSABLE_BYTES),
    (wSSAnne2FCurScript, 1),
    (wLastBlackoutMap, 1),
    (wStatusFlags1, 1),
    (wStatusFlags4, 1),
    (wEventFlags, EVENT_BYTES),
    (wPlayTimeHours, wPlayTimeSeconds + 1 - wPlayTimeHours),
)

# Starting another slice of PyBoy memory costs about as much as reading this many bytes more.
_MERGE_GAP_BYTES: Final = 16


def _merged(fields: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    for start, length in sorted(fields):
        if ranges and start - ranges[-1][1] <= _MERGE_GAP_BYTES:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], start + length))
        else:
            ranges.append((start, start + length))
    return tuple(ranges)


LIVE_RANGES: Final = _merged(_LIVE_FIELDS)
"""(start, stop) CPU addresses, sorted, that a live RAM image holds; the rest of it is zero."""


def image_index(address: int) -> int:
    """The index in a RAM image of a CPU address. Raises ValueError outside WRAM and HRAM."""
    if WRAM_START <= address < WRAM_STOP:
        return address - WRAM_START
    if HRAM_START <= address < HRAM_STOP:
        return address - HRAM_START + WRAM_BYTES
    raise ValueError(f"address 0x{address:04X} is in neither WRAM nor HRAM")


def image_slice(address: int, length: int) -> slice:
    """Where in a RAM image `length` bytes from a CPU address lie, none of them beyond the end of WRAM or HRAM."""
    start = image_index(address)
    return slice(start, start + length)


def is_live(address: int) -> bool:
    """Whether a live image holds this address."""
    return any(start <= address < stop for start, stop in LIVE_RANGES)


PARTY: Final = image_slice(wPartyCount, wPartyMons + PARTY_SLOTS * PARTY_MON_BYTES - wPartyCount)
"""The party's count and records in a RAM image."""
