"""GameState on made-up bytes: each encoding, and each trap that readers of this game have fallen into."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.game import ram
from cluster_rl.game.map_objects import Warp
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World

Bytes = int | bytes | list[int]


def state_with(**fields: Bytes) -> GameState:
    """A state of zeros with some fields set: `wCurMap=3`, or `at_D163=[1, 2]` by address."""
    image = bytearray(ram.IMAGE_BYTES)
    for name, value in fields.items():
        address = int(name[3:], 16) if name.startswith("at_") else getattr(ram, name)
        raw = bytes([value]) if isinstance(value, int) else bytes(value)
        at = ram.image_index(address)
        image[at : at + len(raw)] = raw
    return GameState(bytes(image))


def party_record(species: int = 1, hp: int = 20, max_hp: int = 20, level: int = 5) -> bytes:
    record = bytearray(ram.PARTY_MON_BYTES)
    record[0], record[33] = species, level
    record[1:3], record[34:36] = hp.to_bytes(2, "big"), max_hp.to_bytes(2, "big")
    return bytes(record)


def tile_map(**tiles: int) -> bytes:
    """A blank screen with single tiles: `r16c18=0xEE`."""
    screen = bytearray([0x7F] * ram.TILE_MAP_BYTES)
    for place, tile in tiles.items():
        row, column = map(int, place[1:].split("c"))
        screen[row * 20 + column] = tile
    return bytes(screen)


def test_image_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="8319 bytes, not 8318"):
        GameState(bytes(ram.IMAGE_BYTES - 1))


def test_position_facing_and_map() -> None:
    state = state_with(wCurMap=12, wYCoord=7, wXCoord=9, at_C109=12, wCurMapHeight=9, wCurMapWidth=10, wCurMapTileset=3)
    assert (state.map_id, state.x, state.y, state.facing) == (12, 9, 7, "right")
    assert (state.map_size, state.tileset, state.in_game) == ((20, 18), 3, True)
    assert [state_with(at_C109=value).facing for value in (0, 4, 8, 12, 99)] == ["down", "up", "left", "right", "down"]


def test_who_has_the_controls() -> None:
    state = state_with(wJoyIgnore=0xFC, wSimulatedJoypadStatesIndex=2, wIgnoreInputCounter=9, wWalkCounter=8)
    assert (state.joy_ignore, state.simulated_joypad_index) == (0xFC, 2)
    assert (state.ignore_input_frames, state.walk_counter) == (9, 8)


# ---------------------------------------------------------------- the known traps


def test_trap_options_are_not_badges() -> None:
    """0xD355 is wOptions; its default of 3 would read as two badges."""
    state = state_with(at_D355=3)
    assert (state.badges, state.badge_count) == (0, 0)
    state = state_with(at_D355=3, at_D356=0b1000_0001)
    assert (state.badges, state.badge_count) == (0b1000_0001, 2)


def test_trap_a_party_is_not_a_championship() -> None:
    """0xD163 is wPartyCount, non-zero from the first member on."""
    state = state_with(at_D163=1, wPartyMons=party_record(), wCurMap=40, wCurMapWidth=5, wCurMapHeight=6)
    assert state.party_count == 1
    assert not World.red().task_ended(state)
    assert World.red().task_ended(state_with(wCurMap=118, wCurMapWidth=5, wCurMapHeight=4))


def test_trap_the_opponent_is_not_the_result() -> None:
    """0xD059 is wCurOpponent, up to 247; the result is 0xCF0B."""
    state = state_with(at_D059=234, at_CF0B=1)
    assert (state.cur_opponent, state.battle_result) == (234, 1)


def test_trap_the_bag_starts_after_its_count() -> None:
    """0xD31D is the number of items; pairs of id and count start at 0xD31E."""
    assert state_with(at_D31D=[2, 4, 10, 20, 3, 0xFF]).bag == ((4, 10), (20, 3))


def test_trap_hit_points_are_words_behind_the_species() -> None:
    """HP is 0xD16C-D and its maximum 0xD18D-E, both big endian; 0xD16B is the species."""
    state = state_with(at_D163=1, at_D16B=[0x99, 0x01, 0x02], at_D18D=[0x02, 0x04])
    assert [(m.species, m.hp, m.max_hp, m.hp_ratio) for m in state.party] == [(0x99, 0x102, 0x204, 0.5)]


def test_trap_status_is_not_the_list_end() -> None:
    """0xD16A is the end mark of the species list; the status is 0xD16F."""
    state = state_with(at_D163=1, at_D16A=0xFF)
    assert state.party[0].status == 0
    assert state_with(at_D163=1, at_D16A=0xFF, at_D16F=0b100_1000).party[0].status == 0b100_1000


def test_trap_the_enemys_maximum_is_not_its_place() -> None:
    """0xCFE8 is the place in the party; the maximum is 0xCFF4-5."""
    state = state_with(wIsInBattle=1, at_CFE5=[7, 0, 30, 5], at_CFF3=[9, 0, 40])
    assert state.enemy is not None
    assert (state.enemy.species, state.enemy.level) == (7, 9)
    assert (state.enemy.hp, state.enemy.max_hp, state.enemy.hp_ratio) == (30, 40, 0.75)


def test_trap_the_encounter_is_the_enemys_species() -> None:
    """0xD0B5 is a scratch byte."""
    state = state_with(wIsInBattle=1, at_D0B5=33, at_CFE5=7)
    assert state.enemy is not None
    assert state.enemy.species == 7


MENU_LEFT_OVER: dict[str, Bytes] = {
    "wTopMenuItemY": 2,
    "wTopMenuItemX": 11,
    "wCurrentMenuItem": 1,
    "wMaxMenuItem": 6,
    "wMenuWatchedKeys": 0xCB,
    "wTextBoxID": 1,
    "wMenuCursorLocation": (ram.wTileMap + 4 * 20 + 11).to_bytes(2, "little"),
}


def test_trap_menu_bytes_stay_after_the_menu() -> None:
    """Bytes alone open nothing; the interface must be up and the cursor drawn where it was last."""
    with_cursor = tile_map(r4c11=0xED)
    assert state_with(**MENU_LEFT_OVER).menu is None
    assert state_with(**MENU_LEFT_OVER, wTileMap=with_cursor).menu is None
    assert state_with(**MENU_LEFT_OVER, wFontLoaded=1, wTileMap=tile_map()).menu is None
    assert state_with(**MENU_LEFT_OVER, wFontLoaded=1, wTileMap=tile_map(r4c11=0xEC)).menu is None  # a hollow cursor
    assert state_with(**MENU_LEFT_OVER, wFontLoaded=0xFE, wTileMap=with_cursor).menu is None  # bit 0 alone counts
    menu = state_with(**MENU_LEFT_OVER, wFontLoaded=1, wTileMap=with_cursor).menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.cursor_address) == ("start", 1, ram.wTileMap + 91)
    assert [menu.watches(button) for button in ("a", "b", "start", "up", "down", "left", "right")] == [True] * 5 + [
        False
    ] * 2


@pytest.mark.parametrize("cursor", [0, ram.wTileMap - 1, ram.wTileMap + ram.TILE_MAP_BYTES, 0xFFFF])
def test_trap_cursor_outside_the_screen(cursor: int) -> None:
    fields = MENU_LEFT_OVER | {"wMenuCursorLocation": cursor.to_bytes(2, "little")}
    assert state_with(**fields, wFontLoaded=1, wTileMap=bytes([0xED] * 360)).menu is None


@pytest.mark.parametrize(
    ("column", "keys", "item", "choice"), [(9, 0x11, 0, 0), (9, 0x11, 1, 1), (15, 0x21, 0, 2), (15, 0x21, 1, 3)]
)
def test_battle_menu_is_two_columns(column: int, keys: int, item: int, choice: int) -> None:
    fields: dict[str, Bytes] = {
        "wTopMenuItemY": 14,
        "wTopMenuItemX": column,
        "wCurrentMenuItem": item,
        "wMaxMenuItem": 1,
        "wMenuWatchedKeys": keys,
        "wMenuCursorLocation": (ram.wTileMap + (14 + 2 * item) * 20 + column).to_bytes(2, "little"),
        "wTileMap": tile_map(**{f"r{14 + 2 * item}c{column}": 0xED}),
    }
    menu = state_with(**fields, wIsInBattle=2).menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.is_start_menu) == ("battle", choice, False)
    other = state_with(**fields, wFontLoaded=1).menu
    assert other is not None
    assert other.kind == "other"


def test_move_list_counts_from_one() -> None:
    menu = state_with(
        wIsInBattle=1,
        wTopMenuItemY=12,
        wTopMenuItemX=5,
        wCurrentMenuItem=2,
        wMaxMenuItem=3,
        wMenuWatchedKeys=0xC7,
        wMenuCursorLocation=(ram.wTileMap + 14 * 20 + 5).to_bytes(2, "little"),
        wTileMap=tile_map(r14c5=0xED),
    ).menu
    assert menu is not None
    assert (menu.kind, menu.choice) == ("moves", 1)


def test_list_adds_what_was_scrolled_off() -> None:
    fields: dict[str, Bytes] = {
        "wFontLoaded": 1,
        "wTopMenuItemY": 4,
        "wTopMenuItemX": 5,
        "wCurrentMenuItem": 2,
        "wListScrollOffset": 4,
        "wMenuCursorLocation": (ram.wTileMap + 8 * 20 + 5).to_bytes(2, "little"),
        "wTileMap": tile_map(r8c5=0xED),
    }
    menu = state_with(**fields, wTextBoxID=0x0D).menu
    assert menu is not None
    assert (menu.kind, menu.choice) == ("list", 6)
    menu = state_with(**fields, wTextBoxID=0x14).menu
    assert menu is not None
    assert (menu.kind, menu.choice) == ("other", 2)  # the offset is a left-over here


def test_shelf_of_a_shop_is_a_list_with_prices() -> None:
    fields: dict[str, Bytes] = {
        "wFontLoaded": 1,
        "wTopMenuItemY": 4,
        "wTopMenuItemX": 5,
        "wTextBoxID": 0x0D,
        "wMenuCursorLocation": (ram.wTileMap + 4 * 20 + 5).to_bytes(2, "little"),
        "wTileMap": tile_map(r4c5=0xED),
    }
    bag, shelf = (state_with(**fields, wListMenuID=kind).menu for kind in (3, 2))
    assert bag is not None
    assert shelf is not None
    assert (bag.kind, bag.is_price_list) == ("list", False)
    assert (shelf.kind, shelf.is_list, shelf.is_price_list) == ("prices", True, True)


def test_question_with_two_answers() -> None:
    fields: dict[str, Bytes] = {
        "wFontLoaded": 1,
        "wTopMenuItemY": 8,
        "wTopMenuItemX": 15,
        "wCurrentMenuItem": 1,
        "wMaxMenuItem": 1,
        "wMenuCursorLocation": (ram.wTileMap + 10 * 20 + 15).to_bytes(2, "little"),
        "wTileMap": tile_map(r10c15=0xED),
    }
    question, stale = (state_with(**fields, wTextBoxID=box).menu for box in (0x14, 0x01))
    assert question is not None
    assert stale is not None
    assert (question.kind, question.choice, question.is_yes_no) == ("yes_no", 1, True)
    assert (stale.kind, stale.is_yes_no) == ("other", False)


def test_dark_maps() -> None:
    assert not state_with().is_dark
    assert state_with(wMapPalOffset=6).is_dark


def test_trap_event_bits_start_with_the_least_significant() -> None:
    """Event i is bit i % 8 of byte i // 8; the last of 2,560 is in the byte before 0xD887, which is the grass rate."""
    state = state_with(at_D747=[0b0000_0001, 0b1000_0000], at_D886=0b1000_0000, at_D887=0xFF)
    assert state.events_set() == [0, 15, 2559]
    assert [state.has_event(i) for i in (0, 7, 15, 8, 2559)] == [True, False, True, False, True]
    for event in (-1, 2560):
        with pytest.raises(ValueError, match=r"not in 0\.\.2559"):
            state.has_event(event)


