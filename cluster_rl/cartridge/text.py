"""Texts of the cartridge: words to character codes, cut to the lines and pages of the message box.

The build runs it. In: names and messages as a world file has them, with `{slots}`. Out: bytes with their end mark, as
the engine prints them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cluster_rl.cartridge.ids import Secret
from cluster_rl.errors import UserError

MESSAGE_BYTES, NAME_LETTERS, LINE_LETTERS = 350, 10, 18

CHARACTERS = {
    **dict(zip(" ():'-?!./,", bytes.fromhex("7f9a9b9ce0e3e6e7e8f3f4"), strict=True)),
    **{chr(ord("A") + i): 0x80 + i for i in range(26)},
    **{chr(ord("a") + i): 0xA0 + i for i in range(26)},
    **{chr(ord("0") + i): 0xF6 + i for i in range(10)},
}
END_CODE, LINE_CODE, PAGE_CODE, SECRET_CODE = 0x50, 0x4F, 0x51, 0x03
_SLOT: Final = re.compile(r"(\{[^}]*\})")

Slots = Mapping[str, tuple[bytes, int]]
"""What may stand in braces: its code, and the letters to keep free for it."""
ENGINE_SLOTS: Final[Slots] = {"{player}": (b"\x52", 7), "{a}": (b"\x01", 10), "{b}": (b"\x02", 5)}


def encode(text: str, slots: Slots = ENGINE_SLOTS) -> bytes:
    """Letters and `{slots}` to character codes. Raises UserError for a letter or slot that there is not."""
    out = bytearray()
    for part in _SLOT.split(text):
        if part.startswith("{"):
            if part not in slots:
                raise UserError(f"unknown slot {part} in {text!r}")
            out += slots[part][0]
            continue
        for character in part:
            if character not in CHARACTERS:
                raise UserError(f"no glyph for {character!r} in {text!r}")
            out.append(CHARACTERS[character])
    return bytes(out)


def name_bytes(text: str) -> bytes:
    """A name with its end mark."""
    if len(text) > NAME_LETTERS:
        raise UserError(f"name {text!r} has more than {NAME_LETTERS} letters")
    return encode(text) + bytes([END_CODE])


def message(text: str, slots: Slots = ENGINE_SLOTS) -> bytes:
    """A text wrapped to the message box, two lines a page, with its codes. Slots are filled with their longest."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if _width(word, slots) > LINE_LETTERS:
            raise UserError(f"{word!r} is longer than a line of {LINE_LETTERS} letters")
        # In the last place of a page's second line stands the arrow that asks for the next.
        if line and _width(f"{line} {word}", slots) > LINE_LETTERS - len(lines) % 2:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    lines.append(line)
    out = b""
    for number, content in enumerate(lines):
        if number:
            out += bytes([LINE_CODE if number % 2 else PAGE_CODE])
        out += encode(content, slots)
    if len(out) > MESSAGE_BYTES:
        raise UserError(f"message too long: {text}")
    return out + bytes([END_CODE])


def _width(words: str, slots: Slots) -> int:
    """Letters that a piece of text takes at most, slots filled."""
    return sum(slots[part][1] if part in slots else len(part) for part in _SLOT.split(words))


class Texts:
    """What the scripts of a world say: messages in the order of adding, each once."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self.slots = {**ENGINE_SLOTS, **_secret_slots(secrets)}
        self.messages: list[bytes] = []
        self._numbers: dict[bytes, int] = {}

    def add(self, text: str) -> int:
        """The number of a text. Raises UserError where it does not fit."""
        encoded = message(text, self.slots)
        if encoded not in self._numbers:
            self._numbers[encoded] = len(self.messages)
            self.messages.append(encoded)
        return self._numbers[encoded]


def _secret_slots(secrets: Mapping[str, Secret]) -> dict[str, tuple[bytes, int]]:
    """`{secret:NAME}`, or `{order:NAME:1}` and so on: where the value lies, and the first of its words."""
    slots: dict[str, tuple[bytes, int]] = {}
    for name, secret in secrets.items():
        if not secret.words:
            continue
        longest = max(map(len, secret.words))
        places = [""] if secret.kind == "value" else [f":{i + 1}" for i in range(secret.count)]
        for i, place in enumerate(places):
            kind = "secret" if secret.kind == "value" else "order"
            code = bytes([SECRET_CODE, secret.index * 4 + i, secret.first_word])
            slots[f"{{{kind}:{name}{place}}}"] = code, longest
    return slots
