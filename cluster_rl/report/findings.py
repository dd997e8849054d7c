"""What looks wrong with a run, each with what to do about it: rules that are pure functions of its facts.

The report's page shows them, worst first. In: `RunFacts`. Out: `Finding`s. A rule says nothing where the facts that it
needs are not there. The newest quarter of the rows counts as now, as a run's beginning is slow for good reasons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import numpy as np

from cluster_rl.config import limiter_buffer
from cluster_rl.report.bars import count_words
from cluster_rl.report.curves import number_words
from cluster_rl.report.run_facts import BY_DEFAULTS, NOT_THERE, JobFacts, RunFacts
from cluster_rl.report.run_rows import Column
from cluster_rl.runs.progress import REASON_UNKNOWN

Level = Literal["bad", "warning", "note"]
LEVELS: Final[tuple[Level, ...]] = ("bad", "warning", "note")

HIGH_LOOP_SHARE: Final = 0.5
LOW_ESS: Final = 0.05
HIGH_DELTA_Q: Final = 0.5
STALE_SEC: Final = 60.0
SILENT_SEC: Final = 600.0
_MOST: Final = 0.75  # share of rows: "most of the time"
_NAMED: Final = 5


class Counter(NamedTuple):
    """A counter that should stay 0: of what (`noun`, in the singular, and `more`), and what to `do` where it rose."""

    noun: str
    more: str
    do: str


_SHOULD_BE_ZERO: Final = {
    "replay/damaged": Counter("sequence", "unreadable or of no use", "look at the disk that the replay lies on"),
    "rnd/skipped_steps": Counter("step", "of curiosity without a finite gradient", "lower learning_rate or w_rnd"),
    "wire/refused_blocks": Counter("sequence", "refused", "look for actors of another version or run"),
    "wire/bad_messages": Counter(
        "message", "that could not be read", "look at the network, and for strangers at the learner's port"
    ),
    "wire/refused_actors": Counter("actor", "refused", "look for actors of another version or another run's keys"),
    "wire/waiting_actors": Counter(
        "question", "for an actor number that another process has", "look for jobs started twice"
    ),
    "wire/lost_sequences": Counter(
        "sequence", "counted by an actor and never arrived", "look at the actors' logs for deaths"
    ),
    "archive/unfit": Counter("start state", "set aside", "look into archive/unfit/ and the learner's log"),
}


class Finding(NamedTuple):
    """`what` is wrong, and what to `do`."""

    level: Level
    what: str
    do: str


Rule = Callable[[RunFacts], Iterator[Finding]]


def findings_of(run: RunFacts) -> list[Finding]:
    """All of a run, worst first."""
    found = [finding for rule in RULES for finding in rule(run)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def recent(run: RunFacts, name: str) -> Column:
    """The known values of a metric in the newest quarter of the rows, at least the last four."""
    column = run.metrics.get(name, np.empty(0))
    values = column[-recent_rows(column) :]
    return values[np.isfinite(values)]


def recent_rows(column: Column) -> int:
    """How many of the newest rows count as now."""
    return max(4, len(column) // 4)


def in_one_process(run: RunFacts) -> bool:
    """Whether actors and learner take turns (`train_slim`), so that one waiting for the other says nothing."""
    return "wire/actors" not in run.metrics


def missing_files(run: RunFacts) -> Iterator[Finding]:
    """Files that are not there or damaged."""
    for problem in run.problems:
        if problem.endswith(BY_DEFAULTS):
            yield Finding(
                "bad", problem, "Restore it from a copy: findings that judge by the config may be wrong until then."
            )
        elif problem.endswith(NOT_THERE):
            yield Finding(
                "note", problem, "What it would tell is missing on this page; a run that has begun writes it."
            )
        else:
            yield Finding(
                "warning", problem, "What it would tell is missing on this page; docs/run_directory.md says more."
            )


def storage(run: RunFacts) -> Iterator[Finding]:
    """Storage that takes nothing."""
    if run.progress is not None and run.progress.storage_problem:
        yield Finding("bad", run.progress.storage_problem, "Free space or quota: the job goes on and makes up for it.")


def silent_learner(run: RunFacts, now_sec: float | None = None) -> Iterator[Finding]:
    """A job that has no end and has long written nothing."""
    if run.progress is None or not run.jobs or run.jobs[-1].ended is not None:
        return
    heard = max(run.progress.updated, run.jobs[-1].started)  # a job that has just begun has written nothing yet
    silent_sec = (time.time() if now_sec is None else now_sec) - heard
    if silent_sec > SILENT_SEC:
        yield Finding(
            "bad",
            f"job {run.jobs[-1].id} has no end, and wrote nothing for {silent_sec / 3600:.1f} h",
            "Its node or its job may be dead, or this is an old copy: ask the batch system, and start the next job.",
        )


def regressing_quests(run: RunFacts) -> Iterator[Finding]:
    """Milestones that are reached less than they were, or than they should be."""
    for name, quest in run.quests[-1].quests.items() if run.quests else ():
        if quest.level == "ok":
            continue
        level: Level = "bad" if quest.level == "critical" else "warning"
        if not quest.reached:
            yield Finding(
                level,
                f"{name} was never reached in {count_words(quest.trials, 'trial')}, so by at most {quest.high:.1%} of "
                f"the episodes that could; its target is {quest.target:.0%}",
                "Nothing was forgotten: it was not found yet. See whether any episode comes near it on the map below; "
                "quest_target asks this much of every milestone.",
            )
        else:
            yield Finding(
                level,
                f"{name} is reached by {quest.mean:.0%} of the episodes that could, below its target of "
                f"{quest.target:.0%} with probability {quest.alarm:.2f}",
                "Look what changed then (jobs, config, start states) and at videos of episodes that miss it; "
                "if the agent forgot it, go back to an older checkpoint or lower learning_rate.",
            )


def stagnant_quests(run: RunFacts) -> Iterator[Finding]:
    """Milestones of the frontier that do not grow."""
    if not run.quests:
        return
    newest = run.quests[-1]
    stagnant = {
        name: newest.quests[name] for name in newest.frontier if name in newest.quests and newest.quests[name].stagnant
    }
    found = [name for name, quest in stagnant.items() if quest.reached]
    never = {name: quest for name, quest in stagnant.items() if not quest.reached}
    do = (
        "Watch episodes that come near; more exploration (archive_entries, w_rnd, curiosity_scale_max) or longer "
        "episodes (episode_max_steps) may find the way."
    )
    if found:
        yield Finding(
            "warning",
            f"no growth: {_some(found)} {_is_or_are(found)} next and not reached more often than "
            f"{run.settings.quest_patience_episodes:,} trials ago",
            do,
        )
    if never:
        trials = max(quest.trials for quest in never.values())
        yield Finding(
            "warning",
            f"not found yet: {_some(list(never))} {_is_or_are(list(never))} next and never reached, in "
            f"{count_words(trials, 'trial')}",
            do,
        )


def no_new_milestone(run: RunFacts) -> Iterator[Finding]:
    """Nothing new in the second half of the run."""
    reached, ahead = run.milestones, run.env_steps
    left = [m.name for m in run.world.milestones_from(run.school) if m.name not in reached]
    is_known = run.progress is not None or run.episodes.count > 0
    if not left or not is_known or ahead < run.settings.target_total_steps // 10:
        return
    if not reached:
        yield Finding(
            "warning",
            f"no milestone was reached yet, in {count_words(ahead, 'env step')}",
            f"The first are {_some(left)}; see on the map below where episodes go, and watch one.",
        )
    elif ahead > 2 * max(reached.values()):
        newest = max(reached, key=reached.__getitem__)
        yield Finding(
            "note",
            f"no new milestone since {newest} at env step {reached[newest]:,}, of {ahead:,} played",
            f"The next are {_some(left)}; see whether any episode comes near them on the map below.",
        )


def loops(run: RunFacts) -> Iterator[Finding]:
    """Episodes that go round in circles."""
    columns = run.episodes.columns
    shares, steps = (columns.get(name, np.empty(0))[-100:] for name in ("loop_share", "steps"))
    if len(shares) < 10 or not np.nansum(steps) > 0:
        return
    share = np.nansum(shares * steps) / np.nansum(steps)
    if share > HIGH_LOOP_SHARE:
        yield Finding(
            "warning",
            f"{share:.0%} of the steps of the newest {len(shares)} episodes went in circles",
            "Watch some of their videos: masks or rewards may hold the agent there. wander_every_steps breaks circles; "
            "a larger rewards.novelty or w_rnd pays the way out.",
        )


def no_updates(run: RunFacts) -> Iterator[Finding]:
    """Actors that play and a learner that does not learn."""
    needed, progress = run.settings.min_replay_transitions, run.progress
    if progress is not None and progress.updates == 0 and progress.env_steps > 1.5 * needed:
        yield Finding(
            "bad",
            f"no update was made, with {progress.env_steps:,} env steps played and {needed:,} needed",
            "Look at the end of logs/learner.log.",
        )


def waiting_sides(run: RunFacts) -> Iterator[Finding]:
    """A learner without data, or actors that wait for it, most of the time: one side always does, so this is a note."""
    ahead, buffer = recent(run, "limiter_ahead"), buffer_now(run)
    if len(ahead) < 4 or in_one_process(run):
        return
    if np.mean(ahead > 0.5 * buffer) >= _MOST:
        yield Finding(
            "note",
            "the learner waits for data most of the time",
            "More actors (num_actors, actor_jobs) give it more to learn from; a larger samples_per_insert uses what "
            "there is more often.",
        )
    elif np.mean(ahead < -0.5 * buffer) >= _MOST:
        yield Finding(
            "note",
            "the actors wait for the learner most of the time",
            "A faster learner (GPU, mixed_precision, learner_threads), a smaller samples_per_insert or fewer actors "
            "leave no CPU idle.",
        )


def buffer_now(run: RunFacts) -> float:
    """How far either side may run ahead now, in sampled positions."""
    config = run.settings
    return limiter_buffer(
        config.samples_per_insert_at(run.env_steps),
        config.min_replay_transitions,
        config.samples_per_insert_tolerance,
        sample_chunk=config.sample_chunk,
        insert_chunk=config.insert_chunk,
    )


def slow_sampling(run: RunFacts) -> Iterator[Finding]:
    """No batch is ready when the learner wants one, though it need not wait for data."""
    waiting, ahead = recent(run, "queue/batches_in_flight"), recent(run, "limiter_ahead")
    rates = recent(run, "updates_per_sec")
    starved = len(ahead) > 0 and np.mean(ahead > 0.5 * buffer_now(run)) >= _MOST
    if in_one_process(run) or starved or not len(rates) or rates.mean() <= 0:
        return
    if len(waiting) >= 4 and np.mean(waiting == 0) >= _MOST:
        yield Finding(
            "warning",
            "no batch was ready most of the time: drawing from the replay is slower than training",
            "Put the replay on a local disk (replay_dir), or give the job more memory for the page cache.",
        )


def stale_parameters(run: RunFacts) -> Iterator[Finding]:
    """Actors that play with parameters of long ago."""
    lag, rate = recent(run, "lag/acting/p50"), recent(run, "updates_per_sec")
    if not len(lag) or not len(rate) or rate.mean() <= 0:
        return
    age_sec = float(np.median(lag) / rate.mean())
    if age_sec > STALE_SEC and np.median(lag) > 5 * run.settings.publish_interval:
        yield Finding(
            "warning",
            f"sequences arrive {np.median(lag):,.0f} updates, some {age_sec:.0f} s, after the parameters they were "
            "played with",
            "Lower publish_interval, params_poll_seconds or unroll_length; actors that are very slow wait for CPU.",
        )


def stale_states(run: RunFacts) -> Iterator[Finding]:
    """Stored recurrent states that no longer fit the network."""
    error = recent(run, "staleness/delta_q_last")
    if len(error) and np.median(error) > HIGH_DELTA_Q:
        yield Finding(
            "warning",
            f"values from stored recurrent states are off by {np.median(error):.0%} even after the burn-in",
            "Raise burn_in, or lower replay_capacity_transitions so that states are younger.",
        )


def few_samples_count(run: RunFacts) -> Iterator[Finding]:
    """A draw that is a few sequences over and over."""
    share = recent(run, "priority/ess")
    if len(share) and np.median(share) < LOW_ESS:
        yield Finding(
            "warning",
            f"the draw's effective sample size is {np.median(share):.1%} of the replay: a few sequences over and over",
            "Lower prioritized_alpha.",
        )


def clipped_gradients(run: RunFacts) -> Iterator[Finding]:
    """Gradients that are clipped as a rule."""
    norm, limit = recent(run, "learner/grad_norm"), run.settings.max_grad_norm
    if len(norm) >= 4 and np.mean(norm > limit) > 0.5:
        yield Finding(
            "warning",
            f"most gradients are clipped: their norm is {number_words(float(np.median(norm)))}, the limit {limit:g}",
            "Lower learning_rate; norms of 1 are usual.",
        )


def counters_above_zero(run: RunFacts) -> Iterator[Finding]:
    """Counters that should stay 0: a warning while they rise, a note once they stand still."""
    for name, counter in _SHOULD_BE_ZERO.items():
        column = run.metrics.get(name, np.empty(0))
        rises = rises_of(column)
        total, lately = round(rises.sum()), round(rises[-recent_rows(column) :].sum())
        if not total:
            continue
        what = f"{count_words(total, counter.noun)} {counter.more} ({name})"
        if lately:
            told = f", {lately:,} of them lately" if lately < total else ""
        else:
            env_steps = run.metrics.get("env_steps", np.full(len(column), np.nan))[np.flatnonzero(rises)[-1]]
            told = f", none since env step {number_words(float(env_steps))}"
        yield Finding("warning" if lately else "note", f"{what}{told}", f"{counter.do[0].upper()}{counter.do[1:]}.")


def rises_of(column: Column) -> Column:
    """By how much a counter, float64 [rows], has risen at each row; one that fell has begun anew, from 0."""
    rises = np.zeros(len(column))
    known = np.flatnonzero(np.isfinite(column))
    change = np.diff(column[known], prepend=0.0)
    rises[known] = np.where(change < 0, column[known], change)
    return rises


def newer_states(run: RunFacts) -> Iterator[Finding]:
    """Start states that this program cannot read."""
    waiting = recent(run, "archive/newer")
    if len(waiting) and waiting[-1] > 0:
        are = "is" if waiting[-1] == 1 else "are"
        yield Finding(
            "note",
            f"{count_words(round(waiting[-1]), 'start state')} {are} of a newer format, and no episode begins there "
            "(archive/newer)",
            "They wait for the program that wrote them: go on with that one.",
        )


def deaths(run: RunFacts) -> Iterator[Finding]:
    """Jobs that ended without a word, and actors that were started again."""
    silent = [f"{job.id}" for job in run.jobs if REASON_UNKNOWN in job.reason]
    if silent:
        yield Finding(
            "warning",
            f"job {_some(silent)} ended without a word",
            "The batch system's record says why: memory, time, or a node that failed; ask for what was too little.",
        )
    lost = [f"{job.id}" for job in run.jobs[:-1] if job.env_steps is None]  # the last one's may be coming up
    if lost and run.progress is not None:
        yield Finding("warning", f"job {_some(lost)} ended before its learner was up", "Look at its output and logs/.")
    for job in run.jobs:
        restarts = actor_restarts(run, job)
        if restarts:
            yield Finding(
                "warning",
                f"actors were started again {count_words(restarts, 'time')} in job {job.id}",
                "Their first error is in logs/actor-N.log; the same at each start ends the job.",
            )


def actor_restarts(run: RunFacts, job: JobFacts) -> int:
    """How often actors of a job were started again, as far as they ended an episode: each start has another number,
    which is its time in nanoseconds."""
    later = [other.started for other in run.jobs if other.started > job.started]
    until = min(later, default=np.inf)
    starts = [
        sum(job.started - 1 <= number / 1e9 < until - 1 for number in numbers)
        for numbers in run.episodes.incarnations.values()
    ]
    return sum(max(0, count - 1) for count in starts)


def changed_programs(run: RunFacts) -> Iterator[Finding]:
    """Jobs of several commits or versions, or of a checkout with changes."""
    commits = sorted({job.commit for job in run.jobs if job.commit})
    if len(commits) > 1:
        yield Finding(
            "note", f"jobs ran {len(commits)} programs: {_some(commits)}", "Results are of none of them alone."
        )
    elif commits and commits[0].endswith("changes"):
        yield Finding(
            "note",
            f"the program had changes that are not in commit {commits[0][:12]}",
            "Commit before a run that counts.",
        )


def failed_renders(run: RunFacts) -> Iterator[Finding]:
    """Videos and pictures that should be there."""
    failed = [f"{name}: {why}" for name, why in run.videos.failed]
    if failed:
        yield Finding(
            "note",
            f"videos that are not whole: {_some(failed, '; ')}",
            f"python -m cluster_rl.replayer --run-name {run.name} renders what is missing, and says why it cannot.",
        )


def _some(names: list[str], between: str = ", ") -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return between.join(names[:_NAMED]) + more


def _is_or_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


RULES: Final[tuple[Rule, ...]] = (
    storage,
    silent_learner,
    regressing_quests,
    no_updates,
    stagnant_quests,
    loops,
    stale_parameters,
    stale_states,
    slow_sampling,
    few_samples_count,
    clipped_gradients,
    counters_above_zero,
    deaths,
    missing_files,
    no_new_milestone,
    waiting_sides,
    newer_states,
    changed_programs,
    failed_renders,
)
