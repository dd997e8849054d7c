"""Which of an episode's positions are places: while a map loads, its id stands beside the old map's coordinates.

Heat maps and paths use it. In: positions as episode logs hold them. Out: a truth value a step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MOST_LOADING_STEPS = 8
_MOST_WALKED_CELLS = 2  # in a step: down a ledge


def known_places(positions: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether each step ended where its position says: uint8 [steps, 3] of (map id, x, y) to bool [steps].

    It did not where the map is new, nothing moves, and then the coordinates jump: nobody walks so far in a step. A load
    that an episode ends in, or that leads beside where its door is, cannot be told from an arrival.
    """
    known = np.ones(len(positions), np.bool_)
    if len(positions) < 2:
        return known
    moves = np.diff(positions.astype(np.int64), axis=0)  # [steps - 1, 3]; row i leads to step i + 1
    cells = np.abs(moves[:, 1:]).sum(axis=1)
    # Backwards: where the next step is on yet another map that loads, its coordinates are still of this one.
    for step in reversed((np.flatnonzero(moves[:, 0]) + 1).tolist()):
        after = slice(step, step + _MOST_LOADING_STEPS)
        moved = np.flatnonzero(moves[after].any(axis=1))
        if len(moved) == 0:
            continue
        first = step + int(moved[0])
        if (moves[first, 0] == 0 or not known[first + 1]) and cells[first] > _MOST_WALKED_CELLS:
            known[step : first + 1] = False
    return known
