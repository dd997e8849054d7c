"""The buttons an agent may press: an action is an index into `BUTTONS`.

Any process reads it; it imports nothing.
"""

from __future__ import annotations

# SELECT is no action: the game uses it only to reorder lists.
BUTTONS = ("down", "left", "right", "up", "a", "b", "start")
NUM_BUTTONS = len(BUTTONS)
STEP_OF = {"down": (0, 1), "left": (-1, 0), "right": (1, 0), "up": (0, -1)}
"""Columns and rows of the map that a direction leads over."""
