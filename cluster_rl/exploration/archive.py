"""The archive of start states on disk: what actors put in, what the learner lets in, what actors draw from.

The learner alone lets in. An actor leaves a state in `incoming/`, whole, by a rename; the learner takes it away by
another rename, looks at it, and either drops it or gives it its name in `states/`. So the bounds hold however many
actors of however many jobs there are, no lock is needed on a shared file system, and each step is one rename: a process
that is killed leaves the file before it or after it. `index.json`, which the learner replaces as a whole, tells actors
what is there and with which weights; the files are the truth, and the index is held against them at each start. The
archive may lose a proposal (an actor overwrites its own oldest one, so that what waits is bounded too), and a cell that
is lost so is found again.

    index.json          `Index`
    incoming/NAME.start proposals of actors, `PENDING_OF_ACTOR` at most of each
    states/KEY.start    what was let in
    unfit/              what was damaged, or is of another game or emulator, set aside under its name

What has a newer format is not unfit: it stays for the program that wrote it. With such a state among those let in the
learner refuses to start; such a proposal stays in its hand, `states/.NAME.start.taken`, where the next learner looks at
it; actors pass it over.

A `.start` file has three parts (`runs/parts_file.py`): JSON `StateHeader`; what the agent remembers there
(`emulator/start_memory.py`), zstd, may be empty; the snapshot.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from cluster_rl.config import Weighting
from cluster_rl.errors import StorageError, UserError, is_of_storage
from cluster_rl.exploration.curriculum import CLEARLY_FEWER, Entry, draw, weights_of
from cluster_rl.exploration.entries import Entries
from cluster_rl.learning.sequences import Name, Names, StartTag
from cluster_rl.runs.atomic import explain_os_error, write_atomic
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.parts_file import PartsFormat
from cluster_rl.runs.small_file import (
    Count,
    MissingFileError,
    NewerFormatError,
    UnreadableError,
    Version,
    damaged,
    decode_json,
    read_bytes,
)

FORMAT = PartsFormat(b"\x89GBSTART", version=1, parts=3)
SCHEMA_VERSION = 2
SUFFIX = ".start"
PENDING_OF_ACTOR = 8
MOST_TAKEN_AT_ONCE = 32
"""Proposals looked at in one call: the learner trains meanwhile."""
INDEX_READ_SEC = 10.0
"""An actor looks for a new index at most so often."""

_TAKEN = ".taken"  # in the learner's hand
_ALL_TAKEN = f".*{_TAKEN}"
_MAX_FILE_BYTES = 1 << 24
_MAX_INDEX_BYTES = 1 << 26
_KEPT_PROPOSED = 50_000
EpisodeId = tuple[int, int, int, int]
"""Actor, incarnation, emulator, number."""


class StateHeader(msgspec.Struct, kw_only=True, frozen=True):
    """Which state it is and how it was reached: by step `step` of an episode, which itself began at `start_id`."""

    key: Name
    tag: StartTag
    rom_sha1: str
    milestones: Names
    map_id: Count
    x: Count
    y: Count
    steps: Count  # from the beginning, over all episodes that led here
    episode: tuple[Count, Count, Count, Count] = (0, 0, 0, 0)
    step: Count = 0
    start_id: Name = ""


class Index(msgspec.Struct, kw_only=True):
    """What the learner publishes. The entries' counts are of the episodes whose `record` is below `next_record`."""

    schema_version: int = SCHEMA_VERSION
    rom_sha1: str
    next_record: Count = 0
    entries: list[Entry] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class StartState:
    """A state as read from its file; `path` names it."""

    path: Path
    header: StateHeader
    memory: bytes
    snapshot: bytes


