"""The replay: batches against the sequences they were made of, priorities, eviction, threads, resume."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sequence_fixtures import make_builder, play, small_spec, summary_of, with_header

from cluster_rl.config import Config, load_config
from cluster_rl.errors import StorageError, UserError
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.sequences import BlockSpec, Sequence
from cluster_rl.replay.segments import Segment
from cluster_rl.replay_buffer import BATCHES_KEPT, Replay
from cluster_rl.wire.codec import BlockError, encode_block

SPEC = small_spec()
LENGTH = 11
EPISODES = 5
SEQUENCES = [
    s
    for episode in range(EPISODES)
    for s in play(make_builder(SPEC), episode, LENGTH - episode, summary=summary_of(LENGTH - episode))
]
for number, one in enumerate(SEQUENCES):
    one.initial_priority = 0.5 + number


def make_config(**overrides: Any) -> Config:
    values: dict[str, Any] = {"replay_capacity_transitions": 1000, "min_replay_transitions": 1, **overrides}
    return load_config(None, [f"{key}={value}" for key, value in values.items()])


def make_replay(folder: Path, **overrides: Any) -> Replay:
    return Replay(make_config(**overrides), SPEC, folder, "run-1", frozenset())


@functools.cache
def block_of(seq: int, actor: int = 0, incarnation: int = 1) -> bytes:
    """The block that an actor sends under a number: the episodes of `SEQUENCES`, over and over, as ever new ones."""
    passes, index = divmod(seq, len(SEQUENCES))
    episode = EPISODES * passes + SEQUENCES[index].episode
    return with_header(encode_block(SEQUENCES[index]), actor=actor, incarnation=incarnation, episode=episode)


def fill(replay: Replay, count: int, first: int = 0) -> None:
    for seq in range(first, first + count):
        assert replay.append(0, 1, seq, block_of(seq)).id is not None


def expected_column(sequence: Sequence, spec: BlockSpec) -> dict[str, Any]:
    """A column of the batch, position by position, by the contract's own words."""
    rows = spec.max_positions
    b, t = sequence.burn_in_length, sequence.train_length
    column: dict[str, Any] = {
        "screen_packed": np.zeros((rows, 72, 20), np.uint8),
        "context": np.zeros((rows, spec.context_size), np.uint8),
        "crop": np.zeros((rows, 2, spec.crop_side, spec.crop_side), np.uint8),
        "mask": np.ones((rows, spec.num_actions), np.bool_),
        "action": np.zeros(rows, np.int64),
        "greedy": np.zeros(rows, np.bool_),
        "reward": np.zeros(rows, np.float32),
        "visits": np.zeros(rows, np.uint8),
        "prev_action": np.zeros(rows, np.int64),
        "prev_reward": np.zeros(rows, np.float32),
    }
    for position in range(sequence.positions):
        row = position if position < b else spec.burn_in + position - b
        for name in ("screen_packed", "context", "crop", "mask", "action", "greedy", "reward", "visits"):
            column[name][row] = getattr(sequence, name)[position]
        column["prev_action"][row] = sequence.action[position - 1] if position else sequence.first_prev_action
        column["prev_reward"][row] = sequence.reward[position - 1] if position else sequence.first_prev_reward
    return column | {
        "burn_in_length": b,
        "train_length": t,
        "last": sequence.positions - b - 1,
        "terminated": sequence.terminated,
    }


def check_batch(batch: dict[str, Any], spec: BlockSpec) -> None:
    for column, sequence_id in enumerate(batch["ids"].tolist()):
        sequence = SEQUENCES[sequence_id % len(SEQUENCES)]
        for name, expected in expected_column(sequence, spec).items():
            got = batch[name][:, column] if np.ndim(expected) else batch[name][column]
            assert np.array_equal(got, expected), (name, sequence_id)
        assert np.array_equal(batch["state_h"][0, column], sequence.state_h)
        assert np.array_equal(batch["state_c"][0, column], sequence.state_c)


