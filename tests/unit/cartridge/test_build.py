"""The embedded cartridge's files: what is shipped is what the sources build, and wrong content is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.cartridge import (
    CONTENT_DIR,
    MANIFEST_NAME,
    PACKAGE_DIR,
    SMALL,
    build,
    compile_content,
    manifest,
    rom_bytes,
    rom_name,
    rom_path,
    symbols_name,
    symbols_path,
    table_name,
    world_names,
)
from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.world import TABLE_DIR

TRADEMARKED_LOGO_START = bytes.fromhex("ceed6666cc0d000b")
each_world = pytest.mark.parametrize("world", world_names())


def test_every_world_of_the_sources_is_shipped() -> None:
    assert world_names() == build.world_sources()
    assert world_names()[0] == SMALL


@each_world
def test_rom_is_the_one_of_the_manifest(world: str) -> None:
    rom, record = rom_bytes(world), manifest()["worlds"][world]
    assert rom_path(world).read_bytes() == rom
    assert len(rom) in (0x10000, 0x20000)
    assert hashlib.sha256(rom).hexdigest() == record["rom_sha256"]
    assert hashlib.sha1(rom).hexdigest() == record["rom_sha1"]


@each_world
def test_rom_was_built_from_these_sources(world: str) -> None:
    """A change of a source without a new build fails here, compiler or not."""
    assert build.source_sha256(world) == manifest()["worlds"][world]["source_sha256"]


def test_source_hash_sees_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE_DIR, tmp_path / "cartridge")
    folder = tmp_path / "cartridge"
    monkeypatch.setattr(build, "PACKAGE_DIR", folder)
    monkeypatch.setattr(build, "SOURCE_DIR", folder / "src")
    monkeypatch.setattr(build, "CONTENT_DIR", folder / "content")
    before = build.source_sha256(SMALL)
    assert before == manifest()["worlds"][SMALL]["source_sha256"]
    for name in (
        *("src/crt0.s", "src/battle.c", "content/small.toml", "content/cells.toml", "content/ram.txt", "build.py"),
        "scripts.py",
    ):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original + b"\n")
        assert build.source_sha256(SMALL) != before, name
        (folder / name).write_bytes(original)


@each_world
def test_table_in_the_game_package_belongs_to_the_rom(world: str) -> None:
    text = (TABLE_DIR / table_name(world)).read_text(encoding="utf-8")
    compiled = compile_content.compile_world(compile_content.read_world(world))
    sha1s = [manifest()["worlds"][world]["rom_sha1"]]
    table = {"title": compiled.title, "rom_sha1s": sha1s, **compiled.table}
    assert json.loads(text) == table
    assert text == build.table_text(table)


@each_world
def test_header_is_honest_and_has_no_logo(world: str) -> None:
    rom = rom_bytes(world)
    assert rom[0x104:0x134] == bytes(48)
    assert TRADEMARKED_LOGO_START not in rom
    assert b"POKEMON" not in rom
    assert rom[0x147:0x14A] == bytes([0x11, 1 if len(rom) == 0x10000 else 2, 0])  # MBC3 without RAM, 64 or 128 KiB
    checksum = 0
    for byte in rom[0x134:0x14D]:
        checksum = (checksum - byte - 1) & 0xFF
    assert rom[0x14D] == checksum
    assert int.from_bytes(rom[0x14E:0x150], "big") == (sum(rom) - rom[0x14E] - rom[0x14F]) & 0xFFFF


def test_titles_tell_the_worlds_apart() -> None:
    titles = [rom_bytes(world)[0x134:0x144].rstrip(b"\0") for world in world_names()]
    assert dict(zip(world_names(), titles, strict=True))[SMALL] == b"SMALL VALE"
    assert rom_bytes("lanternvale")[0x134:0x13F] == b"LANTERNVALE"
    assert len(set(titles)) == len(titles)


NOT_OURS = frozenset(
    ("RED", "BLUE", "ASH", "GARY", "OAK", "BROCK", "MISTY", "SURGE", "ERIKA", "KOGA", "SABRINA", "BLAINE", "GIOVANNI")
) | frozenset(
    ("LORELEI", "BRUNO", "AGATHA", "LANCE", "BILL", "FUJI", "DAISY", "ELM", "BIRCH", "ROWAN", "JUNIPER", "IVY")
)


@each_world
def test_nobody_has_a_name_of_the_real_games_people(world: str) -> None:
    content = compile_content.read_world(world)
    names = {content["game"]["player"]} | {entry["name"] for entry in content.get("trainer", [])}
    names |= {person["name"] for entry in content["map"] for person in entry.get("object", []) if "name" in person}
    assert not names & NOT_OURS
    words = {word for secret in content.get("secret", []) for word in secret.get("words", [])} - {"RED", "BLUE"}
    assert not words & NOT_OURS


@each_world
def test_the_engine_knows_nothing_of_a_world_by_name(world: str) -> None:
    content = compile_content.read_world(world)
    names = {entry["name"] for kind in ("map", "item", "species", "trainer") for entry in content.get(kind, [])}
    names |= {person["name"] for entry in content["map"] for person in entry.get("object", []) if "name" in person}
    words = re.findall(r"\w+", " ".join(path.read_text() for path in build.SOURCE_DIR.iterdir()))
    assert len(words) > 1000
    assert not (names | set(content["flags"])) & set(words)


def test_ram_table_agrees_with_the_readers() -> None:
    """Every name that both know stands for one address, and the readers' names are really in the cartridge's table."""
    table = {name: address for address, _, name in build.read_ram_table()}
    readers = {name: value for name, value in vars(ram).items() if name.startswith("w")}
    assert {name: table[name] for name in readers if name in table} == {n: readers[n] for n in readers if n in table}
    assert len(readers.keys() & table.keys()) > 35
    # Fields of the real game that this one has no use for.
    assert readers.keys() - table.keys() == {
        "wIgnoreInputCounter",
        "wSSAnne2FCurScript",
        "wStatusFlags1",
        "wStatusFlags4",
    }


def test_symbols_name_the_ram_table() -> None:
    lines = [line.split() for line in symbols_path().read_text().splitlines()]
    symbols = {name: address for address, name in lines}
    for address, _, name in build.read_ram_table():
        assert symbols[name] == f"00:{address:04x}"


SPOT = "[[map.spot]]\nat = [3, 2]"


def installed_compiler() -> str:
    try:
        return build.compiler_version()
    except UserError:
        return ""


@pytest.mark.skipif(
    {installed_compiler()} != {record["compiler"] for record in manifest()["worlds"].values()},
    reason=f"needs the compiler of the cartridge: {manifest()['worlds'][SMALL]['compiler']}",
)
def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """As a maintainer does it, in another process and into another folder."""
    command = [sys.executable, "-m", "cluster_rl.cartridge.build", "--unproved", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parents[1]), "PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=tmp_path)
    names = [MANIFEST_NAME, *(name(world) for world in world_names() for name in (rom_name, symbols_name))]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (PACKAGE_DIR / name).read_bytes(), name
    for name in map(table_name, world_names()):
        assert (tmp_path / "out" / name).read_bytes() == (TABLE_DIR / name).read_bytes(), name


def test_one_world_built_alone_leaves_the_records_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of its own it is alone; beside others, they keep theirs, with the compiler that made them."""
    monkeypatch.setattr(sys, "argv", ["build", "--world", SMALL, str(tmp_path)])
    monkeypatch.setattr(build, "build", lambda compiled: build.Built(b"rom", "", {"title": compiled.title}, 0))
    monkeypatch.setattr(build, "compiler_version", lambda: "this")
    build.main()
    written = json.loads((tmp_path / MANIFEST_NAME).read_text())["worlds"]
    assert written.keys() == {SMALL}
    assert written[SMALL]["compiler"] == "this"
    other = {"compiler": "another", "rom_sha1": "", "rom_sha256": "", "source_sha256": ""}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"worlds": {"lanternvale": other}}))
    build.main()
    both = {SMALL: written[SMALL], "lanternvale": other}
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["worlds"] == both
    assert "lantern.gb" in capsys.readouterr().out


