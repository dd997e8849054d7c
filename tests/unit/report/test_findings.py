"""What looks wrong with a run: each rule on facts that break it, and on those that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import BEGAN, INCARNATION, episode, lines, make_run, metrics_row, quest, quest_row

from cluster_rl.config import Config, load_config
from cluster_rl.exploration.bayes_quests import QuestRow
from cluster_rl.report import findings
from cluster_rl.report.findings import Finding, Rule, buffer_now, findings_of
from cluster_rl.report.run_facts import BY_DEFAULTS, JobFacts, RunFacts, Videos, read_run
from cluster_rl.report.run_rows import Episodes
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import REASON_UNKNOWN, Job, Progress
from cluster_rl.training.rate_limiter import RateLimiter

NAN = float("nan")
JOB = JobFacts(1, BEGAN, "node", BEGAN + 100, "max_runtime_seconds reached", env_steps=(0, 100), updates=(0, 10))


def facts(**changes: Any) -> RunFacts:
    """A run of which nothing is known."""
    return replace(RunFacts("r", RunDir("runs", "r")), **changes)


def told(rule: Rule, run: RunFacts) -> list[Finding]:
    return list(rule(run))


def metrics(**columns: Any) -> dict[str, Any]:
    """Columns by metric, a slash written with two underscores; all of eight rows."""
    columns = {"wire__actors": 2, **columns}
    return {name.replace("__", "/"): np.full(8, value, np.float64) for name, value in columns.items()}


def quests(**states: Any) -> list[QuestRow]:
    return [QuestRow(time=BEGAN, episodes=100, env_steps=1000, frontier=["NEXT"], quests=states)]


def columns(**values: Any) -> Episodes:
    return Episodes(count=100, columns={name: np.full(100, value, np.float64) for name, value in values.items()})


def progress(**changes: Any) -> Progress:
    return Progress(**{"run_name": "r", "target_total_steps": 1000, **changes})


@pytest.mark.parametrize("rule", findings.RULES)
def test_nothing_is_said_of_what_is_not_known(rule: Rule) -> None:
    assert told(rule, facts()) == []


def test_a_run_that_does_well_has_nothing_wrong(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path,
        episodes=[episode(number, milestones={"LEFT_HOME": 4}) for number in range(50)],
        metrics=[
            metrics_row(number, limiter_ahead=0.0, updates_per_sec=5.0, priority__ess=0.7, wire__actors=2)
            for number in range(20)
        ],
        quests=[quest_row(1, {"LEFT_HOME": quest(0.99)})],
        env_steps=5000,
        updates=200,
        milestones={"LEFT_HOME": 3000},
    )
    assert findings_of(read_run(run_dir)) == []


@pytest.mark.parametrize(
    ("rule", "wrong", "right", "level", "words"),
    [
        (
            findings.regressing_quests,
            {"quests": quests(BADGE=quest(0.2, level="critical", alarm=0.97, target=0.7))},
            {"quests": quests(BADGE=quest(0.7))},
            "bad",
            "BADGE is reached by 20% of the episodes that could, below its target of 70% with probability 0.97",
        ),
        (
            findings.regressing_quests,
            {"quests": quests(BADGE=quest(0.2, level="warning", alarm=0.85, target=0.7))},
            {},
            "warning",
            "with probability 0.85",
        ),
        (
            findings.stagnant_quests,
            {"quests": quests(NEXT=quest(0.2, stagnant=True))},
            {"quests": quests(NEXT=quest(0.2), OTHER=quest(0.2, stagnant=True))},
            "warning",
            "no growth: NEXT is next and not reached more often than 500 trials ago",
        ),
        (
            findings.loops,
            {"episodes": columns(loop_share=0.6, steps=10)},
            {"episodes": columns(loop_share=0.4, steps=10)},
            "warning",
            "60% of the steps of the newest 100 episodes went in circles",
        ),
        (
            findings.no_updates,
            {"progress": progress(env_steps=80_000)},
            {"progress": progress(env_steps=70_000)},
            "bad",
            "no update was made, with 80,000 env steps played and 50,000 needed",
        ),
        (
            findings.stale_parameters,
            {"metrics": metrics(lag__acting__p50=500, updates_per_sec=4)},
            {"metrics": metrics(lag__acting__p50=500, updates_per_sec=40)},
            "warning",
            "sequences arrive 500 updates, some 125 s, after",
        ),
        (
            findings.stale_states,
            {"metrics": metrics(staleness__delta_q_last=0.6)},
            {"metrics": metrics(staleness__delta_q_last=0.4)},
            "warning",
            "off by 60%",
        ),
        (
            findings.few_samples_count,
            {"metrics": metrics(priority__ess=0.01)},
            {"metrics": metrics(priority__ess=0.1)},
            "warning",
            "1.0% of the replay",
        ),
        (
            findings.clipped_gradients,
            {"metrics": metrics(learner__grad_norm=80)},
            {"metrics": metrics(learner__grad_norm=20)},
            "warning",
            "their norm is 80, the limit 40",
        ),
        (
            findings.counters_above_zero,
            {"metrics": metrics(wire__lost_sequences=[0, 0, 0, 0, 0, 1, 2, 3])},
            {"metrics": metrics(wire__lost_sequences=0)},
            "warning",
            "3 sequences counted by an actor and never arrived (wire/lost_sequences)",
        ),
        (
            findings.counters_above_zero,
            {"metrics": metrics(archive__unfit=[0, 0, 0, 0, 0, 0, 0, 1])},
            {},
            "warning",
            "1 start state set aside (archive/unfit)",
        ),
        (
            findings.newer_states,
            {"metrics": metrics(archive__newer=2)},
            {"metrics": metrics(archive__newer=[2, 2, 2, 2, 2, 2, 2, 0])},
            "note",
            "2 start states are of a newer format, and no episode begins there (archive/newer)",
        ),
        (
            findings.newer_states,
            {"metrics": metrics(archive__newer=1)},
            {},
            "note",
            "1 start state is of a newer format",
        ),
        (
            findings.stagnant_quests,
            {"quests": quests(NEXT=quest(0.01, stagnant=True, reached=0, trials=700, verdict="unreached"))},
            {"quests": quests(OTHER=quest(0.01, stagnant=True, reached=0))},
            "warning",
            "not found yet: NEXT is next and never reached, in 700 trials",
        ),
        (
            findings.regressing_quests,
            {"quests": quests(BADGE=quest(0.01, level="critical", reached=0, trials=1, target=0.7, high=0.0123))},
            {},
            "bad",
            "BADGE was never reached in 1 trial, so by at most 1.2% of the episodes that could; its target is 70%",
        ),
        (
            findings.missing_files,
            {"problems": (f"config.json: not there; {BY_DEFAULTS}",)},
            {},
            "bad",
            "config.json: not there; limits and targets on this page are this program's defaults, not the run's",
        ),
        (
            findings.storage,
            {"progress": progress(storage_problem="disk full since 14:03 (replay)")},
            {"progress": progress()},
            "bad",
            "disk full since 14:03",
        ),
        (
            findings.deaths,
            {"jobs": (replace(JOB, reason=REASON_UNKNOWN),)},
            {"jobs": (JOB,)},
            "warning",
            "job 1 ended without a word",
        ),
        (
            findings.deaths,
            {"jobs": (replace(JOB, env_steps=None), replace(JOB, id=2)), "progress": progress()},
            {"jobs": (JOB, replace(JOB, id=2, env_steps=None)), "progress": progress()},  # it may be coming up
            "warning",
            "job 1 ended before its learner was up",
        ),
        (
            findings.changed_programs,
            {"jobs": (replace(JOB, commit="abc"), replace(JOB, id=2, commit="def"))},
            {"jobs": (replace(JOB, commit="abc"), replace(JOB, id=2, commit="abc"))},
            "note",
            "jobs ran 2 programs: abc, def",
        ),
        (
            findings.changed_programs,
            {"jobs": (replace(JOB, commit="0123456789ab with changes"),)},
            {"jobs": (replace(JOB, commit="0123456789ab"),)},
            "note",
            "changes that are not in commit 0123456789ab",
        ),
        (
            findings.failed_renders,
            {"videos": Videos(failed=(("a.mp4", "the video is missing"),))},
            {"videos": Videos({"a": "a.mp4"})},
            "note",
            "a.mp4: the video is missing",
        ),
        (
            findings.missing_files,
            {"problems": ("metrics.jsonl: a row is damaged",)},
            {},
            "warning",
            "metrics.jsonl: a row is damaged",
        ),
    ],
)
def test_a_rule(rule: Rule, wrong: dict[str, Any], right: dict[str, Any], level: str, words: str) -> None:
    (found,) = told(rule, facts(**wrong))
    assert found.level == level
    assert words in found.what
    assert found.do.endswith(".")
    assert len(found.do) > 15
    assert told(rule, facts(**right)) == []


def test_a_long_episode_counts_for_its_length() -> None:
    """Ninety short ones in circles are a tenth of the steps of one long one."""
    shares, steps = np.array([0.9] * 90 + [0.1]), np.array([10.0] * 90 + [9000.0])
    run = facts(episodes=Episodes(count=91, columns={"loop_share": shares, "steps": steps}))
    assert told(findings.loops, run) == []
    (found,) = told(
        findings.loops, facts(episodes=Episodes(count=91, columns={"loop_share": shares, "steps": steps[::-1]}))
    )
    assert found.what.startswith("90% of the steps of the newest 91 episodes")


def test_nothing_is_forgotten_that_was_never_found() -> None:
    never = quests(BADGE=quest(0.01, level="critical", stagnant=True, reached=0, trials=700), NEXT=quest(0.2))
    (found,) = told(findings.regressing_quests, facts(quests=never))
    assert "forgot it" not in found.do
    assert "of the episodes that could, below" not in found.what


def test_a_counter_that_stands_still_is_no_warning() -> None:
    rose = {"env_steps": 100.0 * np.arange(1, 41), "wire/refused_blocks": np.array([0.0] * 5 + [3.0] * 35)}
    (found,) = told(findings.counters_above_zero, facts(metrics=rose))
    assert (found.level, found.what) == ("note", "3 sequences refused (wire/refused_blocks), none since env step 600")
    rose["wire/refused_blocks"][-3:] += 2
    (found,) = told(findings.counters_above_zero, facts(metrics=rose))
    assert found.level == "warning"
    assert found.what == "5 sequences refused (wire/refused_blocks), 2 of them lately"


def test_a_counter_that_begins_anew_with_a_job_goes_on() -> None:
    """They count since the learner's start."""
    column = np.array([0, 2, NAN, 3, 0, 0, 1, NAN])
    assert findings.rises_of(column).tolist() == [0, 2, 0, 1, 0, 0, 1, 0]
    assert findings.rises_of(np.array([4.0, 4.0, 1.0])).tolist() == [4, 0, 1]


