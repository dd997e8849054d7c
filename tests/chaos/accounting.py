"""What the folder of a run must say once nobody works on it, whatever was done to its processes.

`take_account` counts everything in two ways: with the project's own readers, and with `wire_reader.py`, which has no
code of ours. It raises AssertionError where anything was lost, counted twice or left behind.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wire_reader
from run_fixtures import ReadLog, processes_of, read_log

from cluster_rl.emulator.playback import replay
from cluster_rl.replay.log import LogEntry
from cluster_rl.rom import load_rom
from cluster_rl.runs.checkpoint import load_checkpoint, unflatten_state
from cluster_rl.runs.episode_log import EpisodeHeader, log_paths
from cluster_rl.runs.episode_log import read_log as read_episode_log
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress

_ENDED_SEC = 60.0
Episode = tuple[int, int, int, int]
"""Actor, incarnation, emulator, number."""


@dataclass(frozen=True)
class Account:
    """What a run has, by its files."""

    env_steps: int
    episodes: int
    sequences: int
    updates: int
    logs: int  # episode logs
    damaged: int  # stretches of the replay log
    acknowledged: int  # sequences, that actors were told are kept
    notes: list[str] = field(default_factory=list)


def take_account(
    run_dir: RunDir,
    *,
    acks: Path | None = None,
    killed: bool = False,
    ended: bool = True,
    damaged: bool = False,
    replayed: int | None = 2,
) -> Account:
    """Holds all counts of a run against each other.

    `killed`: an actor was, so that it may have logged an episode's end that it could not send. `ended`: the last job
    ended in order, so that progress.json has it all; otherwise it may be behind the replay log, but never ahead.
    `damaged`: somebody has damaged files, so that records may be missing. `acks`: the file that the actors noted
    acknowledgements in. `replayed`: so many of the newest episode logs are emulated again, all for None.
    """
    wait_until_all_ended(run_dir)
    entries: list[LogEntry] = []
    found = read_log(run_dir, entries.append)
    if not damaged:
        assert (found.damaged, found.notes) == (0, [])
        _check_sums(found, entries)
        _check_without_our_code(found)
        _check_episodes(entries)
    acknowledged = _check_acknowledged(acks, entries, damaged) if acks is not None else 0
    updates = _check_checkpoint(run_dir, found)
    progress = read_progress(run_dir.progress)
    assert progress is not None
    said = (progress.env_steps, progress.episodes, progress.sequences)
    logged = (found.totals.env_steps, found.totals.episodes, found.totals.sequences)
    if ended:
        assert said == logged
        assert progress.jobs[-1].ended is not None
        assert progress.updates == updates
    else:
        assert all(a <= b for a, b in zip(said, logged, strict=True)), (said, logged)
    return Account(
        *logged,
        updates=updates,
        logs=_check_episode_logs(run_dir, entries, not killed and not damaged, replayed),
        damaged=found.damaged,
        acknowledged=acknowledged,
        notes=found.notes,
    )


def wait_until_all_ended(run_dir: RunDir) -> None:
    """No process of the run outlives it."""
    deadline = time.monotonic() + _ENDED_SEC
    while (left := processes_of(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == [], "processes outlive the run"


def leftovers(run_dir: RunDir) -> list[str]:
    """Half-written files: none may be left once a later job has begun."""
    begun = (".writing-", ".deleting-")
    paths = run_dir.path.rglob(".*")
    return sorted(str(p.relative_to(run_dir.path)) for p in paths if p.suffix == ".tmp" or p.name.startswith(begun))


def _check_sums(found: ReadLog, entries: Iterable[LogEntry]) -> None:
    positions: set[tuple[int, ...]] = set()
    steps = episodes = 0
    for entry in entries:
        header = entry.header
        assert (header.actor, header.incarnation) == (entry.actor, entry.incarnation)
        ids = (header.actor, header.incarnation, header.emulator, header.episode)
        positions.update((*ids, header.first_step + step) for step in range(header.train_length))
        steps += header.train_length
        episodes += header.ends_whole_episode
    assert len(positions) == steps == found.totals.env_steps
    assert episodes == found.totals.episodes
    assert found.totals.gaps == 0


def _check_without_our_code(found: ReadLog) -> None:
    """Steps, sequences and episodes again, and that no number of an actor is missing."""
    steps = sequences = episodes = 0
    numbers: dict[tuple[int, int], list[int]] = defaultdict(list)
    for content in found.files.values():
        _, records = wire_reader.read_segment(content)
        for record in records:
            header = wire_reader.read_block_header(record["block"])
            steps += header["train_length"]
            sequences += 1
            episodes += header["summary"] is not None and header["summary"]["reason"] != "stopped"
            numbers[record["actor"], record["incarnation"]].append(record["seq"])
    assert (steps, sequences, episodes) == (found.totals.env_steps, found.totals.sequences, found.totals.episodes)
    for process, seen in numbers.items():
        assert seen == list(range(len(seen))), f"numbers of {process} that are missing, or twice"


def _check_episodes(entries: Iterable[LogEntry]) -> None:
    """The blocks of an episode follow one another without a hole, up to its end where that has come."""
    steps: dict[Episode, int] = defaultdict(int)
    for entry in entries:
        header = entry.header
        episode = (header.actor, header.incarnation, header.emulator, header.episode)
        assert header.first_step == steps[episode], f"a hole in episode {episode}"
        steps[episode] += header.train_length
        if header.summary is not None:
            assert header.summary.episode_steps == steps[episode]


def _check_acknowledged(acks: Path, entries: Iterable[LogEntry], damaged: bool) -> int:
    """What an actor was told is kept, is kept; returns how many sequences that are."""
    kept: dict[int, int] = defaultdict(int)
    for entry in entries:
        kept[entry.incarnation] = max(kept[entry.incarnation], entry.seq + 1)
    told: dict[int, int] = defaultdict(int)
    for line in acks.read_text().splitlines() if acks.exists() else ():
        incarnation, next_seq = map(int, line.split())
        told[incarnation] = max(told[incarnation], next_seq)
    if not damaged:
        missing = {incarnation: (n, kept[incarnation]) for incarnation, n in told.items() if n > kept[incarnation]}
        assert not missing, f"acknowledged and not in the log: {missing}"
    return sum(told.values())


def _check_checkpoint(run_dir: RunDir, found: ReadLog) -> int:
    """The newest checkpoint is whole, and not ahead of the log; returns its updates."""
    checkpoint = load_checkpoint(run_dir.checkpoint)
    if checkpoint is None:
        return 0
    assert checkpoint.notes == []
    state: Any = unflatten_state(checkpoint.tensors, checkpoint.meta["state"])
    assert state["totals"]["env_steps"] <= found.totals.env_steps
    return checkpoint.updates


def _check_episode_logs(run_dir: RunDir, entries: Iterable[LogEntry], all_sent: bool, replayed: int | None) -> int:
    """Every episode that the replay log knows the end of can be rendered; returns how many logs there are."""
    headers: dict[Episode, EpisodeHeader] = {}
    paths = sorted(log_paths(run_dir.episode_logs), key=lambda path: path.stat().st_mtime_ns)
    for path in paths:
        header = read_episode_log(path).header
        headers[header.actor, header.incarnation, header.emulator, header.episode] = header
    summaries = {
        (header.actor, header.incarnation, header.emulator, header.episode): header.summary
        for header in (entry.header for entry in entries)
        if header.summary is not None
    }
    for episode, summary in summaries.items():
        assert episode in headers, f"episode {episode} is in the replay and has no log"
        header = headers[episode]
        assert (header.complete, header.steps, header.reason) == (True, summary.episode_steps, summary.reason)
        assert header.episode_return == summary.episode_return
    if all_sent:
        assert {episode for episode, header in headers.items() if header.complete} == set(summaries)
    rom = load_rom("")
    for path in paths if replayed is None else paths[len(paths) - min(replayed, len(paths)) :]:
        replay(read_episode_log(path), rom, str(path), lambda: False)
    return len(paths)
