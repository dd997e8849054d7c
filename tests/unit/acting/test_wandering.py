"""Where random actions lead: to cells, doors, signs and people that the episode has not seen."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster_rl.acting import wandering
from cluster_rl.acting.wandering import wander_weights
from cluster_rl.cluster_map_features import CONTEXT_SIZE, SLOT_INDEX
from cluster_rl.config import load_config
from cluster_rl.emulator.env import make_env
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS
from cluster_rl.occupancy_memory import NOTHING_KNOWN, OUTSIDE, PERSON, SIGN, WALL, WARP

DIRECTIONS = ("down", "left", "right", "up")
ALL = np.ones((1, NUM_BUTTONS), np.bool_)
ON_MAP = np.zeros((1, CONTEXT_SIZE), np.uint8)  # the context of a player who is in no battle
CENTRE = 4
START_WEIGHT = 0.05


def empty_crop() -> NDArray[np.uint8]:
    """Map memory [2, 9, 9] of a player who has been nowhere and sees nothing."""
    return np.zeros((2, 2 * CENTRE + 1, 2 * CENTRE + 1), np.uint8)


def trodden(visits: int) -> np.uint8:
    return np.uint8(np.ceil(255 * (1 - 2.0**-visits)))


def shares(crop: NDArray[np.uint8]) -> dict[str, float]:
    """How likely each direction is among the four."""
    weights = wander_weights(ALL, crop[None], ON_MAP)[0]
    assert weights[: BUTTONS.index("a")].sum() == pytest.approx(4)
    return {name: float(weights[BUTTONS.index(name)]) / 4 for name in DIRECTIONS}


def by_hand(**weights: float) -> dict[str, float]:
    """The same from weights that were worked out by hand; 1.1 is a direction with nothing special about it."""
    full = {name: weights.get(name, 1.1) for name in DIRECTIONS}
    return {name: weight / sum(full.values()) for name, weight in full.items()}


def test_untrodden_cells_are_likelier() -> None:
    crop = empty_crop()
    crop[0, CENTRE + 1, CENTRE], crop[0, CENTRE - 1, CENTRE], crop[0, CENTRE, CENTRE - 1] = map(trodden, (8, 2, 1))
    assert shares(crop) == pytest.approx(by_hand(down=0.1, up=0.35, left=0.6), abs=0.01)


@pytest.mark.parametrize("code", [WARP, SIGN, PERSON])
def test_doors_signs_and_people_draw_by_distance_and_direction(code: int) -> None:
    crop = empty_crop()
    crop[1, CENTRE, CENTRE + 3] = code
    assert shares(crop) == pytest.approx(by_hand(right=1.1 + 12 / 3))
    crop[1, CENTRE - 3, CENTRE - 1] = code  # three up, one to the left: distance 4, shares 3/4 and 1/4
    assert shares(crop) == pytest.approx(by_hand(right=1.1 + 4, up=1.1 + 12 * 3 / 16, left=1.1 + 12 / 16))


@pytest.mark.parametrize("code", [NOTHING_KNOWN, WALL, OUTSIDE])
def test_walls_and_the_edge_draw_nowhere(code: int) -> None:
    crop = empty_crop()
    crop[1] = code
    assert shares(crop) == pytest.approx(by_hand())


@pytest.mark.parametrize("code", [SIGN, PERSON])
@pytest.mark.parametrize(("down", "right"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_what_the_episode_stood_beside_draws_less(code: int, down: int, right: int) -> None:
    crop = empty_crop()
    crop[1, CENTRE, CENTRE + 3] = code
    crop[0, CENTRE + down, CENTRE + 3 + right] = trodden(2)
    assert shares(crop) == pytest.approx(by_hand(right=1.1 + 12 / 3 / 4), abs=0.01)


def test_a_door_draws_until_it_was_entered() -> None:
    crop = empty_crop()
    crop[1, CENTRE, CENTRE + 3] = WARP
    crop[0, CENTRE + 1, CENTRE + 3] = trodden(3)  # beside it: no matter
    assert shares(crop) == pytest.approx(by_hand(right=1.1 + 4))
    crop[0, CENTRE, CENTRE + 3] = trodden(1)
    assert shares(crop) == pytest.approx(by_hand(right=1.1 + 2), abs=0.01)


@pytest.mark.parametrize("code", [SIGN, PERSON, WARP, WALL])
@pytest.mark.parametrize(("down", "right"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_beside_a_sign_or_a_person_it_rather_talks(code: int, down: int, right: int) -> None:
    crop, a = empty_crop(), BUTTONS.index("a")
    crop[1, CENTRE + down, CENTRE + right] = code
    interest = 1.0 if code in (SIGN, PERSON) else 0.0
    assert wander_weights(ALL, crop[None], ON_MAP)[0, a] == 1 + 12 * interest
    crop[0, CENTRE, CENTRE] = trodden(1)  # where the player stands is beside it too
    assert wander_weights(ALL, crop[None], ON_MAP)[0, a] == pytest.approx(1 + 6 * interest, abs=0.05)
    masks = ALL.copy()
    masks[0, a] = False
    assert wander_weights(masks, crop[None], ON_MAP)[0, a] == 0
    crop[1, CENTRE + 2 * down, CENTRE + 2 * right], crop[1, CENTRE + down, CENTRE + right] = code, NOTHING_KNOWN
    assert wander_weights(ALL, crop[None], ON_MAP)[0, a] == 1


def test_each_further_visit_of_the_players_cell_halves_what_draws_it() -> None:
    crop = empty_crop()
    crop[1, CENTRE, CENTRE + 3] = PERSON
    for visits, pull in ((0, 4.0), (1, 4.0), (2, 2.0), (3, 1.0), (8, 4 / 128)):
        crop[0, CENTRE, CENTRE] = trodden(visits)
        assert shares(crop) == pytest.approx(by_hand(right=1.1 + pull), abs=0.01)


def steps_to_the_other_side(seed: int, steps_max: int = 300) -> int:
    """Steps of a random walk, 9 cells long, away from somebody who stands behind a counter and cannot be reached."""
    radius, size, column, row, rng = 8, 12, 6, 3, np.random.default_rng(seed)
    memory = np.zeros((2, size + 2 * radius, size + 2 * radius), np.uint8)
    memory[1, radius, radius + column] = PERSON
    visits: collections.Counter[tuple[int, int]] = collections.Counter()
    for step in range(steps_max):
        visits[row, column] += 1
        memory[0, row + radius, column + radius] = trodden(visits[row, column])
        if row == size - 1:
            return step
        crop = memory[:, row : row + 2 * radius + 1, column : column + 2 * radius + 1]
        ways = [(row + down, column + right) for down, right in ((1, 0), (0, -1), (0, 1), (-1, 0))]
        masks = np.zeros((1, NUM_BUTTONS), np.bool_)
        masks[0, :4] = [2 <= to_row < size and 0 <= to_column < size for to_row, to_column in ways]
        weights = wander_weights(masks, crop[None], ON_MAP)[0]
        row, column = ways[int(rng.choice(NUM_BUTTONS, p=weights / weights.sum()))]
    return steps_max


def test_somebody_out_of_reach_lets_go() -> None:
    arrived = [steps_to_the_other_side(seed) < 300 for seed in range(30)]
    assert sum(arrived) >= 15  # 1 of 30 without the halving


def test_masked_buttons_weigh_nothing_and_directions_keep_their_share() -> None:
    crop = empty_crop()
    crop[1, CENTRE, CENTRE + 2] = PERSON
    masks = np.ones((3, NUM_BUTTONS), np.bool_)
    masks[0, BUTTONS.index("right")] = masks[0, BUTTONS.index("a")] = False
    masks[1, : BUTTONS.index("a")] = False
    weights = wander_weights(masks, np.stack([crop] * 3), np.repeat(ON_MAP, 3, axis=0))
    assert ((weights > 0) == masks).all()
    assert weights[1].tolist() == [0, 0, 0, 0, 1, 1, START_WEIGHT]
    others = [BUTTONS.index(name) for name in ("down", "left", "up", "b")]
    np.testing.assert_allclose(weights[0, others], 1.0)  # three directions, all alike, share three
    np.testing.assert_allclose(weights.sum(1), masks.sum(1) - 1 + START_WEIGHT)
    assert weights[2].argmax() == BUTTONS.index("right")


FRONTIER_WEIGHT = 6.0


def drawn(rows: tuple[str, ...], masked: str = "") -> set[str]:
    """Directions that a frontier draws in, from a drawn map memory: `.` never entered, `o` entered, `#` a wall, `p` a
    person, `D` a door and `d` one that was entered; `@` is the player, the rest of the crop is not known."""
    crop = empty_crop()
    height, width = len(rows), len(rows[0])
    (at,) = [(y, x) for y, row in enumerate(rows) for x, letter in enumerate(row) if letter == "@"]
    codes = {"#": WALL, "p": PERSON, "D": WARP, "d": WARP}
    for y in range(height):
        for x in range(width):
            cell = CENTRE + y - at[0], CENTRE + x - at[1]
            crop[0][cell] = trodden(1) if rows[y][x] in "o@d" else 0
            crop[1][cell] = codes.get(rows[y][x], NOTHING_KNOWN)
    masks = ALL.copy()
    if masked:
        masks[0, BUTTONS.index(masked)] = False
    before = wander_weights(masks, crop[None], ON_MAP)[0, :4]
    now = wander_weights(masks, crop[None], ON_MAP, FRONTIER_WEIGHT)[0, :4]
    assert now.sum() == pytest.approx(masks[0, :4].sum())
    return {name for name, one, other in zip(DIRECTIONS, now, before, strict=True) if one > other}


@pytest.mark.parametrize(
    ("rows", "masked", "expected"),
    [
        ((" # ", "#@.", " # "), "", {"right"}),
        ((" # ", "#@.", " # "), "right", set()),
        ((" . ", "o@.", " # "), "", {"up", "right"}),
        (("#####", "#ooo.", "#o###", "#o@##", "#####"), "", {"left"}),  # round the corner, not through the wall
        (("#####", "#ooo#", "#o###", "#o@##", "#####"), "", set()),
        (("#######", "#.oo@o.", "#######"), "", {"right"}),  # the nearer one
        (("#######", "#.o@o.#", "#######"), "", {"left", "right"}),
        (("####", "#o.#", "#@o#", "####"), "", {"up", "right"}),  # ways of one length meet there
        (("####", "#@p.", "####"), "", set()),  # nobody walks through a person
        (("####", "#@D#", "####"), "", {"right"}),  # a door may be entered
        (("#####", "#@d.#", "#####"), "", set()),  # what is behind one is on another map
    ],
)
def test_the_frontier_draws_along_the_shortest_known_way(
    rows: tuple[str, ...], masked: str, expected: set[str]
) -> None:
    assert drawn(rows, masked) == expected


def test_a_frontier_has_the_weight_that_is_given() -> None:
    crop = empty_crop()
    crop[0, CENTRE, CENTRE] = trodden(1)
    crop[1, CENTRE, CENTRE - 1] = crop[1, CENTRE - 1, CENTRE] = WALL
    weights = wander_weights(ALL, crop[None], ON_MAP, 3.0)[0, :4] / 4
    expected = by_hand(right=1.1 + 3, down=1.1 + 3)
    assert dict(zip(DIRECTIONS, weights, strict=True)) == pytest.approx(expected)


def test_nothing_is_drawn_to_where_all_is_known_or_the_edge() -> None:
    crop = empty_crop()
    crop[0, CENTRE, CENTRE] = trodden(1)
    crop[1] = OUTSIDE
    plain, drawn = (wander_weights(ALL, crop[None], ON_MAP, weight)[0, :4] for weight in (0.0, FRONTIER_WEIGHT))
    np.testing.assert_array_equal(drawn, plain)


@pytest.mark.parametrize("frontier_weight", [0.0, FRONTIER_WEIGHT])
def test_who_makes_for_a_frontier_presses_a_and_b_where_something_waits_for_them(frontier_weight: float) -> None:
    """In the open, in a text, beside a person who was never spoken to; each row by itself."""
    crops, contexts = np.stack([empty_crop()] * 3), np.repeat(ON_MAP, 3, axis=0)
    contexts[1, SLOT_INDEX["interface_up"]] = 255
    crops[2, 1, CENTRE, CENTRE + 1] = PERSON
    weights = wander_weights(np.repeat(ALL, 3, axis=0), crops, contexts, frontier_weight)
    a, b = weights[:, BUTTONS.index("a")], weights[:, BUTTONS.index("b")]
    idle_a, idle_b = (0.1, 0.05) if frontier_weight else (1.0, 1.0)
    assert a.tolist() == pytest.approx([idle_a, 1.0, idle_a + 12.0])
    assert b.tolist() == pytest.approx([idle_b, 1.0, idle_b])


def test_a_frontier_covers_more_of_the_cartridge() -> None:
    """Two hundred random steps of the same seed, each drawn by the weights."""
    entered = []
    for frontier_weight in (0.0, 12.0):
        env = make_env(load_config("cpu", ["occupancy_crop_radius=8"]), 3)
        rng = np.random.default_rng(3)
        env.start()
        for _ in range(200):
            seen = env.observation
            weights = wander_weights(seen.mask[None], seen.crop[None], seen.context[None], frontier_weight)[0]
            step = env.advance(int(rng.choice(NUM_BUTTONS, p=weights / weights.sum())))
            assert step.summary is None
        summary = env.stop()
        assert summary is not None
        entered.append(summary.cells)
        env.close()
    assert entered[1] > 1.2 * entered[0]


@pytest.mark.parametrize("battle", ["battle_wild", "battle_trainer"])
def test_in_a_battle_it_rather_presses_a_and_the_map_does_not_matter(battle: str) -> None:
    crop = empty_crop()
    crop[1, CENTRE, CENTRE + 2], crop[1, CENTRE + 1, CENTRE] = PERSON, SIGN
    context = np.repeat(ON_MAP, 3, axis=0)
    context[:2, SLOT_INDEX[battle]] = 255
    masks = np.repeat(ALL, 3, axis=0)
    masks[1, [BUTTONS.index("a"), BUTTONS.index("b")]] = False
    weights = wander_weights(masks, np.stack([crop] * 3), context)
    assert weights[0].tolist() == [4.0 if name == "a" else START_WEIGHT if name == "start" else 1.0 for name in BUTTONS]
    assert weights[1].tolist() == [1, 1, 1, 1, 0, 0, START_WEIGHT]
    assert weights[2].tolist() == wander_weights(ALL, crop[None], ON_MAP)[0].tolist()


def test_the_frontier_is_looked_for_only_where_there_is_no_battle(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, rows on maps are as without battles, and those in battles as without a frontier."""
    rng, rows = np.random.default_rng(4), 40
    masks = rng.random((rows, NUM_BUTTONS)) < 0.8
    crops = np.zeros((rows, *empty_crop().shape), np.uint8)
    crops[:, 0] = rng.choice([0, 128, 192], (rows, *crops.shape[2:]))
    crops[:, 1] = rng.choice([NOTHING_KNOWN, NOTHING_KNOWN, WALL, WARP, SIGN], (rows, *crops.shape[2:]))
    contexts = np.repeat(ON_MAP, rows, axis=0)
    fights = rng.random(rows) < 0.5
    contexts[fights, SLOT_INDEX["battle_wild"]] = 255
    looked_at: list[bytes] = []
    toward_fresh = wandering._toward_fresh

    def noted(crop: NDArray[np.uint8], mask: NDArray[np.bool_]) -> list[int]:
        looked_at.append(crop.tobytes())
        return toward_fresh(crop, mask)

    monkeypatch.setattr(wandering, "_toward_fresh", noted)
    weights = wander_weights(masks, crops, contexts, FRONTIER_WEIGHT)
    assert looked_at == [crop.tobytes() for crop in crops[~fights]]
    on_maps = wander_weights(masks, crops, np.repeat(ON_MAP, rows, axis=0), FRONTIER_WEIGHT)
    assert weights[~fights].tobytes() == on_maps[~fights].tobytes()
    assert weights[fights].tobytes() == wander_weights(masks, crops, contexts)[fights].tobytes()


def test_the_weights_follow_the_players_own_way_on_the_cartridge() -> None:
    """The map memory's rows and columns are those that the buttons move along."""
    env = make_env(load_config("cpu"), 0)
    env.start()
    visits = collections.Counter([(env.state.map_id, env.state.x, env.state.y)])
    here, rng = next(iter(visits)), np.random.default_rng(0)
    steps = {"down": (0, 1), "left": (-1, 0), "right": (1, 0), "up": (0, -1)}
    for _ in range(60):
        button = int(rng.choice(np.flatnonzero(env.observation.mask[:4])))
        crop = env.advance(button).observation.crop.copy()
        before, here = here, (env.state.map_id, env.state.x, env.state.y)
        visits[here] += here != before
        crop[1] = NOTHING_KNOWN
        weights = wander_weights(ALL, crop[None], ON_MAP)[0]
        expected = np.array([0.1 + 0.5 ** visits[here[0], here[1] + x, here[2] + y] for x, y in steps.values()])
        found = weights[[BUTTONS.index(name) for name in steps]]
        np.testing.assert_allclose(found, 4 * expected / expected.sum(), atol=0.05)
    env.close()
    assert len(visits) > 10
