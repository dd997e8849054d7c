"""The panel beside the game: the game's picture stays as it is, and all that is told is seen, as long as it should."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cartridge_fixtures import state_with

from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.world import World
from cluster_rl.report.overlay import (
    MILESTONE_FRAMES,
    REWARD_FRAMES,
    SIZE,
    Chance,
    Facts,
    Narrator,
    Pixels,
    chances_of,
    overlay,
    palette,
)

FACTS = Facts(
    button="a",
    chosen="greedy choice",
    value=1.5,
    place="HOME",
    x=4,
    y=3,
    step=12,
    badges=(True, False),
    rewards=(("milestone", 2.0), ("step", -0.0005)),
    episode_return=2.0,
    milestones=("left the house",),
    chances=(Chance("left the house", 0.5, 0.25, 0.75), Chance("won", 0.1, 0.0, 0.3)),
)
RNG = np.random.default_rng(0)
FRAME: Pixels = RNG.choice(np.array([0, 85, 153, 255], np.uint8), (144, 160, 1)).repeat(3, axis=2)


def panel(**changes: Any) -> Pixels:
    """The panel alone, with some facts changed."""
    return overlay(FRAME, replace(FACTS, **changes))[:, 480:]


def test_the_games_picture_is_three_times_as_large_and_otherwise_the_same() -> None:
    before = FRAME.copy()
    picture = overlay(FRAME, FACTS)
    assert (picture.shape, picture.dtype) == ((*SIZE, 3), np.uint8)
    assert all(np.array_equal(picture[down:432:3, right:480:3], FRAME) for down in range(3) for right in range(3))
    assert np.array_equal(FRAME, before)
    assert np.array_equal(overlay(255 - FRAME, FACTS)[:, 480:], picture[:, 480:])


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": "random choice"},
        {"value": None},
        {"value": -1.5},
        {"place": "TOWN"},
        {"x": 5},
        {"y": 4},
        {"step": 13},
        {"badges": (False, False)},
        {"badges": (False, True)},
        {"rewards": (("milestone", 2.0),)},
        {"rewards": (("event", 2.0), ("step", -0.0005))},
        {"rewards": (("milestone", -2.0), ("step", -0.0005))},
        {"rewards": None},
        {"episode_return": 1.0},
        {"milestones": ()},
        {"milestones": ("left the town",)},
        {"chances": ()},
        {"chances": (Chance("left the house", 0.6, 0.25, 0.75), Chance("won", 0.1, 0.0, 0.3))},
        {"chances": (Chance("left the house", 0.5, 0.35, 0.75), Chance("won", 0.1, 0.0, 0.3))},
        {"chances": (Chance("left the house", 0.5, 0.25, 0.85), Chance("won", 0.1, 0.0, 0.3))},
    ],
)
def test_each_fact_is_seen(change: dict[str, Any]) -> None:
    assert not np.array_equal(panel(**change), panel())


def test_each_button_lights_at_a_place_of_its_own() -> None:
    marked = (255, 196, 61)
    lit = {name: (panel(button=name, badges=(), milestones=()) == marked).all(-1) for name in BUTTONS}
    assert all(area.sum() > 300 for area in lit.values())
    assert not any((lit[one] & lit[other]).any() for one, other in itertools.combinations(BUTTONS, 2))


def test_what_is_too_long_is_cut_and_nothing_reaches_the_edge() -> None:
    world = World.red()
    longest = max((milestone.title for milestone in world.milestones), key=len)
    facts = replace(
        FACTS,
        value=-123456.789,
        place=max((world.map_name(number) for number in range(248)), key=len).replace("_", " "),
        x=255,
        y=255,
        step=1_234_567,
        badges=(True,) * 8,
        rewards=(("a_name_that_nobody_would_give_a_reward", -1e22), ("x", 999.99), ("y", -0.0001), ("z", 1.0)),
        episode_return=-123456.789,
        milestones=(longest,) * 3,
        chances=(Chance(longest, 1.0, -1.0, 2.0),) * 2,
    )
    picture = overlay(FRAME, facts)
    paper = picture[0, 480]
    edges = picture[:, 480:489], picture[:, -9:], picture[:4, 480:], picture[-4:, 480:]
    assert all((edge == paper).all() for edge in edges)


def test_the_palette_has_all_colours() -> None:
    known = {tuple(colour) for colour in palette().tolist()}
    seen = set()
    for button in BUTTONS:
        picture = overlay(FRAME, replace(FACTS, button=button, rewards=(("event", 1.0), ("step", -1.0))))
        seen |= {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert palette().shape == (256, 3)
    assert len(seen) > 20
    assert seen <= known


# --- what is told when ---


HERE = state_with((ram.wXCoord, 4), (ram.wYCoord, 3), (ram.wObtainedBadges, 1))


def test_rewards_are_told_for_about_a_second_and_milestones_for_three() -> None:
    world = World.cartridge()
    name, title = world.milestones[0].name, world.milestones[0].title
    narrator = Narrator(world)
    narrator.start(HERE)
    during = narrator.press("a", "random choice")
    assert (during.rewards, during.milestones, during.step, during.badges) == ((), (), 1, (True,))
    facts = [narrator.look(24, HERE, [name], {"step": -0.5, "milestone": 2.0, "talk": 0.0}, 1.5)]
    assert facts[0].rewards == (("milestone", 2.0), ("step", -0.5))
    assert (facts[0].episode_return, facts[0].milestones) == (1.5, (title,))
    for _ in range(12):
        facts.append(narrator.press("b", "random choice"))
        facts.append(narrator.look(24, HERE, [], {"step": -0.5}, 1.0))
    assert [fact.step for fact in facts] == [1, *(step for step in range(2, 14) for _ in range(2))]
    # A step's facts hold while its frames pass: how long one is told, in frames.
    told = [dict(fact.rewards or ()).get("milestone") for fact in facts[1::2]].index(None) * 24
    assert REWARD_FRAMES <= told < REWARD_FRAMES + 24
    told = [fact.milestones for fact in facts[1::2]].index(()) * 24
    assert MILESTONE_FRAMES <= told < MILESTONE_FRAMES + 24
    assert facts[-1].rewards == (("step", -1.5),)  # of three steps, which end in the last 60 frames


def test_eight_times_as_fast_all_is_told_for_eight_times_as_many_frames() -> None:
    world = World.cartridge()
    narrator = Narrator(world, speed=8)
    narrator.start(HERE)
    narrator.press("a", "random choice")
    narrator.look(24, HERE, [world.milestones[0].name], {"milestone": 2.0}, 2.0)
    facts = []
    for _ in range(80):
        facts.append(narrator.press("b", "random choice"))
        narrator.look(24, HERE, [], {}, 2.0)
    assert 8 * REWARD_FRAMES <= [fact.rewards for fact in facts].index(()) * 24 < 8 * REWARD_FRAMES + 24
    assert 8 * MILESTONE_FRAMES <= [fact.milestones for fact in facts].index(()) * 24 < 8 * MILESTONE_FRAMES + 24


def test_chances_are_those_of_the_frontier_that_are_known() -> None:
    known = {"LEFT_HOME": Chance("", 0.5, 0.4, 0.6), "GOT_BALM": Chance("", 0.1, 0.0, 0.3)}
    assert chances_of(["GOT_BALM", "READ_SIGN"], known, World.cartridge()) == {
        "GOT_BALM": Chance(World.cartridge().milestone_title("GOT_BALM"), 0.1, 0.0, 0.3)
    }


def test_an_episode_begins_without_what_the_last_one_did() -> None:
    world = World.cartridge()
    names = [milestone.name for milestone in world.milestones[:3]]
    chances = {name: Chance(name, 0.5, 0.4, 0.6) for name in names}
    narrator = Narrator(world, chances)
    narrator.start(HERE)
    assert [chance.title for chance in narrator.press("a", "").chances] == names[:2]
    after = narrator.look(24, HERE, names[:1], {"event": 1.0}, 1.0)
    assert [chance.title for chance in after.chances] == names[1:]
    narrator.start(HERE, reached=names[1:])
    begun = narrator.press("a", "")
    assert (begun.step, begun.rewards, begun.milestones, begun.episode_return) == (1, (), (), 0.0)
    assert [chance.title for chance in begun.chances] == names[:1]


def test_who_knows_no_rewards_tells_none() -> None:
    narrator = Narrator(World.cartridge(), knows_rewards=False)
    narrator.start(HERE)
    narrator.press("a", "")
    after = narrator.look(24, HERE, ["OF_ANOTHER_GAME"])
    assert (after.rewards, after.episode_return, after.milestones) == (None, None, ("OF_ANOTHER_GAME",))
