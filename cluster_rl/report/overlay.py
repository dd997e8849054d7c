"""What the player does and what comes of it, in a panel beside the game's picture.

The replayer's worker processes and `debug_rollout` use it. In: a frame of the game and the `Facts` of that moment,
which a `Narrator` keeps. Out: a picture that has the frame at its left, enlarged by whole pixels and otherwise as it
was. Text is in the font that matplotlib brings, and all is in so few colours that a GIF has them exactly.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.video import HEIGHT, SCALE, WIDTH

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

PANEL_WIDTH: Final = 288
SIZE: Final = (HEIGHT * SCALE, WIDTH * SCALE + PANEL_WIDTH)
"""Height and width of a picture with its panel."""

REWARD_FRAMES: Final = 60
"""How long a reward is shown, in frames of a game that is played at its own speed: about a second."""
MILESTONE_FRAMES: Final = 180
MOST_CHANCES: Final = 2
"""Quests that there is room for."""

_PAPER: Final = (24, 27, 34)
_INK: Final = (240, 240, 240)
_DIM: Final = (156, 163, 175)
_EDGE: Final = (64, 70, 84)
_MARK: Final = (255, 196, 61)
_GAIN: Final = (114, 222, 136)
_LOSS: Final = (255, 128, 118)
_CHANCE: Final = (112, 174, 255)
_BAND: Final = (50, 92, 154)
_SHADES: Final = 5  # between a colour and what it lies on: few, as a GIF has 256 colours

_LEFT, _RIGHT = 16, PANEL_WIDTH - 16
_REWARDS: Final = 3  # that there is room for
_DISC_OF: Final = {"b": (174, 50), "a": (232, 34)}
_CROSS_OF: Final = {"up": (0, -1, "▲"), "down": (0, 1, "▼"), "left": (-1, 0, "◀"), "right": (1, 0, "▶")}


class Chance(NamedTuple):
    """How likely an episode is to reach a milestone: the posterior's mean and its 95 % credible interval."""

    title: str
    mean: float
    low: float
    high: float


class Posterior(Protocol):
    """What is known of how likely a milestone is, as `exploration.bayes_quests.QuestState` has it."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def chances_of(frontier: Iterable[str], quests: Mapping[str, Posterior], world: World) -> dict[str, Chance]:
    """The posteriors of a frontier's milestones, to be drawn."""
    return {
        name: Chance(world.milestone_title(name), quests[name].mean, quests[name].low, quests[name].high)
        for name in frontier
        if name in quests
    }


@dataclass(frozen=True)
class Facts:
    """What the panel tells. `rewards` are (name, amount) of the last second; None where nobody knows of them."""

    button: str
    chosen: str  # how the button was chosen, in words
    value: float | None  # of pressing it, where a network has played
    place: str
    x: int
    y: int
    step: int
    badges: tuple[bool, ...]  # of all that there are, which are held
    rewards: tuple[tuple[str, float], ...] | None
    episode_return: float | None
    milestones: tuple[str, ...]  # titles of those that were just reached
    chances: tuple[Chance, ...] = ()


def overlay(frame: Pixels, facts: Facts) -> Pixels:
    """A frame, uint8 [144, 160, 3], with its panel: uint8 [*SIZE, 3]."""
    assert frame.shape == (HEIGHT, WIDTH, 3), frame.shape
    enlarged = frame.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    return np.concatenate([enlarged, _panel(facts)], axis=1)


def palette() -> Pixels:
    """All colours of such pictures, uint8 [256, 3], the game's greys among them."""
    pairs = [(colour, _PAPER) for colour in (_INK, _DIM, _EDGE, _MARK, _GAIN, _LOSS, _CHANCE, _BAND)]
    pairs += [(_DIM, _EDGE), (_PAPER, _MARK)]
    shades = np.arange(_SHADES + 1)[:, None] / _SHADES
    blends = [_blend(np.array(below), np.array(above), shades) for above, below in pairs]
    greys = np.arange(0, 256, 17, dtype=np.uint8)[:, None].repeat(3, axis=1)
    colours = np.unique(np.concatenate([*blends, greys]), axis=0)
    assert len(colours) <= 256, len(colours)
    return np.concatenate([colours, np.zeros((256 - len(colours), 3), np.uint8)])