class ArchiveDir:
    """Paths of an archive; nothing exists until `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "index.json"
        self.incoming = path / "incoming"
        self.states = path / "states"
        self.unfit = path / "unfit"

    def create(self) -> ArchiveDir:
        """Makes the folders; harmless where they are there. Raises `UserError` where they cannot be made."""
        for folder in (self.incoming, self.states, self.unfit):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain_os_error(error, folder) from None
        return self

    def state(self, tag: StartTag, key: str) -> Path:
        """Where the state of this key lies; a user's name its files as they like, so these are apart."""
        return self.states / f"{'given-' if tag == 'state' else ''}{key}{SUFFIX}"


def pack_state(header: StateHeader, memory: bytes, snapshot: bytes) -> bytes:
    """A `.start` file's bytes."""
    return FORMAT.pack(msgspec.json.encode(header), memory, snapshot)


def parse_state(data: bytes, path: Path) -> StartState:
    """The inverse. Raises `UnreadableError` for bytes that are damaged or no such file, `NewerFormatError`."""
    offset = FORMAT.prefix_bytes
    if not data.startswith(FORMAT.magic) or len(data) < offset:
        raise damaged(path, "no start state, or cut short")
    FORMAT.check_version(data, path)
    table = FORMAT.table(data[:offset])
    if table is None:
        raise damaged(path, "its first bytes do not match their checksum")
    parts = []
    for length, part_crc in table:
        parts.append(data[offset : offset + length])
        offset += length
        if len(parts[-1]) != length or zlib.crc32(parts[-1]) != part_crc:
            raise damaged(path, "cut short, or a part does not match its checksum")
    if offset != len(data):
        raise damaged(path, f"{len(data) - offset} bytes too many")
    return StartState(path, decode_json(parts[0], StateHeader, path), *parts[1:])


def read_state(path: Path) -> StartState:
    """Reads and checks a `.start` file. Raises as `parse_state` and `read_bytes` do."""
    return parse_state(read_bytes(path, _MAX_FILE_BYTES), path)


def set_aside(path: Path, unfit: Path, why: object, say: Callable[[str], None] = print) -> None:
    """Moves an unfit state out of the way and says so; where another process has, nothing.

    It goes under its own name, in the place of an earlier one of that name, so that these are bounded too.
    """
    with contextlib.suppress(OSError):  # what cannot be moved is found unfit again, by whoever draws it
        path.replace(unfit / path.name.lstrip(".").removesuffix(_TAKEN))
        say(f"{why}; moved to {unfit}")


def _of_newer(why: UserError) -> str:
    """What is said of the first state of a newer format that a process meets."""
    return f"{why}; it and what else there is of a newer format stays, and no episode begins there"