def test_batches_hold_the_sequences_exactly_also_in_reused_buffers(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, prioritized_alpha=0)
    fill(replay, len(SEQUENCES))
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(4 * BATCHES_KEPT):
        batch = replay.sample(rng, 8)
        check_batch(batch, SPEC)
        seen |= set(batch["ids"].tolist())
    assert seen == set(range(len(SEQUENCES)))
    check_batch(replay.sample(rng, 3), SPEC)


def test_batch_shapes_and_types_are_those_of_the_learner(tmp_path: Path) -> None:
    overrides = {"unroll_length": 4, "burn_in": 3, "n_step": 2, "lstm_hidden_size": 8, "occupancy_crop_radius": 1}
    config = make_config(**overrides)
    assert BlockSpec.from_config(config, SPEC.context_size, SPEC.num_actions) == SPEC
    replay = Replay(config, SPEC, tmp_path, "run-1", frozenset())
    fill(replay, 6)
    arrays = replay.sample(np.random.default_rng(0), 5)
    batch = Batch.from_numpy(arrays, torch.device("cpu"))
    batch.check(config, SPEC.num_actions)
    assert set(arrays) == set(vars(batch)) - {"curiosity"}  # which the learner pays later


def test_kept_batches_are_not_overwritten_too_early(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 9)
    rng = np.random.default_rng(0)
    assert BATCHES_KEPT >= 3  # in the learner, waiting, being filled
    batches = [replay.sample(rng, 4) for _ in range(BATCHES_KEPT)]
    for batch in batches:
        check_batch(batch, SPEC)
    assert replay.sample(rng, 4)["screen_packed"] is batches[0]["screen_packed"]


def test_draws_follow_the_priorities_and_weights_undo_them(tmp_path: Path) -> None:
    alpha, beta = 0.7, 0.5
    replay = make_replay(tmp_path, prioritized_alpha=alpha, importance_beta=beta)
    fill(replay, 4)
    probabilities = np.array([s.initial_priority for s in SEQUENCES[:4]]) ** alpha
    for _ in range(2):
        probabilities /= probabilities.sum()
        rng = np.random.default_rng(0)
        ids = []
        for _ in range(100):
            batch = replay.sample(rng, 20)
            ids += batch["ids"].tolist()
            weights = (4 * probabilities[batch["ids"]]) ** -beta
            assert batch["weights"] == pytest.approx(weights / weights.max(), rel=1e-5)
        assert np.bincount(ids, minlength=4) / len(ids) == pytest.approx(probabilities, abs=0.015)
        learned = np.array([3.0, 0.1, 0.2, 1.0])
        replay.update_priorities(np.arange(4), learned)
        probabilities = learned**alpha
    expected = probabilities.sum() ** 2 / (probabilities**2).sum() / 4
    assert replay.effective_sample_size() == pytest.approx(expected, rel=1e-5)


def test_same_generator_state_gives_the_same_batch(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 12)
    draws = [replay.sample(np.random.default_rng(9), 6)["ids"].tolist() for _ in range(2)]
    assert draws[0] == draws[1] != replay.sample(np.random.default_rng(10), 6)["ids"].tolist()


def test_bad_input_is_refused(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    with pytest.raises(ValueError, match="all leaves are 0"):
        replay.sample(np.random.default_rng(0), 2)
    fill(replay, 2)
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match="finite"):
            replay.update_priorities(np.array([0]), np.array([bad]))
    block = encode_block(SEQUENCES[0])
    with pytest.raises(BlockError, match="CRC"):
        replay.append(0, 1, 2, block[:-1] + bytes([block[-1] ^ 1]))
    with pytest.raises(BlockError, match="out of range"):
        replay.append(2**32, 1, 2, block)
    assert replay.append(0, 1, 1, block).id is None
    assert (replay.sequences, replay.env_steps) == (2, 2 * SPEC.unroll_length)