def test_trap_shared_bytes_of_the_enemy_are_gone_outside_battle() -> None:
    """The enemy's record stays in RAM, and others write over parts of it."""
    left_over: dict[str, Bytes] = {"at_CFE5": [7, 0, 30, 5], "at_CFF3": [9, 0, 40]}
    assert state_with(**left_over, wIsInBattle=0).enemy is None
    assert state_with(**left_over, wIsInBattle=2).enemy is not None
    assert state_with(wIsInBattle=2).enemy is None  # not sent out yet


def test_trap_money_is_binary_coded() -> None:
    """Most significant byte first: the bytes 10 27 00 are 102,700, not 10,000."""
    assert state_with(at_D347=[0x10, 0x27, 0x00]).money == 102_700
    assert state_with(at_D347=[0x00, 0x30, 0x00]).money == 3_000
    assert state_with(at_D347=[0x99, 0x99, 0x99]).money == 999_999
    assert state_with(at_D347=[0xFA, 0x00, 0x01]).money == 990_001  # no digits: clamped


def test_trap_cheated_hit_points_above_the_maximum() -> None:
    state = state_with(wPartyCount=2, wPartyMons=party_record(hp=999, max_hp=20) + party_record(hp=0, max_hp=0))
    assert [mon.hp_ratio for mon in state.party] == [1.0, 0.0]


