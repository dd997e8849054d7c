"""Every file of a run, damaged in every way: its reader gives a value, or one line that names the file."""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from failing_storage import unreadable
from run_golden import EPISODE, INITIAL_STATE, ROM, RUN_ID, write_run

from cluster_rl.batch_system.chain import read_chain
from cluster_rl.config import load_config
from cluster_rl.emulator.snapshot import load_savestate_file
from cluster_rl.errors import StorageError, UserError
from cluster_rl.exploration.archive import read_index, read_state
from cluster_rl.replay import segments
from cluster_rl.report.video_record import is_finished
from cluster_rl.runs import episode_log, small_file
from cluster_rl.runs.checkpoint import load_checkpoint, point_of, read_params, save_checkpoint
from cluster_rl.runs.evaluation import read_evaluation
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.job_record import newest_config, read_job_record
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import holder_path, read_holder
from cluster_rl.runs.progress import DamagedProgressError, read_progress, recover_progress
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.runs.small_file import MissingFileError, NewerFormatError, UnreadableError, read_bytes
from cluster_rl.training.episode_rows import read_episode_rows
from cluster_rl.training.metrics import MetricsWriter, read_metrics
from cluster_rl.training.quest_rows import QuestRows
from cluster_rl.wire.keys import load_actor_keys, load_learner_keys

_MOST_FLIPS = 1200
_VIDEO = EPISODE.replace(".eplog", ".mp4")


def _segment_header(run_dir: RunDir) -> object:
    path = run_dir.replay / "segment-00000001.log"
    return segments.read_header(path.read_bytes(), path)


def _rows_that_say_damage(run_dir: RunDir) -> None:
    rows = QuestRows(run_dir)
    rows.close()
    if rows.notes:
        raise UserError(*rows.notes)


READERS: dict[str, Callable[[RunDir], object]] = {
    "run.json": lambda run: read_identity(run.identity),
    "config.json": lambda run: load_config(run.config),
    "progress.json": lambda run: read_progress(run.progress),
    "rendezvous.json": lambda run: read_rendezvous(run.rendezvous),
    "chain.json": lambda run: read_chain(run.chain),
    "chain-actors-1.json": lambda run: read_chain(run.actors_chain(1)),
    "run.lock.holder": lambda run: str(read_holder(holder_path(run))),
    "keys/learner.json": lambda run: load_learner_keys(run.keys),
    "keys/actors.json": lambda run: load_actor_keys(run.keys),
    "jobs/001.json": lambda run: read_job_record(run.job_record(1)),
    "jobs/002.json": lambda run: (read_job_record(run.job_record(2)), newest_config(run)),
    "checkpoint/20-2/manifest.json": lambda run: load_checkpoint(run.checkpoint),
    "checkpoint/20-2/state.json": lambda run: load_checkpoint(run.checkpoint),
    "checkpoint/20-2/tensors.safetensors": lambda run: load_checkpoint(run.checkpoint),
    "replay/segment-00000001.log": _segment_header,
    f"episode_logs/{EPISODE}": lambda run: episode_log.read_log(run.episode_logs / EPISODE),
    f"videos/{_VIDEO.replace('.mp4', '.json')}": lambda run: is_finished(run.videos / _VIDEO, "cd" * 32, 30),
    "metrics.jsonl": lambda run: (read_metrics(run.metrics), MetricsWriter(run).close()),
    "episodes.jsonl": lambda run: list(read_episode_rows(run.episodes)),
    "quests.jsonl": lambda run: _rows_that_say_damage(run),
    "archive/index.json": lambda run: read_index(run.archive / "index.json"),
    "archive/states/0123456789abcdef.start": lambda run: read_state(run.archive / "states" / "0123456789abcdef.start"),
    "online_params.pt": lambda run: point_of(read_params(run.online_params)),
    "evaluation.json": lambda run: read_evaluation(run.evaluation),
    INITIAL_STATE: lambda run: load_savestate_file(str(run.path / INITIAL_STATE), ROM),
}
SLOW_TO_READ = {
    "config.json": 100,
    "online_params.pt": 100,
    "jobs/001.json": 300,
    "jobs/002.json": 300,
    **dict.fromkeys((f"checkpoint/20-2/{file}" for file in ("state.json", "tensors.safetensors")), 300),
}
"""So many flips are tried of these where not all are."""
NOT_READ = {"run.lock", "tensorboard", "logs", "report.html", "greedy", "exports"}
"""Held, or written for people and other programs: nothing of ours reads bytes of them. In `greedy/` lie logs and videos
like those of the run."""
WITHOUT_WORDS = {"run.lock.holder", f"videos/{_VIDEO.replace('.mp4', '.json')}", "replay/segment-00000001.log"}
"""Damage to these is no error: nobody is named, the video is made again, the log counts it."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    """In memory where that can be: some disks wait for each file that is written anew."""
    memory = Path("/dev/shm")
    folder = memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("runs")
    with tempfile.TemporaryDirectory(dir=folder) as own:
        yield write_run(Path(own))


@pytest.fixture
def own_run(tmp_path: Path) -> RunDir:
    return write_run(tmp_path)


def test_no_path_of_a_run_is_forgotten(run_dir: RunDir) -> None:
    paths = [path.relative_to(run_dir.path) for path in vars(run_dir).values() if isinstance(path, Path)
             if path not in (run_dir.root, run_dir.path)]  # fmt: skip
    covered = {*map(Path, READERS), *(parent for name in READERS for parent in Path(name).parents)}
    assert [path for path in paths if path not in covered and str(path) not in NOT_READ] == []
    files = {str(path.relative_to(run_dir.path)) for path in run_dir.path.rglob("*") if path.is_file()}
    like = {"checkpoint/10-1", "replay/segment-00000000.log", "replay/lock", "tensorboard/", *NOT_READ}
    assert {name for name in files - READERS.keys() if not name.startswith(tuple(like))} == set()


def _damages(data: bytes, most: int) -> Iterator[tuple[str, bytes]]:
    """What it is, and the file's bytes. Of the bits and the lengths another part each time where there are too many."""
    random_part = random.Random(time.time_ns())
    flips = range(8 * len(data))
    for bit in flips if len(flips) <= most else random_part.sample(flips, most):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(changed)
    lengths = range(len(data))
    for length in lengths if len(lengths) <= most // 8 else random_part.sample(lengths, most // 8):
        yield f"cut at {length}", data[:length]
    for _ in range(20):
        noise = random_part.randbytes(len(data))
        yield f"noise {noise!r}", noise
    for text in (
        *(b"[" * 100_000, b'{"a":' * 100_000, b"\x91" * 100_000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null"),
        *(b"[]", b"{}", b'""', b"\xff\xfe", b'{"\xff": 1}', b'{"schema_version": 1e999}', b"\0" * 64, data + data),
        *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b'{"format": ' + b"9" * 5000),
    ):
        yield repr(text[:40]), text


