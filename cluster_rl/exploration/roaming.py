"""How an episode gets about the map: the cells that it stood on, and whether it walks in circles.

The environment of an actor uses it, for figures alone: no reward and no observation depends on it. In: the cell after
each step, and whether the step was rewarded. Out: counts for the episode's summary.
"""

from __future__ import annotations

LOOP_VISITS = 4
"""A cell entered more often than this since the last reward is one that the agent goes round and round by."""

Cell = tuple[int, int, int]
"""Map id, x, y."""


class Roaming:
    """One episode's. `cells` are those entered so far; `loop_share` is the share of its steps that ended on a cell
    which had been entered more than `LOOP_VISITS` times since the last rewarded step."""

    def __init__(self) -> None:
        self.cells: set[Cell] = set()
        self._visits: dict[Cell, int] = {}  # entries since the last reward
        self._here: Cell | None = None
        self._steps = self._loop_steps = 0

    def arrive(self, cell: Cell | None) -> None:
        """The player stands on `cell` (None: on none that is known); where it is another one, it was entered."""
        if cell is not None and cell != self._here:
            self._here = cell
            self.cells.add(cell)
            self._visits[cell] = self._visits.get(cell, 0) + 1

    def step(self, cell: Cell | None, rewarded: bool) -> None:
        """Counts a step that led to `cell`; `rewarded`: it achieved something that a reward is for."""
        if rewarded:
            self._visits.clear()
        self.arrive(cell)
        self._steps += 1
        if self._here is not None and self._visits.get(self._here, 0) > LOOP_VISITS:
            self._loop_steps += 1

    @property
    def loop_share(self) -> float:
        """0 before the first step."""
        return self._loop_steps / self._steps if self._steps else 0.0
