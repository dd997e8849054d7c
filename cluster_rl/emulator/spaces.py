"""The shapes of what an agent of this game sees, for the parts that know no game.

Actor and learner read them. In: a config. Out: the specs of networks and sequence blocks.
"""

from __future__ import annotations

from cluster_rl.cluster_map_features import AUX_SLOTS, CONTEXT_SIZE
from cluster_rl.config import Config
from cluster_rl.game.buttons import NUM_BUTTONS
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.model import ObservationSpec

NO_ACTION = NUM_BUTTONS
"""The "previous action" at an episode's start."""


def observation_spec(config: Config) -> ObservationSpec:
    """What the networks of a run see."""
    return ObservationSpec(
        context_size=CONTEXT_SIZE,
        crop_size=2 * config.occupancy_crop_radius + 1,
        num_actions=NUM_BUTTONS,
        aux_slots=tuple(AUX_SLOTS),
    )


def block_spec(config: Config) -> BlockSpec:
    """The shapes of a sequence block of a run."""
    return BlockSpec.from_config(config, CONTEXT_SIZE, NUM_BUTTONS)
