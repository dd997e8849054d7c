"""How likely each button is as a random action: rather what leads to something that the episode has not seen yet.

The actor uses it. In: the masks, map-memory crops and context vectors of its emulators. Out: how likely each button is
as a random action. A uniform random walk treads the same cells again and again, and talks to nobody.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cluster_rl.cluster_map_features import SLOT_INDEX
from cluster_rl.game.buttons import BUTTONS, STEP_OF
from cluster_rl.occupancy_memory import OUTSIDE, PERSON, SIGN, WALL, WARP

_DIRECTIONS = slice(0, len(STEP_OF))
assert BUTTONS[_DIRECTIONS] == tuple(STEP_OF)
_COLUMN_OFFSETS, _ROW_OFFSETS = np.array(list(STEP_OF.values())).T
_TRODDEN_WEIGHT = 0.1  # of a direction whose cell was entered often, where one never entered has 1.1
_SIGHT_WEIGHT = 12.0  # of a door, sign or person right ahead; measured by scripts/bench/exploration.py
_FIGHT_WEIGHT = 4.0  # of A in a battle, where another button has 1
_START_WEIGHT = 0.05  # of START, where another button has 1
# Of A and B where nothing waits for an answer, for who makes for what was never entered: a third of all steps would go
# to them, and lead nowhere.
_IDLE_A_WEIGHT, _IDLE_B_WEIGHT = 0.1, 0.05
_A, _B, _START = BUTTONS.index("a"), BUTTONS.index("b"), BUTTONS.index("start")
_INTERFACE_UP = SLOT_INDEX["interface_up"]
_BARS = frozenset((SIGN, PERSON, WALL, OUTSIDE))  # what cannot be entered
_IN_BATTLE = np.array([SLOT_INDEX["battle_wild"], SLOT_INDEX["battle_trainer"]])


def wander_weights(
    masks: NDArray[np.bool_],
    crop: NDArray[np.uint8],
    context: NDArray[np.uint8] | NDArray[np.float32],
    frontier_weight: float = 0.0,
) -> NDArray[np.float64]:
    """How likely each button is as a random action: [N, A], 0 if masked.

    Args:
        masks: [N, A], the valid buttons.
        crop: [N, 2, S, S], the map memory around the player, which holds only what was on the screen.
        context: [N, C], bytes or shares of 1; read is only whether a text or menu is open, and whether there is a
            battle.
        frontier_weight: of the directions that lead to the nearest cell never entered.

    A direction weighs 0.1 + 2^-visits of the cell that way, and for each door, sign and person in the crop that lies
    in that direction by a share s of its distance d, 12 s 2^-visits / d more. For those last visits count the door's
    own cell, and the most visited one beside a sign or a person, whose own cannot be entered; and all of it halves with
    each further visit of the player's own cell, so that what is out of reach lets go. Each direction that a shortest
    known way to a cell never entered begins with weighs `frontier_weight` more: that covers a maze, and passes by signs
    and people; with it A weighs 0.1 and B 0.05 where no text or menu is open. The valid directions are scaled so that
    together they are as likely as if all buttons were equal. Else a button weighs 1, beside a sign or a person A
    12 2^-visits more. In a battle A weighs 4 and any other button 1, wherever it is: A attacks and gets on with the
    texts, while most of what else can be pressed there opens and closes menus. START weighs 0.05 of what it would: its
    menu costs steps, and leads to little.

    The least trodden neighbour is the simplest use of counts for exploration (Thrun 1992), the nearest cell never
    entered is where robots go that map a building (Yamauchi 1997); doors, signs and people are what an episode can be
    about.
    """
    size = crop.shape[-1]
    centre, beside = _beside(size)
    planes = crop.reshape(len(crop), 2, -1)
    visited = planes[:, 0].take(beside, axis=1) / 255.0  # 1 - 2^-visits
    interest = _interest(crop).reshape(len(crop), -1)
    in_sight = interest @ _pull(size)
    in_sight *= np.minimum(2.0 * (1.0 - planes[:, 0, centre, None] / 255.0), 1.0)  # 2^(1 - visits) of this cell
    weights = masks.astype(np.float64)
    who_answers = interest.take(beside, axis=1) * (planes[:, 1].take(beside, axis=1) != WARP)
    hurries = (frontier_weight > 0) & (context[:, _INTERFACE_UP] == 0)
    weights[:, _A] *= np.where(hurries, _IDLE_A_WEIGHT, 1.0) + _SIGHT_WEIGHT * who_answers.max(1)
    weights[:, _B] *= np.where(hurries, _IDLE_B_WEIGHT, 1.0)
    ahead = weights[:, _DIRECTIONS] * (1.0 + _TRODDEN_WEIGHT - visited + _SIGHT_WEIGHT * in_sight)
    fights = context.take(_IN_BATTLE, axis=1).any(1)
    for row in np.flatnonzero(~fights) if frontier_weight else ():
        ahead[row, _toward_fresh(crop[row], masks[row])] += frontier_weight
    total = ahead.sum(1, keepdims=True)
    weights[:, _DIRECTIONS] = ahead * masks[:, _DIRECTIONS].sum(1, keepdims=True) / np.where(total > 0, total, 1.0)
    if fights.any():
        weights[fights] = masks[fights]
        weights[fights, _A] *= _FIGHT_WEIGHT
    weights[:, _START] *= _START_WEIGHT
    return weights


def _toward_fresh(crop: NDArray[np.uint8], mask: NDArray[np.bool_]) -> list[int]:
    """The valid directions that the shortest ways to a cell never entered begin with; none where no way is known.

    crop [2, S, S], mask [A]. Ways lead over cells that were entered and are no doors: breadth first, and short, as most
    cells beside them are fresh or barred.
    """
    size = crop.shape[-1]
    centre, _ = _beside(size)
    visited, known = (plane.tobytes() for plane in crop)
    around = _neighbours(size)
    reached = {centre}
    # Cells at one distance, each with the directions that shortest ways to it begin with, a bit each.
    here = {
        cell: 1 << direction
        for direction, cell in enumerate(around[centre])
        if mask[direction] and known[cell] not in _BARS
    }
    while here:
        fresh = 0
        for cell, firsts in here.items():
            if not visited[cell]:
                fresh |= firsts
        if fresh:
            return [direction for direction in range(len(STEP_OF)) if fresh >> direction & 1]
        reached.update(here)
        beyond: dict[int, int] = {}
        for cell, firsts in here.items():
            if known[cell] == WARP:
                continue
            for further in around[cell]:
                if further not in reached and known[further] not in _BARS:
                    beyond[further] = beyond.get(further, 0) | firsts
        here = beyond
    return []


@lru_cache(maxsize=4)
def _neighbours(size: int) -> list[list[int]]:
    """In a crop's flattened plane, the cells beside each one; those of an inner one in the order of the directions."""
    steps = list(STEP_OF.values())
    beside = ([(row + y, column + x) for x, y in steps] for row in range(size) for column in range(size))
    return [[y * size + x for y, x in cells if 0 <= y < size and 0 <= x < size] for cells in beside]


