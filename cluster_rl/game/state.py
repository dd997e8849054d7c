"""GameState: one decoded look at the game's RAM.

Any process uses it. In: a RAM image (see `ram.py`), read from a running emulator, a savestate or made up by a test.
Out: typed facts: what every step asks for is decoded at once, the rest when first asked for, and then kept. It never
touches an emulator and knows no names; those are in `world.py`.

Values that the game leaves behind after their moment (menus, text boxes, the enemy) are reported only while they are
true. Numbers are clamped to what the game can hold, so that a broken image gives odd values but never an exception.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Final

from cluster_rl.game import ram
from cluster_rl.game.lazy import lazy
from cluster_rl.game.map_objects import FACINGS, Sprite, Warp, sprite_cells
from cluster_rl.game.menu import Menu
from cluster_rl.game.party import Enemy, PartyMon, enemy_mon, party_mon
from cluster_rl.game.text import TILE_ARROW, TILE_CURSOR, decode

BATTLE_LOST: Final = -1
BATTLE_NONE: Final = 0
BATTLE_WILD: Final = 1
BATTLE_TRAINER: Final = 2

_LIST_END = 0xFF
_BOX_TOP_ROW, _BOX_BOTTOM_ROW = 12, 17
_BOX_TOP_LEFT_TILE, _BOX_BOTTOM_LEFT_TILE = 0x79, 0x7D
_ARROW_ROW, _ARROW_COLUMN = 16, 18
_TILE_MAP_AT = ram.image_index(ram.wTileMap)
_BOX_TOP_LEFT_AT = _TILE_MAP_AT + _BOX_TOP_ROW * ram.TILE_COLUMNS
_BOX_BOTTOM_LEFT_AT = _TILE_MAP_AT + _BOX_BOTTOM_ROW * ram.TILE_COLUMNS
_CURSOR_AT = ram.image_index(ram.wMenuCursorLocation)
_DEX_TO_BADGES = ram.image_slice(ram.wPokedexOwned, ram.wObtainedBadges + 1 - ram.wPokedexOwned)
_FACING_OF = tuple(FACINGS.get(value, "down") for value in range(256))

# What every step of an actor asks for. One call for all bytes takes a fifth of the time of one for each.
_every_step = itemgetter(
    *(
        ram.image_index(address)
        for address in (
            *(ram.wCurMap, ram.wXCoord, ram.wYCoord, ram.wCurMapWidth, ram.wCurMapHeight, ram.wCurMapTileset),
            *(ram.wSpriteStateData1 + 9, ram.wWalkCounter, ram.wTileInFrontOfPlayer, ram.wNumSprites),
            *(ram.wJoyIgnore, ram.wSimulatedJoypadStatesIndex, ram.wIgnoreInputCounter),
            *(ram.wFontLoaded, ram.wIsInBattle, ram.wPartyCount, ram.wMapPalOffset),
        )
    )
)


class GameState:
    """Decoded view of one RAM image.

    `image` is 0x207F bytes; raises ValueError for another length. The image is kept, not copied: give it `bytes`.
    """

    map_id: int
    x: int
    """Column in the map, in 16-pixel cells. Changes at the end of a step."""
    y: int
    """Row in the map, in 16-pixel cells. Changes at the end of a step."""
    map_size: tuple[int, int]
    """(width, height) of the map in cells; (0, 0) before a game has started."""
    in_game: bool
    """Whether a map is loaded; false in an image from before the game began, where all else means nothing."""
    tileset: int
    facing: str
    """`down`, `up`, `left` or `right`."""
    walk_counter: int
    """8 down to 0 while a step is under way; non-zero means that position and picture are between cells."""
    tile_in_front: int
    """Tile number in front of the player when the game last looked."""
    sprite_count: int
    """People and objects on the map besides the player, at most 15."""
    joy_ignore: int
    """Joypad mask of the buttons that the game ignores now; 0 in free play."""
    simulated_joypad_index: int
    """Non-zero while the game feeds itself buttons."""
    ignore_input_frames: int
    """Frames until input is taken again."""
    font_loaded: bool
    """Whether a text box or menu is up in the overworld."""
    in_battle: int
    """0 none, 1 wild, 2 trainer, -1 just lost."""
    interface_up: bool
    """Whether the screen belongs to text, menus or a battle and not to the map."""
    party_count: int
    """0-6."""
    is_dark: bool
    """Whether the map is one whose walls nobody sees, for want of a light."""

    def __init__(self, image: bytes) -> None:
        if len(image) != ram.IMAGE_BYTES:
            raise ValueError(f"a RAM image has {ram.IMAGE_BYTES} bytes, not {len(image)}")
        self.image = image
        (
            self.map_id,
            self.x,
            self.y,
            width,
            height,
            self.tileset,
            facing,
            self.walk_counter,
            self.tile_in_front,
            sprites,
            self.joy_ignore,
            self.simulated_joypad_index,
            self.ignore_input_frames,
            font_loaded,
            in_battle,
            party_count,
            palette_offset,
        ) = _every_step(image)
        self.map_size = (2 * width, 2 * height)
        self.in_game = width > 0 and height > 0
        self.facing = _FACING_OF[facing]
        self.sprite_count = min(sprites, ram.SPRITE_SLOTS - 1)
        self.font_loaded = font_loaded & 1 == 1
        self.in_battle = in_battle - 0x100 if in_battle & 0x80 else in_battle
        self.interface_up = self.font_loaded or in_battle != BATTLE_NONE
        self.party_count = min(party_count, ram.PARTY_SLOTS)
        self.is_dark = palette_offset > 0

    def u8(self, address: int) -> int:
        """The byte at a CPU address in WRAM or HRAM; raises ValueError elsewhere."""
        if ram.WRAM_START <= address < ram.WRAM_STOP:  # nearly always, and this is called twenty times a step
            return self.image[address - ram.WRAM_START]
        return self.image[ram.image_index(address)]

    def slice(self, address: int, length: int) -> bytes:
        """`length` bytes from a CPU address, none of them beyond the end of WRAM or HRAM."""
        return self.image[ram.image_slice(address, length)]

    # Where the player is.

    @lazy
    def last_blackout_map(self) -> int:
        """Where the player wakes up after losing."""
        return self.u8(ram.wLastBlackoutMap)

    # Battle.

    @lazy
    def battle_type(self) -> int:
        """0 normal, 1 the old man's demonstration, 2 Safari Zone."""
        return self.u8(ram.wBattleType)

    @lazy
    def battle_result(self) -> int:
        """Of the last battle: 0 won (and while a battle has not ended), 1 lost, 2 drawn or fled."""
        return self.u8(ram.wBattleResult)

    @lazy
    def cur_opponent(self) -> int:
        """Species of the wild opponent, or the trainer's class + 200; 0 outside battle."""
        return self.u8(ram.wCurOpponent)

    @lazy
    def enemy(self) -> Enemy | None:
        """The enemy's fighting member, None outside battle (its bytes stay behind) and before it is sent out."""
        record = self.slice(ram.wEnemyMon, 17)
        if self.in_battle == BATTLE_NONE or record[0] == 0:
            return None
        return enemy_mon(record)

    # Party, bag and what was collected.

    @lazy
    def belongings(self) -> bytes:
        """All bytes that say what the player has: party, species seen and caught, bag, money and badges.

        Most steps change none of them, so what follows from them need not be worked out again.
        """
        return self.image[ram.PARTY] + self.image[_DEX_TO_BADGES]

    @staticmethod
    def with_belongings(belongings: bytes) -> GameState:
        """A state that has these `belongings`, and zeros for all else."""
        image = bytearray(ram.IMAGE_BYTES)
        party_bytes = ram.PARTY.stop - ram.PARTY.start
        image[ram.PARTY], image[_DEX_TO_BADGES] = belongings[:party_bytes], belongings[party_bytes:]
        return GameState(bytes(image))

    @lazy
    def party(self) -> tuple[PartyMon, ...]:
        return tuple(
            party_mon(self.slice(ram.wPartyMons + i * ram.PARTY_MON_BYTES, ram.PARTY_MON_BYTES))
            for i in range(self.party_count)
        )

    @lazy
    def party_levels_total(self) -> int:
        return sum(mon.level for mon in self.party)

    @lazy
    def badges(self) -> int:
        """Bit mask, bit 0 the first badge."""
        return self.u8(ram.wObtainedBadges)

    @lazy
    def badge_count(self) -> int:
        return self.badges.bit_count()

    @lazy
    def bag(self) -> tuple[tuple[int, int], ...]:
        """(item id, count) pairs. Ends at the count or at the end mark, whichever is first: leftovers follow."""
        pairs = self.slice(ram.wBagItems, 2 * min(self.u8(ram.wNumBagItems), ram.BAG_SLOTS))
        items = []
        for item, count in zip(pairs[::2], pairs[1::2], strict=True):
            if item == _LIST_END:
                break
            items.append((item, count))
        return tuple(items)

    @lazy
    def money(self) -> int:
        """Binary-coded decimal in RAM, most significant byte first; a nibble above 9 reads as 9."""
        digits = [min(nibble, 9) for byte in self.slice(ram.wPlayerMoney, 3) for nibble in (byte >> 4, byte & 15)]
        return int("".join(map(str, digits)))

    @lazy
    def dex_owned(self) -> frozenset[int]:
        """Dex numbers, from 1, of the species ever caught."""
        return frozenset(bit + 1 for bit in _bits(self.slice(ram.wPokedexOwned, ram.DEX_BYTES)))

    @lazy
    def dex_seen(self) -> frozenset[int]:
        """Dex numbers, from 1, of the species ever met."""
        return frozenset(bit + 1 for bit in _bits(self.slice(ram.wPokedexSeen, ram.DEX_BYTES)))

    # Progress.

    @lazy
    def event_flags(self) -> bytes:
        """The 320 bytes of event flags; event i is bit i % 8, the least significant first, of byte i // 8."""
        return self.slice(ram.wEventFlags, ram.EVENT_BYTES)

    @lazy
    def event_bits(self) -> int:
        """All event flags as one integer: event i is bit i."""
        return int.from_bytes(self.event_flags, "little")

    def has_event(self, event: int) -> bool:
        """Whether an event flag is set. Raises ValueError for an id outside 0..2559."""
        if not 0 <= event < ram.EVENT_COUNT:
            raise ValueError(f"event {event} is not in 0..{ram.EVENT_COUNT - 1}")
        return bool(self.event_bits >> event & 1)

    def events_set(self) -> list[int]:
        """Ids of all event flags that are set, ascending."""
        return _bits(self.event_flags)

    def has_missable(self, index: int) -> bool:
        """Whether a person or item ball that can vanish is gone. Raises ValueError for an index outside 0..255."""
        if not 0 <= index < ram.MISSABLE_BYTES * 8:
            raise ValueError(f"missable object {index} is not in 0..{ram.MISSABLE_BYTES * 8 - 1}")
        return bool(self.u8(ram.wMissableObjectFlags + index // 8) >> index % 8 & 1)

    # What is on the map.

    @lazy
    def warps(self) -> tuple[Warp, ...]:
        count = min(self.u8(ram.wNumberOfWarps), ram.WARP_SLOTS)
        raw = self.slice(ram.wWarpEntries, count * ram.WARP_BYTES)
        return tuple(Warp(raw[i + 1], raw[i], raw[i + 2], raw[i + 3]) for i in range(0, len(raw), ram.WARP_BYTES))

    @lazy
    def signs(self) -> tuple[tuple[int, int], ...]:
        """(x, y) cells."""
        raw = self.slice(ram.wSignCoords, 2 * min(self.u8(ram.wNumSigns), ram.SIGN_SLOTS))
        return tuple(zip(raw[1::2], raw[::2], strict=True))

    @lazy
    def sprites(self) -> tuple[Sprite, ...]:
        """People and objects besides the player."""
        records = self._sprite_records()
        cells = sprite_cells(records, (self.x, self.y), self.walk_counter)
        starts = range(ram.SPRITE_RECORD_BYTES, len(records), ram.SPRITE_RECORD_BYTES)
        return tuple(
            Sprite(slot, records[at], _FACING_OF[records[at + 9]], cell)
            for slot, (at, cell) in enumerate(zip(starts, cells, strict=True), 1)
        )

    @lazy
    def people(self) -> tuple[tuple[int, int], ...]:
        """The cells (x, y) of those of `sprites` that are visible."""
        if not self.sprite_count:
            return ()
        cells = sprite_cells(self._sprite_records(), (self.x, self.y), self.walk_counter)
        return tuple([cell for cell in cells if cell is not None])

    def _sprite_records(self) -> bytes:
        """The records of the player and of all sprites, 16 bytes each."""
        return self.slice(ram.wSpriteStateData1, (self.sprite_count + 1) * ram.SPRITE_RECORD_BYTES)

    # What is on the screen.

    @lazy
    def tile_map(self) -> bytes:
        """360 tile numbers, 18 rows of 20, as shown."""
        return self.slice(ram.wTileMap, ram.TILE_MAP_BYTES)

    @lazy
    def text_open(self) -> bool:
        """Whether the message box at the bottom of the screen is drawn."""
        return (
            self.interface_up
            and self.image[_BOX_TOP_LEFT_AT] == _BOX_TOP_LEFT_TILE
            and self.image[_BOX_BOTTOM_LEFT_AT] == _BOX_BOTTOM_LEFT_TILE
        )

    @lazy
    def text_waiting(self) -> bool:
        """Whether the message box shows its arrow: it waits for A or B. The arrow blinks."""
        return self.text_open and self.tile_map[_ARROW_ROW * ram.TILE_COLUMNS + _ARROW_COLUMN] == TILE_ARROW

    @lazy
    def text_lines(self) -> tuple[str, ...]:
        """The lines of the message box that are not empty, top to bottom."""
        if not self.text_open:
            return ()
        rows = (self.tile_row(row)[1:-1] for row in range(_BOX_TOP_ROW + 1, _BOX_BOTTOM_ROW))
        lines = (decode(row).replace("▼", " ").strip() for row in rows)
        return tuple(line for line in lines if line)

    def tile_row(self, row: int) -> bytes:
        """The 20 tile numbers of one row of the screen."""
        return self.tile_map[row * ram.TILE_COLUMNS : (row + 1) * ram.TILE_COLUMNS]

    @lazy
    def menu(self) -> Menu | None:
        """The open menu, or None.

        The menu's bytes keep their values after it closes, so they count only while text, a menu or a battle is up
        and the cursor is drawn where the game last drew it.
        """
        if not self.interface_up:
            return None
        cursor = self.image[_CURSOR_AT] | self.image[_CURSOR_AT + 1] << 8
        at = cursor - ram.wTileMap
        if not 0 <= at < ram.TILE_MAP_BYTES or self.image[_TILE_MAP_AT + at] != TILE_CURSOR:
            return None
        return Menu(
            top_y=self.u8(ram.wTopMenuItemY),
            top_x=self.u8(ram.wTopMenuItemX),
            current_item=self.u8(ram.wCurrentMenuItem),
            max_item=self.u8(ram.wMaxMenuItem),
            watched_keys=self.u8(ram.wMenuWatchedKeys),
            scroll_offset=self.u8(ram.wListScrollOffset),
            text_box_id=self.u8(ram.wTextBoxID),
            list_menu_id=self.u8(ram.wListMenuID),
            cursor_address=cursor,
            in_battle=self.in_battle != BATTLE_NONE,
        )

    # Who plays, and for how long.

    @lazy
    def player_name(self) -> str:
        return decode(self.slice(ram.wPlayerName, ram.PLAYER_NAME_BYTES))

    @lazy
    def play_time(self) -> tuple[int, int, int]:
        """(hours, minutes, seconds) on the game's clock."""
        return self.u8(ram.wPlayTimeHours), self.u8(ram.wPlayTimeMinutes), self.u8(ram.wPlayTimeSeconds)


def _bits(raw: bytes) -> list[int]:
    """Numbers of the bits that are set, the least significant bit of the first byte being 0."""
    return [8 * at + bit for at, byte in enumerate(raw) if byte for bit in range(8) if byte >> bit & 1]