def test_eviction_takes_oldest_segments_and_keeps_the_counters(tmp_path: Path) -> None:
    capacity = 200
    replay = make_replay(tmp_path, replay_capacity_transitions=capacity)
    lengths = [s.train_length for s in SEQUENCES]
    for seq in range(400):
        fill(replay, 1, seq)
        total = sum(lengths[i % len(lengths)] for i in range(seq + 1))
        assert replay.env_steps == total
        assert replay.transitions <= capacity
        assert replay.transitions >= min(total, capacity * 9 // 10)
    kept = replay.state_dict()["ids"]
    assert np.array_equal(kept, np.arange(400 - replay.sequences, 400))
    assert replay.transitions == sum(lengths[i % len(lengths)] for i in kept.tolist())
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("segment-*"))
    assert replay.bytes_on_disk == on_disk
    for _ in range(20):
        batch = replay.sample(np.random.default_rng(0), 16)
        assert batch["ids"].min() >= kept[0]
        check_batch(batch, SPEC)
    replay.update_priorities(np.array([0, kept[0] - 1, kept[0], 400]), np.full(4, 7.0))
    assert replay.stale_updates == 3
    largest = max(7.0, max(s.initial_priority for s in SEQUENCES))
    assert replay.state_dict()["priorities"].max() == pytest.approx(largest)


def test_resume_keeps_learned_priorities_and_counters(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, replay_capacity_transitions=200)
    fill(replay, 30)
    replay.update_priorities(np.arange(30), np.linspace(1, 2, 30))
    state = replay.state_dict()
    fill(replay, 40, first=30)  # evicts some of the checkpoint's ids, adds newer ones
    replay.update_priorities(np.arange(30, 70), np.full(40, 99.0))  # lost with the crash
    before = (replay.env_steps, replay.episodes, replay.transitions, replay.sequences, replay.expected_seq(0, 1))
    kept = replay.state_dict()["ids"]
    assert 0 < kept[0] < 30
    replay.close()

    again = make_replay(tmp_path, replay_capacity_transitions=200)
    after = (again.env_steps, again.episodes, again.transitions, again.sequences, again.expected_seq(0, 1))
    assert after == before
    again.load_state_dict(state)
    restored = dict(zip(*again.state_dict().values(), strict=True))
    assert list(restored) == kept.tolist()
    for sequence_id, priority in restored.items():
        learned = np.linspace(1, 2, 30)[sequence_id] if sequence_id < 30 else None
        initial = SEQUENCES[sequence_id % len(SEQUENCES)].initial_priority
        assert priority == pytest.approx(learned if learned is not None else initial)
    check_batch(again.sample(np.random.default_rng(0), 16), SPEC)


def test_a_tree_built_on_opening_is_the_one_that_grew(tmp_path: Path) -> None:
    """To the bit, with evicted records, and priorities that a float32 rounds."""
    blocks = [with_header(block_of(number), initial_priority=0.1 + 0.37 * number) for number in range(300)]
    replay = make_replay(tmp_path, replay_capacity_transitions=500, prioritized_alpha=0.6)
    for seq, block in enumerate(blocks):
        replay.append(0, 1, seq, block)
    assert 64 < replay.sequences < len(blocks) - 64  # it has grown, and forgotten
    grown, index = replay._index.tree._nodes.tobytes(), replay._index.entries.tobytes()
    state = replay.state_dict()
    replay.close()
    again = make_replay(tmp_path, replay_capacity_transitions=500, prioritized_alpha=0.6)
    opened = again.sequences
    assert (len(again._index.entries), opened) == (len(replay._index.entries), len(state["ids"]))
    assert again._index.entries.tobytes() == index
    assert again._index.tree._nodes.tobytes() == grown
    again.load_state_dict(state)
    assert again._index.tree._nodes.tobytes() == grown
    again.close()


