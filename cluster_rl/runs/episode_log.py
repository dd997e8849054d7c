"""Episode logs: everything needed to play one episode again, frame by frame, in one checked file.

Actor processes write them through `EpisodeRecorder`; `cluster_rl.replayer` and reports read them. In: the snapshot an
episode starts from, then each step's action, RAM check and position. Out: files like
`episode_logs/a003-e01-<incarnation>-000042.eplog`.

A file has six or seven parts behind their prefix, see `parts_file.py`:

    header      JSON, not compressed: the only part that `read_header` reads
    snapshot    zstd; the emulator's stamped snapshot before the first step
    actions     zstd; uint8 [steps], index of the button pressed
    checks      zstd; uint16 [steps], the console's `live_check` after the step
    positions   zstd; uint8 [steps, 3], (map id, x, y) after the step
    ram_hashes  zstd; uint64 [steps // ram_hash_interval_steps], the console's `ram_hash` after every interval-th step
    scripts     zstd; msgpack, a list of [steps] byte strings: what was done to the emulator in each step

The last is there in format 2 alone, which is written where another project's environment plays: its steps press more
than their button, and write RAM. `emulator/script.py` says what is in them.

Numbers are little-endian. Checks find the very step where a replay leaves the recording, hashes cover all of RAM, and
positions let maps be drawn without emulating anything (3 bytes a step, about half a byte once compressed).
"""

from __future__ import annotations

import datetime
import os
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from cluster_rl.errors import UserError, read_error
from cluster_rl.runs.atomic import explain_os_error, replace_unsynced, write_atomic
from cluster_rl.runs.parts_file import PartsFormat
from cluster_rl.runs.small_file import Count, UnreadableError, decode_json, decode_msgpack, read_bytes

SUFFIX = ".eplog"
FORMAT_VERSION = 1
SCRIPTED_VERSION = 2

_PARTS = ("header", "snapshot", "actions", "checks", "positions", "ram_hashes")
# The magic is no text, and is damaged by any newline translation, like PNG's.
_FORMAT = PartsFormat(b"\x89EPLOG\r\n", FORMAT_VERSION, len(_PARTS))
_SCRIPTED_FORMAT = PartsFormat(_FORMAT.magic, SCRIPTED_VERSION, len(_PARTS) + 1)
_MAX_HEADER_BYTES = 1 << 24
_MAX_SNAPSHOT_BYTES = 1 << 24
_MAX_STEPS = 50_000_000  # seven months of the console's time; the arrays of as many take 300 MB
_MAX_FILE_BYTES = 1 << 28
_MAX_SCRIPTS_BYTES = 1 << 30
_ZSTD_LEVEL = 3


_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Steps = Annotated[int, msgspec.Meta(ge=1, le=_MAX_STEPS)]


class Milestone(msgspec.Struct, frozen=True):
    """A milestone and the step of the episode (counted from 1) after which it was first seen."""

    name: str
    step: int


class EpisodeStart(msgspec.Struct, frozen=True, kw_only=True):
    """Where the episode began: which kind of start, which one of it, and the milestones reached there before."""

    id: str
    tag: str
    milestones: list[str]


class EpisodeIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What all episodes of one emulator share: the game, the emulator's version, and who plays.

    `environment` is empty for ours; else it says whose it is, and the log has scripts.
    """

    rom_sha1: str
    rom_kind: str
    pyboy_version: str
    frame_skip: _Positive
    run: str
    actor: Count
    incarnation: Count
    emulator: Count
    environment: str = ""


class EpisodeHeader(EpisodeIdentity, frozen=True, kw_only=True):
    """The JSON header. `steps`, `episode_return`, `terms`, `milestones` and `blackouts` are as of the last write.

    `blackouts` are the steps (counted from 1) in which the whole party fainted. `start` and `blackouts` are None in
    logs of older programs.
    """

    schema: int = FORMAT_VERSION
    episode: Count
    seed: int
    params_version: int
    epsilon: float
    started: str
    steps: _Steps
    episode_return: float = msgspec.field(name="return")
    terms: dict[str, float]
    milestones: list[Milestone]
    reason: str
    complete: bool
    ram_hash_interval_steps: _Positive
    start: EpisodeStart | None = None
    blackouts: list[Count] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeLog:
    """One episode as recorded; shapes and dtypes are in the module's docstring."""

    header: EpisodeHeader
    snapshot: bytes
    actions: npt.NDArray[np.uint8]
    checks: npt.NDArray[np.uint16]
    positions: npt.NDArray[np.uint8]
    ram_hashes: npt.NDArray[np.uint64]
    scripts: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
        parts = [
            msgspec.json.encode(self.header),
            compress(self.snapshot),
            compress(self.actions.astype("<u1").tobytes()),
            compress(self.checks.astype("<u2").tobytes()),
            compress(self.positions.astype("<u1").tobytes()),
            compress(self.ram_hashes.astype("<u8").tobytes()),
        ]
        if self.scripts:
            return _SCRIPTED_FORMAT.pack(*parts, compress(msgspec.msgpack.encode(self.scripts)))
        return _FORMAT.pack(*parts)


