"""Nothing enters the log unchecked, and what an older program let in does not end a start."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from replay_log_fixtures import (
    BLOCKS,
    HEADERS,
    MILESTONES,
    SEQUENCES,
    SPEC,
    append,
    block_of,
    files,
    fill,
    open_log,
)
from sequence_fixtures import summary_of, with_header

from cluster_rl.config import Config, RewardWeights, load_config
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.replay.log import LogEntry
from cluster_rl.replay.segments import SegmentHeader, create_segment, read_header, record_bytes
from cluster_rl.replay_buffer import Replay
from cluster_rl.wire.codec import (
    MAX_EMULATORS,
    MAX_GAP_SEQUENCES,
    MAX_PRIORITY,
    MAX_REWARD,
    BlockError,
    decode_header,
    encode_block,
)

FIRST, MIDDLE, LAST = range(3)  # the windows of an episode of 11 steps: 4, 4 and 3


def make_replay(folder: Path) -> Replay:
    return Replay(load_config(None, ["min_replay_transitions=1"]), SPEC, folder, "run-1", MILESTONES)


def summary(**changes: Any) -> dict[str, Any]:
    """The whole summary of the last window, in the form in which it is sent."""
    return {**msgspec.to_builtins(summary_of(11)), **changes}


def start(tag: str, **changes: Any) -> dict[str, Any]:
    """A start in the same form."""
    return {"id": "boot", "tag": tag, "milestones": [], **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in summary().items() if name != key}


HEADERS_REFUSED: list[tuple[int, dict[str, Any], str]] = [
    *((LAST, {"summary": without(name)}, "header") for name in EpisodeSummary.__struct_fields__),
    (LAST, {"summary": summary(episode_return="high")}, "header"),
    (LAST, {"summary": summary(episode_return=float("nan"))}, "value"),
    (LAST, {"summary": summary(episode_return=12e6)}, "value"),
    (LAST, {"summary": summary(terms={"event": float("inf")})}, "value"),
    (LAST, {"summary": summary(terms={"graffiti": 1.0})}, "name"),
    (LAST, {"summary": summary(terms={f"t{n}": 1.0 for n in range(65)})}, "header"),
    (LAST, {"summary": summary(milestones=[["graffiti", 1]])}, "name"),
    (LAST, {"summary": summary(milestones=[["second", 0]])}, "value"),
    (LAST, {"summary": summary(milestones=[["second", 12]])}, "value"),
    (LAST, {"summary": summary(milestones=[["second", 3], ["second", 4]])}, "value"),
    (LAST, {"summary": summary(milestones=[["second"]])}, "header"),
    (LAST, {"summary": summary(episode_steps=2**62)}, "header"),
    (LAST, {"summary": summary(episode_steps=12)}, "value"),
    (LAST, {"summary": summary(final_map=256)}, "header"),
    (LAST, {"summary": summary(reason="x" * 1000)}, "header"),
    (LAST, {"summary": summary(seed=-1)}, "header"),
    (LAST, {"summary": summary(extra=1)}, "header"),
    (LAST, {"summary": summary(start=start("beginning", id="x" * 65))}, "header"),
    (LAST, {"summary": summary(start=start("elsewhere"))}, "header"),
    (LAST, {"summary": summary(start=start("archive"))}, "value"),  # of another kind than the block says
    (LAST, {"start_tag": "archive"}, "value"),
    (FIRST, {"start_tag": "elsewhere"}, "header"),
    (LAST, {"summary": summary(start=start("beginning", milestones=["graffiti"]))}, "name"),
    (LAST, {"summary": summary(milestones=[["second", 3]], start=start("beginning", milestones=["second"]))}, "value"),
    (LAST, {"summary": summary(cells=13)}, "value"),
    (LAST, {"summary": summary(loop_share=1.01)}, "header"),
    (LAST, {"summary": summary(loop_share=float("nan"))}, "header"),
    (LAST, {"summary": summary(entropy=-0.1)}, "header"),
    (LAST, {"summary": summary(entropy=float("nan"))}, "header"),
    (MIDDLE, {"summary": summary(episode_steps=8)}, "value"),
    (FIRST, {"milestones": ["graffiti"]}, "name"),
    (FIRST, {"milestones": ["first_badge"] * 257}, "header"),
    (FIRST, {"initial_priority": 1.7e308}, "value"),
    (FIRST, {"initial_priority": math.nextafter(MAX_PRIORITY, math.inf)}, "value"),
    (FIRST, {"first_prev_reward": -1.1 * MAX_REWARD}, "value"),
    (FIRST, {"epsilon": float("nan")}, "value"),
    (FIRST, {"params_version": 2**53 + 1}, "header"),
    (FIRST, {"episode": 2**31}, "header"),
    (FIRST, {"first_step": 2**31}, "header"),
    (FIRST, {"emulator": MAX_EMULATORS}, "header"),
    (FIRST, {"actor": 1}, "sender"),
    (FIRST, {"incarnation": 2}, "sender"),
]


@pytest.mark.parametrize(("window", "changes", "reason"), HEADERS_REFUSED)
def test_a_header_that_no_actor_of_the_run_makes_is_refused(
    tmp_path: Path, window: int, changes: dict[str, Any], reason: str
) -> None:
    replay = make_replay(tmp_path)
    bad = with_header(BLOCKS[window], **{"actor": 0, "incarnation": 1, **changes})
    with pytest.raises(BlockError) as error:
        replay.append(0, 1, 0, bad)
    assert (error.value.reason, "\n" in str(error.value)) == (reason, False)
    assert (replay.env_steps, replay.expected_seq(0, 1), replay.sequences) == (0, 0, 0)
    replay.close()


def test_rewards_and_states_are_read_before_they_are_logged(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)

    def spoiled(name: str, value: float) -> bytes:
        array = getattr(SEQUENCES[FIRST], name).copy()
        array[1] = value
        return encode_block(dataclasses.replace(SEQUENCES[FIRST], actor=0, incarnation=1, **{name: array}))

    for name, value in (("reward", np.nan), ("reward", np.inf), ("reward", 1.01 * MAX_REWARD), ("state_h", np.inf)):
        with pytest.raises(BlockError, match=name) as error:
            replay.append(0, 1, 0, spoiled(name, value))
        assert error.value.reason == "value"
    assert replay.append(0, 1, 0, spoiled("reward", -MAX_REWARD)).id == 0
    assert replay.env_steps == SPEC.unroll_length
    replay.close()


def test_the_bounds_of_the_wire_hold_what_a_config_allows() -> None:
    fields = {field.name: msgspec.json.schema(field.type) for field in msgspec.structs.fields(Config)}
    assert fields["envs_per_actor"]["maximum"] == MAX_EMULATORS
    for field in msgspec.structs.fields(RewardWeights):
        weight = msgspec.json.schema(field.type)
        assert max(-weight["minimum"], weight["maximum"]) <= MAX_REWARD / 1000  # there are no such steps


def test_a_position_is_counted_once_under_whatever_number(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    first, middle, last = (block_of(seq) for seq in range(3))
    assert replay.append(0, 1, 0, first).id == 0
    overlapping = with_header(last, first_step=7, summary=None)
    assert replay.append(0, 1, 3, middle).id == 1
    for _ in range(2):  # in the second turn the learner was started again
        steps, expected = replay.env_steps, replay.expected_seq(0, 1)
        for block in (first, middle, overlapping):
            with pytest.raises(BlockError, match="logged up to step 8 of episode 0") as error:
                replay.append(0, 1, expected, block)
            assert error.value.reason == "order"
        assert (replay.env_steps, replay.expected_seq(0, 1)) == (steps, expected)
        replay.close()
        replay = make_replay(tmp_path)
    # Refused numbers are a gap, and what others play is theirs.
    assert replay.append(0, 1, 7, last).id is not None
    assert replay.gaps == 2 + 3
    assert replay.append(0, 1, 8, with_header(first, emulator=2)).id is not None
    assert replay.append(0, 2, 0, with_header(first, incarnation=2)).id is not None
    with pytest.raises(BlockError, match="logged up to step 11 of episode 0"):
        replay.append(0, 1, 9, last)
    assert replay.append(0, 1, 9, with_header(middle, episode=1)).id is not None  # its first window was lost
    with pytest.raises(BlockError, match="logged up to step 8 of episode 1"):
        replay.append(0, 1, 10, with_header(first, episode=1))
    assert replay.env_steps == 4 + 4 + 3 + 4 + 4 + 4
    replay.close()


def test_a_number_cannot_ruin_the_count_of_gaps(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    replay.append(0, 1, 0, block_of(0))
    for seq in (2**61, 1 + MAX_GAP_SEQUENCES + 1):
        with pytest.raises(BlockError, match=f"it has number {seq}, expected is 1") as error:
            replay.append(0, 1, seq, block_of(1))
        assert error.value.reason == "order"
    assert replay.append(0, 1, 1 + MAX_GAP_SEQUENCES, block_of(1)).id == 1
    assert replay.gaps == MAX_GAP_SEQUENCES
    replay.close()


def test_where_positions_end_is_kept_for_as_many_incarnations_as_numbers_are(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for incarnation in range(1, 9):
        fill(log, 4, incarnation=incarnation)
        assert log.totals.frontiers[0].keys() == log.totals.next_seq[0].keys()
    assert log.totals.frontiers[0][8] == {1: (1, 4)}
    totals = log.totals
    log.close()
    again = open_log(tmp_path)
    assert again.totals == totals == type(totals).from_plain(totals.to_plain())
    again.close()


def log_unchecked(folder: Path, records: list[tuple[int, bytes]], first_id: int) -> None:
    """Appends records (number, block) of actor 0 to the newest segment, as a program without checks would."""
    path = files(folder)[-1]
    with path.open("ab") as file:
        for record_id, (seq, block) in enumerate(records, start=first_id):
            file.write(record_bytes(block, record_id, 0, 1, seq))


def test_records_of_no_use_are_passed_over_on_opening(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 4)
    log.close()
    useless = [
        (4, with_header(block_of(5), summary=without("episode_return"))),
        (5, with_header(block_of(4), initial_priority=1.7e308)),
        (6, with_header(block_of(4), milestones=["graffiti"])),
        (7, block_of(0)),
        (2**61, block_of(4)),
    ]
    log_unchecked(tmp_path, useless, first_id=4)
    log_unchecked(tmp_path, [(8, block_of(4))], first_id=9)
    for _ in range(2):  # nothing is moved or cut
        found: list[LogEntry] = []
        again = open_log(tmp_path, transitions=10**6, on_record=found.append)
        assert [entry.id for entry in found] == [*(entry.id for entry in written), 9]
        assert (again.damaged, len(again.notes)) == (len(useless), 1)
        assert "5 records are of no use and are passed over; the first: block: header cannot be read" in again.notes[0]
        assert "\n" not in again.notes[0]
        assert again.totals.env_steps == sum(HEADERS[seq % 3].train_length for seq in range(5))
        assert (again.totals.gaps, again.totals.next_id, again.expected_seq(0, 1)) == (4, 10, 9)
        again.close()
    assert not list(tmp_path.glob("*.damaged*"))


def test_records_of_no_use_at_the_end_leave_their_ids_to_nobody(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    fill(log, 3)
    log.close()
    log_unchecked(tmp_path, [(3, with_header(block_of(3), initial_priority=1.7e308))], first_id=3)
    replay = make_replay(tmp_path)
    assert (replay.damaged, replay.sequences) == (1, 3)
    replay.load_state_dict({"ids": np.arange(4), "priorities": np.array([1.0, 1.0, 1.0, np.inf])})
    assert replay.append(0, 1, 4, block_of(3)).id == 4
    batch = replay.sample(np.random.default_rng(0), 32)
    assert set(batch["ids"].tolist()) == {0, 1, 2, 4}
    assert np.isfinite(batch["weights"]).all()
    replay.close()


def test_env_steps_that_an_older_program_counted_stay_counted(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    fill(log, 4)
    saved = log.totals.to_plain()
    log.close()
    log_unchecked(tmp_path, [(4, block_of(0))], first_id=4)
    del saved["frontiers"]
    saved |= {"env_steps": saved["env_steps"] + 4, "sequences": 5, "next_id": 5, "next_seq": [[0, 1, 5]]}
    for adopted in (True, False):
        replay = make_replay(tmp_path)
        assert replay.adopt_totals(saved) is adopted
        assert (replay.env_steps, replay.sequences, replay.expected_seq(0, 1)) == (saved["env_steps"], 4, 5)
        with pytest.raises(BlockError, match="logged up to step 4 of episode 1"):
            replay.append(0, 1, 5, block_of(2))
        replay.close()


def test_a_log_of_an_older_program_is_read(tmp_path: Path) -> None:
    """Its headers have no frontiers: those of the segments before hold."""
    new, old = tmp_path / "new", tmp_path / "old"
    log = open_log(new, transitions=1)
    fill(log, 3)
    expected = log.totals
    log.close()
    shutil.copytree(new, old)
    for number, path in enumerate(files(old)):
        content = path.read_bytes()
        found = read_header(content, path)
        assert found is not None
        header, start = found
        plain = msgspec.to_builtins(header)
        del plain["before"]["frontiers"]
        path.unlink()
        segment = create_segment(old, number, plain)
        segment.write(content[start:])
        assert b"frontiers" not in path.read_bytes()
    again = open_log(old, transitions=1)
    assert (again.totals, again.damaged) == (expected, 0)
    with pytest.raises(BlockError, match="logged up to step 11"):
        append_under(again, 3, block_of(1))
    assert append(again, 3) is not None
    again.close()


def append_under(log: Any, seq: int, block: bytes) -> None:
    log.append(0, 1, seq, block, decode_header(block))


def test_the_header_of_a_segment_has_frontiers(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=1)
    fill(log, 2)
    log.close()
    found = read_header(files(tmp_path)[1].read_bytes(), files(tmp_path)[1])
    assert found is not None
    assert isinstance(found[0], SegmentHeader)
    assert found[0].before.frontiers == {0: {1: {1: (0, 4)}}}
