"""Scripts of the cartridge's signs, people and spots: lines of words to the byte code that `src/world.c` runs.

The build runs it. In: sources from `content/world.toml`, and the numbers of what they name. Out: byte codes, and the
texts they say.
"""

from __future__ import annotations

import shlex

from cluster_rl.cartridge.ids import Ids
from cluster_rl.cartridge.text import message
from cluster_rl.errors import UserError

SCRIPT_BYTES = 120
SCRIPT_WORDS = ("end", "say", "ifset", "goto", "set", "battle", "badge", "give", "heal", "draw", "iflot", "banner")


class Scripts:
    """Scripts of signs and people, and the texts they say."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.codes: list[bytes] = []
        self.texts: list[bytes] = []

    def compile(self, source: str) -> int:
        """Adds a script, one byte code per line; returns its number."""
        code = bytearray()
        labels: dict[str, int] = {}
        jumps: list[tuple[int, str]] = []
        for line in filter(None, map(str.strip, source.splitlines())):
            if line.endswith(":"):
                labels[line[:-1]] = len(code)
                continue
            word, *arguments = shlex.split(line)
            if word not in SCRIPT_WORDS:
                raise UserError(f"unknown script line: {line}")
            code.append(SCRIPT_WORDS.index(word))
            code += self._operands(word, arguments)
            if word in ("ifset", "iflot", "goto"):
                jumps.append((len(code), arguments[-1]))
                code.append(0)
        code.append(0)
        for at, label in jumps:
            code[at] = labels[label]
        if len(code) > SCRIPT_BYTES:
            raise UserError(f"script too long: {source.strip().splitlines()[0]} ...")
        self.codes.append(bytes(code))
        return len(self.codes) - 1

    def _operands(self, word: str, arguments: list[str]) -> bytes:
        """What follows a word's code, jump targets left out."""
        match word:
            case "say":
                self.texts.append(message(arguments[0]))
                return (len(self.texts) - 1).to_bytes(2, "little")
            case "ifset" | "set":
                return self.ids.flags[arguments[0]].to_bytes(2, "little")
            case "battle":
                return bytes([self.ids.trainers[arguments[0]]])
            case "badge" | "iflot":
                return bytes([int(arguments[0])])
            case "banner":
                return bytes([self.ids.tiles[arguments[0]], *map(int, arguments[1:5])])
            case "give":
                return bytes([self.ids.items[arguments[0]], int(arguments[1])])
        return b""
