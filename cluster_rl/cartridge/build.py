"""Builds the embedded cartridges: `python -m cluster_rl.cartridge.build [--world WORLD] [--unproved] [FOLDER]`.

A maintainer runs it, and a test does where the compiler is installed. In: `src/` (C and assembly), `content/`. Out: for
each world its ROM, symbols and names table, and `manifest.json`; without FOLDER each goes to its place in the package.
Needs Debian's package `sdcc`; with version 4.2.0 the ROMs come out the same byte for byte.

Nothing here reads the time, the machine's paths or its dict order, and objects are made in a temporary folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster_rl.cartridge import (
    CONTENT_DIR,
    MANIFEST_NAME,
    PACKAGE_DIR,
    SMALL,
    rom_name,
    symbols_name,
    table_name,
)
from cluster_rl.cartridge.compile_content import Compiled, compile_world, read_world
from cluster_rl.cartridge.resources import BANK_BYTES, FIRST_DATA_BANK
from cluster_rl.cartridge.solver import check_gates
from cluster_rl.cartridge.tables import CELL_TABLE_PAGE
from cluster_rl.errors import EXIT_OK, UserError, run_command

SOURCE_DIR = PACKAGE_DIR / "src"
TABLE_DIR = PACKAGE_DIR.parent / "game" / "tables"
SHARED_CONTENT = ("cells.toml", "font.txt", "pictures.txt", "ram.txt", "sprites.txt", "tiles.txt")

CODE_START, CODE_BYTES = 0x0500, 2 * BANK_BYTES
DATA_START, DATA_BYTES = 0xC000, 0x100
COMPILE = ("sdcc", "-msm83", "--opt-code-size", "--max-allocs-per-node", "3000", "--std-c11", "-I.", "-c")
ASSEMBLE = ("sdasgb", "-plosgff", "-o")
LINK = ("sdcc", "-msm83", "--no-std-crt0", "--code-loc", hex(CODE_START), "--data-loc", hex(DATA_START), "-Wl-j", "-o")
COMPILER_JOBS = 2

# MBC3 without cartridge RAM: the real game's mapper, but nothing is ever written beside the ROM.
CARTRIDGE_TYPE = 0x11
HEADER_START, HEADER_STOP, TITLE_START, TITLE_BYTES = 0x104, 0x150, 0x134, 11


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m cluster_rl.cartridge.build", description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where to put all files (default: in the package)")
    parser.add_argument(
        "--world", choices=world_sources(), help="build this one alone, and leave the others as they are"
    )
    parser.add_argument("--unproved", action="store_true", help="leave out the proof that gates hold, for a try")
    options = parser.parse_args()
    folder: Path = options.folder or PACKAGE_DIR
    folder.mkdir(parents=True, exist_ok=True)
    old = folder / MANIFEST_NAME
    records = json.loads(old.read_text(encoding="ascii"))["worlds"] if options.world and old.exists() else {}
    for world in world_sources() if options.world is None else (options.world,):
        content = read_world(world)
        compiled = compile_world(content)
        if not options.unproved:
            check_gates(content)
        built = build(compiled)
        built.write(world, folder, options.folder or TABLE_DIR)
        records[world] = built.record(source_sha256(world))
        print(f"{rom_name(world)}: {len(built.rom)} bytes, code {built.code_bytes}, sha1 {built.sha1}", flush=True)
    record = {"worlds": {w: records[w] for w in world_sources() if w in records}}
    old.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")
    return EXIT_OK


def world_sources() -> tuple[str, ...]:
    """The worlds that `content/` has, the small one first, the others by name."""
    names = {path.stem for path in CONTENT_DIR.glob("*.toml") if path.name not in SHARED_CONTENT}
    return (SMALL, *sorted(names - {SMALL}))


@dataclass(frozen=True)
class Built:
    """A finished build of one world. `table` is the names table, the ROM's hash included."""

    rom: bytes
    symbols: str
    table: dict[str, Any]
    code_bytes: int

    @property
    def sha1(self) -> str:
        """Of the ROM."""
        return hashlib.sha1(self.rom).hexdigest()

    def record(self, source: str) -> dict[str, str]:
        """What the manifest holds of it."""
        sha256 = hashlib.sha256(self.rom).hexdigest()
        names = {"rom_sha1": self.sha1, "rom_sha256": sha256, "source_sha256": source}
        return {"compiler": compiler_version(), **names}

    def write(self, world: str, folder: Path, table_folder: Path) -> None:
        """Writes all files but the manifest."""
        (folder / rom_name(world)).write_bytes(self.rom)
        (folder / symbols_name(world)).write_text(self.symbols, encoding="ascii")
        (table_folder / table_name(world)).write_text(table_text(self.table), encoding="utf-8")


