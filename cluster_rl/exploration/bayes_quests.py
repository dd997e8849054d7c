"""Quests: how likely an episode is to reach each milestone, how sure that is, and when to worry.

The learner's process and serial mode use it. In: how each episode went, as it is logged. Out: a Beta posterior for each
milestone, alarms, the frontier. Pure: no file, no game, no network.

theta_m is the chance that an episode that starts without milestone m reaches it within its budget of T steps, under the
mixture of epsilons and start states that the actors play. T is given, the same for all or m's own: learned from how
long m takes, it would grow as the agent gets slower, and hide it.

With a uniform prior and s successes and f failures theta is Beta(1 + s, 1 + f) distributed. Training moves it, so old
episodes fade: each trial of m multiplies both counts by 2^(-1 / half-life), and the prior stays whole. At most
half-life / ln 2 trials count so; where theta stands still, the interval is wider than it need be, by the root of 2, and
where it moves, the mean lags by that many trials.

Which episodes are trials (`count_episode`) must not depend on how they went, or the estimate is biased:

- One that began with m reached is none.
- One that was seen for T steps, or that the game itself ended, is one. Where the task was done sooner, m was missed
  for good: a failure, as the end is the policy's doing. What was reached behind the budget is a failure too.
- One that was cut before T steps by something else, as by the job's end, is none, whether m was reached by then or
  not: to count what was reached and to leave out the rest would count successes alone.

What is left: an episode that lasts longer is likelier to be the one that a job's end cuts. Where a success ends an
episode early, theta so looks too large, by less than the share of episodes that are cut: one an emulator and job.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import msgspec
from scipy.special import betainc, betaincinv, betaln

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.runs.small_file import Count, UnixSeconds

NEVER, RELIABLY = 0.1, 0.9
"""Means of theta below and above which a quest is out of reach, or done."""
WARNING, CRITICAL = 0.8, 0.95
"""Probabilities from which an alarm has these levels."""
INTERVAL = (0.025, 0.975)
LEAST_START_WEIGHT = 0.05
_BEST_QUANTILE = 0.005  # stricter than the interval: the largest of many bounds is what all later ones are held against
_LEAST_SUCCESSES = 3  # before a bound is held against later ones: one or two, early by luck, look like a rate
_GROWTH = 0.05  # of the best bound: less is noise
_BLOCKS = 8
_FIRST_BLOCK_TRIALS = 16
_SURE = math.log(20.0)  # odds that decide between a rate that training moves and one that it does not

Level = Literal["ok", "warning", "critical"]
Verdict = Literal["unreached", "reliable", "steady", "learned", "worse", "undecided"]

_Faded = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Quest(NamedTuple):
    """A milestone as something to strive for. `slot` is the context's that tells whether it was reached."""

    name: str
    required: bool
    slot: int


class Counting(NamedTuple):
    """How an episode counts. Counts by other rules cannot be gone on with."""

    budget_steps: Count = 0
    half_life_episodes: _Faded = 0.0
    budgets: tuple[tuple[str, Count], ...] = ()  # by name, of quests with another than `budget_steps`


@dataclass(frozen=True)
class QuestRules:
    """What is monitored, `quests` in the order of play, and how. `target` 0: what the run itself had reached.

    `budgets` are of the quests that have another than `budget_steps`.
    """

    quests: tuple[Quest, ...]
    budget_steps: int
    half_life_episodes: float
    target: float
    patience_episodes: int
    budgets: Mapping[str, int] = field(default_factory=dict)

    @property
    def counting(self) -> Counting:
        return Counting(self.budget_steps, self.half_life_episodes, tuple(sorted(self.budgets.items())))

    @classmethod
    def from_config(cls, config: Config, quests: Iterable[Quest]) -> QuestRules:
        """The rules of a run. Raises `UserError` for a budget of what is none of its quests."""
        quests, budget_steps = tuple(quests), config.quest_budget_steps or config.episode_max_steps
        names = [quest.name for quest in quests]
        for name in config.quest_budgets:
            if name not in names:
                close = difflib.get_close_matches(name, names, 1)
                words = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
                raise UserError(f"quest_budgets: no milestone of the part that is played has the name {name}; {words}")
        return cls(
            quests=quests,
            budget_steps=budget_steps,
            budgets={name: steps for name, steps in config.quest_budgets.items() if steps != budget_steps},
            half_life_episodes=config.quest_half_life_episodes,
            target=config.quest_target,
            patience_episodes=config.quest_patience_episodes,
        )


NO_QUESTS = QuestRules(quests=(), budget_steps=1, half_life_episodes=1.0, target=0.0, patience_episodes=1)
"""For those who count nothing: benchmarks, and tests of other things."""