def log_name(identity: EpisodeIdentity, episode: int) -> str:
    """File name of an episode's log; unique in a run, because an actor that is started again has a new incarnation."""
    return f"a{identity.actor:03d}-e{identity.emulator:02d}-{identity.incarnation:x}-{episode:06d}{SUFFIX}"


def log_paths(folder: Path) -> Iterator[Path]:
    """The logs in a folder, in no order; none where it is missing. Hidden files are none: editors' and copiers' own."""
    return (path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def read_header(path: Path) -> EpisodeHeader:
    """Reads and checks only the prefix and the header (and that the file is as long as they say).

    Raises `UserError` as `read_log` does.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(_SCRIPTED_FORMAT.prefix_bytes)
            size_bytes = os.fstat(file.fileno()).st_size
            parts, offset = _parse_prefix(prefix, size_bytes, str(path))
            file.seek(offset)
            header_bytes = file.read(parts["header"][0])
    except OSError as error:
        raise read_error(error, path, "episode log") from None
    return _parse_header(_checked(header_bytes, parts["header"][1], "header", str(path)), str(path))


def read_log(path: Path) -> EpisodeLog:
    """Reads an episode log and checks every part of it.

    Raises `UserError` for a file that is missing, cut short, damaged, no episode log, or of another format version.
    """
    return parse_log(read_log_bytes(path), str(path))


def read_log_bytes(path: Path) -> bytes:
    """The bytes of an episode log, for `parse_log`. Raises `UserError` for a file that is missing or no such file."""
    try:
        return read_bytes(path, _MAX_FILE_BYTES)
    except UnreadableError as error:
        raise UserError(f"episode log {error}") from None


def parse_log(data: bytes, source: str) -> EpisodeLog:
    """Decodes a file's bytes; `source` names them in errors. Raises `UserError` as `read_log` does."""
    parts, offset = _parse_prefix(data[: _SCRIPTED_FORMAT.prefix_bytes], len(data), source)
    stored: dict[str, bytes] = {}
    for name, (length, crc) in parts.items():
        stored[name] = _checked(data[offset : offset + length], crc, name, source)
        offset += length
    header = _parse_header(stored["header"], source)
    hashes = header.steps // header.ram_hash_interval_steps

    def numbers(name: str, dtype: str, count: int) -> npt.NDArray[Any]:
        size_bytes = count * np.dtype(dtype).itemsize
        raw = _decompress(stored[name], size_bytes, name, source)
        if len(raw) != size_bytes:
            raise _damaged(source, f"{name} holds {len(raw)} bytes where {header.steps} steps need {size_bytes}")
        return np.frombuffer(raw, dtype)

    return EpisodeLog(
        header=header,
        snapshot=_decompress(stored["snapshot"], _MAX_SNAPSHOT_BYTES, "snapshot", source),
        actions=numbers("actions", "<u1", header.steps),
        checks=numbers("checks", "<u2", header.steps),
        positions=numbers("positions", "<u1", header.steps * 3).reshape(header.steps, 3),
        ram_hashes=numbers("ram_hashes", "<u8", hashes),
        scripts=_scripts(stored, header.steps, source),
    )


class RecordedConsole(Protocol):
    """What the recorder asks of a console."""

    def ram_hash(self) -> int:
        """64-bit hash of all RAM."""
        ...

    def position(self) -> tuple[int, int, int]:
        """(map id, x, y) of the player."""
        ...

    def script(self) -> bytes:
        """What was done to it in the last step; empty where the button says all."""
        ...


class EpisodeStartLike(Protocol):
    """What the recorder reads of an episode's start."""

    @property
    def id(self) -> str: ...
    @property
    def tag(self) -> str: ...
    @property
    def milestones(self) -> Sequence[str]: ...


class EpisodeSummaryLike(Protocol):
    """What the recorder reads of an episode's summary."""

    @property
    def episode_return(self) -> float: ...
    @property
    def terms(self) -> Mapping[str, float]: ...
    @property
    def milestones(self) -> Sequence[tuple[str, int]]: ...
    @property
    def reason(self) -> str: ...


class EpisodeRecorder:
    """Records the episodes of one emulator, one file each, in `folder` (made where it is missing).

    Every `flush_steps` steps the open episode's file is replaced by a longer one with `complete` false, so that a
    killed actor leaves a log that can be rendered. Only the final write is synced to the device: a log lost with the
    machine's power costs a video, not the run. Neither does one that cannot be written, unless they are `needed`: it is
    left out and counted in `lost`, and a line says so when that begins and when it ends.

    Raises `UserError` where a log that is `needed` cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        identity: EpisodeIdentity,
        ram_hash_interval_steps: int,
        flush_steps: int = 1000,
        needed: bool = True,
    ) -> None:
        self.lost = 0  # episodes without a log, since one was written last
        self._failing = False
        self._folder = folder
        self._needed = needed
        self._identity = identity
        self._interval_steps = ram_hash_interval_steps
        self._flush_steps = flush_steps
        self._episode = -1
        self._params_version = -1
        self._epsilon = 0.0
        self._seed = 0
        self._started = ""
        self._start: EpisodeStart | None = None
        self._snapshot: bytes | None = None  # None: no episode is open
        self._actions = bytearray()
        self._checks = array("H")
        self._positions = bytearray()
        self._hashes = array("Q")
        self._scripts: list[bytes] = []
        self._blackouts: list[int] = []

    @property
    def path(self) -> Path:
        """Where the log of the current (or last) episode is."""
        return self._folder / log_name(self._identity, self._episode)

    def set_context(self, params_version: int, epsilon: float) -> None:
        """What the header says about the policy. Parameters change within an episode; the last ones set are written."""
        self._params_version = params_version
        self._epsilon = epsilon

    def start(self, snapshot: bytes, state: object, seed: int, start: EpisodeStartLike) -> None:
        """Opens the next episode. `snapshot` is the emulator before the first step, `start` says where it came from.

        An episode that was never finished stays on disk as incomplete.
        """
        if self._snapshot is not None:
            self.flush()
        self._episode += 1
        self._seed = seed
        self._start = EpisodeStart(id=start.id, tag=start.tag, milestones=list(start.milestones))
        self._started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._snapshot = snapshot
        for column in (self._actions, self._checks, self._positions, self._hashes, self._scripts, self._blackouts):
            del column[:]

    def step(self, action: int, check: int, console: RecordedConsole) -> None:
        """Records one step, after the console made it. `check` is the console's 16-bit `live_check`."""
        assert self._snapshot is not None, "step before start"
        self._actions.append(action)
        self._checks.append(check)
        self._positions.extend(console.position())
        if self._identity.environment:
            self._scripts.append(console.script())
        steps = len(self._actions)
        if steps % self._interval_steps == 0:
            self._hashes.append(console.ram_hash())
        if steps % self._flush_steps == 0:
            self.flush()

    def blackout(self) -> None:
        """In the step that was recorded last the whole party fainted."""
        self._blackouts.append(len(self._actions))

    def finish(self, summary: EpisodeSummaryLike) -> None:
        """Writes the whole episode, complete, and closes it."""
        self._write(summary)
        self._snapshot = None

    def flush(self) -> None:
        """Writes the open episode as far as it got, with `complete` false."""
        self._write(None)

    def _write(self, summary: EpisodeSummaryLike | None) -> None:
        assert self._snapshot is not None, "no episode is open"
        if not self._actions:
            return  # nothing happened: there is nothing to play again
        milestones = summary.milestones if summary else ()
        header = EpisodeHeader(
            **msgspec.structs.asdict(self._identity),
            schema=SCRIPTED_VERSION if self._scripts else FORMAT_VERSION,
            episode=self._episode,
            seed=self._seed,
            params_version=self._params_version,
            epsilon=self._epsilon,
            started=self._started,
            steps=len(self._actions),
            episode_return=float(summary.episode_return) if summary else 0.0,
            terms=dict(summary.terms) if summary else {},
            milestones=[Milestone(name, step) for name, step in milestones],
            reason=summary.reason if summary else "",
            complete=summary is not None,
            ram_hash_interval_steps=self._interval_steps,
            start=self._start,
            blackouts=list(self._blackouts),
        )
        log = EpisodeLog(
            header=header,
            snapshot=self._snapshot,
            actions=np.frombuffer(bytes(self._actions), np.uint8),
            checks=np.array(self._checks, np.uint16),
            positions=np.frombuffer(bytes(self._positions), np.uint8).reshape(-1, 3),
            ram_hashes=np.array(self._hashes, np.uint64),
            scripts=tuple(self._scripts),
        )
        self._put(log.to_bytes(), synced=summary is not None)

    def _put(self, data: bytes, synced: bool) -> None:
        write = write_atomic if synced else replace_unsynced
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                write(self.path, data)
            except FileNotFoundError:  # a job that began cleared away what it took for a dead process's
                write(self.path, data)
        except (UserError, OSError) as error:
            why = explain_os_error(error, self.path) if isinstance(error, OSError) else error
            if self._needed:
                raise why from None
            if not self._failing:
                print(f"episode logs are left out for now: {why}", flush=True)
            self._failing = True
            self.lost += synced
        else:
            if self._failing:
                print(f"episode logs are written again; {self.lost} were left out", flush=True)
            self._failing, self.lost = False, 0


def _parse_prefix(prefix: bytes, size_bytes: int, source: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Part name to (stored length, crc32), and where the first part begins."""
    magic = prefix[: len(_FORMAT.magic)]
    if magic != _FORMAT.magic[: len(magic)] or not magic:
        raise UserError(f"episode log {source}: not an episode log; remove it or give another file")
    scripted = not _FORMAT.is_version(prefix)
    format_ = _SCRIPTED_FORMAT if scripted else _FORMAT
    format_.check_version(prefix, f"episode log {source}")
    if len(prefix) < format_.prefix_bytes:
        raise UserError(f"episode log {source}: cut short at {size_bytes} bytes; remove it, it cannot be rendered")
    table = format_.table(prefix)
    if table is None:
        raise _damaged(source, "its first bytes do not match their checksum")
    parts = dict(zip((*_PARTS, "scripts") if scripted else _PARTS, table, strict=True))
    expected_bytes = format_.prefix_bytes + sum(length for length, _ in parts.values())
    if size_bytes < expected_bytes:
        raise UserError(
            f"episode log {source}: cut short, {size_bytes} of {expected_bytes} bytes are there; "
            "remove it, it cannot be rendered"
        )
    if size_bytes > expected_bytes:
        raise _damaged(source, f"{size_bytes - expected_bytes} bytes too many")
    if parts["header"][0] > _MAX_HEADER_BYTES:
        raise _damaged(source, f"a header of {parts['header'][0]} bytes")
    return parts, format_.prefix_bytes


def _parse_header(data: bytes, source: str) -> EpisodeHeader:
    try:
        return decode_json(data, EpisodeHeader, f"episode log {source}: its header")
    except UnreadableError as error:
        raise UserError(f"{error}; remove it, it cannot be rendered") from None


def _scripts(stored: Mapping[str, bytes], steps: int, source: str) -> tuple[bytes, ...]:
    """One for each step; none in a log without them."""
    if "scripts" not in stored:
        return ()
    raw = _decompress(stored["scripts"], _MAX_SCRIPTS_BYTES, "scripts", source)
    scripts = decode_msgpack(raw, tuple[bytes, ...], f"episode log {source}: its scripts")
    if len(scripts) != steps:
        raise _damaged(source, f"{len(scripts)} scripts for {steps} steps")
    return scripts


def _checked(data: bytes, crc: int, name: str, source: str) -> bytes:
    if zlib.crc32(data) != crc:
        raise _damaged(source, f"its {name} does not match its checksum")
    return data


def _decompress(data: bytes, max_bytes: int, name: str, source: str) -> bytes:
    try:
        # The frame states its size; checked first, so that no crafted file can fill the memory.
        size_bytes = zstandard.frame_content_size(data)
        if not 0 <= size_bytes <= max_bytes:
            raise _damaged(source, f"its {name} unpacks to {size_bytes} bytes, more than {max_bytes}")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise _damaged(source, f"its {name} cannot be unpacked: {error}") from None


def _damaged(source: str, how: str) -> UserError:
    return UserError(f"episode log {source}: damaged: {how}; remove it, it cannot be rendered")
