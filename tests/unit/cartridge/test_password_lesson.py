"""The cartridge's password lesson: the word is told once, and nothing tells it later."""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter

import pytest
from cartridge_player import HOME, Player

from cluster_rl.cartridge import CONTENT_DIR
from cluster_rl.game import ram

ECHO_HALL, ECHO_ROOM = 38, 39
PASSWORD_RIGHT, PASSWORD_WRONG = 16, 17
STARTED_WITH_B = (77, 8)  # frames before, frames held
PRESSES_TO_EXIT = 22
DOORS = ("up", "down", "left", "right")


def to_lesson(player: Player) -> None:
    """A fresh console of no frames to the lesson's first text."""
    player.run(STARTED_WITH_B[0])
    player.tap("b", STARTED_WITH_B[1], 120)


def step(player: Player, button: str) -> None:
    """One step as the agent makes it, 24 frames."""
    player.tap(button, 8, 15)
    player.pyboy.tick(1, True, False)


def hear_word(player: Player) -> str:
    """Asks for the word and closes the text, three steps; returns the word."""
    step(player, "a")
    step(player, "a")
    word = player.state().text_lines[0].split()[0]
    step(player, "a")
    assert not player.state().text_open
    return word


def test_lesson_is_only_for_those_who_hold_b() -> None:
    with Player(boot_frames=0) as player:
        to_lesson(player)
        state = player.state()
        assert player.place() == (ECHO_HALL, 1, 1)
        assert state.text_lines == ("This is told once:", "hear the word.")
        assert state.events_set() == []
    for button in ("a", "start", "up"):
        with Player(boot_frames=0) as player:
            player.run(STARTED_WITH_B[0])
            player.tap(button, STARTED_WITH_B[1], 120)
            assert player.place()[0] == HOME, button


def test_no_door_of_the_game_leads_to_the_lesson() -> None:
    maps = tomllib.loads((CONTENT_DIR / "small.toml").read_text(encoding="utf-8"))["map"]
    leads = {entry["name"]: {warp["to"] for warp in entry.get("warps", [])} for entry in maps}
    assert [name for name, targets in leads.items() if "ECHO HALL" in targets] == []
    assert [name for name, targets in leads.items() if "ECHO ROOM" in targets] == ["ECHO HALL"]


def test_words_are_drawn_by_the_wait_alone_and_equally_often() -> None:
    """Over the waits of an episode's start, 0 to 60 frames; the same wait tells the same word, asked with A or B."""
    with Player(boot_frames=0) as player:
        to_lesson(player)
        start = player.save()
        words = []
        for wait in range(61):
            player.load(start)
            player.run(wait)
            words.append(hear_word(player))
        assert sorted(Counter(words).values()) == [15, 15, 15, 16]
        assert set(words) == {"UP", "DOWN", "LEFT", "RIGHT"}
        for wait in (0, 7, 60):
            player.load(start)
            player.run(wait)
            step(player, "b")
            step(player, "b")
            assert player.state().text_lines[0].split()[0] == words[wait]


def test_nothing_tells_the_word_later() -> None:
    """From the text's end to the choice, at every step: the picture and the RAM that readers see are the same whatever
    the word, but for the clock. So they are for every wait, and the player cannot go back to ask again."""
    with Player(boot_frames=0) as player:
        to_lesson(player)
        start = player.save()
        told, seen = set(), []
        for wait in (0, 1, 2, 3, 16, 31, 59):
            player.load(start)
            player.run(wait)
            told.add(hear_word(player))
            look = [picture_and_live_ram(player)]
            for number in range(PRESSES_TO_EXIT):
                # Held back by the floor, then out by the only door.
                step(player, "left" if number % 2 and number < PRESSES_TO_EXIT - 3 else "right")
                look.append(picture_and_live_ram(player))
            assert player.place() == (ECHO_ROOM, 3, 3)
            assert player.state().joy_ignore == 0
            seen.append(look)
        assert len(told) == 4
        assert all(look == seen[0] for look in seen)
        assert len(set(seen[0])) == len(seen[0])


def test_floor_carries_one_way() -> None:
    with Player(boot_frames=0) as player:
        to_lesson(player)
        hear_word(player)
        places = []
        for _ in range(PRESSES_TO_EXIT - 1):
            assert player.state().joy_ignore == 0xFF
            step(player, "left")
            places.append(player.place())
        assert len(set(places)) == len(places)
        assert player.place() == (ECHO_HALL, 4, 9)
        for _ in range(8):
            step(player, "left")  # back onto the floor, which brings the player here again
            step(player, "a")
            step(player, "a")
            assert player.place()[2] == 9
            assert not player.state().text_open


@pytest.mark.parametrize("wait", range(4))
def test_one_door_is_right(wait: int) -> None:
    with Player(boot_frames=0) as player:
        to_lesson(player)
        player.run(wait)
        word = hear_word(player)
        for _ in range(PRESSES_TO_EXIT):
            step(player, "right")
        before = player.save()
        for door in DOORS:
            player.load(before)
            step(player, door)
            right = door.upper() == word
            assert player.state().events_set() == [PASSWORD_RIGHT if right else PASSWORD_WRONG]
            assert player.read_text() == ("The door opens." if right else "The door is shut.")


def picture_and_live_ram(player: Player) -> bytes:
    """A hash of what an agent can be shown: the picture, and the live image without the play-time clock."""
    image = bytearray(player.live_image())
    clock = slice(ram.image_index(ram.wPlayTimeHours), ram.image_index(ram.wPlayTimeSeconds) + 1)
    image[clock] = bytes(clock.stop - clock.start)
    return hashlib.sha256(image + player.pyboy.screen.ndarray.tobytes()).digest()
