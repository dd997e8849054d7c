"""Conditions, milestones and the latch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.flags import Condition, Milestone, ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World


def state_with(*events: int, started: bool = True, **fields: int) -> GameState:
    """A state with event flags set, and single bytes by the names of `ram`."""
    image = bytearray(ram.IMAGE_BYTES)
    if started:
        image[ram.image_index(ram.wCurMapWidth)] = image[ram.image_index(ram.wCurMapHeight)] = 4
        image[ram.image_index(ram.wCurMap)] = 200  # a map that is no milestone
    for name, value in fields.items():
        image[ram.image_index(getattr(ram, name))] = value
    for event in events:
        image[ram.image_index(ram.wEventFlags) + event // 8] |= 1 << event % 8
    return GameState(bytes(image))


@pytest.mark.parametrize(
    ("entry", "true", "false"),
    [
        ({"kind": "event", "event": 39}, state_with(39), state_with(38)),
        ({"kind": "map", "map": 118}, state_with(wCurMap=118), state_with(wCurMap=117)),
        ({"kind": "badge", "bit": 2}, state_with(wObtainedBadges=4), state_with(wObtainedBadges=0xFB)),
        ({"kind": "missable", "index": 3}, state_with(wMissableObjectFlags=8), state_with(wMissableObjectFlags=0xF7)),
        (
            {"kind": "bit", "address": ram.wStatusFlags1, "bit": 6},
            state_with(wStatusFlags1=0x40),
            state_with(wStatusFlags1=0xBF),
        ),
        (
            {"kind": "byte", "address": ram.wSSAnne2FCurScript, "equals": 4},
            state_with(wSSAnne2FCurScript=4),
            state_with(wSSAnne2FCurScript=5),
        ),
        ({"kind": "battle"}, state_with(wIsInBattle=1), state_with()),
    ],
)
def test_each_kind_of_condition(entry: dict[str, Any], true: GameState, false: GameState) -> None:
    condition = Condition.from_table({"name": "X", **entry})
    assert condition.holds(true)
    assert not condition.holds(false)


def test_experience_counts_the_whole_party() -> None:
    condition = Condition.from_table({"kind": "experience", "above": 125})
    image = bytearray(state_with(wPartyCount=2).image)
    at = ram.image_index(ram.wPartyMons) + 14
    image[at : at + 3] = (120).to_bytes(3, "big")
    image[at + ram.PARTY_MON_BYTES : at + ram.PARTY_MON_BYTES + 3] = (5).to_bytes(3, "big")
    assert not condition.holds(GameState(bytes(image)))
    image[at + ram.PARTY_MON_BYTES + 2] = 6
    assert condition.holds(GameState(bytes(image)))


def test_nothing_holds_before_the_game_has_started() -> None:
    """Zeros would read as the first town, which is map 0."""
    world = World.cartridge()
    zeros = GameState(bytes(ram.IMAGE_BYTES))
    assert not any(milestone.condition.holds(zeros) for milestone in world.milestones)
    ones = GameState(b"\xff" * ram.IMAGE_BYTES)
    assert any(milestone.condition.holds(ones) for milestone in world.milestones)
    latch = ProgressLatch(world.milestones)
    latch.start(zeros)
    assert latch.reached == ()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [({"kind": "weather"}, "unknown kind of condition 'weather'"), ({"kind": "map"}, "kind map needs 'map'")],
)
def test_bad_conditions_are_refused(entry: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Condition.from_table(entry)


def test_milestones_are_reported_once_and_in_order() -> None:
    latch = ProgressLatch(World.red().milestones)
    latch.start(state_with())
    assert latch.update(state_with(0, 39)) == ["EVENT_OAK_APPEARED_IN_PALLET", "EVENT_FOLLOWED_OAK_INTO_LAB"]
    assert latch.new_events == 2
    assert latch.update(state_with(0, 39)) == []
    assert latch.new_events == 0
    assert latch.update(state_with(0, 39, wCurMap=118)) == ["HALL_OF_FAME"]


def test_cleared_flags_stay_reached() -> None:
    """The game clears some again (a gym's switches); setting them once more is no news."""
    latch = ProgressLatch(World.red().milestones)
    latch.start(state_with())
    assert latch.update(state_with(353)) == ["EVENT_1ST_LOCK_OPENED"]
    assert latch.update(state_with()) == []
    assert latch.reached == ("EVENT_1ST_LOCK_OPENED",)
    assert latch.update(state_with(353)) == []
    assert latch.new_events == 0
    assert latch.event_count == 1


def test_a_flag_counts_whether_it_has_a_name_or_not() -> None:
    """The reward and the context count bits; names are for people."""
    world = World.red()
    assert 0 < len(world.event_names) < ram.EVENT_COUNT
    latch = ProgressLatch(world.milestones)
    for event in range(ram.EVENT_COUNT):
        latch.start(state_with())
        latch.update(state_with(event))
        assert (latch.new_events, latch.event_count) == (1, 1), event


def test_start_latches_without_reporting() -> None:
    latch = ProgressLatch(World.red().milestones)
    latch.start(state_with(39, 40, 41))
    assert latch.new_events == 0
    assert latch.reached == ("EVENT_OAK_APPEARED_IN_PALLET", "EVENT_VIRIDIAN_GYM_OPEN")
    assert latch.update(state_with(39, 40, 41)) == []
    latch.start(state_with())
    assert latch.reached == ()
    assert latch.update(state_with(39)) == ["EVENT_OAK_APPEARED_IN_PALLET"]


def test_reset_forgets() -> None:
    latch = ProgressLatch(World.red().milestones)
    latch.start(state_with(39))
    latch.reset()
    assert (latch.reached, latch.event_count, latch.new_events) == ((), 0, 0)
    assert latch.update(state_with(39)) == ["EVENT_OAK_APPEARED_IN_PALLET"]


def test_state_dict_goes_through_json() -> None:
    latch = ProgressLatch(World.red().milestones)
    latch.start(state_with())
    latch.update(state_with(39, 2559))
    saved = json.loads(json.dumps(latch.state_dict()))
    other = ProgressLatch(World.red().milestones)
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    assert other.update(state_with(39, 2559, 40)) == ["EVENT_VIRIDIAN_GYM_OPEN"]
    assert other.new_events == 1
    with pytest.raises(UserError, match="EVENT_OAK_APPEARED_IN_PALLET is unknown"):
        ProgressLatch(World.cartridge().milestones).load_state_dict(saved)
    with pytest.raises(UserError, match="more than 2560"):
        other.load_state_dict({"milestones": [], "events": "1" + "0" * 640})


def test_what_was_reached_before_a_latch_was_loaded_is_news_to_it() -> None:
    latch = ProgressLatch(World.red().milestones)
    latch.start(state_with())
    before = latch.state_dict()
    assert latch.update(state_with(39)) == ["EVENT_OAK_APPEARED_IN_PALLET"]
    latch.load_state_dict(before)
    assert latch.update(state_with(39)) == ["EVENT_OAK_APPEARED_IN_PALLET"]
    assert latch.new_events == 1


def test_an_episode_that_begins_where_the_last_one_stood_has_its_flags() -> None:
    latch = ProgressLatch(World.red().milestones)
    for _ in range(2):
        latch.start(state_with(39))
        assert latch.reached == ("EVENT_OAK_APPEARED_IN_PALLET",)
        assert latch.event_count == 1
        assert latch.update(state_with(39)) == []


def test_who_begins_far_along_has_passed_the_maps_before() -> None:
    """Required maps alone: an event's flag would be set, and no one need have met an opponent."""

    def milestone(name: str, required: bool, kind: str, **argument: int) -> Milestone:
        return Milestone(name, name, required, Condition.from_table({"kind": kind, **argument}))

    story = (
        milestone("LANE", True, "map", map=3),
        milestone("HUT", False, "map", map=4),
        milestone("OPPONENT", True, "battle"),
        milestone("KEY", True, "event", event=7),
        milestone("WOOD", True, "map", map=5),
        milestone("CROWN", True, "event", event=9),
        milestone("ISLE", True, "map", map=6),
    )
    latch = ProgressLatch(story)
    latch.start(state_with(9))
    assert latch.reached == ("LANE", "WOOD", "CROWN")
    assert latch.update(state_with(9, wCurMap=3)) == []
    assert latch.update(state_with(9, 7, wCurMap=6)) == ["KEY", "ISLE"]
    latch.start(state_with(7), {"milestones": ["HUT"], "events": "0"})
    assert latch.reached == ("HUT", "KEY")  # the way of an episode is known
    latch.start(state_with())
    assert latch.reached == ()
    assert latch.update(state_with(9)) == ["CROWN"]
    assert latch.reached == ("CROWN",)  # what is seen is told as it comes