# ---------------------------------------------------------------- the rest


def test_party_fields() -> None:
    record = bytearray(party_record(species=0x54, level=81, hp=7, max_hp=200))
    record[8:12] = [33, 45, 0, 0]
    record[14:17] = (531_441).to_bytes(3, "big")
    record[29:33] = [35, 0b1100_0101, 0, 0]  # the top two bits count PP Ups
    state = state_with(wPartyCount=1, wPartyMons=bytes(record))
    (mon,) = state.party
    assert (mon.moves, mon.pp, mon.experience, state.party_levels_total) == ((33, 45, 0, 0), (35, 5, 0, 0), 531_441, 81)


def test_party_count_is_clamped() -> None:
    assert state_with(wPartyCount=200).party_count == 6
    assert len(state_with(wPartyCount=200).party) == 6


def test_bag_left_overs_are_not_items() -> None:
    assert state_with(wNumBagItems=[1, 4, 10, 20, 3, 0xFF]).bag == ((4, 10),)  # beyond the count
    assert state_with(wNumBagItems=[3, 4, 10, 0xFF, 7, 7, 7]).bag == ((4, 10),)  # beyond the end mark
    assert state_with(wNumBagItems=[0, 4, 10]).bag == ()
    assert len(state_with(wNumBagItems=[255, *[1] * 60]).bag) == 20