class QuestRecord(msgspec.Struct):
    """What is kept of a milestone's trials. `blocks` are (successes, trials) of stretches of `block_trials` each, the
    oldest first: whether the rate has changed is told from them."""

    successes: _Faded = 0.0
    failures: _Faded = 0.0
    trials: Count = 0
    reached: Count = 0
    best_low: _Share = 0.0  # lower bound of theta, the best so far, of a quest that was surely not "never" then
    grown_low: _Share = 0.0  # lower bound of theta, of any quest, when it last grew by more than noise
    grown_at: Count = 0  # trials then
    block_trials: Count = _FIRST_BLOCK_TRIALS
    blocks: list[tuple[Count, Count]] = msgspec.field(default_factory=list)

    @property
    def alpha(self) -> float:
        return 1.0 + self.successes

    @property
    def beta(self) -> float:
        return 1.0 + self.failures

    @property
    def mean(self) -> float:
        """Of theta."""
        return self.alpha / (self.alpha + self.beta)

    def copy(self) -> QuestRecord:
        """One that does not change with this one."""
        return msgspec.structs.replace(self, blocks=self.blocks.copy())

    def count(self, success: bool, half_life_episodes: float) -> None:
        """Takes in one trial."""
        keep = 0.5 ** (1.0 / half_life_episodes)
        self.successes = keep * self.successes + success
        self.failures = keep * self.failures + (not success)
        self.trials += 1
        self.reached += success
        self._count_in_block(success)
        if not success:
            return  # no bound rises by a failure
        low = float(betaincinv(self.alpha, self.beta, _BEST_QUANTILE))
        if self.mean >= NEVER and self.reached >= _LEAST_SUCCESSES:
            self.best_low = max(self.best_low, low)
        if self.reached == 1 or low > self.grown_low + _GROWTH:
            self.grown_low, self.grown_at = low, self.trials

    def _count_in_block(self, success: bool) -> None:
        if not self.blocks or self.blocks[-1][1] == self.block_trials:
            if len(self.blocks) == _BLOCKS:
                pairs = zip(self.blocks[::2], self.blocks[1::2], strict=True)
                self.blocks = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
                self.block_trials *= 2
            self.blocks.append((0, 0))
        successes, trials = self.blocks[-1]
        self.blocks[-1] = (successes + success, trials + 1)


Records = dict[str, QuestRecord]


class QuestState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a milestone now. `low` and `high`: 95 % credible interval of theta; `alarm`: P(theta < target).

    `verdict`, over all trials of the run:
    unreached: no success yet. Impossible, or not found: nobody can tell from here; `high` says how rare it must be.
    reliable: theta's mean is above 0.9.
    steady: 20 to 1 that the rate has never changed. Luck, or all that exploration finds: training has not moved it.
    learned, worse: 20 to 1 that it has, and theta is above or below the rate over all trials.
    undecided: too few trials to say.
    """

    alpha: float
    beta: float
    mean: float
    low: float
    high: float
    target: float
    alarm: float
    level: Level
    stagnant: bool  # no growth for `patience_episodes` trials, and not reliable
    verdict: Verdict
    trials: int
    reached: int


class QuestRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `quests.jsonl`: what was known of each quest that was tried, in the order of play, after so many
    episodes of the run."""

    time: UnixSeconds
    episodes: Count
    env_steps: Count
    frontier: list[str]
    quests: dict[str, QuestState]


def count_episode(
    records: Records,
    rules: QuestRules,
    *,
    start: Collection[str],
    reached: Iterable[tuple[str, int]],
    steps: int,
    ended_by_game: bool,
) -> None:
    """Takes an episode of `steps` steps into the records of the milestones that it is a trial of.

    `start` are the milestones reached before it began, `reached` those reached in it, with their steps from 1 on.
    """
    steps_to = dict(reached)
    for quest in rules.quests:
        budget = rules.budgets.get(quest.name, rules.budget_steps)
        if quest.name not in start and (steps >= budget or ended_by_game):
            record = records.setdefault(quest.name, QuestRecord())
            record.count(steps_to.get(quest.name, math.inf) <= budget, rules.half_life_episodes)


def assess(record: QuestRecord, rules: QuestRules) -> QuestState:
    """What is known of one milestone."""
    alpha, beta = record.alpha, record.beta
    low, high = (float(betaincinv(alpha, beta, share)) for share in INTERVAL)
    target = rules.target or record.best_low
    alarm = float(betainc(alpha, beta, target))
    return QuestState(
        alpha=alpha,
        beta=beta,
        mean=record.mean,
        low=low,
        high=high,
        target=target,
        alarm=alarm,
        level=level_of(alarm),
        stagnant=record.mean < RELIABLY and record.trials - record.grown_at >= rules.patience_episodes,
        verdict=verdict_of(record),
        trials=record.trials,
        reached=record.reached,
    )


def assess_all(records: Mapping[str, QuestRecord], rules: QuestRules) -> dict[str, QuestState]:
    """What is known of each quest that was tried, in the order of play."""
    return {quest.name: assess(records[quest.name], rules) for quest in rules.quests if quest.name in records}


