"""What the parts that know no game must know of it: the shapes of what an agent sees, and the milestones.

Actor and learner read them. In: a config, a run. Out: the specs of networks and sequence blocks, names, quests.
"""

from __future__ import annotations

from cluster_rl.cluster_map_features import AUX_SLOTS, CONTEXT_SIZE, MAP_SLOTS, PLACE_SLOTS, SLOT_INDEX
from cluster_rl.config import SCHOOL_PREFIX, Config
from cluster_rl.exploration.bayes_quests import Quest
from cluster_rl.game.buttons import NUM_BUTTONS
from cluster_rl.game.world import World
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.model import ObservationSpec
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir

NO_ACTION = NUM_BUTTONS
"""The "previous action" at an episode's start."""


def observation_spec(config: Config) -> ObservationSpec:
    """What the networks of a run see."""
    return ObservationSpec(
        context_size=CONTEXT_SIZE,
        crop_size=2 * config.occupancy_crop_radius + 1,
        num_actions=NUM_BUTTONS,
        aux_slots=AUX_SLOTS,
        place_slots=PLACE_SLOTS,
        map_slots=MAP_SLOTS,
    )


def block_spec(config: Config) -> BlockSpec:
    """The shapes of a sequence block of a run."""
    return BlockSpec.from_config(config, CONTEXT_SIZE, NUM_BUTTONS)


def milestone_names(run_dir: RunDir) -> frozenset[str]:
    """All milestones of the game that a run plays."""
    return frozenset(milestone.name for milestone in _world(run_dir).milestones)


def quests_of(run_dir: RunDir, initial_state: str) -> tuple[Quest, ...]:
    """`quests_in` the game of a run."""
    return quests_in(_world(run_dir), initial_state)


def quests_in(world: World, initial_state: str) -> tuple[Quest, ...]:
    """The milestones of the part of a game that is played from `initial_state`, in the order of play."""
    slots = {milestone.name: SLOT_INDEX[f"milestone_{index}"] for index, milestone in enumerate(world.milestones)}
    played = world.milestones_from(initial_state.removeprefix(SCHOOL_PREFIX))
    return tuple(Quest(milestone.name, milestone.required, slots[milestone.name]) for milestone in played)


def _world(run_dir: RunDir) -> World:
    identity = read_identity(run_dir.identity)
    return World.for_rom(identity.rom_sha1 if identity is not None else "")
