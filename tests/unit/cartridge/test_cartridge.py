"""The embedded cartridge: what is shipped is what the sources build, and it plays as it should."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cartridge_player import HOME, ROUTE, TOWN, Player, random_buttons

from cluster_rl.cartridge import (
    CONTENT_DIR,
    MANIFEST_NAME,
    PACKAGE_DIR,
    ROM_NAME,
    SYMBOLS_NAME,
    build,
    compile_content,
    rom_bytes,
    rom_path,
    symbols_path,
)
from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.world import TABLE_DIR

MANIFEST = json.loads((PACKAGE_DIR / MANIFEST_NAME).read_text())
TRADEMARKED_LOGO_START = bytes.fromhex("ceed6666cc0d000b")

BALM = 0x14
FENNO = 1
ECHO_HALL, ECHO_ROOM = 38, 39
PASSWORD_RIGHT, PASSWORD_WRONG = 16, 17


@pytest.fixture
def player() -> Iterator[Player]:
    with Player() as player:
        yield player


# ---------------------------------------------------------------- the files


def test_rom_is_the_one_of_the_manifest() -> None:
    rom = rom_bytes()
    assert rom_path().read_bytes() == rom
    assert len(rom) == 0x10000
    assert hashlib.sha256(rom).hexdigest() == MANIFEST["rom_sha256"]
    assert hashlib.sha1(rom).hexdigest() == MANIFEST["rom_sha1"]


def test_rom_was_built_from_these_sources() -> None:
    """A change of a source without a new build fails here, compiler or not."""
    assert build.source_sha256() == MANIFEST["source_sha256"]


def test_source_hash_sees_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE_DIR, tmp_path / "cartridge")
    folder = tmp_path / "cartridge"
    monkeypatch.setattr(build, "PACKAGE_DIR", folder)
    monkeypatch.setattr(build, "SOURCE_DIR", folder / "src")
    monkeypatch.setattr(build, "CONTENT_DIR", folder / "content")
    assert build.source_sha256() == MANIFEST["source_sha256"]
    for name in ("src/crt0.s", "src/battle.c", "content/world.toml", "content/ram.txt", "build.py", "scripts.py"):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original + b"\n")
        assert build.source_sha256() != MANIFEST["source_sha256"], name
        (folder / name).write_bytes(original)


def test_table_in_the_game_package_belongs_to_the_rom() -> None:
    table = json.loads((TABLE_DIR / build.TABLE_NAME).read_text(encoding="utf-8"))
    compiled = compile_content.compile_world().table
    assert table == {"title": compiled["title"], "rom_sha1s": [MANIFEST["rom_sha1"]], **compiled}
    assert (TABLE_DIR / build.TABLE_NAME).read_text(encoding="utf-8") == build.table_text(table)


def test_header_is_honest_and_has_no_logo() -> None:
    rom = rom_bytes()
    assert rom[0x104:0x134] == bytes(48)
    assert TRADEMARKED_LOGO_START not in rom
    title = rom[0x134:0x144].rstrip(b"\0")
    assert title == b"LANTERNVALE"
    assert b"POKEMON" not in rom
    assert rom[0x147:0x14A] == bytes([0x11, 1, 0])  # MBC3 without RAM, 64 KiB
    checksum = 0
    for byte in rom[0x134:0x14D]:
        checksum = (checksum - byte - 1) & 0xFF
    assert rom[0x14D] == checksum
    assert int.from_bytes(rom[0x14E:0x150], "big") == (sum(rom) - rom[0x14E] - rom[0x14F]) & 0xFFFF


def test_ram_table_agrees_with_the_readers() -> None:
    """Every name that both know stands for one address, and the readers' names are really in the cartridge's table."""
    table = {name: address for address, _, name in build.read_ram_table()}
    readers = {name: value for name, value in vars(ram).items() if name.startswith("w")}
    assert {name: table[name] for name in readers if name in table} == {n: readers[n] for n in readers if n in table}
    assert len(readers.keys() & table.keys()) > 35
    # Fields of the real game that this one has no use for.
    assert readers.keys() - table.keys() == {
        "wIgnoreInputCounter",
        "wMissableObjectFlags",
        "wSSAnne2FCurScript",
        "wSimulatedJoypadStatesIndex",
        "wStatusFlags1",
        "wStatusFlags4",
    }


def test_symbols_name_the_ram_table() -> None:
    lines = [line.split() for line in symbols_path().read_text().splitlines()]
    symbols = {name: address for address, name in lines}
    for address, _, name in build.read_ram_table():
        assert symbols[name] == f"00:{address:04x}"


# ---------------------------------------------------------------- building


def installed_compiler() -> str:
    try:
        return build.compiler_version()
    except UserError:
        return ""


@pytest.mark.skipif(
    installed_compiler() != MANIFEST["compiler"], reason=f"needs {MANIFEST['compiler'][-27:]} (apt-get install sdcc)"
)
def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """As a maintainer does it, in another process and into another folder."""
    command = [sys.executable, "-m", "cluster_rl.cartridge.build", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parents[1]), "PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=tmp_path)
    for name in (ROM_NAME, SYMBOLS_NAME, MANIFEST_NAME):
        assert (tmp_path / "out" / name).read_bytes() == (PACKAGE_DIR / name).read_bytes(), name
    assert (tmp_path / "out" / build.TABLE_NAME).read_bytes() == (TABLE_DIR / build.TABLE_NAME).read_bytes()


def test_build_without_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt-get install sdcc"):
        build.build()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("warp = 0 },\n  { at = [9, 0]", "warp = 7 },\n  { at = [9, 0]", "leads nowhere"),
        ('say = "Press START', 'say = "Press @ START', "no glyph for '@'"),
        ("  give BALM 1\n", "  gift BALM 1\n", "unknown script line: gift BALM 1"),
        ("place = [0, 20]", "place = [9, 20]", "overlap on the canvas"),
        ("T..TT...,......TT..T", "T..TT...,......TT..", "rows differ in length"),
        ("  iflot 1 goto down\n", "  iflot 1 goto up\n", "unknown name 'up'"),
        (
            'key = "v", tiles = ["carryD", "carryD", "carryD"',
            'key = "v", tiles = ["carryD", "carryD", "carryL"',
            "carries in one cell and not in another",
        ),
        (
            """[[map.spot]]
