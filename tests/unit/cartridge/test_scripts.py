"""Scripts in words and bytes, texts with slots, and the checks of a world as a whole; no compiler is needed."""

from __future__ import annotations

import tomllib

import pytest
from engine_world import engine_source, engine_toml

from cluster_rl.cartridge import CONTENT_DIR
from cluster_rl.cartridge.compile_content import compile_world
from cluster_rl.cartridge.ids import Ids
from cluster_rl.cartridge.maps import NOTHING
from cluster_rl.cartridge.scripts import SCRIPT_BYTES, Scripts, Word, parse_script, successors
from cluster_rl.cartridge.sources import Place, all_scripts
from cluster_rl.cartridge.text import MESSAGE_BYTES, Texts, message
from cluster_rl.errors import UserError


def scripts() -> Scripts:
    """A compiler of scripts with the numbers of the test world, where the items are 1 LAMP, 2 BALM and so on."""
    world = engine_source()
    ids = Ids.of(world, ["floor", "path"], world["cells"], ["hero", "folk"])
    return Scripts(ids, Texts(ids.secrets))


def test_words_know_where_they_jump() -> None:
    words = parse_script("""
      ifset SEEN goto again
      give "BIG LAMP" 1 else full
    full:
      goto script SHARED
    again:
    """)
    assert words == (Word("ifset", ("SEEN",), 3), Word("give", ("BIG LAMP", "1"), 2), Word("chain", ("SHARED",), None))
    assert [successors(words, i) for i in range(3)] == [[1, 3], [2, 2], [3]]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("fly HOME", "unknown script line: fly HOME"),
        ("chain SHARED", "unknown script line"),
        ("goto nowhere", "unknown label 'nowhere'"),
        ("ask", "a label is missing"),
        ("ifset SEEN", "expected ifset flag >"),
        ("give LAMP", "expected give item count >?"),
        ('say "never closed', "No closing quotation"),
        ("shop", "expected shop item*"),
        ("a:\na:\nend", "label a: is there twice"),
        ("end\nheal", "script line heal: no line leads to it"),
        ("a:\nheal\ngoto a", "the script never ends"),
    ],
)
def test_what_is_no_script(source: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        parse_script(source)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("give LAMP 0", "script number 0: expected 1 to 99"),
        ("money 1000000", "expected 0 to 999999"),
        ("ifsecret word UP out\nout:", "secret value UP: expected one of NORTH, SOUTH, EAST, WEST or 0 to 3"),
        ("ifsecret levers 1 out\nout:", "secret levers: is no value"),
        ("pull word 1 else out\nout:", "secret word: is no order"),
        ("banner floor 15 0 6 1", "banner 15 0 6 1: reaches out of the screen"),
        ("banner floor 0 15 1 4", "banner 0 15 1 4: reaches out of the screen"),
        ("banner floor 0 0 0 4", "banner 0 0 0 4: reaches out of the screen"),
        ("face GUARD up", r"script on map \(none\): GUARD stands on ROOM"),
        ("heal\n" * (SCRIPT_BYTES + 1), f"script of {SCRIPT_BYTES + 2} bytes"),
    ],
)
def test_what_cannot_be_compiled(source: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        scripts().compile(source)


def test_no_more_people_can_vanish_than_have_a_number() -> None:
    world = engine_source()
    people = world["map"][0]["object"]
    named = sum("name" in person for entry in world["map"] for person in entry.get("object", []))
    people += [{"name": f"N{i}"} for i in range(255 - named)]
    assert NOTHING not in Ids.of(world, [], world["cells"], []).missables.values()
    people.append({"name": "ONE MORE"})
    with pytest.raises(UserError, match="more than 255 named objects"):
        Ids.of(world, [], world["cells"], [])


def test_bytes_of_scripts() -> None:
    compiler = scripts()
    compiler.compile("set ARRIVED\nout:\nifitem BALM goto out\nmoney 1234")
    code = compiler.codes[0]
    assert code[1:3] == (300).to_bytes(2, "little")
    assert code[4:6] == bytes((2, 3))  # the item, and where the word itself begins
    assert code[7:] == bytes.fromhex("001234") + b"\0"
    compiler.compile("give LAMP 2")
    assert compiler.codes[1][1:] == bytes((1, 2, 0xFF, 0))
    compiler.compile("ifsecret word WEST out\nifsecret levers:3 BLUE out\nout:")
    assert (compiler.codes[2][1:3], compiler.codes[2][5:7]) == (bytes((0, 3)), bytes((4 + 2, 2)))


def test_a_schools_script_is_silent() -> None:
    scripts().compile("set SEEN\nlight", silent=True)
    with pytest.raises(UserError, match="a school's script cannot say"):
        scripts().compile('say "Hello."', silent=True)


def test_texts_keep_room_for_the_longest_word_and_the_arrow() -> None:
    texts = Texts(scripts().ids.secrets)
    # SOUTH and NORTH have five letters: 13 + 1 + 5 do not fit a line of 18.
    number = texts.add("Remember this {secret:word}")
    assert 0x4F in texts.messages[number]
    assert texts.add("Remember this {secret:word}") == number
    assert 0x4F not in texts.messages[texts.add("Remember it {secret:word}")]
    # 18 letters fit the first line of a page, 17 the second.
    assert 0x4F not in message("abcdefgh abcdefghi")
    assert message("abcdefgh abcdefghi abcdefgh abcdefghi").count(0x51) == 1
    with pytest.raises(UserError, match="unknown slot"):
        texts.add("{order:levers:5}")
    with pytest.raises(UserError, match="message too long"):
        texts.add("word " * (MESSAGE_BYTES // 5 + 1))


def test_all_scripts_of_a_world_are_found() -> None:
    places = [place for place, _ in all_scripts(engine_source())]
    assert Place("enter", "YARD") in places
    assert Place("spot", "YARD", (8, 1)) in places
    assert Place("object", "YARD", (5, 2), "GHOST") in places
    assert Place("item", name="LAMP") in places
    assert Place("school", name="cave") in places
    assert Place("script", name="SHARED") in places
    assert sum(place.kind == "sign" for place in places) == 18


def test_the_test_world_compiles() -> None:
    compiled = compile_world(engine_source())
    assert compiled.table["key_items"] == [1]
    assert compiled.table["first_map"] == 37
    assert [school["name"] for school in compiled.table["schools"]] == ["room", "cave", "guard"]
    assert compiled.table["tilesets"]["17"] == "CAVE"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('warps = [{ at = [1, 5], to = "ROOM", warp = 0 }]', "", "leads nowhere"),
        ('warps = [{ at = [3, 3], to = "ROOM", warp = 2 }]', 'warps = []\n[[map.spot]]\nat=[1,1]\nscript="end"', "DEN"),
        ("bbbbbbbb\nbbbmbbbb", "bbbibbbb\nbbimibbb", "map DEN: has no exit for who comes to 3, 3"),
        ("at = [4, 3]\nfacing", "at = [4, 0]\nfacing", "school room: stands in a wall"),
        ("  warp YARD 6 6", "  warp YARD 0 0", "warp YARD 0 0 is a wall"),
        ("  set LESSON", '  say "Hello."', "cannot say|LESSON is never used"),
        ('name = "TRIO"', 'name = "DUO"', "trainer DUO is never used|unknown name 'TRIO'"),
        (
            '[[trainer]]\nname = "TRIO"',
            '[[trainer]]\nname = "SOLO"\nclass = 1\nteam = [["TUMBLO", 2]]\nprize = 1\n[[trainer]]\nname = "TRIO"',
            "trainer SOLO is never used",
        ),
        ('["TUMBLO", 2]]', '["TUMBLO", 2], ["TUMBLO", 2]]', "a team has 1 to 3 members"),
        ('name = "CHARM"\nid = 3', 'name = "CHARM"\nid = 2', "item id 2 is there twice"),
        ('name = "GHOST"', 'name = "GUARD"', "object name GUARD is taken|unknown name 'GHOST'"),
        ('name = "GHOST"\nsprite', "sprite", "who is hidden needs a name|unknown name 'GHOST'"),
        ('sprite = "folk"', 'sprite = "dragon"', "no sprite dragon"),
        ("iiixiiii", "iiizqiii", "no cell 'q'"),
        ('kind = "order"\nvalues = 4', 'kind = "order"\nvalues = 5', "no such kind or number of values"),
        ('"EAST", "WEST"]', '"EAST"]', "3 words for 4 values"),
        ('tileset = "cave"', 'tileset = "abyss"', "unknown name 'abyss'"),
        ('["TUMBLO", 2]]', '["TUMBLO", 0]]', "trainer TRIO of level 0: expected 1 to 40"),
        ('["GRUBBO", 2]] }', '["GRUBBO", 41]] }', "map YARD: wild one of level 41"),
        ("at = [0, 1] }", "at = [0, 0] }", "game: starts in a wall at 0, 0 on ROOM"),
        ("heal = 20", "heal = 300", "item BALM: heals 300"),
        ('title = "ENGINE TEST"', 'title = "ENGINE TESTS"', "title 'ENGINE TESTS' has more than 11 letters"),
        ('player = "WREN"', 'player = "WRENWREN"', "player WRENWREN has more than 7 letters"),
        ("[[secret]]", '[[secret]]\nname = "idle"\nvalues = 3\n[[secret]]', "secret idle is never used"),
        ("[flags]", "[flags]\nSILENT = 9", "flag SILENT is never used"),
        ("  set LESSON", "  set LESSON\n  give LAMP 60\n  give LAMP 60", "school cave: give LAMP does not fit"),
        ("  set LESSON", "  set LESSON\n" + "  friend FENNO 5\n" * 7, "school cave: friend FENNO does not fit"),
        ("script = 'say \"Rested.\"'", "script = 'goto script SHARED'", "goes in a circle in which nothing waits"),
        ('event = "LESSON"', 'event = "FULL"', "flag LESSON is never read"),
        ("power = 35", "power = 171", "move NIP: more power than 170"),
        ("[[species]]", '[texts]\nhello = "Hi."\n[[species]]', "the engine never says hello"),
    ],
)
def test_worlds_that_are_refused(old: str, new: str, complaint: str) -> None:
    text = engine_toml()
    assert old in text
    cells = tomllib.loads((CONTENT_DIR / "cells.toml").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=complaint):
        compile_world(cells | tomllib.loads(text.replace(old, new, 1)))
