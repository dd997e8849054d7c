"""The log counts each episode's quests once: through restarts, eviction, repetition and what a checkpoint saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from replay_log_fixtures import MILESTONES, SPEC
from sequence_fixtures import make_builder, play, start_at, summary_of

from cluster_rl.exploration.bayes_quests import NO_QUESTS, Quest, QuestRules, Records, count_episode
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.replay.log import ReplayLog
from cluster_rl.replay.totals import Totals
from cluster_rl.wire.codec import decode_header, encode_block

RULES = QuestRules((Quest("first_badge", True, 0), Quest("second", False, 1)), 7, 20.0, 0.0, 50)


def open_quests(folder: Path, rules: QuestRules = RULES) -> ReplayLog:
    return ReplayLog(
        folder,
        SPEC,
        owner="run-1",
        milestones=MILESTONES,
        quests=rules,
        segment_bytes=2**20,
        segment_transitions=40,
    )


def summary(episode: int) -> EpisodeSummary:
    """Episodes of every kind, by their number: from elsewhere, cut, truncated, of both milestones and of none."""
    start = start_at("archive", "first_badge") if episode % 5 == 1 else start_at("beginning")
    reached = [] if episode % 5 == 1 or episode % 3 == 0 else [("first_badge", 3)]
    reached += [("second", 4 + episode % 3)] if episode % 4 == 0 else []
    reason = ("terminated", "stopped", "truncated")[episode % 3]
    return summary_of(9 if episode % 2 else 6, start=start, milestones=reached, reason=reason)


def log_episodes(log: ReplayLog, first: int, stop: int) -> None:
    builder = make_builder(SPEC)
    for episode in range(first, stop):
        how = summary(episode)
        for sequence in play(builder, episode, how.episode_steps, summary=how, terminated=how.reason == "terminated"):
            seq = log.expected_seq(sequence.actor, sequence.incarnation)
            block = encode_block(sequence)
            assert log.append(sequence.actor, sequence.incarnation, seq, block, decode_header(block)) is not None
            assert log.append(sequence.actor, sequence.incarnation, seq, block, decode_header(block)) is None


def counted(stop: int, rules: QuestRules = RULES, first: int = 0) -> Records:
    """By hand, from the summaries themselves."""
    records: Records = {}
    for how in map(summary, range(first, stop)):
        count_episode(
            records,
            rules,
            start=how.start.milestones,
            reached=how.milestones,
            steps=how.episode_steps,
            ended_by_game=how.reason == "terminated",
        )
    return records


def test_each_episode_is_counted_once_through_restarts(tmp_path: Path) -> None:
    for first in range(0, 40, 10):
        log = open_quests(tmp_path)
        assert log.totals.quests == counted(first)
        log_episodes(log, first, first + 10)
        log.close()
    records = open_quests(tmp_path).totals.quests
    assert records == counted(40)
    assert records["first_badge"].trials < records["second"].trials < 40
    assert 0 < records["second"].reached < records["first_badge"].reached


def test_evicted_segments_have_counted(tmp_path: Path) -> None:
    log = open_quests(tmp_path)
    for first in range(0, 40, 10):
        log_episodes(log, first, first + 10)
        while len(log.segments) > 1:
            log.evict_oldest()
            log.delete_evicted()
    log.close()
    again = open_quests(tmp_path)
    assert len(again.segments) == 1
    assert again.totals.quests == counted(40)


def test_a_lost_log_takes_the_counts_of_a_checkpoint(tmp_path: Path) -> None:
    log = open_quests(tmp_path / "lost")
    log_episodes(log, 0, 30)
    saved = json.loads(json.dumps(log.totals.to_plain()))
    assert Totals.from_plain(saved) == log.totals
    other = open_quests(tmp_path / "empty")
    assert other.adopt(Totals.from_plain(saved))
    other.close()
    assert open_quests(tmp_path / "empty").totals.quests == counted(30)


def test_of_two_counts_the_one_of_more_trials_is_kept(tmp_path: Path) -> None:
    log = open_quests(tmp_path)
    log_episodes(log, 0, 10)
    saved = Totals.from_plain(log.totals.to_plain())
    log_episodes(log, 10, 30)
    assert not log.adopt(saved)
    assert log.totals.quests == counted(30)
    assert saved.merged(log.totals).quests == log.totals.merged(saved).quests == counted(30)


@pytest.mark.parametrize(
    "changed",
    [
        replace(RULES, budget_steps=4),
        replace(RULES, half_life_episodes=10.0),
        replace(RULES, budgets={"second": 5}),
    ],
)
def test_other_rules_count_anew_what_the_log_has_once_and_for_all(tmp_path: Path, changed: QuestRules) -> None:
    log = open_quests(tmp_path)
    log_episodes(log, 0, 33)  # in many segments, the newest begun
    log.close()
    log = open_quests(tmp_path, changed)
    assert log.totals.quests == counted(33, changed) != counted(33)
    [note] = log.notes
    others = ", and by other quest_budgets" if changed.budgets else ""
    words = f"now {changed.budget_steps} and {changed.half_life_episodes:g}{others}: they are counted anew"
    assert f"{tmp_path}: quests were counted by quest_budget_steps 7 and quest_half_life_episodes 20, {words}" in note
    log_episodes(log, 33, 36)
    while len(log.segments) > 1:
        log.evict_oldest()
        log.delete_evicted()
    log.close()
    log = open_quests(tmp_path, changed)
    assert (log.notes, log.totals.quests) == ([], counted(36, changed))
    assert (log.totals.episodes, log.totals.quests_counted_by) == (24, changed.counting)


def test_other_rules_after_an_eviction_count_the_episodes_that_are_left(tmp_path: Path) -> None:
    log = open_quests(tmp_path)
    log_episodes(log, 0, 20)
    while len(log.segments) > 1:
        log.evict_oldest()
        log.delete_evicted()
    log_episodes(log, 20, 40)
    log.close()
    changed = replace(RULES, half_life_episodes=10.0)
    log = open_quests(tmp_path, changed)
    firsts = [first for first in range(40) if counted(40, changed, first) == log.totals.quests]
    assert firsts
    assert all(10 < first < 20 for first in firsts)


def test_a_checkpoint_of_other_rules_gives_no_counts(tmp_path: Path) -> None:
    log = open_quests(tmp_path / "one")
    log_episodes(log, 0, 30)
    saved = Totals.from_plain(json.loads(json.dumps(log.totals.to_plain())))
    log.close()
    changed = replace(RULES, budget_steps=4)
    whole = open_quests(tmp_path / "one", changed)
    assert not whole.adopt(saved)
    assert (len(whole.notes), whole.totals.quests) == (1, counted(30, changed))
    lost = open_quests(tmp_path / "lost", changed)
    assert lost.adopt(saved)
    assert (lost.totals.quests, lost.totals.episodes) == ({}, saved.episodes)
    assert "counted anew" in lost.notes[0]


def test_a_log_that_is_opened_without_quests_keeps_its_counts(tmp_path: Path) -> None:
    log = open_quests(tmp_path)
    log_episodes(log, 0, 10)
    log.close()
    files = sorted(tmp_path.glob("*.log"))
    log = open_quests(tmp_path, NO_QUESTS)
    assert (log.notes, sorted(tmp_path.glob("*.log"))) == ([], files)
    log.close()
    assert open_quests(tmp_path).totals.quests == counted(10)


def test_counts_of_a_budget_of_its_own_are_gone_on_with_and_those_of_older_programs_are_read(tmp_path: Path) -> None:
    own = replace(RULES, budgets={"second": 5, "first_badge": 2})
    log = open_quests(tmp_path, own)
    log_episodes(log, 0, 20)
    plain = json.loads(json.dumps(log.totals.to_plain()))
    assert plain == log.totals.to_plain()
    log.close()
    assert Totals.from_plain(plain).quests_counted_by == own.counting
    log = open_quests(tmp_path, replace(own, budgets={"first_badge": 2, "second": 5}))
    assert (log.notes, log.totals.quests) == ([], counted(20, own))
    plain["quests_counted_by"] = [7, 20.0]
    assert Totals.from_plain(plain).quests_counted_by == RULES.counting
