"""What is hidden from who plays: secrets, and dark maps; and a noise that hides nothing. In a world made for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from cartridge_player import random_buttons
from engine_world import (
    CAVE,
    DEN,
    LAMP,
    ROOM,
    SECRET_COMBINATIONS,
    EnginePlayer,
    has_compiler,
)

from cluster_rl.config import Config
from cluster_rl.game import ram

pytestmark = pytest.mark.skipif(not has_compiler(), reason="compiles a world of its own, and sdcc is not installed")

ROOM_SCHOOL, CAVE_SCHOOL, GUARD_SCHOOL = range(3)


@pytest.fixture
def player() -> Iterator[EnginePlayer]:
    with EnginePlayer() as player:
        yield player


def shades(player: EnginePlayer) -> np.ndarray:
    """The picture, uint8 [144, 160], 255 for the lightest shade."""
    player.pyboy.tick(1, True, False)
    return player.pyboy.screen.ndarray[:, :, 0].copy()


# Secrets


def test_every_secret_is_drawn_equally_often() -> None:
    """Over the waits before the first button, of a new game and of a school; the first button alone decides."""
    for school in (None, ROOM_SCHOOL):
        with EnginePlayer(school) as player:
            start = player.save()
            at = player.symbol("secrets")
            drawn = []
            for wait in range(SECRET_COMBINATIONS):
                player.load(start)
                assert not any(player.memory[at : at + 8])
                player.run(wait)
                player.tap("left", 4, 20)
                secrets = bytes(player.memory[at : at + 8])
                assert sorted(secrets[4:]) == [0, 1, 2, 3]
                drawn.append((secrets[0], secrets[4:]))
                player.tap("right", 8, 17 + wait % 3)
                assert bytes(player.memory[at : at + 8]) == secrets
        assert len(set(drawn)) == SECRET_COMBINATIONS
    assert (
        Config().start_idle_frames_max + 1 == SECRET_COMBINATIONS
    )  # so each is as likely in an episode of the default


def test_secrets_are_in_private_ram_alone(player: EnginePlayer) -> None:
    """The same game with other secrets: all RAM, the picture and the sprites are the same but for that place."""
    player.tap("right", 4, 20)
    before, at = player.save(), player.symbol("secrets")
    assert 0xC000 <= at < 0xC0F0
    assert not ram.is_live(at)
    looks = []
    for secrets in ((0, 0, 0, 0, 3, 2, 1, 0), (3, 0, 0, 0, 0, 1, 2, 3)):
        player.load(before)
        for offset, value in enumerate(secrets):
            player.memory[at + offset] = value
        look = []
        for button in random_buttons(seed=8, steps=60):
            if button != "a":
                player.tap(button, 5, 3)
                player.pyboy.tick(1, True, False)
                image = player.image()
                assert image[at - 0xC000 : at - 0xC000 + 8] == bytes(secrets)
                seen = image[: at - 0xC000] + image[at - 0xC000 + 8 :] + player.pyboy.screen.ndarray.tobytes()
                look.append(hashlib.sha256(seen).digest())
        looks.append(look)
    assert looks[0] == looks[1]


def test_secrets_are_told_asked_and_done_in_order(player: EnginePlayer) -> None:
    player.tap("right", 4, 20)
    at = player.symbol("secrets")
    words, levers = ("NORTH", "SOUTH", "EAST", "WEST"), ("RED", "GREEN", "BLUE", "GOLD")
    for word, order, replies in (
        (0, (0, 1, 2, 3), ["Clack.", "All done."]),
        (1, (0, 2, 1, 3), ["Half.", "Wrong."]),
        (3, (3, 2, 1, 0), ["Wrong.", "Wrong."]),
    ):
        state = player.save()
        for offset, value in enumerate((word, 0, 0, 0, *order)):
            player.memory[at + offset] = value
        assert player.read("told") == f"{words[word]} and {' '.join(levers[value] for value in order)}."
        assert player.read("secret") == {0: "North.", 1: "South."}.get(word, "Neither.")
        assert [player.read("pull") for _ in replies] == replies
        player.load(state)


# The dark, the noise


def to_cave(player: EnginePlayer) -> None:
    _, x, y = player.place()
    player.walk("u" * (y - 1))
    player.walk("r" * (7 - x) + "l" * (x - 7) + "dddd")
    player.run(40)
    assert player.place() == (CAVE, 1, 1)


def test_in_the_dark_only_the_player_is_seen(player: EnginePlayer) -> None:
    to_cave(player)
    player.walk("d")
    state = player.state()
    assert state.is_dark
    assert player.memory[ram.wMapPalOffset] == 6
    assert len(set(state.tile_map)) > 2  # RAM holds the map as ever
    picture = shades(player)
    own = picture[60:76, 64:80].copy()
    picture[60:76, 64:80] = 0
    assert not picture.any()
    assert own.any()
    player.walk("rr")
    player.tap("up", 4, 20)
    for _ in range(20):
        player.tap("up", 2, 4)
        picture = shades(player)
        picture[60:76, 64:80] = 0
        assert not picture.any()
    player.tap("a", 4, 40)
    assert player.state().text_lines == ("Cold walls.",)
    assert player.picture_holds()
    picture = shades(player)
    assert picture[96:].any()
    picture[60:76, 64:80] = 0
    assert not picture[:96].any()
    player.read_text()
    picture = shades(player)
    picture[60:76, 64:80] = 0
    assert not picture.any()
    player.choose("start")
    assert player.state().menu.kind == "start"  # type: ignore[union-attr]
    picture = shades(player)
    assert picture[:112, 80:].any()
    picture[60:76, 64:80] = 0
    assert not picture[:, :80].any()
    player.choose("b")
    player.walk("lluu")
    player.run(40)
    state = player.state()
    assert (player.place()[0], state.is_dark) == (ROOM, False)
    assert shades(player).any()
    assert player.picture_holds()


def test_a_battle_in_the_dark_is_seen_and_the_dark_comes_back(player: EnginePlayer) -> None:
    player.give_friend()
    player.memory[ram.wPartyMons + 36 + 1] = 200  # attack
    to_cave(player)
    player.walk("d" + "rrr" + "d")
    player.tap("right")
    player.tap("a", 4, 10)
    player.read_text()
    assert player.state().in_battle == 2
    picture = shades(player)
    assert (picture == 255).mean() > 0.4
    for _ in range(60):
        if not player.state().in_battle:
            break
        player.choose("a")
        player.read_text()
    player.run(20)
    state = player.state()
    assert (player.place(), state.is_dark, state.interface_up) == ((CAVE, 4, 3), True, False)
    picture = shades(player)
    picture[60:76, 64:80] = 0
    assert not picture.any()
    assert player.picture_holds()


def test_the_lamp_lights_until_the_dark_is_left(player: EnginePlayer) -> None:
    player.fill_bag(LAMP, 1)
    player.read("flags")
    to_cave(player)
    player.walk("d")
    player.choose("start", "down", "a")
    player.choose("a", "a")
    assert player.read_text() == "The lamp glows."
    state = player.state()
    assert (state.is_dark, player.memory[ram.wMapPalOffset]) == (False, 0)
    picture = shades(player)
    assert (picture > 0).mean() > 0.3
    assert player.picture_holds()
    player.walk("rrrr")
    player.tap("down", 4, 20)
    player.walk("u")
    player.walk("uu")
    assert player.picture_holds()
    player.walk("dllllu")
    player.run(40)
    assert player.place()[0] == ROOM
    to_cave(player)
    assert player.state().is_dark


def test_noise_changes_every_four_frames_and_no_tile_map() -> None:
    with EnginePlayer() as player:
        player.walk("r" * 13 + "dddd")
        player.run(40)
        assert player.place() == (DEN, 3, 3)
        player.walk("u")
        tiles = player.state().tile_map
        start = player.save()
        runs = []
        for _ in range(2):
            player.load(start)
            shown = []
            for _ in range(64):
                picture = shades(player)
                shown.append(picture[28:44, 64:80].tobytes() + picture[:16].tobytes())
                assert player.state().tile_map == tiles
            runs.append(shown)
        assert runs[0] == runs[1]
        changes = [frame for frame in range(1, 64) if runs[0][frame] != runs[0][frame - 1]]
        assert len(changes) >= 14
        assert {later - earlier for earlier, later in pairwise(changes)} == {4}
        assert player.picture_holds()
