"""Each reward term on made-up states, and their weighted sum."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from cartridge_fixtures import state_with

from cluster_rl.config import Config, RewardWeights
from cluster_rl.emulator.env import make_env
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.map_objects import FACINGS
from cluster_rl.game.state import GameState
from cluster_rl.rewards import TERMS, RewardCalculator

ZERO = dict.fromkeys(TERMS, 0.0)


def calculator(term: str, weight: float = 1.0) -> RewardCalculator:
    """One that pays for a single term."""
    return RewardCalculator(msgspec.convert(ZERO | {term: weight}, RewardWeights))


def paid(term: str, *states: GameState) -> list[float]:
    """What one term pays at each state after the first."""
    rewards = calculator(term)
    rewards.start(states[0])
    return [rewards.step(a, b, 0, []) for a, b in itertools.pairwise(states)]


def at(map_id: int, x: int, *fields: tuple[int, bytes | int]) -> GameState:
    return state_with((ram.wCurMap, map_id), (ram.wXCoord, x), *fields)


def party(*members: tuple[int, int]) -> GameState:
    """A party of (level, hp); the maximum is 30."""
    fields: list[tuple[int, bytes | int]] = [(ram.wPartyCount, len(members))]
    for number, (level, hp) in enumerate(members):
        record = ram.wPartyMons + 44 * number
        fields += [(record + 33, level), (record + 2, hp), (record + 35, 30)]
    return state_with(*fields)


def bag(*items: int) -> GameState:
    pairs = bytes(byte for item in items for byte in (item, 1))
    return state_with((ram.wNumBagItems, len(items)), (ram.wBagItems, pairs + b"\xff"))


def test_every_weight_has_a_term_and_the_terms_add_up() -> None:
    rewards = RewardCalculator(RewardWeights())
    start, after = at(1, 1), at(2, 2, (ram.wObtainedBadges, 3))
    rewards.start(start)
    total = rewards.step(start, after, 3, ["A"]) + rewards.step(after, after, 0, [])
    weights = RewardWeights()
    expected = 3 * weights.event + weights.milestone + 2 * weights.badge + weights.new_map
    assert total == pytest.approx(expected + weights.novelty + 2 * weights.step)
    assert set(rewards.terms) == set(TERMS) == set(msgspec.to_builtins(weights))
    assert sum(rewards.terms.values()) == pytest.approx(total)
    assert rewards.episode_return == pytest.approx(total - weights.novelty)
    assert rewards.terms["badge"] == pytest.approx(2 * weights.badge)
    rewards.start(after)
    assert set(rewards.terms.values()) == {0.0}


def test_every_term_pays() -> None:
    """A weight that `step` leaves out would be paid by nobody, and every other test would still pass."""
    member = ram.wPartyMons
    start = at(1, 1, (ram.wPartyCount, 1), (member + 33, 5), (member + 2, 9), (member + 35, 30))
    fainted_at_level_6 = ((ram.wPartyCount, 1), (member + 33, 6), (member + 35, 30))
    found = (
        *((ram.wNumBagItems, 1), (ram.wBagItems, b"\x04\x01\xff"), (ram.wObtainedBadges, 1)),
        (ram.wPokedexOwned, 1),
    )
    rewards = RewardCalculator(msgspec.convert(dict.fromkeys(TERMS, 1.0), RewardWeights))
    rewards.start(start)
    rewards.step(start, saying(2, 1, "up", *fainted_at_level_6, *found), 1, ["A"], puffer=0.5)
    assert [name for name, paid in rewards.terms.items() if not paid] == []


def test_novelty_is_learned_from_and_no_part_of_the_return() -> None:
    rewards = calculator("novelty", 0.5)
    rewards.start(at(1, 1))
    assert rewards.step(at(1, 1), at(1, 2), 0, []) == 0.5
    assert rewards.terms["novelty"] == 0.5
    assert rewards.episode_return == 0.0
    assert rewards.visits == 1
    rewards.start(at(1, 2))
    assert rewards.visits == 0


def test_maps_and_tiles_pay_once_an_episode() -> None:
    walk = [at(1, 1), at(1, 2), at(1, 1), at(2, 1), at(1, 2), at(2, 2)]
    assert paid("novelty", *walk) == pytest.approx([1, 1 / 2, 1, 1 / 2, 1])
    assert paid("novelty", at(1, 1), at(1, 1), at(1, 2), at(1, 2), at(1, 1)) == pytest.approx([0, 1, 0, 1 / 2])
    assert paid("new_map", *walk) == [0, 0, 1, 0, 0]


def saying(map_id: int, x: int, facing: str = "up", *fields: tuple[int, bytes | int]) -> GameState:
    """A message box over the map, opened from that cell."""
    screen = bytearray(ram.TILE_ROWS * ram.TILE_COLUMNS)
    screen[12 * ram.TILE_COLUMNS], screen[17 * ram.TILE_COLUMNS] = 0x79, 0x7D
    code = {name: number for number, name in FACINGS.items()}[facing]
    box = ((ram.wTileMap, bytes(screen)), (ram.wFontLoaded, 1), (ram.wSpriteStateData1 + 9, code))
    return at(map_id, x, *box, *fields)


def test_texts_pay_by_how_often_they_were_opened_from_a_place() -> None:
    here, there, turned = saying(1, 1), saying(1, 2), saying(1, 1, "left")
    quiet = at(1, 1)
    # Once for a text of several pages, less for the same again, anew for another place or direction.
    states = [quiet, here, here, quiet, here, quiet, there, quiet, turned, quiet, here]
    assert paid("talk", *states) == pytest.approx([1, 0, 0, 1 / 2, 0, 1, 0, 1, 0, 1 / 3])
    # Not for what is said in a battle, on the way into it, or after it.
    battle = saying(1, 1, "up", (ram.wIsInBattle, 1))
    assert paid("talk", quiet, battle, here, quiet) == [0, 0, 0]
    rewards = calculator("talk", 0.5)
    rewards.start(quiet)
    assert rewards.step(quiet, here, 0, []) == rewards.terms["talk"] == 0.5
    assert rewards.episode_return == 0.0


EPISODES = {
    "badge": [state_with(), state_with((ram.wObtainedBadges, 1))],
    "new_map": [at(1, 1), at(2, 1)],
    "novelty": [at(1, 1), at(1, 2)],
    "talk": [at(1, 1), saying(1, 1)],
    "level": [party((5, 9)), party((6, 9))],
    "species": [state_with(), state_with((ram.wPokedexOwned, b"\x01"))],
    "item": [bag(4), bag(4, 5)],
    "blackout": [party((5, 30)), party((5, 0))],
}
"""Two states between which a term pays 1; those that are missing here remember nothing."""


@pytest.mark.parametrize("term", EPISODES)
def test_every_episode_is_paid_as_if_it_were_the_first(term: str) -> None:
    rewards, (before, after) = calculator(term), EPISODES[term]
    for _ in range(3):
        rewards.start(before)
        assert rewards.step(before, after, 0, []) == rewards.terms[term] == 1
        assert rewards.step(after, after, 0, []) == 0


def test_talking_to_the_elder_pays_on_the_cartridge() -> None:
    env = make_env(Config(start_idle_frames_max=0), 0)
    env.start()
    for button in ("right", "a", "a", "a", "a"):
        env.advance(BUTTONS.index(button))
    weight = RewardWeights().talk
    assert env._rewards.terms["talk"] == pytest.approx(weight)
    assert not env.state.text_open
    for _ in range(4):
        env.advance(BUTTONS.index("a"))
    assert env._rewards.terms["talk"] == pytest.approx(weight * 3 / 2)
    env.close()


def test_positions_that_are_under_way_do_not_pay() -> None:
    passing = [
        at(2, 2, (ram.wWalkCounter, 3)),
        at(2, 2, (ram.wJoyIgnore, 0xFF)),
        state_with((ram.wCurMap, 3), in_game=False),
    ]
    for term in ("novelty", "new_map"):
        assert paid(term, at(1, 1), *passing) == [0, 0, 0]


def test_badges_and_species_pay_once_even_if_lost() -> None:
    badges = [state_with((ram.wObtainedBadges, mask)) for mask in (1, 1, 3, 0, 3, 7)]
    assert paid("badge", *badges) == [0, 1, 0, 0, 1]
    dex = [state_with((ram.wPokedexOwned, bytes((mask,)))) for mask in (1, 1, 0b111, 0, 0b1111)]
    assert paid("species", *dex) == [0, 2, 0, 1]


def test_levels_pay_beyond_the_best_only() -> None:
    assert paid("level", party((5, 9)), party((6, 9)), party((5, 9)), party((6, 9)), party((8, 9))) == [1, 0, 0, 2]


def test_levels_of_members_that_join_or_come_back_do_not_pay() -> None:
    one, two = party((10, 9)), party((10, 9), (20, 9))
    assert paid("level", one, two, one, two, party((10, 9), (21, 9)), one, party((11, 9))) == [0, 0, 0, 1, 0, 1]


def test_items_pay_by_kind() -> None:
    assert paid("item", bag(4), bag(4, 5), bag(4), bag(4, 5), bag(4, 5, 6, 7), bag()) == [1, 0, 0, 2, 0]


def test_blackout_pays_once_until_healed() -> None:
    down, up = party((5, 0), (5, 0)), party((5, 30), (5, 0))
    assert paid("blackout", up, down, down, up, down) == [1, 0, 0, 1]
    assert paid("blackout", down, down) == [0]
    assert paid("blackout", state_with(), state_with()) == [0]  # no party, no blackout


def test_step_pays_each_step() -> None:
    rewards = calculator("step", -0.25)
    state = state_with()
    rewards.start(state)
    assert [rewards.step(state, state, 0, []) for _ in range(3)] == [-0.25] * 3
    assert rewards.terms["step"] == -0.75
