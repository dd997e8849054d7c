"""Plays the embedded cartridge for tests: buttons, walking, reading, and the scripted path from home to the trainer.

It drives PyBoy itself and decodes nothing but through `GameState`, so that what it does is what a player sees.
"""

from __future__ import annotations

import io
import warnings
from types import TracebackType
from typing import Self

from cluster_rl.cartridge import rom_bytes
from cluster_rl.game import ram
from cluster_rl.game.state import GameState

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDL package announces itself
    from pyboy import PyBoy

HOME, TOWN, ROUTE = 37, 0, 12
BOOT_FRAMES = 100
DIRECTIONS = {"u": "up", "d": "down", "l": "left", "r": "right"}
VRAM_WINDOW, VRAM_BACKGROUND, LCD_CONTROL = 0x9C00, 0x9800, 0xFF40
SCROLL_X, SCROLL_Y = 0xFFAE, 0xFFAF


class Player:
    """A game in progress. A context manager."""

    def __init__(self, rom: bytes | None = None, boot_frames: int = BOOT_FRAMES, **options: object) -> None:
        self.pyboy = PyBoy(
            io.BytesIO(rom or rom_bytes()),
            window="null",
            ram_file=io.BytesIO(bytes(0x8000)),
            log_level="CRITICAL",
            **({"sound_emulated": False} | options),
        )
        self.pyboy.set_emulation_speed(0)
        self.memory = self.pyboy.memory
        self.run(boot_frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pyboy.stop(save=False)

    # What is true now.

    def image(self) -> bytes:
        """The whole RAM image."""
        memory = self.memory
        return bytes(memory[ram.WRAM_START : ram.WRAM_STOP]) + bytes(memory[ram.HRAM_START : ram.HRAM_STOP])

    def live_image(self) -> bytes:
        """The image with nothing in it but the live ranges."""
        image = bytearray(ram.IMAGE_BYTES)
        for start, stop in ram.LIVE_RANGES:
            at = ram.image_index(start)
            image[at : at + stop - start] = bytes(self.memory[start:stop])
        return bytes(image)

    def state(self) -> GameState:
        return GameState(self.image())

    def place(self) -> tuple[int, int, int]:
        """(map, x, y)."""
        return self.memory[ram.wCurMap], self.memory[ram.wXCoord], self.memory[ram.wYCoord]

    def save(self) -> bytes:
        file = io.BytesIO()
        self.pyboy.save_state(file)
        return file.getvalue()

    def load(self, state: bytes) -> None:
        self.pyboy.load_state(io.BytesIO(state))

    # Playing.

    def run(self, frames: int) -> None:
        self.pyboy.tick(frames, False, False)

    def tap(self, button: str, held_frames: int = 8, free_frames: int = 8) -> None:
        self.pyboy.button_press(button)
        self.run(held_frames)
        self.pyboy.button_release(button)
        self.run(free_frames)

    def walk(self, path: str) -> None:
        """One cell, or a bump, a letter (`u d l r`); runs from wild opponents."""
        for letter in path:
            before = self.place()
            self.pyboy.button_press(DIRECTIONS[letter])
            for _ in range(30):
                self.run(1)
                if self.place() != before or self.memory[ram.wWalkCounter]:
                    break
            self.pyboy.button_release(DIRECTIONS[letter])
            for _ in range(40):
                if self.memory[ram.wWalkCounter] == 0 and self.memory[ram.wJoyIgnore] == 0:
                    break
                self.run(1)
            self.run(6)
            if self.memory[ram.wIsInBattle]:
                self.flee()

    def read_text(self) -> str:
        """Presses A until no box waits any more; returns all that was shown."""
        seen: list[str] = []
        for _ in range(60):
            for _ in range(120):
                state = self.state()
                if state.text_waiting:
                    break
                self.run(1)
            else:
                return " ".join(seen)
            seen += state.text_lines
            self.tap("a", 4, 6)
        raise AssertionError(f"the text never ended: {seen[-4:]}")

    def flee(self) -> None:
        for _ in range(40):
            self.read_text()
            state = self.state()
            if not state.in_battle:
                break
            if state.menu and state.menu.is_battle_menu:
                self.tap("right")
                self.tap("down")
                self.tap("a")
        self.run(20)

    def fight(self) -> None:
        """The first move again and again until the battle ends; the last texts are left to read."""
        for _ in range(60):
            self.read_text()
            if not self.state().in_battle:
                return
            self.tap("a", 8, 16)
            self.tap("a", 8, 8)
        raise AssertionError("the battle never ended")

    def press_at_random(self, seed: int, steps: int) -> None:
        """Random steps of 8 frames, mostly arrows."""
        for button in random_buttons(seed, steps):
            self.tap(button, 5, 3)

    # The scripted path.

    def to_villager(self) -> None:
        self.walk("r")
        self.tap("right")

    def to_town(self) -> None:
        """From before the villager at home to the door's outside."""
        self.walk("dddld")
        self.run(30)

    def to_sign(self) -> None:
        self.walk("ddru")

    def to_route(self) -> None:
        """From the sign."""
        self.walk("rrrr" + "uuuuuu")
        self.run(30)

    def to_trainer(self) -> None:
        """From the route's south gate to before Rook."""
        self.walk("uuuuuuuuuuuu" + "r" + "uu")

    def go_to_trainer(self) -> None:
        """The whole way from a new game."""
        self.to_villager()
        self.to_town()
        self.to_sign()
        self.to_route()
        self.to_trainer()

    # What the picture must be.

    def picture_holds(self) -> bool:
        """Whether video memory shows what the tile map in RAM says.

        At rest that is the scrolled background; under text and menus it is the window, of which a third is copied in
        each frame, so a letter or the arrow may be under way. In other moments nothing is claimed.
        """
        state = self.state()
        if state.font_loaded:
            for _ in range(40):
                self.run(3)
                state = self.state()
                shown = b"".join(self._tiles(VRAM_WINDOW + 32 * row, 20) for row in range(18))
                different = sum(a != b for a, b in zip(state.tile_map, shown, strict=True))
                if different <= 2 or not state.font_loaded:
                    return True
            return False
        if state.walk_counter or state.joy_ignore or state.in_battle or not self.memory[LCD_CONTROL] & 0x80:
            return True
        top, left = self.memory[SCROLL_Y] >> 3, self.memory[SCROLL_X] >> 3
        return state.tile_map == bytes(
            self.memory[VRAM_BACKGROUND + (row + top & 31) * 32 + (column + left & 31)]
            for row in range(18)
            for column in range(20)
        )

    def _tiles(self, address: int, count: int) -> bytes:
        return bytes(self.memory[address : address + count])


def random_buttons(seed: int, steps: int) -> list[str]:
    """A reproducible list of buttons, mostly arrows, from a generator that is the same in every Python."""
    choices = ["up", "down", "left", "right"] * 3 + ["a", "b", "start"]
    value, buttons = seed, []
    for _ in range(steps):
        value = (value * 1_103_515_245 + 12_345) % 2**31
        buttons.append(choices[(value >> 16) % len(choices)])
    return buttons
