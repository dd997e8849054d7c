"""Texts of the cartridge: words to character codes, cut to the lines and pages of the message box.

The build runs it. In: names and messages as `content/world.toml` has them, with `{slots}`. Out: bytes with their end
mark, as the engine prints them.
"""

from __future__ import annotations

import re

from cluster_rl.errors import UserError

MESSAGE_BYTES, NAME_LETTERS, LINE_LETTERS = 350, 10, 18

CHARACTERS = {
    **dict(zip(" ():'-?!./,", bytes.fromhex("7f9a9b9ce0e3e6e7e8f3f4"), strict=True)),
    **{chr(ord("A") + i): 0x80 + i for i in range(26)},
    **{chr(ord("a") + i): 0xA0 + i for i in range(26)},
    **{chr(ord("0") + i): 0xF6 + i for i in range(10)},
}
# A slot in a text: its code, and the letters to keep free for it.
SLOTS = {"{player}": (0x52, 7), "{a}": (0x01, 10), "{b}": (0x02, 5)}
END_CODE, LINE_CODE, PAGE_CODE = 0x50, 0x4F, 0x51


def encode(text: str) -> bytes:
    """Letters and `{slots}` to character codes."""
    out = bytearray()
    for part in re.split(r"(\{\w+\})", text):
        if part in SLOTS:
            out.append(SLOTS[part][0])
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


def text_width(words: str) -> int:
    """Letters that a piece of text takes at most, slots filled."""
    for slot, (_, letters) in SLOTS.items():
        words = words.replace(slot, "x" * letters)
    return len(words)


def message(text: str) -> bytes:
    """A text wrapped to the message box, two lines a page, with its codes."""
    lines, line = [], ""
    for word in text.split():
        if line and text_width(f"{line} {word}") > LINE_LETTERS:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    lines.append(line)
    out = b""
    for number, content in enumerate(lines):
        if number:
            out += bytes([LINE_CODE if number % 2 else PAGE_CODE])
        out += encode(content)
    if len(out) > MESSAGE_BYTES:
        raise UserError(f"message too long: {text}")
    return out + bytes([END_CODE])