at = [3, 2]""",
            """[[map.spot]]
at = [0, 0]
script = "heal"
[[map.spot]]
at = [3, 2]""",
            "more than 4 spots",
        ),
        ('name = "KINDLE"', 'name = "KINDLES"', "unknown name 'KINDLE'"),
        ('player = "WREN"', 'player = "WRENWRENWREN"', "more than 10 letters"),
        (
            'key = "w", tiles = ["water", "water", "water"',
            'key = "w", tiles = ["water", "water", "floor"',
            "both blocks",
        ),
    ],
)
def test_content_that_breaks_a_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    shutil.copytree(CONTENT_DIR, tmp_path / "content")
    world = tmp_path / "content" / "world.toml"
    text = world.read_text(encoding="utf-8")
    assert old in text
    world.write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(compile_content, "CONTENT_DIR", tmp_path / "content")
    with pytest.raises(UserError, match=complaint):
        compile_content.compile_world()


# ---------------------------------------------------------------- playing


def test_boots_into_a_new_game(player: Player) -> None:
    state = player.state()
    assert player.place() == (HOME, 3, 3)
    assert state.player_name == "WREN"
    assert [(mon.species, mon.level, mon.experience) for mon in state.party] == [(FENNO, 5, 125)]
    assert (state.money, state.bag, state.badges) == (500, ((BALM, 2),), 0)
    assert player.memory[ram.wPartyCount + 2] == 0xFF  # the species list ends
    assert state.joy_ignore == 0


def test_first_button_counts_soon_after_boot() -> None:
    with Player(boot_frames=81) as player:
        player.tap("left", 8, 30)
        assert player.place() == (HOME, 2, 3)


def test_step_takes_sixteen_frames(player: Player) -> None:
    player.pyboy.button_press("left")
    arrivals, counters = [], []
    for frame in range(60):
        place = player.place()
        player.run(1)
        counters.append(player.memory[ram.wWalkCounter])
        if player.place() != place:
            arrivals.append(frame)
    player.pyboy.button_release("left")
    assert player.place() == (HOME, 0, 3)
    assert [later - earlier for earlier, later in pairwise(arrivals)] == [16, 16]
    changes = [after for before, after in pairwise([0, *counters[: arrivals[0] + 1]]) if before != after]
    assert changes[-8:] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_walls_and_people_block(player: Player) -> None:
    player.walk("rrr")
    assert player.place() == (HOME, 4, 3)  # the villager stands at (5, 3)
    player.walk("uuuu")
    assert player.place() == (HOME, 4, 1)  # the wall is row 0


def test_villager_talks_and_rests(player: Player) -> None:
    player.memory[ram.wPartyMons + 2] = 1
    player.to_villager()
    player.tap("a", 4, 30)
    state = player.state()
    assert state.text_open
    assert state.menu is None
    assert player.read_text() == "Good morning, WREN! Rest if you are tired."
    state = player.state()
    assert state.events_set() == [8]
    assert state.party[0].hp == state.party[0].max_hp
    assert not state.text_open


def test_start_menu_and_bag(player: Player) -> None:
    player.tap("start")
    player.run(10)
    menu = player.state().menu
    assert menu is not None
    # The real game's quirk is kept: the last index that is announced is the count.
    assert (menu.top_y, menu.top_x, menu.max_item, menu.watched_keys) == (2, 11, 6, 0xCB)
    for button, item in (("right", 0), ("left", 0), ("down", 1), ("down", 2), ("up", 1), ("up", 0), ("up", 5)):
        player.tap(button)
        menu = player.state().menu
        assert menu is not None
        assert (menu.choice, menu.kind) == (item, "start"), button
    player.tap("down")
    player.tap("down")
    player.tap("a", 8, 20)
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.max_item, menu.watched_keys, menu.list_menu_id) == ("list", 0, 1, 7, 3)
    player.tap("b")
    player.run(20)
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice) == ("start", 1)
    player.tap("b")
    player.run(20)
    state = player.state()
    assert state.menu is None
    assert not state.font_loaded


def test_balm_from_the_bag_heals(player: Player) -> None:
    max_hp = player.state().party[0].max_hp
    player.memory[ram.wPartyMons + 2] = max_hp - 5
    player.tap("start")
    player.tap("down")
    player.tap("a", 8, 20)
    player.tap("a", 8, 20)
    assert player.read_text() == "FENNO recovered."
    state = player.state()
    assert state.party[0].hp == max_hp
    assert state.bag == ((BALM, 1),)


def test_sign_gift_and_route(player: Player) -> None:
    player.to_villager()
    player.to_town()
    assert player.place() == (TOWN, 4, 4)
    player.to_sign()
    player.tap("a", 4, 30)
    assert player.read_text() == "HOLLOW: a quiet vale. Fern Trail lies north."
    player.walk("rrrrrr")
    player.tap("a", 4, 30)
    assert "Take this balm with you." in player.read_text()
    assert player.state().bag == ((BALM, 3),)
    assert player.state().events_set() == [9, 11]
    player.walk("ll" + "uuuuuu")
    player.run(30)
    assert player.place()[0] == ROUTE


def test_losing_leads_home(player: Player) -> None:
    player.go_to_trainer()
    assert player.place() == (ROUTE, 10, 5)
    player.memory[ram.wPartyMons + 1] = 0
    player.memory[ram.wPartyMons + 2] = 1
    player.tap("a", 4, 4)
    for _ in range(30):
        player.read_text()
        if not player.memory[ram.wIsInBattle]:
            break
        player.tap("a")
    player.run(60)
    state = player.state()
    assert player.place() == (HOME, 3, 3)
    assert (state.badges, state.battle_result, state.money) == (0, 1, 200)
    assert state.party[0].hp == state.party[0].max_hp


def test_winning_gives_the_badge(player: Player) -> None:
    player.go_to_trainer()
    player.tap("a", 4, 4)
    player.read_text()
    state = player.state()
    assert state.in_battle == 2
    assert state.menu is not None
    assert state.menu.is_battle_menu
    player.fight()
    player.read_text()
    state = player.state()
    assert (state.badges, state.money) == (1, 700)
    assert state.has_event(10)
    assert state.party[0].experience > 125
    player.run(30)
    player.walk("ldd")
    assert player.place() == (ROUTE, 9, 7)


# ---------------------------------------------------------------- the password lesson

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
    maps = tomllib.loads((CONTENT_DIR / "world.toml").read_text(encoding="utf-8"))["map"]
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


def test_picture_and_records_hold_under_random_play(player: Player) -> None:
    for number, button in enumerate(random_buttons(seed=5, steps=400)):
        player.tap(button, 5, 3)
        assert player.picture_holds(), (number, player.place())
        state = player.state()
        assert [mon.hp <= mon.max_hp for mon in state.party] == [True]
        assert state.in_battle in (-1, 0, 1, 2)


def test_picture_check_can_fail(player: Player) -> None:
    assert player.picture_holds()
    player.memory[ram.wTileMap + 100] ^= 1
    assert not player.picture_holds()


def test_two_processes_play_the_same_game() -> None:
    """From power-on, 200 random steps: equal hashes of RAM, video memory, sprites and picture after every step."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    chains = [process.communicate(timeout=120)[0] for process in processes]
    assert chains[0] == chains[1]
    assert len(chains[0].split()) == 200
    assert len(set(chains[0].split())) == 200


def print_hash_chain(steps: int) -> None:
    """What `test_two_processes_play_the_same_game` runs: a chained hash a line."""
    digest = b""
    with Player() as player:
        for button in random_buttons(seed=3, steps=steps):
            player.tap(button, 5, 2)
            player.pyboy.tick(1, True, False)
            video = bytes(player.memory[0x8000:0xA000]) + bytes(player.memory[0xFE00:0xFEA0])
            picture = player.pyboy.screen.ndarray.tobytes()
            digest = hashlib.sha256(digest + player.image() + video + picture).digest()
            print(digest.hex())


if __name__ == "__main__":
    print_hash_chain(200)