@dataclass
class Narrator:
    """Keeps the facts of one episode after another. `start`, then for each step `press` and, when it is over, `look`.

    `chances` are of milestones by name, the nearest ones first; those that an episode has reached are left out. At
    `speed` times the game's, what comes is told for as many more frames of it, so that people have time to read.
    """

    world: World
    chances: Mapping[str, Chance] = field(default_factory=dict)
    knows_rewards: bool = True
    speed: int = 1

    def start(self, state: GameState, reached: Iterable[str] = ()) -> None:
        """An episode begins, in a state where some milestones are reached."""
        self._state, self._reached = state, set(reached)
        self._steps, self._frames, self._return = 0, 0, 0.0  # frames of the game
        self._rewards: list[tuple[int, str, float]] = []  # frame that it came in, name, amount
        self._milestones: list[tuple[int, str]] = []

    def press(self, button: str, chosen: str, value: float | None = None) -> Facts:
        """The facts while a step is made: the button is pressed, and nothing has come of it yet."""
        self._steps += 1
        self._pressed = button, chosen, value
        return self._facts()

    def look(
        self,
        frames: int,
        state: GameState,
        milestones: Iterable[str],
        rewards: Mapping[str, float] | None = None,
        episode_return: float = 0.0,
    ) -> Facts:
        """The facts once the step is over, which took `frames` frames of the game: what came of it."""
        self._frames += frames
        self._state, self._return = state, episode_return
        self._rewards += [(self._frames, name, amount) for name, amount in (rewards or {}).items() if amount]
        new = list(milestones)
        self._reached.update(new)
        self._milestones += [(self._frames, name) for name in new]
        return self._facts()

    def _facts(self) -> Facts:
        self._rewards = [entry for entry in self._rewards if self._frames - entry[0] < REWARD_FRAMES * self.speed]
        self._milestones = [
            entry for entry in self._milestones if self._frames - entry[0] < MILESTONE_FRAMES * self.speed
        ]
        sums: dict[str, float] = {}
        for _, name, amount in self._rewards:
            sums[name] = sums.get(name, 0.0) + amount
        chances = [chance for name, chance in self.chances.items() if name not in self._reached]
        button, chosen, value = self._pressed
        state = self._state
        return Facts(
            button=button,
            chosen=chosen,
            value=value,
            place=self.world.map_name(state.map_id).replace("_", " ") if state.in_game else "no map yet",
            x=state.x,
            y=state.y,
            step=self._steps,
            badges=tuple(bool(state.badges >> bit & 1) for bit in range(len(self.world.badges))),
            rewards=tuple(sorted(sums.items(), key=lambda item: -abs(item[1]))) if self.knows_rewards else None,
            episode_return=self._return if self.knows_rewards else None,
            milestones=tuple(self.world.milestone_title(name) for _, name in self._milestones),
            chances=tuple(chances[:MOST_CHANCES]),
        )


@lru_cache(maxsize=4)  # the many frames of a step have the same one
def _panel(facts: Facts) -> Pixels:
    canvas = _Canvas()
    _draw_buttons(canvas, facts.button)

    value = "" if facts.value is None else f"value {_number(facts.value)}"
    canvas.text(_LEFT, 113, facts.chosen, 15, _INK, bold=True, width=_RIGHT - _LEFT - _width(value, 15) - 8)
    canvas.text(_RIGHT, 113, value, 15, _INK, align="right")
    canvas.rule(123)

    canvas.text(_LEFT, 144, facts.place, 15, _INK, bold=True, width=_RIGHT - _LEFT)
    canvas.text(_LEFT, 164, f"x {facts.x}  y {facts.y}", 14, _DIM)
    canvas.text(_RIGHT, 164, f"step {facts.step:,}", 14, _DIM, align="right")
    canvas.text(_LEFT, 185, f"badges {sum(facts.badges)} of {len(facts.badges)}", 14, _DIM)
    for place, held in enumerate(reversed(facts.badges)):
        canvas.disc(_RIGHT - 6 - 16 * place, 180, 6, _MARK if held else _EDGE)
    canvas.rule(195)

    if facts.rewards is not None:
        canvas.text(_LEFT, 213, "reward of the last second", 12, _DIM)
        if facts.episode_return is not None:
            canvas.text(_RIGHT, 213, f"return {_number(facts.episode_return)}", 12, _DIM, align="right")
        for line, (name, amount) in enumerate(facts.rewards[:_REWARDS]):
            colour, base = _GAIN if amount > 0 else _LOSS, 233 + 19 * line
            canvas.text(_LEFT + 72, base, _amount(amount), 15, colour, bold=True, align="right")
            canvas.text(_LEFT + 84, base, name.replace("_", " "), 15, _INK, width=_RIGHT - _LEFT - 84)
    if facts.milestones:
        canvas.box(_LEFT - 6, 282, _RIGHT + 6, 322, _MARK)
        lines = textwrap.wrap("; ".join(facts.milestones), 32, max_lines=2, placeholder=" …")
        for line, text in enumerate(["★ milestone", *lines][-2:]):
            canvas.text(_LEFT, 298 + 17 * line, text, 13, _PAPER, bold=line > 0 or len(lines) > 1, width=_RIGHT - _LEFT)
    if facts.chances:
        canvas.rule(332)
        canvas.text(_LEFT, 350, "next: chance per episode, 95 % band", 12, _DIM)
    for place, chance in enumerate(facts.chances):
        _draw_chance(canvas, 369 + 34 * place, chance)
    return canvas.pixels