def level_of(alarm: float) -> Level:
    """The level of an alarm's probability."""
    return "critical" if alarm >= CRITICAL else "warning" if alarm >= WARNING else "ok"


def change_evidence(blocks: Iterable[tuple[int, int]]) -> float:
    """Log odds that each block of (successes, trials) has a rate of its own, against one rate for all of them.

    Both with uniform priors: sum_i ln B(1 + s_i, 1 + f_i) - ln B(1 + sum s, 1 + sum f).
    """
    counts = [(successes, trials - successes) for successes, trials in blocks]
    apart = sum(float(betaln(1 + s, 1 + f)) for s, f in counts)
    return apart - float(betaln(1 + sum(s for s, _ in counts), 1 + sum(f for _, f in counts)))


def verdict_of(record: QuestRecord) -> Verdict:
    """What the trials tell of a quest's nature, see `QuestState`."""
    if not record.reached:
        return "unreached"
    if record.mean > RELIABLY:
        return "reliable"
    evidence = change_evidence(record.blocks)
    if evidence >= _SURE:
        return "learned" if record.mean > record.reached / record.trials else "worse"
    return "steady" if evidence <= -_SURE else "undecided"


def mean_of(records: Mapping[str, QuestRecord], name: str) -> float:
    """The mean of a quest's theta; the prior's for one that was not tried yet."""
    return records.get(name, _UNTRIED).mean


def frontier(records: Mapping[str, QuestRecord], rules: QuestRules) -> list[str]:
    """The required milestones that are reached neither never nor reliably, in the order of play.

    Where all that are ever reached are so reliably, the first behind them alone; empty where there is none. What no
    episode tried, as every start had it, is passed over; so is what is never reached though something behind it is, as
    some starts lie behind it. Before any trial, the first required milestone alone.
    """
    ahead = _ahead(records, rules)
    if not ahead:
        return [quest.name for quest in rules.quests if quest.required][:1]
    open_ones = [name for name, record in ahead.items() if not _is_never(record) and record.mean <= RELIABLY]
    return open_ones or [name for name, record in ahead.items() if _is_never(record)][:1]


def curiosity_scale(records: Mapping[str, QuestRecord], rules: QuestRules, largest: float) -> float:
    """What the weight of curiosity is multiplied with: 1 while quests progress, and before any trial.

    Up to `largest` where no quest of the frontier grows: largest^x, x being how much of `patience_episodes` trials has
    passed since the newest growth of one. Down towards 0 where all required ones are reached reliably, those that the
    frontier passes over aside: as the least mean goes from 0.9 to 1.
    """
    ahead = _ahead(records, rules)
    if not ahead:
        return 1.0
    waited = min((ahead[name].trials - ahead[name].grown_at for name in frontier(records, rules)), default=0)
    taper = min(1.0, (1.0 - min(record.mean for record in ahead.values())) / (1.0 - RELIABLY))
    return float(largest ** min(1.0, waited / rules.patience_episodes) * taper)


def _is_never(record: QuestRecord) -> bool:
    """Few failures leave the mean above `NEVER`, but that is the prior's: nothing was reached."""
    return record.reached == 0 or record.mean < NEVER


def _ahead(records: Mapping[str, QuestRecord], rules: QuestRules) -> dict[str, QuestRecord]:
    """The required milestones that were tried, in the order of play: those that are never reached all come last, for
    others are passed over, see `frontier`."""
    tried = {quest.name: records[quest.name] for quest in rules.quests if quest.required and quest.name in records}
    furthest = max((place for place, record in enumerate(tried.values()) if not _is_never(record)), default=-1)
    return {
        name: record for place, (name, record) in enumerate(tried.items()) if place > furthest or not _is_never(record)
    }


def start_weights(records: Mapping[str, QuestRecord], rules: QuestRules) -> dict[str, float]:
    """How much practice each required quest is worth, from `LEAST_START_WEIGHT` to 1, in the order of play: optional
    ones would hide those behind them from who looks for the first that is missing.

    The posterior's mean chance to fail. So the frontier counts whole, never reached as it is yet, and what is done
    reliably little. A weight that is largest where it is open how an episode goes, theta (1 - theta), would draw starts
    away from the frontier the longer nobody gets past it. What no episode ever reached though one reached something
    behind it is left out: the way does not lead through it.
    """
    required = [quest.name for quest in rules.quests if quest.required]
    furthest = max((n for n, name in enumerate(required) if records.get(name, _UNTRIED).reached), default=-1)
    return {
        name: max(LEAST_START_WEIGHT, 1.0 - mean_of(records, name))
        for place, name in enumerate(required)
        if place > furthest or records.get(name, _UNTRIED).reached or name not in records
    }


_UNTRIED = QuestRecord()
