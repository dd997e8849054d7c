"""An actor of our learner whose random actions are valid buttons, all alike: `cluster_rl.actor` without our prior."""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

from unittest import mock

import numpy as np
import numpy.typing as npt

from cluster_rl import actor
from cluster_rl.acting import loop
from cluster_rl.errors import run_command


def uniform_weights(masks: npt.NDArray[np.bool_], *_: object) -> npt.NDArray[np.float64]:
    """In place of `wander_weights`: [N, A], 1 of each valid button."""
    return masks.astype(np.float64)


if __name__ == "__main__":
    with mock.patch.object(loop, "wander_weights", uniform_weights):
        run_command(actor.main, only_logs=True)