class StartStates:
    """What an actor has of the archive: it draws starts, and proposes states for others to begin at.

    One for all emulators of an actor process, and the only writer of its own files in `incoming/`. `share` of the
    episodes begin at a state where there is one; `proposes` is false where only the user's states are wanted.
    """

    def __init__(
        self, folder: Path, actor: int, share: float, proposes: bool, read_sec: float = INDEX_READ_SEC
    ) -> None:
        self.proposes = proposes
        self.unfit = 0
        self.newer: set[Path] = set()
        """Those passed over because their format is newer."""
        self._dir = ArchiveDir(folder)
        self._actor = actor
        self._share = share
        self._read_sec = read_sec
        self._read_at = -read_sec
        self._seen: tuple[int, int, int] | None = None
        self._entries: list[Entry] = []
        self._steps: dict[str, int] = {}  # key: fewest steps that it is known to take
        self._proposed: dict[str, int] = {}
        self._number = 0
        self._failing = False

    def choose(self, rng: np.random.Generator) -> StartState | None:
        """The state that the next episode begins at; None for the beginning.

        A state that went since the index was read is passed over, and as `refuse` says.
        """
        self._refresh()
        if not self._entries or rng.random() >= self._share:
            return None
        while self._entries:
            entry = draw(self._entries, rng)
            path = self._dir.state(entry.tag, entry.key)
            try:
                return read_state(path)
            except MissingFileError:
                self._entries.remove(entry)
            except UserError as error:
                if isinstance(error, StorageError):
                    return None  # the disk's trouble, not the state's
                self.refuse(path, error)
        return None

    def refuse(self, path: Path, why: UserError) -> None:
        """Sets aside a state that turned out to be damaged, or of another game or emulator; from now on passes over
        one of a newer format, in file or snapshot."""
        if isinstance(why, NewerFormatError):
            if not self.newer:
                _say(_of_newer(why))
            self.newer.add(path)
        else:
            self.unfit += 1
            set_aside(path, self._dir.unfit, why, _say)
        self._entries = [e for e in self._entries if self._dir.state(e.tag, e.key) != path]

    def wants(self, key: str, steps: int) -> bool:
        """Whether a state of this cell, reached in so many steps, is new or clearly better than the one there is."""
        known = [table[key] for table in (self._steps, self._proposed) if key in table]
        return self.proposes and (not known or steps <= CLEARLY_FEWER * min(known))

    def propose(self, header: StateHeader, memory: bytes, snapshot: bytes) -> None:
        """Leaves a state for the learner. Where storage does not take it, it is left out, and a line says so once."""
        if len(self._proposed) >= _KEPT_PROPOSED:
            self._proposed.clear()
        self._proposed[header.key] = header.steps
        name = f"a{self._actor:03d}-{self._number % PENDING_OF_ACTOR}{SUFFIX}"
        self._number += 1
        try:
            write_atomic(self._dir.incoming / name, pack_state(header, memory, snapshot))
        except (UserError, OSError) as error:
            if not self._failing:
                _say(f"start states are left out for now: {error}")
            self._failing = True
        else:
            self._failing = False

    def _refresh(self) -> None:
        """Reads the index again, if it is time and it is another one."""
        now = time.monotonic()
        if now - self._read_at < self._read_sec:
            return
        self._read_at = now
        try:
            found = self._dir.index.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return
            index = read_index(self._dir.index)
        except (OSError, UserError):
            return  # not there yet, or away for now: the last one holds
        self._seen = seen
        self._entries = [entry for entry in index.entries if self._dir.state(entry.tag, entry.key) not in self.newer]
        self._steps = {entry.key: entry.steps for entry in index.entries if entry.tag == "archive"}