def test_lost_battle_is_minus_one() -> None:
    assert [state_with(wIsInBattle=value).in_battle for value in (0, 1, 2, 0xFF)] == [0, 1, 2, -1]


def test_dex_numbers_start_at_one() -> None:
    state = state_with(at_D2F7=[0b1000_0001], at_D309=[0b0100_0000], at_D30A=[0b10])
    assert (sorted(state.dex_owned), sorted(state.dex_seen)) == ([1, 8, 151], [2])


def test_missable_objects() -> None:
    state = state_with(at_D5A6=[0, 0b10], at_D5C5=0b1000_0000)
    assert [i for i in range(256) if state.has_missable(i)] == [9, 255]
    with pytest.raises(ValueError, match=r"not in 0\.\.255"):
        state.has_missable(256)


def test_warps_and_signs_hold_rows_first() -> None:
    state = state_with(wNumberOfWarps=[1, 7, 3, 2, 37, 9, 9, 9, 9], wNumSigns=[2, 5, 4, 12, 14, 1, 1])
    assert state.warps == (Warp(x=3, y=7, target_warp=2, target_map=37),)
    assert state.signs == ((4, 5), (14, 12))
    assert len(state_with(wNumberOfWarps=255).warps) == 32
    assert len(state_with(wNumSigns=255).signs) == 16


def sprite_state(
    pixels: tuple[int, int], walk_counter: int = 0, step: tuple[int, int] = (0, 0), image: int = 0
) -> GameState:
    """The player at cell (5, 6) and one person whose picture is at (y, x) pixels."""
    return state_with(
        wXCoord=5,
        wYCoord=6,
        wNumSprites=1,
        wWalkCounter=walk_counter,
        at_C100=[1, 0, 0, step[0] & 0xFF, 60, step[1] & 0xFF, 64],
        at_C110=[3, 0, image, 0, pixels[0], 0, pixels[1], 0, 0, 8],
    )


def test_sprites_lie_in_cells_around_the_player() -> None:
    (sprite,) = sprite_state((60 + 32, 64 - 16)).sprites
    assert (sprite.slot, sprite.picture, sprite.facing, sprite.cell, sprite.visible) == (1, 3, "left", (4, 8), True)
    assert sprite_state((60, 64 + 80)).sprites[0].cell == (10, 6)
    assert sprite_state((256 - 4, 0)).sprites[0].cell == (1, 2)  # above the screen's edge