def test_only_the_newest_rows_count() -> None:
    ess = np.concatenate((np.full(30, 0.001), np.full(10, 0.5)))
    assert told(findings.few_samples_count, facts(metrics={"priority/ess": ess})) == []
    assert told(findings.few_samples_count, facts(metrics={"priority/ess": ess[::-1]}))


@pytest.mark.parametrize(
    "config", [Config(), load_config("quickstart"), load_config("cpu", ["actor_jobs=2", "samples_per_insert=4"])]
)
def test_the_limiters_buffer_is_the_limiters(config: Config) -> None:
    assert buffer_now(facts(settings=config)) == RateLimiter.from_config(config).buffer


def test_a_slow_learner_makes_no_parameters_stale() -> None:
    """Ten minutes are a few updates of it."""
    slow = metrics(lag__acting__p50=30, updates_per_sec=0.05)
    assert told(findings.stale_parameters, facts(metrics=slow)) == []
    often = facts(metrics=slow, settings=load_config(None, ["publish_interval=1"]))
    assert told(findings.stale_parameters, often)


def test_which_side_waits() -> None:
    buffer = buffer_now(facts())
    (learner,) = told(findings.waiting_sides, facts(metrics=metrics(limiter_ahead=0.9 * buffer)))
    (actors,) = told(findings.waiting_sides, facts(metrics=metrics(limiter_ahead=-0.9 * buffer)))
    assert (learner.level, learner.what) == ("note", "the learner waits for data most of the time")
    assert (actors.level, actors.what) == ("note", "the actors wait for the learner most of the time")
    assert told(findings.waiting_sides, facts(metrics=metrics(limiter_ahead=0))) == []
    in_turns = {"limiter_ahead": np.full(8, 0.9 * buffer)}
    assert told(findings.waiting_sides, facts(metrics=in_turns)) == []