def _odd_values(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A JSON file with each of its values, at any depth, in turn replaced by one that it should not have."""
    odd = (-1, 2**62 + 1, 2**64, 10**400, -1e308, 1e308, None, "x", "a\nb", [], {}, True)

    def places(value: Any, where: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, child in children:
            yield (*where, key)
            yield from places(child, (*where, key))

    for place in places(json.loads(data), ()):
        for value in odd:
            changed = json.loads(data)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            yield f"{place} = {value!r}", json.dumps(changed).encode()


@pytest.mark.parametrize("name", READERS)
def test_damage_is_a_line_or_nothing(run_dir: RunDir, name: str) -> None:
    _try_damages(run_dir, name, SLOW_TO_READ.get(name, _MOST_FLIPS))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_damage_is_a_line_or_nothing(run_dir: RunDir, name: str) -> None:
    _try_damages(run_dir, name, 20 * SLOW_TO_READ[name] if name in SLOW_TO_READ else 2**31)


def _try_damages(run_dir: RunDir, name: str, most: int) -> None:
    path = run_dir.path / name
    mode, whole = path.stat().st_mode, path.read_bytes()
    READERS[name](run_dir)
    damages = [*_damages(whole, most)]
    if name.endswith(".json") and name not in SLOW_TO_READ:
        damages += _odd_values(whole)
    refused = 0
    try:
        for what, data in damages:
            path.write_bytes(data)
            try:
                READERS[name](run_dir)
            except UserError as error:
                refused += 1
                words = str(error)
                of = run_dir.checkpoint if name.startswith("checkpoint/") else path
                assert str(of) in words, what
                assert "\n" not in words, what
                assert len(words) < 1000, what
            except BaseException as error:
                raise AssertionError(f"{name}, {what}: {type(error).__name__}: {error}") from error
    finally:
        path.write_bytes(whole)
        path.chmod(mode)
    # Of a checkpoint the older one is taken; only one that seems newer is refused.
    of_words = name not in WITHOUT_WORDS and not name.startswith("checkpoint/")
    assert (refused > len(damages) // 20) == of_words


def _in_their_places() -> list[tuple[str, str]]:
    """(file, what lies there): a config may come through a pipe, metrics and episodes have no bound,
    torch reads its own files, and the log opens its segments itself."""
    rows = {(f"{name}.jsonl", kind) for name in ("metrics", "episodes") for kind in ("pipe", "huge")}
    unlike = {("config.json", "pipe"), *rows}
    names = [name for name in READERS if not name.startswith(("replay/", "online_params"))]
    return [(name, kind) for name in names for kind in ("folder", "pipe", "huge") if (name, kind) not in unlike]


@pytest.mark.parametrize(("name", "kind"), _in_their_places())
def test_something_else_in_a_files_place_is_a_line(own_run: RunDir, name: str, kind: str) -> None:
    path = own_run.path / name
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "huge":
            with path.open("wb") as file:
                os.truncate(file.fileno(), 1 << 40)
            path.chmod(0o600)
    if name in WITHOUT_WORDS:
        assert READERS[name](own_run) in ("None", False)
    elif name.startswith("checkpoint/"):
        loaded = load_checkpoint(own_run.checkpoint)
        assert loaded is not None
        assert loaded.updates == 10
    else:
        with pytest.raises(UserError) as caught:
            READERS[name](own_run)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_lies_in_the_way_of_a_run_is_told_before_it_starts(tmp_path: Path) -> None:
    probe = RunDir(tmp_path, "probe").create()
    probe.check_kinds()
    names = [path.name for path in vars(probe).values() if isinstance(path, Path) if path.parent == probe.path]
    assert len(names) >= 15
    for number, name in enumerate(names):
        run_dir = RunDir(tmp_path, f"run{number}")
        run_dir.path.mkdir()
        folders = ("checkpoint", "replay", "episode_logs", "videos", "greedy", "tensorboard", "logs", "jobs", "keys")
        folders += ("archive", "exports")
        if name in folders:
            (run_dir.path / name).touch()
        else:
            (run_dir.path / name).mkdir()
        with pytest.raises(UserError, match=f"{name}: a (file|folder) lies where the run (needs|keeps)"):
            run_dir.check_kinds()


def _set(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


VERSIONED = {
    "run.json": "schema_version",
    "progress.json": "schema_version",
    "chain.json": "schema_version",
    "keys/learner.json": "schema_version",
    "jobs/001.json": "schema_version",
    "checkpoint/20-2/manifest.json": "format",
}


@pytest.mark.parametrize("name", VERSIONED)
def test_a_newer_format_is_called_newer(own_run: RunDir, name: str) -> None:
    path = own_run.path / name
    for data in (json.loads(path.read_text()) | {VERSIONED[name]: 2}, {VERSIONED[name]: 3, "other": []}):
        path.write_text(json.dumps(data))
        told = f"{path}: format {data[VERSIONED[name]]}, this program reads 1; use the newer program"
        with pytest.raises(NewerFormatError, match=told):
            READERS[name](own_run)


@pytest.mark.parametrize(("version", "error"), [(5, "use the newer program"), (3, "go on with the program that wrote")])
def test_another_format_of_the_log_is_named(own_run: RunDir, version: int, error: str) -> None:
    path = own_run.replay / "segment-00000001.log"
    data = path.read_bytes()
    path.write_bytes(data[:6] + bytes([version]) + data[7:])
    with pytest.raises(UserError, match=f"{path}: format {version}, this program reads .*{error}"):
        _segment_header(own_run)


def test_a_rendezvous_of_another_shape_tells_its_protocol(own_run: RunDir) -> None:
    own_run.rendezvous.write_text('{"protocol": 7, "learners": []}')
    with pytest.raises(
        UserError, match=r"no rendezvous file that this program knows \(protocol 7\): use the program of"
    ):
        read_rendezvous(own_run.rendezvous)


def test_a_newer_snapshot_and_episode_log_are_called_newer(own_run: RunDir) -> None:
    path = own_run.path / INITIAL_STATE
    path.write_bytes(path.read_bytes().replace(b'"schema_version":1', b'"schema_version":2'))
    with pytest.raises(NewerFormatError, match="format 2, this program reads 1; use the newer program"):
        READERS[INITIAL_STATE](own_run)
    log = own_run.episode_logs / EPISODE
    data = log.read_bytes()
    log.write_bytes(data[:8] + b"\3" + data[9:])
    for read in (episode_log.read_log, episode_log.read_header):
        with pytest.raises(NewerFormatError, match=f"{log}: format 3, this program reads 2; use the newer program"):
            read(log)


@pytest.mark.parametrize("name", ["run.json", "chain.json", "keys/learner.json"])
def test_files_from_before_they_had_a_version_are_read(own_run: RunDir, name: str) -> None:
    before = READERS[name](own_run)
    path = own_run.path / name
    values = json.loads(path.read_text())
    assert values.pop("schema_version") == 1
    path.write_text(json.dumps(values))
    assert READERS[name](own_run) == before


def test_a_snapshot_from_before_it_had_a_version_is_read(own_run: RunDir) -> None:
    path = own_run.path / INITIAL_STATE
    data = path.read_bytes()
    length = int.from_bytes(data[8:12], "little")
    header = data[12 : 12 + length].replace(b',"schema_version":1', b"")
    path.write_bytes(data[:8] + len(header).to_bytes(4, "little") + header + data[12 + length :])
    assert load_savestate_file(str(path), ROM) == path.read_bytes()


def test_a_manifest_that_is_no_text_does_not_hide_the_older_checkpoint(own_run: RunDir) -> None:
    path = own_run.checkpoint / "20-2" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"tensors", b"tens\xffrs"))
    loaded = load_checkpoint(own_run.checkpoint)
    assert loaded is not None
    assert loaded.updates == 10
    assert "20-2: damaged (manifest.json: " in loaded.notes[0]


def test_a_newer_checkpoint_is_neither_passed_over_nor_deleted(own_run: RunDir) -> None:
    _set(own_run.checkpoint / "20-2" / "manifest.json", format=2)
    with pytest.raises(UserError, match=r"20-2/manifest\.json: format 2"):
        load_checkpoint(own_run.checkpoint)
    for updates in (30, 40, 50):
        save_checkpoint(own_run.checkpoint, {}, {"updates": updates})
    assert sorted(path.name for path in own_run.checkpoint.iterdir()) == ["20-2", "40-4", "50-5"]


def test_numbers_that_cannot_be_are_damage(own_run: RunDir) -> None:
    _set(own_run.progress, env_steps=-5)
    with pytest.raises(DamagedProgressError, match="damaged"):
        read_progress(own_run.progress)
    assert recover_progress(own_run.progress)[0] is None
    _set(own_run.chain, crashes=-1)
    with pytest.raises(UserError, match=r"chain\.json: damaged"):
        read_chain(own_run.chain)
    path = own_run.replay / "segment-00000001.log"
    found = segments.read_header(path.read_bytes(), path)
    assert found is not None
    header = found[0]
    assert (header.owner, header.before.env_steps) == (RUN_ID, 2)
    for number in (-1, 2**62 + 1):
        header.before.env_steps = number
        segment = segments.create_segment(own_run.replay, 7, header)
        assert segments.read_header(segment.path.read_bytes(), segment.path) is None
        segment.close()


def test_a_file_that_is_replaced_on_a_network_disk_is_opened_again(
    own_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, real = [True, True], os.open

    def open_stale(path: Path, flags: int, *rest: int) -> int:
        if stale and Path(path) == own_run.identity:
            stale.pop()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(small_file.os, "open", open_stale)
    assert READERS["run.json"](own_run) is not None
    assert not stale
    stale.extend([True] * 9)
    with pytest.raises(StorageError, match="Stale file handle") as caught:
        read_bytes(own_run.identity)
    assert caught.value.number == errno.ESTALE


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="none: cannot be read: No such file"):
        read_bytes(tmp_path / "none")
    with pytest.raises(UnreadableError, match=r"null (byte|character)"):
        read_bytes(tmp_path / "a\0b")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN])
@pytest.mark.parametrize("name", sorted(READERS.keys() - WITHOUT_WORDS - {"rendezvous.json"}))
def test_what_storage_does_not_give_is_not_damaged(run_dir: RunDir, name: str, number: int) -> None:
    path = run_dir.path / name
    with unreadable(path, number), pytest.raises(StorageError) as caught:
        READERS[name](run_dir)
    assert str(path) in caught.value.lines[0]
    assert (caught.value.path, caught.value.number) == (path, number)


def test_a_disk_that_fails_while_a_file_is_read_has_not_damaged_it(
    own_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as it is opened, as above: of the bytes, which may lie elsewhere than the name."""
    before = own_run.progress.read_bytes()

    def failing(descriptor: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(small_file.os, "fstat", failing)
        with pytest.raises(StorageError, match=r"progress.json: cannot be read: Input/output error; check the disk"):
            recover_progress(own_run.progress)
    assert own_run.progress.read_bytes() == before
    assert not list(own_run.path.glob("*.damaged"))


def test_a_learner_that_cannot_be_found_for_its_storage_is_looked_for_again(own_run: RunDir) -> None:
    for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        with unreadable(own_run.rendezvous, number):
            assert read_rendezvous(own_run.rendezvous) is None
    assert read_rendezvous(own_run.rendezvous) is not None