@lru_cache(maxsize=4)
def _beside(size: int) -> tuple[int, NDArray[np.int64]]:
    """In a crop's flattened plane, the player's cell and those that the four directions lead to, [4]."""
    centre = size // 2
    return centre * size + centre, (centre + _ROW_OFFSETS) * size + centre + _COLUMN_OFFSETS


def _interest(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """2^-visits where there is a door, a sign or a person, else 0: float32 [N, S, S]."""
    visited, known = crop[:, 0], crop[:, 1]
    beside = visited.copy()
    np.maximum(beside[:, 1:], visited[:, :-1], out=beside[:, 1:])
    np.maximum(beside[:, :-1], visited[:, 1:], out=beside[:, :-1])
    np.maximum(beside[:, :, 1:], visited[:, :, :-1], out=beside[:, :, 1:])
    np.maximum(beside[:, :, :-1], visited[:, :, 1:], out=beside[:, :, :-1])
    fresh = np.where(known == WARP, 255 - visited, np.where((known == SIGN) | (known == PERSON), 255 - beside, 0))
    interest: NDArray[np.float32] = fresh * np.float32(1.0 / 255.0)
    return interest


@lru_cache(maxsize=4)
def _pull(size: int) -> NDArray[np.float32]:
    """How much each cell of a crop draws in each direction: float32 [S S, 4], the share along it over the distance."""
    rows, columns = np.mgrid[:size, :size] - size // 2
    distance = np.maximum(np.abs(rows) + np.abs(columns), 1)
    along = np.stack([np.maximum(columns * x + rows * y, 0) for x, y in STEP_OF.values()], axis=-1)
    pull: NDArray[np.float32] = (along / distance[:, :, None] ** 2).reshape(size * size, -1).astype(np.float32)
    return pull