def test_slow_sampling_is_no_want_of_data() -> None:
    slow = metrics(queue__batches_in_flight=0, updates_per_sec=3, limiter_ahead=0)
    (found,) = told(findings.slow_sampling, facts(metrics=slow))
    assert "drawing from the replay is slower than training" in found.what
    assert told(findings.slow_sampling, facts(metrics={n: c for n, c in slow.items() if n != "wire/actors"})) == []
    starved = slow | metrics(limiter_ahead=0.9 * buffer_now(facts()))
    assert told(findings.slow_sampling, facts(metrics=starved)) == []
    assert told(findings.slow_sampling, facts(metrics=slow | metrics(queue__batches_in_flight=1))) == []


def test_a_learner_that_is_silent() -> None:
    job = Job(id=1, host="n", pid=1, slurm_job_id=None, started=BEGAN, env_steps_start=0, updates_start=0)
    open_job = facts(progress=progress(jobs=[job], updated=BEGAN), jobs=(replace(JOB, ended=None),))
    (found,) = findings.silent_learner(open_job, BEGAN + 7200)
    assert found.what == "job 1 has no end, and wrote nothing for 2.0 h"
    assert list(findings.silent_learner(open_job, BEGAN + 60)) == []
    begun = replace(JOB, id=2, started=BEGAN + 7100, ended=None)
    assert list(findings.silent_learner(replace(open_job, jobs=(JOB, begun)), BEGAN + 7200)) == []  # it just began
    assert list(findings.silent_learner(replace(open_job, jobs=(JOB,)), BEGAN + 7200)) == []