def test_a_smaller_capacity_holds_at_once_and_other_shapes_are_refused(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 200)
    steps = replay.env_steps
    replay.close()
    smaller = make_replay(tmp_path, replay_capacity_transitions=150)
    assert smaller.transitions <= 150
    assert smaller.env_steps == steps
    check_batch(smaller.sample(np.random.default_rng(0), 16), SPEC)
    smaller.close()
    with pytest.raises(UserError, match="burn_in 3, the run now has 4"):
        Replay(make_config(), small_spec(burn_in=4), tmp_path, "run-1", frozenset())


def test_a_block_that_rots_on_disk_is_taken_out_and_replaced(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 5)
    replay.sync()
    (path,) = tmp_path.glob("segment-*")
    at = path.read_bytes().index(block_of(2)) + 200
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\x00\xff\x00")
    rng = np.random.default_rng(0)
    for _ in range(5):
        batch = replay.sample(rng, 16)
        assert 2 not in batch["ids"]
        check_batch(batch, SPEC)
    assert (replay.damaged, replay.sequences) == (1, 4)
    replay.update_priorities(np.array([2]), np.array([5.0]))
    assert replay.stale_updates == 1
    assert 2 not in replay.state_dict()["ids"]


def test_a_block_on_a_bad_place_of_the_disk_is_taken_out_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 5)
    replay.update_priorities(np.array([2]), np.array([50.0]))
    offset = replay._index.entries["offset"][2]
    read = Segment.read

    def failing(segment: Segment, at: int, length: int) -> bytes:
        if at == offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(segment, at, length)

    monkeypatch.setattr(Segment, "read", failing)
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(4):
        batch = replay.sample(rng, 16)
        assert 2 not in batch["ids"]
        check_batch(batch, SPEC)
        kept.append(replay.sequences)
    assert kept == [5, 5, 4, 4], "one failed read may be the moment's fault"
    assert (replay.damaged_samples, replay.damaged) == (1, 1)


