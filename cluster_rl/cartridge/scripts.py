"""Scripts of the cartridge's signs, people, spots, maps, items and schools: lines of words to byte code.

The build runs it, and the solver reads scripts by it. In: sources from a world file, and the numbers of what they name.
Out: words in order with their jumps, byte codes as `src/script.c` runs them, and the texts they say.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cluster_rl.cartridge.ids import FACINGS, Ids
from cluster_rl.cartridge.text import Texts
from cluster_rl.errors import UserError

SCRIPT_BYTES: Final = 250
SHOP_ITEMS: Final = 14
NO_JUMP: Final = 0xFF
SCREEN_TILES: Final = (20, 18)

WORDS: Final = {
    "end": "",
    "say": "text",
    "ifset": "flag >",
    "goto": ">",
    "chain": "script",
    "set": "flag",
    "clear": "flag",
    "battle": "trainer",
    "badge": "bit",
    "ifbadge": "bit >",
    "heal": "",
    "rest": "",
    "finish": "",
    "light": "",
    "give": "item count >?",
    "take": "item count",
    "ifitem": "item >",
    "friend": "species level >?",
    "iffriend": ">",
    "ask": "text >",
    "shop": "item*",
    "money": "money",
    "pay": "money >",
    "warp": "map cell cell",
    "show": "object",
    "hide": "object",
    "face": "who facing",
    "walk": "facing count",
    "random": "byte >",
    "ifdark": ">",
    "ifsecret": "secret value >",
    "pull": "secret value >",
    "ifpulled": "secret >",
    "draw": "",
    "iflot": "byte >",
    "banner": "tile byte byte byte byte",
}
"""Each word and what follows it: kinds of operands, `item*` one or more items, `>` a label, `>?` a label or nothing.

`chain` is written `goto script NAME`.
"""
SILENT_WORDS: Final = frozenset(
    ("end", "set", "clear", "badge", "give", "take", "friend", "money", "light", "heal", "rest", "show", "hide")
) | {"warp", "finish"}
"""What a school's script may hold, as nobody is there to read or answer."""

_RANGES: Final = {"byte": (0, 255), "bit": (0, 7), "count": (1, 99), "level": (1, 40), "cell": (0, 255)}


@dataclass(frozen=True)
class Word:
    """One line of a script. `target` is the index of the word to jump to; that of the end is one beyond the last."""

    name: str
    operands: tuple[str, ...] = ()
    target: int | None = None


def parse_script(source: str) -> tuple[Word, ...]:
    """The words of a script. Raises UserError for a line that is no word, a label that is not there, a line that
    nothing leads to, and a circle that has no end."""
    labels: dict[str, int] = {}
    lines: list[tuple[str, list[str], str, str]] = []
    for line in filter(None, map(str.strip, source.splitlines())):
        if line.startswith("#"):
            continue
        if line.endswith(":") and " " not in line:
            if line[:-1] in labels:
                raise UserError(f"script label {line} is there twice")
            labels[line[:-1]] = len(lines)
        else:
            lines.append((*_split(line), line))
    words = []
    for name, operands, label, line in lines:
        if label and label not in labels:
            raise UserError(f"script line {line}: unknown label {label!r}")
        words.append(Word(name, tuple(operands), labels[label] if label else None))
    _check_flow(words, [line for *_, line in lines])
    return tuple(words)


def _split(line: str) -> tuple[str, list[str], str]:
    """(word, operands, label or "") of a line."""
    try:
        name, *arguments = shlex.split(line)
    except ValueError as error:
        raise UserError(f"script line {line}: {error}") from None
    if name == "goto" and arguments[:1] == ["script"]:
        name, arguments = "chain", arguments[1:]
    elif name == "chain" or name not in WORDS:
        raise UserError(f"unknown script line: {line}")
    kinds = WORDS[name].split()
    label = ""
    if kinds and kinds[-1] in (">", ">?"):
        optional = kinds.pop() == ">?"
        if not optional or len(arguments) > len(kinds):
            label = arguments.pop() if arguments else ""
            if len(arguments) > len(kinds) and arguments[-1] in ("goto", "else"):
                arguments.pop()
            if not label:
                raise UserError(f"script line {line}: a label is missing")
    many = kinds == ["item*"]
    if (many and not 1 <= len(arguments) <= SHOP_ITEMS) or (not many and len(arguments) != len(kinds)):
        raise UserError(f"script line {line}: expected {name} {WORDS[name]}")
    return name, arguments, label


def secret_place(operand: str) -> tuple[str, str]:
    """(name, K or "") of what `ifsecret` asks: a secret's value, `NAME`, or an order's K-th value from 1, `NAME:K`."""
    name, _, place = operand.partition(":")
    return name, place