def test_sprites_while_the_player_walks() -> None:
    """Coordinates change at a step's end, pixels during it: walking down, a person two below comes nearer."""
    for counter in range(8, 0, -1):
        walked = 16 - 2 * counter
        (sprite,) = sprite_state((60 + 32 - walked, 64), counter, step=(1, 0)).sprites
        assert sprite.cell == (5, 8), counter
        (sprite,) = sprite_state((60, 64 - 32 + walked), counter, step=(0, -1)).sprites
        assert sprite.cell == (3, 6), counter


def test_hidden_sprites_have_no_cell() -> None:
    (sprite,) = sprite_state((60, 64), image=0xFF).sprites
    assert (sprite.cell, sprite.visible) == (None, False)


BOX: dict[str, int] = {"r12c0": 0x79, "r17c0": 0x7D}


def test_text_needs_a_box_and_the_interface() -> None:
    screen = bytearray(tile_map(**BOX, r16c18=0xEE))
    screen[14 * 20 + 1 : 14 * 20 + 6] = bytes([0x87, 0xA4, 0xAB, 0xAB, 0xAE])  # Hello
    state = state_with(wTileMap=bytes(screen), wFontLoaded=1)
    assert (state.text_open, state.text_waiting, state.text_lines) == (True, True, ("Hello",))
    assert state_with(wTileMap=bytes(screen), wIsInBattle=1).text_open
    # The same tiles as a piece of map are no text.
    state = state_with(wTileMap=bytes(screen))
    assert (state.text_open, state.text_waiting, state.text_lines) == (False, False, ())
    # An arrow without a box is no message that waits.
    assert not state_with(wTileMap=tile_map(r16c18=0xEE), wFontLoaded=1).text_waiting


def test_stale_text_box_id_opens_nothing() -> None:
    assert not state_with(wTextBoxID=1).text_open


def test_name_time_and_places() -> None:
    state = state_with(
        wPlayerName=[0x91, 0x84, 0x83, 0x50, 0x80], at_DA41=[3, 0, 4, 5], wLastBlackoutMap=41, wTileInFrontOfPlayer=0x3D
    )
    assert (state.player_name, state.play_time) == ("RED", (3, 4, 5))
    assert (state.last_blackout_map, state.tile_in_front) == (41, 0x3D)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.integers(0, 255))
def test_no_bytes_make_it_raise(pattern: bytes, fill: int) -> None:
    image = (pattern * (ram.IMAGE_BYTES // 64 + 1))[: ram.IMAGE_BYTES]
    for raw in (image, bytes([fill]) * ram.IMAGE_BYTES):
        state = GameState(raw)
        for world in (World.red(), World.cartridge()):
            world.describe(state)
        assert all(0 <= mon.hp_ratio <= 1 for mon in state.party)


def test_people_are_the_visible_sprites() -> None:
    state = state_with(
        wXCoord=5,
        wYCoord=6,
        wNumSprites=3,
        at_C110=[1, 0, 0, 0, 60, 0, 80, 0],  # to the right of the player
        at_C120=[2, 0, 0xFF, 0, 60, 0, 64, 0],  # hidden
        at_C130=[3, 0, 0, 0, 44, 0, 64, 0],  # above him
    )
    assert state.people == tuple(sprite.cell for sprite in state.sprites if sprite.visible) == ((6, 6), (5, 5))
    assert state_with().people == ()


def test_belongings_are_all_that_the_player_has() -> None:
    state = state_with(
        wPartyCount=2,
        wPartyMons=party_record(species=9, level=7) + party_record(species=3, level=4),
        wPokedexOwned=[0x11],
        wPokedexSeen=[0x31],
        wNumBagItems=[1, 4, 2, 0xFF],
        wPlayerMoney=[0x01, 0x23, 0x45],
        wObtainedBadges=5,
        wXCoord=3,
    )
    same = GameState.with_belongings(state.belongings)
    assert same.belongings == state.belongings
    for name in ("party", "dex_owned", "dex_seen", "bag", "money", "badges"):
        assert getattr(same, name) == getattr(state, name)
        assert getattr(same, name) != getattr(state_with(), name)
    assert same.x == 0