def _draw_buttons(canvas: _Canvas, pressed: str) -> None:
    """The console's buttons, the pressed one lit."""
    middle, arm = (68, 48), 24
    canvas.box(middle[0] - arm // 2, middle[1] - arm // 2, middle[0] + arm // 2, middle[1] + arm // 2, _EDGE)
    for name, (right, down, arrow) in _CROSS_OF.items():
        x, y = middle[0] + arm * right, middle[1] + arm * down
        lit = name == pressed
        canvas.box(x - arm // 2, y - arm // 2, x + arm // 2, y + arm // 2, _MARK if lit else _EDGE)
        canvas.text(x, y + 5, arrow, 13, _PAPER if lit else _DIM, align="centre")
    for name, (x, y) in _DISC_OF.items():
        lit = name == pressed
        canvas.disc(x, y, 21, _MARK if lit else _EDGE)
        canvas.text(x, y + 6, name.upper(), 17, _PAPER if lit else _DIM, bold=True, align="centre")
    lit = pressed == "start"
    canvas.box(172, 76, 234, 91, _MARK if lit else _EDGE)
    canvas.text(203, 88, "START", 11, _PAPER if lit else _DIM, bold=True, align="centre")


def _draw_chance(canvas: _Canvas, base: int, chance: Chance) -> None:
    """A bar up to the mean, over a band that is the interval, under the milestone's title."""
    percent = f"{chance.mean:.0%}"
    canvas.text(_RIGHT, base, percent, 13, _CHANCE, bold=True, align="right")
    canvas.text(_LEFT, base, chance.title, 13, _INK, width=_RIGHT - _LEFT - _width(percent, 13, bold=True) - 8)
    top = base + 6

    def at(share: float) -> int:
        return _LEFT + round(min(max(share, 0.0), 1.0) * (_RIGHT - _LEFT))

    canvas.box(_LEFT, top, _RIGHT, top + 10, _EDGE)
    canvas.box(at(chance.low), top, max(at(chance.high), at(chance.low) + 2), top + 10, _BAND)
    canvas.box(_LEFT, top + 3, max(at(chance.mean), _LEFT + 1), top + 7, _CHANCE)


def _amount(amount: float) -> str:
    """With a sign, and as many digits as a small one needs."""
    if abs(amount) >= 1000:
        return f"{amount:+.0e}"
    return f"{amount:+.2f}" if abs(amount) >= 0.01 else f"{amount:+.4f}"


def _number(value: float) -> str:
    """In a form that there is room for."""
    return f"{value:.2f}" if abs(value) < 1e6 else f"{value:.1e}"


class _Canvas:
    """The panel's pixels, uint8 [SIZE[0], PANEL_WIDTH, 3]."""

    def __init__(self) -> None:
        self.pixels = np.full((SIZE[0], PANEL_WIDTH, 3), _PAPER, np.uint8)

    def box(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        self.pixels[top:bottom, left:right] = colour

    def rule(self, y: int) -> None:
        self.box(_LEFT, y, _RIGHT, y + 1, _EDGE)

    def disc(self, x: int, y: int, radius: int, colour: Colour) -> None:
        down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        self._lay(x - radius, y - radius, np.clip(radius + 0.5 - np.hypot(down, right), 0.0, 1.0), colour)

    def text(
        self,
        x: int,
        base: int,
        words: str,
        size: int,
        colour: Colour,
        bold: bool = False,
        align: Literal["left", "centre", "right"] = "left",
        width: int = PANEL_WIDTH,
    ) -> None:
        """One line of letters of `size` pixels that stand on row `base`; cut where it is wider than `width`."""
        cut = words
        while _width(cut, size, bold) > width:
            words = words[:-1]
            cut = words.rstrip() + "…"
        if not cut:
            return
        ink, below = _letters(cut, size, bold)
        x -= {"left": 0, "centre": ink.shape[1] // 2, "right": ink.shape[1]}[align]
        self._lay(x, base + below - len(ink), ink, colour)

    def _lay(self, left: int, top: int, cover: npt.NDArray[np.float64], colour: Colour) -> None:
        """Lays a colour over what is there, as far as it covers each pixel: float64 [h, w] from 0 to 1."""
        part = self.pixels[top : top + cover.shape[0], left : left + cover.shape[1]]
        cover = np.round(cover * _SHADES)[..., None] / _SHADES
        part[:] = _blend(part, np.array(colour), cover)


def _blend(below: npt.NDArray[Any], above: npt.NDArray[Any], cover: npt.NDArray[np.float64]) -> Pixels:
    """Colours [..., 3] laid over others, as far as they cover them, [..., 1] from 0 to 1."""
    mixed: Pixels = np.round(below * (1.0 - cover) + cover * above).astype(np.uint8)
    return mixed


def _width(words: str, size: int, bold: bool = False) -> int:
    return _letters(words, size, bold)[0].shape[1] if words else 0


@lru_cache(maxsize=256)
def _letters(words: str, size: int, bold: bool) -> tuple[npt.NDArray[np.float64], int]:
    """How far a line of text covers each pixel, float64 [h, w] from 0 to 1, and its rows below the base line."""
    font = _font(size, bold)
    font.set_text(words)
    font.draw_glyphs_to_bitmap(antialiased=True)
    return np.array(font.get_image(), np.float64) / 255.0, round(font.get_descent() / 64)


@lru_cache
def _font(size: int, bold: bool) -> FT2Font:
    # Here, because matplotlib takes most of a second to import.
    import matplotlib
    from matplotlib.ft2font import FT2Font

    font = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf")
    font.set_size(size, 72)
    return font
