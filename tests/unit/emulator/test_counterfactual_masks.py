"""The truth of the masks, measured: a masked button does what no button does.

From one savestate of the running game, a step with each masked button is compared with a step without any: all of RAM
and the picture. The few bytes left out of the comparison are listed below, with why.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from cartridge_fixtures import TO_ROUTE, TO_TOWN, TO_VILLAGER, A, meet_trainer, new_env, play

from cluster_rl.affordances import game_actions
from cluster_rl.emulator.env import Env
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS

# What the joypad routine itself writes when it reads the pressed key, whether or not anyone asks for it after.
JOYPAD_BYTES = {
    0xFFB1: "hJoyLast: the keys of the last poll",
    0xFFB2: "hJoyReleased: keys let go since then",
    0xFFB3: "hJoyPressed: keys pressed since then",
    0xFFB4: "hJoyHeld: keys down at the last poll",
    0xFFB5: "hJoy5: the same, with repeats for menus",
    0xFFF8: "hJoyInput: the raw keys",
}
# Return addresses and saved registers of the interrupted code, below the stack pointer too: a handler that took a
# branch more leaves other garbage there, which nothing reads.
STACK = range(0xDF00, 0xE000)


def compared_bytes() -> npt.NDArray[np.bool_]:
    kept = np.ones(ram.IMAGE_BYTES, np.bool_)
    for address in (*JOYPAD_BYTES, *STACK):
        kept[ram.image_index(address)] = False
    return kept


COMPARED = compared_bytes()


@dataclass
class Tally:
    """Decisions looked at, by source of the mask, and what differed."""

    decisions: Counter[str] = field(default_factory=Counter)
    differed: Counter[tuple[str, ...]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.decisions.values())

    @property
    def share_equal(self) -> float:
        return 1 - sum(self.differed.values()) / self.total


class Counterfactual:
    """Tries buttons from the state that an environment is in, and leaves it as it was."""

    def __init__(self, env: Env) -> None:
        self._console = env.console
        self._state = io.BytesIO()
        env.console._pyboy.save_state(self._state)
        self._nothing = self._outcome(None)

    def _outcome(self, action: int | None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        self._console.step(action)
        outcome = np.frombuffer(self._console.full_image(), np.uint8), self._console.rgb()
        self._state.seek(0)
        self._console._pyboy.load_state(self._state)
        return outcome

    def differences(self, action: int) -> list[str]:
        """Addresses that differ from doing nothing, and `screen`; empty where the button did nothing."""
        image, screen = self._outcome(action)
        image_without, screen_without = self._nothing
        at = np.flatnonzero((image != image_without) & COMPARED)
        found = [hex(i + ram.WRAM_START if i < ram.WRAM_BYTES else i - ram.WRAM_BYTES + ram.HRAM_START) for i in at]
        return found + ([] if np.array_equal(screen, screen_without) else ["screen"])


def choose(env: Env, policy: np.random.Generator, last: int) -> int:
    """A mix: hold on to a direction, talk, walk to cells visited less, or anything that is allowed."""
    mask = env.observation.mask
    kind = policy.random()
    if kind < 0.35 and mask[last]:
        return last
    if kind < 0.5 and mask[A]:
        return A
    if kind < 0.7:
        r = env.observation.crop.shape[1] // 2
        seen = env.observation.crop[0].astype(int) + env.observation.crop[1]
        ways = {"down": seen[r + 1, r], "left": seen[r, r - 1], "right": seen[r, r + 1], "up": seen[r - 1, r]}
        best = BUTTONS.index(min(ways, key=lambda name: int(ways[name])))
        if mask[best]:
            return best
    return int(policy.choice(np.flatnonzero(mask)))


def from_home(env: Env) -> None:
    env.start()


def from_route(env: Env) -> None:
    env.start()
    play(env, TO_VILLAGER + TO_TOWN + TO_ROUTE)


STARTS: dict[str, Callable[[Env], None]] = {"home": from_home, "route": from_route, "battle": meet_trainer}


def measure(decisions: int, seed: int, tried: Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]) -> Tally:
    """Plays from each start until its share of decisions about the buttons that `tried` picks of a mask is made."""
    tally = Tally()
    env = new_env(base_seed=seed, start_idle_frames_max=0)
    policy = np.random.default_rng(seed)
    for number, begin in enumerate(STARTS.values(), 1):
        begin(env)
        last = 0
        while tally.total < decisions * number // len(STARTS):
            buttons = np.flatnonzero(tried(env.observation.mask))
            if len(buttons):
                counterfactual = Counterfactual(env)
                known = game_actions(env.state)
                for action in map(int, buttons):
                    source = "memory" if known >> action & 1 else "game"
                    tally.decisions[source] += 1
                    if different := counterfactual.differences(action):
                        tally.differed[(source, BUTTONS[action], *different[:5])] += 1
            action = choose(env, policy, last)
            last = action if action < 4 else int(policy.integers(4))
            if env.advance(action).summary is not None:
                begin(env)
    env.close()
    return tally


def test_masked_buttons_do_nothing() -> None:
    tally = measure(80, 1, np.logical_not)
    # A share of 99 % cannot be told from 98 % by so few: this catches a mask that is wrong, the long test counts.
    assert sum(tally.differed.values()) <= 3, tally
    assert min(tally.decisions[source] for source in ("game", "memory")) >= 5, tally


def test_the_comparison_sees_buttons_that_do_something() -> None:
    tally = measure(40, 1, lambda mask: mask)
    assert tally.share_equal < 0.6, tally


@pytest.mark.slow
def test_masked_buttons_do_nothing_in_2000_decisions() -> None:
    tally = measure(2000, 2, np.logical_not)
    print(f"{tally.total} masked decisions ({dict(tally.decisions)}), equal {tally.share_equal:.4f}; {tally.differed}")
    assert tally.total >= 2000
    assert tally.share_equal >= 0.99, tally
