"""Quests: the posterior by hand and against simulated runs, what counts as a trial, alarms, verdicts, the frontier."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import betainc

from cluster_rl.config import load_config
from cluster_rl.errors import UserError
from cluster_rl.exploration.bayes_quests import (
    LEAST_START_WEIGHT,
    NEVER,
    RELIABLY,
    Quest,
    QuestRecord,
    QuestRules,
    QuestState,
    Records,
    assess,
    assess_all,
    change_evidence,
    count_episode,
    curiosity_scale,
    frontier,
    level_of,
    start_weights,
    verdict_of,
)

HALF_LIFE = 100.0
PATIENCE = 500


def rules(*names: str, optional: str = "", **changes: Any) -> QuestRules:
    quests = tuple(Quest(name, name not in optional.split(), slot) for slot, name in enumerate(names or ("a",)))
    values = {"budget_steps": 100, "half_life_episodes": HALF_LIFE, "target": 0.0, "patience_episodes": PATIENCE}
    return QuestRules(quests, **{**values, **changes})


def record_of(*outcomes: bool, half_life: float = 1e6) -> QuestRecord:
    record = QuestRecord()
    for success in outcomes:
        record.count(success, half_life)
    return record


# The posterior, by hand.


def test_counts_fade_by_half_and_the_prior_stays() -> None:
    record = record_of(True, True, False, half_life=1.0)
    assert (record.alpha, record.beta) == (1.75, 2.0)  # 1 -> 0.5 + 1 -> 0.75, and 0 -> 0 -> 1
    assert record.mean == 1.75 / 3.75
    assert (record.trials, record.reached) == (3, 2)
    for _ in range(100):
        record.count(False, 1.0)
    assert record.alpha == pytest.approx(1.0)
    assert record.beta == pytest.approx(3.0)  # 1 + 1 / (1 - 0.5)


def test_interval_and_alarm_of_the_betas_that_have_closed_forms() -> None:
    won, lost = (assess(record_of(outcome), rules(target=0.3)) for outcome in (True, False))
    assert (won.low, won.high) == pytest.approx((math.sqrt(0.025), math.sqrt(0.975)))  # Beta(2, 1): F(x) = x^2
    assert (lost.low, lost.high) == pytest.approx((1 - math.sqrt(0.975), 1 - math.sqrt(0.025)))
    assert won.alarm == pytest.approx(0.3**2, rel=1e-5)
    assert lost.alarm == pytest.approx(1 - 0.7**2, rel=1e-5)
    assert won.mean == pytest.approx(2 / 3, rel=1e-5)


def test_interval_against_draws() -> None:
    record = record_of(*[True] * 12, *[False] * 30)
    draws = np.random.default_rng(0).beta(record.alpha, record.beta, 200_000)
    state = assess(record, rules(target=0.25))
    assert (state.low, state.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.003)
    assert state.alarm == pytest.approx((draws < 0.25).mean(), abs=0.005)


@pytest.mark.parametrize(
    ("alarm", "level"), [(0.0, "ok"), (0.7999, "ok"), (0.8, "warning"), (0.9499, "warning"), (0.95, "critical")]
)
def test_levels_begin_at_their_probability(alarm: float, level: str) -> None:
    assert level_of(alarm) == level


# What is a trial.


def episode(
    records: Records,
    monitor: QuestRules,
    reached: dict[str, int] | None = None,
    start: tuple[str, ...] = (),
    steps: int = 100,
    ended_by_game: bool = False,
) -> dict[str, tuple[int, int]]:
    """Counts an episode; name: (successes, trials) afterwards."""
    count_episode(
        records,
        monitor,
        start=start,
        reached=(reached or {}).items(),
        steps=steps,
        ended_by_game=ended_by_game,
    )
    return {name: (record.reached, record.trials) for name, record in records.items()}


def test_what_was_reached_before_the_start_counts_for_nothing() -> None:
    records: Records = {}
    assert episode(records, rules("a", "b"), {"b": 7}, start=("a",)) == {"b": (1, 1)}
    assert episode(records, rules("a", "b"), {"a": 1}) == {"b": (1, 2), "a": (1, 1)}


def test_the_budget_is_the_last_step_that_counts() -> None:
    records: Records = {}
    assert episode(records, rules(), {"a": 100}, steps=300) == {"a": (1, 1)}
    assert episode(records, rules(), {"a": 101}, steps=300) == {"a": (1, 2)}


def test_an_episode_cut_before_the_budget_is_no_trial_whatever_it_reached() -> None:
    records: Records = {}
    assert episode(records, rules(), {"a": 5}, steps=99) == {}
    assert episode(records, rules(), steps=99) == {}
    assert episode(records, rules(), {"a": 5}, steps=100) == {"a": (1, 1)}  # cut, and seen for its whole budget


def test_a_game_that_is_over_sooner_is_a_trial_of_all() -> None:
    records: Records = {}
    assert episode(records, rules("a", "b"), {"a": 5}, steps=9, ended_by_game=True) == {"a": (1, 1), "b": (0, 1)}


def test_a_quest_may_have_a_budget_of_its_own() -> None:
    records, own = {}, rules("a", "b", budgets={"a": 10})
    assert episode(records, own, {"a": 10, "b": 11}) == {"a": (1, 1), "b": (1, 1)}
    assert episode(records, own, {"a": 11, "b": 11}) == {"a": (1, 2), "b": (2, 2)}
    assert episode(records, own, {"a": 10}, steps=10) == {"a": (2, 3), "b": (2, 2)}  # cut: b was not seen out
    assert episode(records, own, {"a": 9}, steps=9) == {"a": (2, 3), "b": (2, 2)}
    assert episode(records, own, steps=9, ended_by_game=True) == {"a": (2, 4), "b": (2, 3)}
    later = rules("a", "b", budgets={"b": 300})
    assert episode(records, later, {"a": 100, "b": 300}, steps=300) == {"a": (3, 5), "b": (3, 4)}


@pytest.mark.parametrize("seed", range(3))
def test_ends_of_jobs_leave_the_estimate_unbiased(seed: int) -> None:
    """Jobs of 250 steps cut every third episode half way; by then half of its successes have come."""
    rng = np.random.default_rng(seed)
    monitor, records = rules(half_life_episodes=1e6), {}
    for _ in range(2000):
        for steps in (100, 100, 50):
            at = int(rng.integers(1, 101)) if rng.random() < 0.4 else 10**6
            episode(records, monitor, {"a": at} if at <= steps else {}, steps=steps)
    # Cut ones as trials would give 0.33, and their successes alone 0.45.
    assert records["a"].trials == 4000
    assert records["a"].mean == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_where_success_ends_an_episode_the_bias_is_below_the_share_that_is_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    monitor, records, cut = rules(half_life_episodes=1e6), {}, 0
    for _ in range(1000):
        left = 1000
        while left > 0:
            at = int(rng.integers(1, 101)) if rng.random() < 0.4 else 10**6
            steps = min(at, 100)
            if steps > left:
                cut += 1
                episode(records, monitor, steps=left)
            else:
                episode(records, monitor, {"a": at} if at <= 100 else {}, steps=steps, ended_by_game=at <= 100)
            left -= steps
    share = cut / (cut + records["a"].trials)
    assert 0.03 < share < 0.09
    assert abs(records["a"].mean - 0.4) < share


# Simulated runs: four quests are impossible, four luck, six learnable, one gets worse.

EPISODES = 1500
FALL_AT = 900
FALL_WITHIN = 60
Theta = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def learnable(middle: float, width: float, top: float) -> Theta:
    return lambda t: top / (1 + np.exp((middle - t) / width))


def constant(theta: float) -> Theta:
    return lambda t: np.full(len(t), theta)


THETAS: dict[str, Theta] = {
    **{f"impossible_{number}": constant(0.0) for number in range(4)},
    "luck_rarest": constant(0.03),
    "luck_rarer": constant(0.05),
    "luck_rare": constant(0.15),
    "luck_often": constant(0.5),
    **{
        f"learnable_{number}": learnable(middle, width, top)
        for number, (middle, width, top) in enumerate(
            [(150, 40, 0.97), (300, 60, 0.9), (450, 100, 0.95), (600, 60, 0.7), (800, 150, 0.9), (1000, 80, 0.6)]
        )
    },
    "worse": lambda t: np.where(t < FALL_AT, 0.8, 0.2),
}
SEEDS = range(5)


class Trace(NamedTuple):
    """One simulated run. `states` are those after each episode; forecasts were made before it."""

    states: dict[str, list[QuestState]]
    forecasts: npt.NDArray[np.float64]  # [quests, episodes]
    outcomes: npt.NDArray[np.bool_]  # [quests, episodes]


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [simulated(seed) for seed in SEEDS]


def simulated(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    thetas = np.array([theta(np.arange(EPISODES, dtype=np.float64)) for theta in THETAS.values()])
    outcomes = rng.random(thetas.shape) < thetas
    monitor, records = rules(*THETAS), {name: QuestRecord() for name in THETAS}
    states: dict[str, list[QuestState]] = {name: [] for name in THETAS}
    forecasts = np.empty(thetas.shape)
    for number in range(EPISODES):
        forecasts[:, number] = [record.mean for record in records.values()]
        reached = {name: 50 for name, success in zip(THETAS, outcomes[:, number], strict=True) if success}
        episode(records, monitor, reached)
        for name, state in assess_all(records, monitor).items():
            states[name].append(state)
    return Trace(states, forecasts, outcomes)


def test_forecasts_are_calibrated(traces: list[Trace]) -> None:
    """Expected calibration error in ten bins. The share of all episodes so far, which forgets nothing, fails it."""

    def error(forecasts: npt.NDArray[np.float64], outcomes: npt.NDArray[np.bool_]) -> float:
        bins = np.minimum((forecasts * 10).astype(int), 9)
        gaps = [(np.mean(forecasts[bins == b]) - np.mean(outcomes[bins == b])) * np.mean(bins == b) for b in set(bins)]
        return float(np.abs(gaps).sum())

    for trace in traces:
        assert error(trace.forecasts.ravel(), trace.outcomes.ravel()) <= 0.05
        moving = [index for index, name in enumerate(THETAS) if name.startswith(("learnable", "worse"))]
        outcomes = trace.outcomes[moving]
        assert error(trace.forecasts[moving].ravel(), outcomes.ravel()) <= 0.07  # they lag behind what moves
        so_far = (outcomes.cumsum(1) - outcomes + 1) / (np.arange(EPISODES) + 2)
        assert error(so_far.ravel(), outcomes.ravel()) > 0.1


def test_intervals_hold_a_rate_that_stands_still(traces: list[Trace]) -> None:
    for name, theta in (("luck_rare", 0.15), ("luck_often", 0.5)):
        held = [state.low <= theta <= state.high for trace in traces for state in trace.states[name][50:]]
        assert np.mean(held) >= 0.95
        widths = [state.high - state.low for trace in traces for state in trace.states[name][200:]]
        assert max(widths) < 0.2


def test_a_fall_is_found_soon_and_nothing_else_falls(traces: list[Trace]) -> None:
    false = []
    for trace in traces:
        levels = [state.level for state in trace.states["worse"]]
        assert "critical" in levels[FALL_AT : FALL_AT + FALL_WITHIN]
        assert set(levels[FALL_AT + FALL_WITHIN :]) == {"critical"}
        false += [level != "ok" for level in levels[:FALL_AT]]
        false += [state.level != "ok" for name in THETAS if name != "worse" for state in trace.states[name]]
    assert np.mean(false) < 0.05
    per_quest = [
        np.mean([state.level == "critical" for trace in traces for state in trace.states[name]])
        for name in THETAS
        if name != "worse"
    ]
    assert max(per_quest) < 0.05


def test_kinds_of_quests_are_told_apart(traces: list[Trace]) -> None:
    for trace in traces:
        last = {name: states[-1] for name, states in trace.states.items()}
        for name, state in last.items():
            kind = name.split("_")[0]
            if kind == "impossible":
                assert (state.verdict, state.alarm, state.stagnant) == ("unreached", 0.0, True)
                assert state.high < 0.03  # all that can be said
            elif kind == "luck":
                assert state.verdict == "steady"
            elif kind == "learnable":
                assert state.verdict in ("learned", "reliable")
            else:
                assert state.verdict == "worse"


# Alarms and growth.


def test_a_given_target_is_held_against_every_quest() -> None:
    state = assess(record_of(*[False] * 50), rules(target=0.5))
    assert (state.target, state.level) == (0.5, "critical")


def test_the_best_bound_never_falls_and_is_of_quests_that_were_not_never() -> None:
    record, bests = QuestRecord(), []
    for success in [True] * 40 + [False] * 60:
        record.count(success, 20.0)
        bests.append(record.best_low)
    assert all(later >= earlier for earlier, later in pairwise(bests))
    assert bests[-1] == bests[39] == pytest.approx(0.005 ** (1 / record_of(*[True] * 40, half_life=20.0).alpha))
    assert record.mean < 0.3
    rare = record_of(*[False] * 30, True, *[False] * 30, True, *[False] * 30, True)
    assert rare.mean < 0.1
    assert rare.best_low == 0.0


@pytest.mark.parametrize("theta", [0.02, 0.03, 0.05])
def test_rare_luck_is_seldom_taken_for_a_fall(theta: float) -> None:
    held = []
    for seed in range(60):
        record = QuestRecord()
        for success in np.random.default_rng(seed).random(1500) < theta:
            record.count(bool(success), HALF_LIFE)
            held.append((record.alpha, record.beta, record.best_low))
    alarms = betainc(*np.transpose(held))
    assert np.mean(alarms >= 0.8) < 0.03
    assert np.mean(alarms >= 0.95) < 0.01


def test_one_or_two_early_successes_are_no_rate_to_fall_from() -> None:
    assert record_of(True, True).best_low == 0.0
    assert record_of(True, True, True).best_low == pytest.approx(0.005**0.25)  # of Beta(4, 1)


def test_a_quest_stagnates_where_it_has_not_grown_for_all_its_patience() -> None:
    monitor, record = rules(patience_episodes=20), QuestRecord()
    told = []
    for number in range(1, 61):
        record.count(number == 30, 1e6)  # the first success is growth, however small
        told.append(assess(record, monitor).stagnant)
    assert [number for number, stagnant in enumerate(told, 1) if stagnant] == [*range(20, 30), *range(50, 61)]
    assert not assess(record_of(*[True] * 100), monitor).stagnant  # reliable


def test_evidence_for_a_change_by_hand() -> None:
    assert change_evidence([(2, 2), (0, 2)]) == pytest.approx(math.log(10 / 3))  # B(3, 1) B(1, 3) / B(3, 3)
    assert change_evidence([(3, 5)]) == 0.0


def test_blocks_are_few_and_hold_every_trial_in_order() -> None:
    record, outcomes = QuestRecord(), np.random.default_rng(1).random(1000) < 0.3
    for number, success in enumerate(outcomes, 1):
        record.count(bool(success), HALF_LIFE)
        assert len(record.blocks) <= 8
        assert sum(trials for _, trials in record.blocks) == number
    assert record.block_trials == 128
    sizes = [trials for _, trials in record.blocks]
    assert sizes == [128] * 7 + [104]
    assert [successes for successes, _ in record.blocks] == [
        outcomes[first : first + 128].sum() for first in range(0, 1000, 128)
    ]


def test_few_trials_decide_nothing() -> None:
    assert verdict_of(record_of(True, False, True)) == "undecided"


# Frontier and the closed loop.


def means(**share: float) -> Records:
    """Records of 1000 trials with these means."""
    return {
        name: QuestRecord(successes=998 * m, failures=998 * (1 - m), trials=1000, reached=round(998 * m))
        for name, m in share.items()
    }


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}, ["a", "b", "c", "d"]),
        ({"a": 0.95, "b": 0.5, "c": 0.05, "d": 0.05}, ["b"]),
        ({"a": 0.95, "b": 0.05, "c": 0.0}, ["b"]),
        ({"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}, ["a"]),
        ({"a": 0.95, "b": 0.95, "c": 0.95, "d": 0.95}, []),
        ({"a": 0.95}, []),  # each start had the others
        ({"b": 0.95, "c": 0.4}, ["c"]),  # each start had a
        ({"c": 0.0}, ["c"]),
        ({"a": 0.4, "b": 0.05, "c": 0.5, "d": 0.0}, ["a", "c"]),  # some starts lie behind b
        ({"a": 0.0, "b": 0.05, "c": 0.95, "d": 0.0}, ["d"]),
        ({"a": 0.0, "b": 0.95, "c": 0.95}, []),
        ({}, ["a"]),
    ],
)
def test_frontier(shares: dict[str, float], expected: list[str]) -> None:
    assert frontier(means(**shares), rules("a", "b", "c", "d")) == expected


def test_few_failures_bring_no_quest_near() -> None:
    records = {name: record_of(*[False] * 5) for name in "abcd"}
    assert all(record.mean > 0.1 for record in records.values())  # by the prior
    assert frontier(records, rules(*"abcd")) == ["a"]
    records["b"] = record_of(True, *[False] * 4)
    assert frontier(records, rules(*"abcd")) == ["b"]


def test_a_late_start_has_the_quest_that_is_ahead_of_it_as_frontier() -> None:
    """All starts had `home`, and lie behind `mire`, where nobody goes back to."""
    rng, records, monitor = np.random.default_rng(0), {}, rules("home", "mire", "spark", "tunnel")
    for _ in range(800):
        episode(records, monitor, {"spark": 9} if rng.random() < 0.4 else {}, start=("home",))
    assert frontier(records, monitor) == ["spark"]
    waited = records["spark"].trials - records["spark"].grown_at
    assert waited > PATIENCE
    assert curiosity_scale(records, monitor, 4.0) == 4.0


def test_the_frontier_is_of_required_quests() -> None:
    assert frontier(means(a=0.5, b=0.5), rules("a", "b", optional="a")) == ["b"]


def test_curiosity_grows_with_waiting_and_ends_with_success() -> None:
    monitor = rules("a", "b", optional="b")
    stuck, done = means(a=0.5, b=0.0), means(a=0.95, b=0.0)
    stuck["a"].grown_at = 1000 - PATIENCE // 2
    assert curiosity_scale(stuck, monitor, 4.0) == pytest.approx(2.0)
    stuck["a"].grown_at = 0
    assert curiosity_scale(stuck, monitor, 4.0) == 4.0
    stuck["a"].grown_at = 1000
    assert curiosity_scale(stuck, monitor, 4.0) == 1.0
    assert curiosity_scale(done, monitor, 4.0) == pytest.approx(0.5, abs=0.01)
    assert curiosity_scale({}, monitor, 4.0) == 1.0
    assert curiosity_scale(stuck, rules("b", optional="b"), 4.0) == 1.0


def test_curiosity_tapers_by_the_quests_that_are_on_the_way() -> None:
    """Untried ones, which each start had, and one that every start lies behind, are not."""
    records = means(b=0.0, c=0.95)
    assert curiosity_scale(records, rules("a", "b", "c"), 4.0) == pytest.approx(0.5, abs=0.01)
    records = means(b=0.95, c=0.0)
    records["c"].grown_at = 1000
    assert curiosity_scale(records, rules("a", "b", "c"), 4.0) == 1.0


def test_one_quest_of_the_frontier_that_grows_is_progress() -> None:
    records = means(a=0.5, b=0.5)
    records["b"].grown_at = 1000
    assert curiosity_scale(records, rules("a", "b"), 4.0) == 1.0


def test_start_weights_are_the_chance_to_fail() -> None:
    records = {"a": record_of(*[True] * 3, *[False] * 5), **means(b=0.999, c=0.5)}
    weights = start_weights(records, rules("e", "a", "b", "c", "d", optional="e"))
    assert list(weights) == ["a", "b", "c", "d"]
    draws = np.random.default_rng(0).beta(records["a"].alpha, records["a"].beta, 400_000)
    assert weights["a"] == pytest.approx((1 - draws).mean(), abs=0.003)
    assert weights["b"] == LEAST_START_WEIGHT
    assert weights["c"] == pytest.approx(0.5, abs=0.002)
    assert weights["d"] == 0.5


def test_what_the_way_does_not_lead_through_makes_no_stage() -> None:
    """Else the frontier behind it would share a stage with all that lies before."""
    records = {"a": record_of(True), "b": record_of(*[False] * 9), "c": record_of(True), "d": record_of(False)}
    assert list(start_weights(records, rules("a", "b", "c", "d"))) == ["a", "c", "d"]
    del records["b"]  # not tried: each start had it
    assert list(start_weights(records, rules("a", "b", "c", "d"))) == ["a", "b", "c", "d"]


def test_what_nobody_gets_past_is_practised_the_more_the_longer() -> None:
    tries = [record_of(*[False] * count, half_life=HALF_LIFE) for count in (0, 5, 50, 500)]
    weights = [start_weights({"a": record}, rules("a"))["a"] for record in tries]
    assert weights == sorted(weights)
    assert weights[-1] > 0.98


# The config.


def test_rules_of_a_config() -> None:
    config = load_config(None, ["episode_max_steps=700"])
    assert QuestRules.from_config(config, [Quest("a", True, 0)]) == rules(budget_steps=700)
    config = load_config(None, ["quest_budget_steps=50", "quest_target=0.5", "quest_half_life_episodes=70"])
    assert QuestRules.from_config(config, [Quest("a", True, 0)]) == rules(
        budget_steps=50, target=0.5, half_life_episodes=70.0
    )
    with pytest.raises(UserError, match="quest_budget_steps"):
        load_config(None, ["episode_max_steps=100", "quest_budget_steps=101"])


def test_budgets_of_a_config() -> None:
    quests = [Quest("TOWN", True, 0), Quest("BADGE", True, 1)]
    config = load_config(None, ["quest_budgets.TOWN=50", "quest_budgets.BADGE=700", "quest_budget_steps=700"])
    assert config == load_config(None, ['quest_budgets={"TOWN": 50, "BADGE": 700}', "quest_budget_steps=700"])
    given = QuestRules.from_config(config, quests)
    assert (given.budget_steps, given.budgets) == (700, {"TOWN": 50})
    assert given.counting == (700, 100.0, (("TOWN", 50),))
    with pytest.raises(UserError, match=r"quest_budgets\.TOWN \(101\) is larger than episode_max_steps"):
        load_config(None, ["episode_max_steps=100", "quest_budgets.TOWN=101"])
    with pytest.raises(UserError, match=r"quest_budgets: .*`int` >= 1"):
        load_config(None, ["quest_budgets.TOWN=0"])
    for name, words in (("TOWM", "did you mean TOWN?"), ("SOMEWHERE", "there are: TOWN, BADGE")):
        with pytest.raises(UserError) as refused:
            QuestRules.from_config(load_config(None, [f"quest_budgets.{name}=5"]), quests)
        assert str(refused.value) == (
            f"quest_budgets: no milestone of the part that is played has the name {name}; {words}"
        )


def test_the_shortest_half_life_lets_a_quest_be_out_of_reach_and_done() -> None:
    """With a shorter one the prior keeps every mean away from 0 and 1."""
    shortest = load_config(None, ["quest_half_life_episodes=10"]).quest_half_life_episodes
    assert record_of(*[True] * 100, half_life=shortest).mean > RELIABLY
    assert record_of(*[False] * 100, half_life=shortest).mean < NEVER
    assert record_of(*[True] * 100, half_life=shortest / 2).mean < RELIABLY
    with pytest.raises(UserError, match="quest_half_life_episodes"):
        load_config(None, ["quest_half_life_episodes=9.9"])