class Archive:
    """The learner's archive: lets states in, counts what followed from them, weighs them, keeps the bounds.

    For one thread. With `max_entries` 0 only a user's own states are there; what was archived before stays as it is.
    """

    def __init__(
        self,
        folder: Path,
        rom_sha1: str,
        weighting: Weighting,
        max_entries: int,
        max_bytes: int,
        say: Callable[[str], None] = print,
    ) -> None:
        """Opens the archive, which is made where it is not there. Raises `UserError` and `StorageError`."""
        self._dir = ArchiveDir(folder).create()
        self._rom_sha1 = rom_sha1
        self._weighting = weighting
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._say = say
        self._entries = Entries()
        self._fruitful: set[EpisodeId] = set()  # open episodes from which a state was let in
        self._quest_weights: dict[str, float] = {}
        self._next_record = 0
        self._damage_passed = False  # since the last index
        self._told_of_newer = False
        self._changed = True
        self.admitted = self.evicted = 0
        self._open()

    @property
    def entries(self) -> list[Entry]:
        """All that episodes may begin at."""
        return list(self._entries)

    @property
    def size_bytes(self) -> int:
        """Of the archived states; a user's own do not count."""
        return self._entries.archived_bytes

    @property
    def unfit(self) -> int:
        """Files that were set aside, by whatever process."""
        return len(_names(self._dir.unfit))

    @property
    def newer(self) -> int:
        """Proposals of a newer format that wait for a newer program."""
        return len(list(self._dir.states.glob(_ALL_TAKEN)))

    @property
    def next_record(self) -> int:
        """The first record of the run whose episode `count` has not been told of."""
        return self._next_record

    @next_record.setter
    def next_record(self, record: int) -> None:
        # The number alone is not worth an index, whose 10,000 entries are two megabytes that all actors read again: the
        # next start reads the same rows again and has nothing to count. A damaged row it would tell of again.
        self._changed |= self._damage_passed
        self._next_record = record

    def pass_damage(self) -> None:
        """A row of an episode could not be read: the index tells so with the next one that can."""
        self._damage_passed = True

    def count(self, start_id: str, episode: EpisodeId, reached: bool) -> None:
        """An episode from a state is over; `reached`: it reached a milestone beyond those of its start."""
        followed = reached or episode in self._fruitful
        self._fruitful.discard(episode)
        entry = self._entries.get(start_id)
        if entry is not None:  # else evicted meanwhile
            self._entries.put(entry.after(followed))
        self._changed = True

    def weigh_by(self, quest_weights: Mapping[str, float]) -> None:
        """What each milestone is worth to practise, see `curriculum.weights_of`; from the next index on."""
        self._changed |= quest_weights != self._quest_weights
        self._quest_weights = dict(quest_weights)

    def admit(self) -> int:
        """Looks at some of what waits in `incoming/`; how many states were let in. Raises `StorageError`."""
        let_in = 0
        try:
            for name in _names(self._dir.incoming)[:MOST_TAKEN_AT_ONCE]:
                taken = self._dir.states / f".{name}{_TAKEN}"
                with contextlib.suppress(FileNotFoundError):
                    (self._dir.incoming / name).replace(taken)
                    crash_point("archive.taken")
                    let_in += self._look_at(taken)
        except OSError as error:
            raise _explained(error, self._dir.path) from None
        return let_in

    def publish(self) -> None:
        """Replaces the index, if anything has changed. Raises `StorageError`."""
        if not self._changed:
            return
        entries = self.entries
        weights = weights_of(entries, self._weighting, self._quest_weights)
        for entry, weight in zip(entries, weights, strict=True):
            self._entries.put(msgspec.structs.replace(entry, weight=weight))
        index = Index(rom_sha1=self._rom_sha1, next_record=self.next_record, entries=self.entries)
        write_atomic(self._dir.index, msgspec.json.encode(index) + b"\n")
        self._changed = self._damage_passed = False

    # Letting in.

    def _look_at(self, path: Path) -> bool:
        """Lets a state in or drops it; whether it was let in."""
        try:
            found = read_state(path)
            self._check_game(found)
        except MissingFileError:
            return False
        except StorageError:
            raise
        except NewerFormatError as error:
            if not self._told_of_newer:
                self._say(_of_newer(error))
            self._told_of_newer = True
            return False
        except UserError as error:
            set_aside(path, self._dir.unfit, error, self._say)
            return False
        entry = _entry(found.header, path.stat().st_size)
        known = self._entries.get(entry.key)
        if known is not None and not entry.steps <= CLEARLY_FEWER * known.steps:
            path.unlink()
            return False
        if not self._make_room(entry, known):
            path.unlink()
            return False
        path.replace(self._dir.state(entry.tag, entry.key))
        crash_point("archive.admitted")
        if known is None and found.header.start_id in self._entries:
            self._fruitful.add(found.header.episode)
        self._put(entry)
        self.admitted += 1
        return True

    def _put(self, entry: Entry) -> None:
        """Takes a state into the index; one that was there before keeps its counts, which are of the cell."""
        known = self._entries.get(entry.key)
        if known is not None:
            changes = {name: getattr(entry, name) for name in ("milestones", "map_id", "steps", "size_bytes")}
            entry = msgspec.structs.replace(known, **changes)
        self._entries.put(entry)
        self._changed = True

    def _make_room(self, entry: Entry, known: Entry | None) -> bool:
        """Evicts what is worth least until the entry fits; False if it is larger than all room."""
        if entry.size_bytes > self._max_bytes or self._max_entries < 1:
            return False
        entries, own = self._entries, known.size_bytes if known is not None else 0
        while (
            entries.archived + (known is None) > self._max_entries
            or entries.archived_bytes - own + entry.size_bytes > self._max_bytes
        ):
            self._evict_worst(besides=entry.key)
        return True

    def _evict_worst(self, besides: str = "") -> None:
        """Evicts the state of the least weight when the index was made last, and of those the most drawn."""
        entry = self._entries.worst(besides)
        assert entry is not None
        self._dir.state(entry.tag, entry.key).unlink(missing_ok=True)
        crash_point("archive.evicted")
        self._entries.remove(entry.key)
        self.evicted += 1
        self._changed = True

    def _check_game(self, found: StartState) -> None:
        if found.header.rom_sha1 != self._rom_sha1:
            raise UnreadableError(
                found.path, f"made in the ROM with SHA-1 {found.header.rom_sha1}, but this run plays {self._rom_sha1}"
            )

    # Opening.

    def _open(self) -> None:
        listed = self._read_index()
        try:
            there = {path.name: path for path in map(self._dir.states.joinpath, _names(self._dir.states))}
            for entry in listed:
                if not self._takes(entry.tag):
                    continue
                path = self._dir.state(entry.tag, entry.key)
                if path.name not in there:
                    continue
                self._entries.put(entry)
                if path.stat().st_size == entry.size_bytes:  # else another one has come into its place
                    del there[path.name]
            for path in there.values():
                self._find(path)
            self._keep_bounds()
            for path in self._dir.states.glob(_ALL_TAKEN):  # its learner was killed, or too old for it
                self._look_at(path)
        except OSError as error:
            raise _explained(error, self._dir.path) from None

    def _read_index(self) -> list[Entry]:
        """The entries of the last index; none where it is not there or of another game."""
        try:
            index = read_index(self._dir.index)
        except MissingFileError:
            return []
        except UnreadableError as error:
            words = "what followed is counted anew from episodes.jsonl, but for new cells"
            self._say(f"{error}; it is made anew from the states, and {words}")
            return []
        if index.rom_sha1 != self._rom_sha1:
            return []  # each file is then looked at, and set aside by its name
        self._next_record = index.next_record
        return index.entries

    def _find(self, path: Path) -> None:
        """A state that the index does not know, or not as it is: let in before a death, or by the launcher."""
        try:
            found = read_state(path)
            self._check_game(found)
        except (StorageError, NewerFormatError):
            raise
        except UserError as error:
            set_aside(path, self._dir.unfit, error, self._say)
            return
        if self._takes(found.header.tag):
            self._put(_entry(found.header, path.stat().st_size))

    def _takes(self, tag: StartTag) -> bool:
        return tag == "state" or self._max_entries > 0

    def _keep_bounds(self) -> None:
        """Evicts what a smaller bound has no room for."""
        entries = self._entries
        while entries.archived > self._max_entries or entries.archived_bytes > self._max_bytes:
            self._evict_worst()


def _entry(header: StateHeader, size_bytes: int) -> Entry:
    return Entry(
        key=header.key,
        tag=header.tag,
        milestones=header.milestones,
        map_id=header.map_id,
        steps=header.steps,
        size_bytes=size_bytes,
    )


def read_index(path: Path) -> Index:
    """The index in a file. Raises as `read_bytes` and `decode_json` do."""
    data = read_bytes(path, _MAX_INDEX_BYTES)
    return decode_json(data, Index, path, Version("schema_version", SCHEMA_VERSION))


def _names(folder: Path) -> list[str]:
    """The `.start` files in a folder, hidden ones aside, by name."""
    return sorted(path.name for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def _explained(error: OSError, path: Path) -> Exception:
    return explain_os_error(error, path) if is_of_storage(error) else error


def _say(line: str) -> None:
    print(line, flush=True)
