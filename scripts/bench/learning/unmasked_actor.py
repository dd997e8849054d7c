"""An actor of our learner that may press every button at any time: `cluster_rl.actor` without masks."""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

from unittest import mock

import numpy as np

from cluster_rl import actor
from cluster_rl.affordances import Affordances, Mask
from cluster_rl.errors import run_command
from cluster_rl.game.buttons import NUM_BUTTONS


class NoAffordances(Affordances):
    """In place of what knows which buttons do nothing: all of them may do something."""

    def start(self, *_: object) -> Mask:
        return np.ones(NUM_BUTTONS, np.bool_)

    step = start


if __name__ == "__main__":
    with mock.patch("cluster_rl.emulator.env.Affordances", NoAffordances):
        run_command(actor.main, only_logs=True)