def successors(words: tuple[Word, ...] | list[Word], index: int) -> list[int]:
    """Indices of the words that may come after one; the end is one beyond the last."""
    word = words[index]
    if word.name in ("end", "chain"):
        return [len(words)]
    after = [] if word.name == "goto" else [index + 1]
    return after if word.target is None else [*after, word.target]


def _check_flow(words: list[Word], lines: list[str]) -> None:
    reached, todo = {0}, [0]
    while todo:
        at = todo.pop()
        fresh = [] if at >= len(words) else [n for n in successors(words, at) if n not in reached]
        reached.update(fresh)
        todo += fresh
    for index, line in enumerate(lines):
        if index not in reached:
            raise UserError(f"script line {line}: no line leads to it")
    ending = {len(words)}
    grown = True
    while grown:
        more = {i for i in range(len(words)) if i not in ending and ending & set(successors(words, i))}
        ending |= more
        grown = bool(more)
    for index, line in enumerate(lines):
        if index not in ending:
            raise UserError(f"script line {line}: the script never ends")


class Scripts:
    """Byte codes of a world's scripts in the order of adding. `texts` holds what they say."""

    def __init__(self, ids: Ids, texts: Texts) -> None:
        self.ids = ids
        self.texts = texts
        self.codes: list[bytes] = []

    def compile(self, source: str, map_name: str = "", silent: bool = False) -> int:
        """Adds a script, which is on that map if it is on one; returns its number."""
        words = parse_script(source)
        code = bytearray()
        starts: list[int] = []
        jumps: list[tuple[int, int | None]] = []
        for word in words:
            if silent and word.name not in SILENT_WORDS:
                raise UserError(f"a school's script cannot {word.name}")
            starts.append(len(code))
            code.append(list(WORDS).index(word.name))
            code += self._operands(word, map_name)
            if ">" in WORDS[word.name]:
                jumps.append((len(code), word.target))
                code.append(NO_JUMP)
        starts.append(len(code))
        code.append(0)
        for at, target in jumps:
            if target is not None:
                code[at] = starts[target]
        if len(code) > SCRIPT_BYTES:
            raise UserError(
                f"script of {len(code)} bytes, more than {SCRIPT_BYTES}: {' '.join(source.split())[:60]} ..."
            )
        self.codes.append(bytes(code))
        return len(self.codes) - 1

    def _operands(self, word: Word, map_name: str) -> bytes:
        """What follows a word's code, the jump left out."""
        ids, operands = self.ids, word.operands
        if word.name == "shop":
            return bytes([len(operands), *(ids.items[item] for item in operands)])
        if word.name == "ifpulled":
            return ids.secret(operands[0], "order").code
        if word.name == "pull":
            secret = ids.secret(operands[0], "order")
            return bytes([secret.index, secret.value(operands[1])])
        if word.name == "ifsecret":
            name, place = secret_place(operands[0])
            secret = ids.secret(name, "order" if place else "value")
            index = _number(place, 1, secret.count) - 1 if place else 0
            return bytes([secret.index * 4 + index, secret.value(operands[1])])
        if word.name == "banner":
            _check_banner(*operands[1:])
        out = b""
        for kind, operand in zip(WORDS[word.name].split(), operands, strict=False):
            out += self._operand(kind, operand, map_name)
        return out

    def _operand(self, kind: str, operand: str, map_name: str) -> bytes:
        ids = self.ids
        match kind:
            case "text":
                return self.texts.add(operand).to_bytes(2, "little")
            case "flag":
                return ids.flags[operand].to_bytes(2, "little")
            case "script":
                return ids.scripts[operand].to_bytes(2, "little")
            case "money":
                return money_bytes(_number(operand, 0, 999_999))
            case "object":
                return bytes([ids.missables[operand]])
            case "who":
                return bytes([self._slot(operand, map_name)])
            case "facing":
                return bytes([FACINGS[operand]])
        tables: dict[str, Mapping[str, int]] = {
            "trainer": ids.trainers,
            "item": ids.items,
            "species": ids.species,
            "map": ids.maps,
            "tile": ids.tiles,
        }
        if kind in tables:
            return bytes([tables[kind][operand]])
        return bytes([_number(operand, *_RANGES[kind])])

    def _slot(self, name: str, map_name: str) -> int:
        if name == "PLAYER":
            return 0
        where, slot = self.ids.objects[name]
        if where != map_name:
            raise UserError(f"script on map {map_name or '(none)'}: {name} stands on {where}")
        return slot


def _check_banner(*place: str) -> None:
    x, y, width, height = (_number(each, 0, 255) for each in place)
    if not (width and height and x + width <= SCREEN_TILES[0] and y + height <= SCREEN_TILES[1]):
        raise UserError(f"banner {' '.join(place)}: reaches out of the screen of 20 x 18 tiles")


def _number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"script number {text}: expected {least} to {most}")
    return int(text)


def money_bytes(amount: int) -> bytes:
    """Three bytes of binary-coded decimal, most significant first."""
    return bytes.fromhex(f"{amount:06d}")