def test_build_without_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt-get install sdcc"):
        build.build(compile_content.compile_world(compile_content.read_world(SMALL)))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("warp = 0 },\n  { at = [9, 0]", "warp = 7 },\n  { at = [9, 0]", "leads nowhere"),
        ('say = "Press START', 'say = "Press @ START', "no glyph for '@'"),
        ("  give BALM 1\n", "  gift BALM 1\n", "unknown script line: gift BALM 1"),
        ("place = [0, 20]", "place = [9, 20]", "overlap on the canvas"),
        ("T..TT...,......TT..T", "T..TT...,......TT..", "rows differ in length"),
        ("  iflot 1 goto down\n", "  iflot 1 goto up\n", "unknown label 'up'"),
        (
            'key = "v", tiles = ["carryD", "carryD", "carryD"',
            'key = "v", tiles = ["carryD", "carryD", "carryL"',
            "carries in one cell and not in another",
        ),
        (SPOT, f'{SPOT}\nscript = "heal"\n' * 5 + SPOT, "more than 8 spots"),
        ("GOT_BALM = 11", "GOT_BALM = 11\nNEVER = 12", "flag NEVER is never used"),
        ("GOT_BALM = 11", "GOT_BALM = 10", "flag bit 10 is there twice"),
        ('id = 12\ncategory = "route"', 'id = 11\ncategory = "route"', "id 11 is not one of a route"),
        ("  end\nagain:", "  end\n  heal\nagain:", "script line heal: no line leads to it"),
        ('at = [3, 7], to = "HOLLOW"', 'at = [0, 0], to = "HOLLOW"', "leads into a wall at 0, 0"),
        ("{ at = [14, 12], say", "{ at = [15, 9], say", "nobody gets to the sign at 15, 9"),
        ("{player}! Rest", "{who}! Rest", "unknown slot {who}"),
        ("hear the word.", "hear the incomprehensibility.", "longer than a line"),
        ('name = "KINDLE"', 'name = "KINDLES"', "unknown name 'KINDLE'"),
        ('player = "WREN"', 'player = "WRENWRENWREN"', "more than 7 letters"),
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
    files = [tmp_path / "content" / name for name in ("small.toml", "cells.toml")]
    (file,) = [file for file in files if old in file.read_text(encoding="utf-8")]
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    monkeypatch.setattr(compile_content, "CONTENT_DIR", tmp_path / "content")
    with pytest.raises(UserError, match=complaint):
        compile_content.compile_world(compile_content.read_world(SMALL))