def test_reads_that_fail_now_and_then_cost_no_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 30)
    rng, fate = np.random.default_rng(0), np.random.default_rng(1)
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if fate.random() < 0.1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    for _ in range(20):
        check_batch(replay.sample(rng, 16), SPEC)
    assert replay.sequences >= 29


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_one_read_that_fails_for_another_reason_is_storages_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 5)
    rng, pread = np.random.default_rng(0), os.pread
    reads = 0

    def failing(fd: int, length: int, offset: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads % 20 == 7:
            raise OSError(number, os.strerror(number))
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    for _ in range(5):
        with pytest.raises(StorageError, match="cannot be read"):
            replay.sample(rng, 16)
        reads = 0
    assert replay.sequences == 5


def test_a_log_of_which_nothing_is_left_is_storages_fault_too(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 5)
    (path,) = tmp_path.glob("segment-*")
    os.truncate(path, 0)
    with pytest.raises(StorageError, match="nothing whole is left to sample"):
        replay.sample(np.random.default_rng(0), 4)
    assert (replay.sequences, replay.transitions, replay.damaged) == (0, 0, 5)
    fill(replay, 1, first=5)
    assert replay.sample(np.random.default_rng(0), 2)["ids"].tolist() == [5, 5]


def test_what_was_taken_out_as_damaged_does_not_let_the_log_grow(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, replay_capacity_transitions=40)
    for seq in range(60):
        fill(replay, 1, first=seq)
        replay._remove_damaged(seq)
    sound = make_replay(tmp_path / "sound", replay_capacity_transitions=40)
    fill(sound, 60)
    assert len(list(tmp_path.glob("segment-*"))) == len(list((tmp_path / "sound").glob("segment-*")))


def test_a_file_server_that_is_away_costs_no_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 5)
    rng = np.random.default_rng(0)
    left = 6  # also when it goes in the middle of a batch

    def away(fd: int, length: int, offset: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(fd, length, offset)

    pread = os.pread
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", away)
        for _ in range(3):
            with pytest.raises(StorageError, match=r"segment-\d+.log: cannot be read: Stale file handle"):
                replay.sample(rng, 16)
    assert (replay.damaged, replay.sequences) == (0, 5)
    replay.sample(rng, 16)


def test_segments_that_cannot_be_deleted_now_are_deleted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was appended counts all the same, once, and the capacity holds."""
    replay = make_replay(tmp_path, replay_capacity_transitions=40)
    fill(replay, 6)
    with monkeypatch.context() as patch:

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        patch.setattr(Path, "unlink", refused)
        fill(replay, 30, first=6)
        assert "segment-00000000.log: cannot be deleted: Operation not permitted" in str(replay.undeleted)
        assert replay.bytes_on_disk == sum(path.stat().st_size for path in tmp_path.glob("segment-*"))
    assert replay.logged_sequences == 36
    assert replay.transitions <= 40
    fill(replay, 1, first=36)
    assert replay.undeleted is None
    assert replay.bytes_on_disk == sum(path.stat().st_size for path in tmp_path.glob("segment-*"))
    assert replay.damaged == 0


def test_one_file_that_cannot_be_deleted_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(tmp_path, replay_capacity_transitions=40)
    fill(replay, 6)
    stuck, unlink = sorted(tmp_path.glob("segment-*"))[0], Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    fill(replay, 60, first=6)
    assert replay.transitions <= 40
    assert str(stuck) in str(replay.undeleted)
    sound = make_replay(tmp_path / "sound", replay_capacity_transitions=40)
    fill(sound, 66)
    assert len(list(tmp_path.glob("segment-*"))) == 1 + len(list((tmp_path / "sound").glob("segment-*")))
    replay.close()
    again = make_replay(tmp_path, replay_capacity_transitions=40)  # the file is still there, and found
    assert again.logged_sequences == 66
    assert again.transitions <= 40


def test_priorities_do_not_wait_for_a_disk_that_syncs_or_makes_or_deletes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(tmp_path, replay_capacity_transitions=40)
    fill(replay, 3)
    free: list[bool] = []

    def watched(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            free.append(not replay._lock.locked())
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", watched(os.fsync))
    monkeypatch.setattr(Path, "unlink", watched(Path.unlink))
    monkeypatch.setattr(Path, "replace", watched(Path.replace))
    fill(replay, 30, first=3)
    assert len(free) > 10
    assert all(free)


def test_totals_survive_the_loss_of_the_log(tmp_path: Path) -> None:
    replay = make_replay(tmp_path / "log")
    fill(replay, 10)
    for incarnation in (2**62 - 1, 5, 4):
        replay.append(2**31 - 1, incarnation, 1, block_of(1, 2**31 - 1, incarnation))
    saved = json.loads(json.dumps(replay.totals()))
    assert saved == replay.totals()
    assert not replay.adopt_totals(saved)
    steps, episodes = replay.env_steps, replay.episodes
    replay.close()
    shutil.rmtree(tmp_path / "log")

    for adopted in (True, False):
        again = make_replay(tmp_path / "log")
        assert (again.env_steps, again.expected_seq(0, 1)) == ((0, 0) if adopted else (steps, 10))
        assert again.adopt_totals(saved) is adopted
        assert again.totals() == saved
        assert (again.env_steps, again.episodes, again.transitions) == (steps, episodes, 0)
        again.close()
    last = make_replay(tmp_path / "log")
    assert last.append(0, 1, 9, block_of(9)).id is None
    assert last.append(0, 1, 10, block_of(10)).id == 13
    assert last.sample(np.random.default_rng(0), 2)["ids"].tolist() == [13, 13]
    assert last.next_incarnation(0) == 2
    assert last.next_incarnation(2**31 - 1) == 2**62


@pytest.mark.parametrize("count", [60, 400])
def test_a_lost_beginning_is_told_and_an_evicted_one_is_not(tmp_path: Path, count: int) -> None:
    replay = make_replay(tmp_path, replay_capacity_transitions=600)
    fill(replay, count)
    assert (replay.logged_sequences > replay.sequences) == (count == 400)
    replay.close()
    evicted = make_replay(tmp_path, replay_capacity_transitions=600)
    assert evicted.notes == []
    kept = evicted.sequences
    evicted.close()
    for path in sorted(tmp_path.glob("segment-*.log"))[:4]:
        path.unlink()
    again = make_replay(tmp_path, replay_capacity_transitions=600)
    gone, room = count - again.sequences, 600 - again.transitions
    assert gone > count - kept
    [note] = again.notes
    assert note.startswith(f"replay log {tmp_path}: its first {gone} sequences (")
    assert f") are not there, and there is room for {room} env steps more" in note
    assert again.logged_sequences == count


def test_a_log_that_is_further_than_the_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay, 3)
    saved = replay.totals()
    fill(replay, 5, first=3)
    for incarnation in (10, 9, 8, 7):  # incarnation 1 is forgotten, which is no loss
        replay.append(0, incarnation, 0, block_of(0, 0, incarnation))
    before, files = replay.totals(), sorted(tmp_path.iterdir())
    assert not replay.adopt_totals(saved)
    assert (replay.totals(), sorted(tmp_path.iterdir())) == (before, files)
    with pytest.raises(UserError, match="totals in the checkpoint"):
        replay.adopt_totals({**saved, "next_seq": {"0": 1}})
    with pytest.raises(UserError, match="totals in the checkpoint"):
        replay.adopt_totals({**saved, json.loads('"\\ud800"'): 1})


def test_adopted_ids_leave_a_hole_that_nothing_is_drawn_from(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, replay_capacity_transitions=60)
    fill(replay, 12)
    assert replay.adopt_totals({**replay.totals(), "next_id": 12 + 15 * len(SEQUENCES)})
    for seq in range(12, 200):
        fill(replay, 1, seq)
        assert replay.transitions <= 60
        batch = replay.sample(np.random.default_rng(seq), 4)
        assert all(i < 12 or i >= 12 + 15 * len(SEQUENCES) for i in batch["ids"].tolist())
        check_batch(batch, SPEC)
    kept = replay.state_dict()["ids"]
    assert (len(kept), kept[-1]) == (replay.sequences, 199 + 15 * len(SEQUENCES))


def test_append_sample_and_update_from_three_threads(tmp_path: Path) -> None:
    """The buffer is small, so that segments are evicted all the time, also those being read."""
    replay = make_replay(tmp_path, replay_capacity_transitions=60)
    fill(replay, 20)
    errors: list[BaseException] = []
    stop = threading.Event()
    drawn: list[np.ndarray] = [np.arange(4)]

    def guarded(work: Any) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    rng = np.random.default_rng(0)

    def sample() -> None:
        batch = replay.sample(rng, 8)
        check_batch(batch, SPEC)
        drawn.append(batch["ids"].copy())

    def update() -> None:
        replay.update_priorities(drawn[-1], np.full(len(drawn[-1]), 2.0))
        stop.wait(0.0005)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (sample, update)]
    for thread in threads:
        thread.start()
    fill(replay, 500, first=20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(drawn) > 3
    assert replay.env_steps == sum(SEQUENCES[i % len(SEQUENCES)].train_length for i in range(520))
    ids = replay.state_dict()["ids"]
    assert (len(ids), ids[-1]) == (replay.sequences, 519)
    check_batch(replay.sample(rng, 8), SPEC)


def test_evicted_segments_are_closed(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("needs /proc")
    replay = make_replay(tmp_path, replay_capacity_transitions=40)
    fill(replay, 100)
    open_segments = [link for link in fds.iterdir() if f"{tmp_path}/segment-" in _target(link)]
    assert len(open_segments) == len(list(tmp_path.glob("segment-*")))
    replay.close()
    assert not [link for link in fds.iterdir() if str(tmp_path) in _target(link)]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:
        return ""