def test_actors_that_were_started_again() -> None:
    starts = {0: {INCARNATION, INCARNATION + 10**10}, 1: {INCARNATION, int((BEGAN + 5005) * 1e9)}}
    jobs = (JOB, replace(JOB, id=2, started=BEGAN + 5000, ended=None))
    (found,) = told(findings.deaths, facts(jobs=jobs, episodes=Episodes(incarnations=starts)))
    assert found.what == "actors were started again 1 time in job 1"


def test_nothing_new_in_the_second_half() -> None:
    settings = load_config(None, ["target_total_steps=1000"])
    reached = {"LEFT_HOME": 40}
    late = facts(settings=settings, progress=progress(env_steps=200, milestones=reached))
    (found,) = told(findings.no_new_milestone, late)
    assert found.what == "no new milestone since LEFT_HOME at env step 40, of 200 played"
    early = facts(settings=settings, progress=progress(env_steps=70, milestones=reached))
    assert told(findings.no_new_milestone, early) == []
    nothing = facts(settings=settings, progress=progress(env_steps=200))
    (found,) = told(findings.no_new_milestone, nothing)
    assert found.what == "no milestone was reached yet, in 200 env steps"
    unknown = facts(settings=settings, metrics={"env_steps": np.array([200.0])})
    assert told(findings.no_new_milestone, unknown) == []
    all_of_it = {milestone.name: 40 for milestone in early.world.milestones}
    done = facts(settings=settings, progress=progress(env_steps=200, milestones=all_of_it))
    assert told(findings.no_new_milestone, done) == []


def test_the_worst_is_first() -> None:
    run = facts(
        quests=quests(BADGE=quest(0.2, level="critical")),
        problems=("metrics.jsonl: not there",),
        metrics=metrics(priority__ess=0.001),
    )
    assert [finding.level for finding in findings_of(run)] == ["bad", "warning", "note"]


def test_a_damaged_config_does_not_stop_the_rules(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path, metrics=[metrics_row(number, limiter_ahead=1e9, wire__actors=2) for number in range(8)]
    )
    run_dir.config.write_text('{"unroll_length": "long", "samples_per_insert_schedule": 5}')
    found = findings_of(read_run(run_dir))
    (config,) = [finding for finding in found if "unroll_length" in finding.what]
    assert config.level == "bad"
    assert config.what.endswith(BY_DEFAULTS)
    assert any("learner waits" in finding.what for finding in found)


def test_rows_of_the_run_itself_are_judged(tmp_path: Path) -> None:
    """From files to findings."""
    run_dir = make_run(tmp_path)
    run_dir.episodes.write_bytes(lines(episode(number, loop_share=0.9) for number in range(20)) + b"{\n")
    words = [finding.what for finding in findings_of(read_run(run_dir))]
    assert words[0].startswith("90% of the steps")
    assert words[1].startswith("episodes.jsonl: a row is damaged")