def build(compiled: Compiled) -> Built:
    """Builds a world in memory. Raises UserError where source or tool chain are wrong."""
    compiler_version()
    with tempfile.TemporaryDirectory(prefix="cartridge-") as folder:
        code = compile_code(compiled, Path(folder))
    rom = make_rom(code, compiled)
    table = {"title": compiled.title, "rom_sha1s": [hashlib.sha1(rom).hexdigest()], **compiled.table}
    return Built(rom, symbol_file(code.symbols), table, code.bytes_used)


def source_sha256(world: str) -> str:
    """Hash of all that a world's ROM is made from: the files of `src/`, what worlds share in `content/`, the world's
    own file and all Python here, names included."""
    files = [p for p in SOURCE_DIR.iterdir() if p.is_file()]
    files += [CONTENT_DIR / name for name in (*SHARED_CONTENT, f"{world}.toml")]
    files += [p for p in PACKAGE_DIR.glob("*.py") if p.stem not in ("closure", "solver", "story")]  # they prove alone
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.relative_to(PACKAGE_DIR).as_posix()):
        # Line ends must not matter: a checkout may turn them.
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(PACKAGE_DIR).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def compiler_version() -> str:
    """The first line of `sdcc --version`. Raises UserError where it is not installed."""
    try:
        text = subprocess.run(["sdcc", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"sdcc: {error}; install it, on Debian: apt-get install sdcc") from None
    return text.splitlines()[0].strip()


# ---------------------------------------------------------------- tool chain


@dataclass(frozen=True)
class Code:
    """The linked code: banks 0 and 1 as one image, how much of it is used, and the linker's symbols."""

    image: bytes
    bytes_used: int
    symbols: dict[str, int]


def compile_code(compiled: Compiled, folder: Path) -> Code:
    """Compiles, assembles and links in a folder of its own, so that object files hold no paths."""
    for source in SOURCE_DIR.iterdir():
        shutil.copyfile(source, folder / source.name)
    ram_header, ram_assembly, spans = ram_equates()
    generated = {
        "res.h": compiled.c_header,
        "tables.c": compiled.c_tables,
        "ram.h": ram_header,
        "ram.s": ram_assembly,
        "meta.s": cell_table_assembly(compiled.cell_table),
    }
    for name, text in generated.items():
        (folder / name).write_text(text, encoding="ascii")
    # crt0 must be linked first.
    assembly = ["crt0", "ram", "meta"]
    c_files = [*sorted(path.stem for path in SOURCE_DIR.glob("*.c")), "tables"]
    for stem in assembly:
        run_tool(folder, *ASSEMBLE, f"{stem}.rel", f"{stem}.s")
    with ThreadPoolExecutor(COMPILER_JOBS) as pool:
        list(pool.map(lambda stem: compile_c(folder, stem), c_files))
    run_tool(folder, *LINK, "lantern.ihx", *[f"{stem}.rel" for stem in assembly + c_files])
    image, used = read_ihx(folder / "lantern.ihx")
    symbols = read_symbols(folder / "lantern.noi")
    check_private_ram(symbols, spans)
    return Code(image, sum(address >= CODE_START for address in used), symbols)


def compile_c(folder: Path, stem: str) -> None:
    """Compiles one C file and looks for a known code bug in what came out."""
    run_tool(folder, *COMPILE, f"{stem}.c", "-o", f"{stem}.rel")
    bad = re.search(r"\(_\w+ - \d+\)", (folder / f"{stem}.asm").read_text())
    if bad:
        # SDCC 4.2.0 reads *(array + 128..255) at offset - 256.
        raise UserError(f"{stem}.c: negative symbol offset {bad[0]}; cast the offset to u16")


def run_tool(folder: Path, *command: str) -> None:
    """Runs a tool; a warning is an error, because the linker only warns of undefined names."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    noise = done.stdout + done.stderr
    if done.returncode or "warning" in noise.lower():
        raise UserError(f"{' '.join(command)}: {noise}")


def ram_equates() -> tuple[str, str, list[tuple[int, int, str]]]:
    """(C header, assembly, sorted (start, stop, name)) of `content/ram.txt`. Raises UserError on an overlap."""
    header, assembly, spans = "", "        .module ram\n", []
    for address, size, name in read_ram_table():
        assembly += f"_{name} == 0x{address:04X}\n"
        volatile = "volatile " if address >= 0xFF00 else ""
        header += f"extern {volatile}uint8_t {name}{'' if size == 1 else f'[{size}]'};\n"
        spans.append((address, address + size, name))
    spans.sort()
    for one, other in pairwise(spans):
        if one[1] > other[0]:
            raise UserError(f"ram.txt: {one[2]} and {other[2]} overlap")
    return header, assembly, spans


def read_ram_table() -> list[tuple[int, int, str]]:
    """(address, bytes, name) of each line of `content/ram.txt`."""
    lines = (CONTENT_DIR / "ram.txt").read_text(encoding="ascii").splitlines()
    fields = [line.split() for line in lines if line and not line.startswith("#")]
    return [(int(address, 16), int(size), name) for address, size, name in fields]


def cell_table_assembly(table: bytes) -> str:
    """The cell table as an area of its own, on a page boundary for the assembly that draws."""
    rows = ["        .db " + ",".join(map(str, table[i : i + 16])) + "\n" for i in range(0, len(table), 16)]
    return f"        .module meta\n        .area _META (ABS)\n        .org 0x{CELL_TABLE_PAGE:02X}00\n" + "".join(rows)


def read_ihx(path: Path) -> tuple[bytes, set[int]]:
    """Intel hex to (32 KiB image, addresses used). Raises UserError where code overlaps or leaves the window."""
    image = bytearray(CODE_BYTES)
    used: set[int] = set()
    for line in path.read_text(encoding="ascii").splitlines():
        raw = bytes.fromhex(line[1:])
        if sum(raw) & 0xFF:
            raise UserError("lantern.ihx: wrong checksum")
        length, start, kind = raw[0], raw[1] << 8 | raw[2], raw[3]
        if kind != 0:
            continue
        for address, value in enumerate(raw[4 : 4 + length], start):
            if address in used or address >= CODE_BYTES:
                raise UserError(f"code overlaps or leaves 32 KiB at {address:04X}")
            used.add(address)
            image[address] = value
    return bytes(image), used


def read_symbols(path: Path) -> dict[str, int]:
    """The linker's symbols with their addresses."""
    words = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    return {line[1]: int(line[2], 16) for line in words if line[0] == "DEF"}


def check_private_ram(symbols: Mapping[str, int], spans: Sequence[tuple[int, int, str]]) -> None:
    """The compiler's own variables must fit their place and stay clear of the game's state."""
    if symbols.get("l__INITIALIZER", 0):
        raise UserError("initialised globals are not supported: set them at run time")
    size = symbols["l__DATA"]
    if size > DATA_BYTES:
        raise UserError(f"private variables take {size} of {DATA_BYTES} bytes")
    for start, stop, name in spans:
        if start < DATA_START + size and stop > DATA_START:
            raise UserError(f"private variables overlap {name}")


# ---------------------------------------------------------------- what comes out


def make_rom(code: Code, compiled: Compiled) -> bytes:
    """Code, data banks and header, filled up to a power of two."""
    banks = compiled.resources.pack()
    bank_count = 4
    while bank_count < FIRST_DATA_BANK + len(banks):
        bank_count *= 2
    rom = bytearray(code.image + b"".join(bank.ljust(BANK_BYTES, b"\xff") for bank in banks))
    rom = rom.ljust(bank_count * BANK_BYTES, b"\xff")
    write_header(rom, compiled.title, bank_count)
    return bytes(rom)


def write_header(rom: bytearray, title: str, bank_count: int) -> None:
    """Title, type, sizes and both checksums. The logo stays zero: it is a trademark, and PyBoy does not ask for it."""
    if len(title) > TITLE_BYTES:
        raise UserError(f"title {title!r} has more than {TITLE_BYTES} letters")
    rom[HEADER_START:HEADER_STOP] = bytes(HEADER_STOP - HEADER_START)
    rom[TITLE_START : TITLE_START + len(title)] = title.encode("ascii")
    rom[0x147] = CARTRIDGE_TYPE
    rom[0x148] = bank_count.bit_length() - 2
    rom[0x14A] = 1  # not for Japan
    checksum = 0
    for byte in rom[TITLE_START:0x14D]:
        checksum = (checksum - byte - 1) & 0xFF
    rom[0x14D] = checksum
    rom[0x14E:0x150] = (sum(rom) & 0xFFFF).to_bytes(2, "big")


def symbol_file(symbols: Mapping[str, int]) -> str:
    """Symbols as PyBoy and debuggers read them: `bank:address name`."""
    named = sorted((address, name) for name, address in symbols.items() if name.startswith("_"))
    return "".join(f"00:{address:04x} {name.removeprefix('_')}\n" for address, name in named)


def table_text(table: Mapping[str, Any]) -> str:
    """JSON with one line for each map and milestone, so that changes are easy to read."""
    parts = []
    for key, value in table.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
            parts.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    run_command(main)
