"""Menu: what the game's RAM says of the menu that is open.

Any process uses it. `GameState.menu` makes it, and only while a menu is up. Out: which menu it is, the entry that it
points at, and the buttons that it waits for.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster_rl.game import ram

_TEXT_BOX_LIST = 0x0D
_TEXT_BOX_YES_NO = 0x14
_PRICE_LIST = 2
_START_MENU_PLACE = (2, 11)
_START_MENU_KEYS = 0xCB
_BATTLE_MENU_ROW = 14
_BATTLE_MENU_COLUMNS = (9, 15)
_BATTLE_MENU_KEYS = (0x11, 0x21)
_MOVE_MENU_PLACE = (12, 5)
_LIST_PLACE = (4, 5)


class Menu(NamedTuple):
    """A menu that is open now, as the game describes it."""

    top_y: int
    top_x: int
    current_item: int
    max_item: int
    watched_keys: int
    scroll_offset: int
    text_box_id: int
    list_menu_id: int
    cursor_address: int
    in_battle: bool

    @property
    def is_start_menu(self) -> bool:
        """The START menu. It keeps its item count, not its last index, in `max_item`."""
        place = (self.top_y, self.top_x)
        return not self.in_battle and place == _START_MENU_PLACE and self.watched_keys == _START_MENU_KEYS

    @property
    def is_battle_menu(self) -> bool:
        """The battle's main menu: two columns of two, of which RAM describes the one with the cursor."""
        return (
            self.in_battle
            and self.top_y == _BATTLE_MENU_ROW
            and self.top_x in _BATTLE_MENU_COLUMNS
            and self.watched_keys in _BATTLE_MENU_KEYS
        )

    @property
    def is_move_menu(self) -> bool:
        """The list of moves in battle; it counts from 1."""
        return self.in_battle and (self.top_y, self.top_x) == _MOVE_MENU_PLACE

    @property
    def is_list(self) -> bool:
        """A scrolling list, such as the bag or a shop's shelf."""
        return self.text_box_id == _TEXT_BOX_LIST and (self.top_y, self.top_x) == _LIST_PLACE

    @property
    def is_price_list(self) -> bool:
        """A shop's shelf."""
        return self.is_list and self.list_menu_id == _PRICE_LIST

    @property
    def is_yes_no(self) -> bool:
        """The answers to a question, or another box of two entries; the real game leaves its number behind."""
        return self.text_box_id == _TEXT_BOX_YES_NO and not self.is_list and self.max_item == 1

    @property
    def kind(self) -> str:
        """`start`, `battle`, `moves`, `list`, `prices`, `yes_no` or `other`."""
        if self.is_start_menu:
            return "start"
        if self.is_battle_menu:
            return "battle"
        if self.is_move_menu:
            return "moves"
        if self.is_list:
            return "prices" if self.is_price_list else "list"
        return "yes_no" if self.is_yes_no else "other"

    @property
    def choice(self) -> int:
        """Index of the pointed entry, counted from 0 over all columns and scrolled-off entries."""
        if self.is_battle_menu:
            return self.current_item + (2 if self.top_x == _BATTLE_MENU_COLUMNS[1] else 0)
        if self.is_move_menu:
            return self.current_item - 1
        if self.is_list:
            return self.current_item + self.scroll_offset
        return self.current_item

    def watches(self, button: str) -> bool:
        """Whether the menu returns to its caller on this button; up and down move the cursor in any case."""
        return bool(self.watched_keys & ram.JOYPAD_BITS[button])
