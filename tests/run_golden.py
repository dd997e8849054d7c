"""A run directory with one of every file, made by the program's own writers, and its bytes in `tests/data/run/`.

`python tests/run_golden.py` writes those again, after a change of format that was meant; docs/run_directory.md and the
format's version change with it. Clock, host and process are fixed, so the same program makes the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import torch
import wire_golden
import zmq
import zmq.utils.z85

from cluster_rl.batch_system.chain import ChainState, save_chain
from cluster_rl.config import Config, config_to_json
from cluster_rl.emulator import snapshot
from cluster_rl.exploration.archive import Archive, StartStates, StateHeader
from cluster_rl.exploration.bayes_quests import Quest, QuestRecord, QuestRules
from cluster_rl.replay.log import ReplayLog
from cluster_rl.report.video_record import VideoRecord, record_path
from cluster_rl.rom import Rom
from cluster_rl.runs import job_record
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.checkpoint import flatten_state, publish_params, save_checkpoint
from cluster_rl.runs.episode_log import EpisodeHeader, EpisodeLog, EpisodeStart, Milestone, log_name
from cluster_rl.runs.evaluation import Evaluation, save_evaluation
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import Holder, holder_path
from cluster_rl.runs.progress import Progress, QuestAlarm, QuestProgress, Rates, ReplayProgress, save_progress
from cluster_rl.runs.rendezvous import Rendezvous, write_rendezvous
from cluster_rl.training.episode_rows import EpisodeRows
from cluster_rl.training.metrics import MetricsWriter
from cluster_rl.training.quest_rows import QuestRows
from cluster_rl.wire import keys
from cluster_rl.wire.codec import decode_header

FOLDER = Path(__file__).resolve().parent / "data" / "run"
CREATED = 1_700_000_000.5
RUN_ID = "0123456789abcdef0123456789abcdef"
ROM = Rom(data=bytes(0x149) + b"\3", sha1="ab" * 20, kind="unknown", title="LANTERN", path="")
STATE = bytes([29]) + bytes(range(256))  # the first byte is a savestate's version
INITIAL_STATE = "start.snapshot"
EPISODE = f"a003-e01-{wire_golden.INCARNATION:x}-000005.eplog"
GOLDEN = {
    "run.json": "run.json",
    "progress.json": "progress.json",
    "rendezvous.json": "rendezvous.json",
    "chain.json": "chain.json",
    "holder.json": "run.lock.holder",
    "learner_key.json": "keys/learner.json",
    "job.json": "jobs/002.json",
    "video.json": f"videos/{EPISODE.replace('.eplog', '.json')}",
    "metrics.jsonl": "metrics.jsonl",
    "episodes.jsonl": "episodes.jsonl",
    "quests.jsonl": "quests.jsonl",
    "evaluation.json": "evaluation.json",
    "archive-index.json": "archive/index.json",
    "archived.start": "archive/states/0123456789abcdef.start",
    "manifest.json": "checkpoint/20-2/manifest.json",
    "state.json": "checkpoint/20-2/state.json",
    "tensors.safetensors": "checkpoint/20-2/tensors.safetensors",
    "episode.eplog": f"episode_logs/{EPISODE}",
    "start.snapshot": INITIAL_STATE,
}
"""Name in `tests/data/run/` to the file of the run. A replay segment is in `tests/data/wire/`."""
EVALUATION = Evaluation(
    env_steps=600,
    updates=18,
    began=CREATED,
    seconds=12.5,
    episodes=8,
    distinct=3,
    episode_return=3.25,
    half_interval=0.5,
    steps=40.0,
    finished=0.125,
    milestones={"LEFT_HOME": 1.0, "FERN_BADGE": 0.125},
)
HOLD_ZSTD = ("episode.eplog", "start.snapshot")


def files() -> dict[str, bytes]:
    """Name to content, as today's program writes it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = write_run(Path(folder))
        return {name: (run_dir.path / path).read_bytes() for name, path in GOLDEN.items()}


def write_run(root: Path) -> RunDir:
    """The run `one` in `root`, with two checkpoints and two jobs."""
    run_dir = RunDir(root, "one").create()
    config = Config()
    with _fixed_surroundings():
        ensure_identity(run_dir.identity, ROM.sha1, ROM.title)
        write_atomic(run_dir.config, config_to_json(config))
        job_record.write_job_record(config, run_dir)
        _write_golden_job(run_dir)
        save_progress(run_dir.progress, _progress())
        write_rendezvous(run_dir.rendezvous, _rendezvous())
        save_chain(run_dir.chain, ChainState(crashes=1, stalls=1, env_steps=640))
        save_chain(run_dir.actors_chain(1), ChainState())
        run_dir.lock.touch()
        write_atomic(holder_path(run_dir), msgspec.json.encode(Holder.this_process()) + b"\n")
        with mock.patch.object(zmq, "curve_keypair", side_effect=[_key_pair(1), _key_pair(2)]):
            keys.make_keys(run_dir.keys)
        for updates in (10, 20):
            tensors, tree = flatten_state({"weights": torch.tensor([[1.5, -2.0]]), "random": np.arange(3)})
            save_checkpoint(run_dir.checkpoint, tensors, {"updates": updates, "state": tree, "seed": 2**70})
        publish_params(run_dir.online_params, {"weights": torch.tensor([[1.5, -2.0]])}, EVALUATION.point)
        save_evaluation(run_dir.evaluation, EVALUATION)
        metrics = MetricsWriter(run_dir)
        metrics.write(640, 20, {"loss": 0.25, "return": float("nan")})
        metrics.close()
        _write_archive(run_dir)
        rows = EpisodeRows(run_dir.episodes, 0)
        rows.offer(1, 640, decode_header(wire_golden.blocks()[1]))
        rows.write(lambda: None)
        rows.close()
        quests = QuestRows(run_dir)
        rules = QuestRules((Quest("LEFT_HOME", True, 0),), 100, 50.0, 0.0, 500)
        record = QuestRecord(successes=3.0, failures=5.0, trials=9, reached=4, blocks=[(4, 9)])
        quests.write(9, 640, {"LEFT_HOME": record}, rules)
        quests.close()
        _write_replay(run_dir)
    log = _episode()
    run_dir.episode_logs.joinpath(log_name(log.header, log.header.episode)).write_bytes(log.to_bytes())
    run_dir.videos.mkdir()
    video = run_dir.videos / EPISODE.replace(".eplog", ".mp4")
    record = VideoRecord(
        log_sha256="cd" * 32, fps=30, steps=4, frames=12, complete=True, video_bytes=5000, path_bytes=300
    )
    write_atomic(record_path(video), msgspec.json.encode(record) + b"\n")
    with mock.patch.object(snapshot, "pyboy_version", return_value="2.8.1"):
        (run_dir.path / INITIAL_STATE).write_bytes(snapshot.pack(STATE, ROM))
    return run_dir


@contextlib.contextmanager
def _fixed_surroundings() -> Iterator[None]:
    """Time, host and process for all that is stamped with them."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    with contextlib.ExitStack() as stack:
        for patch in (
            mock.patch.dict(os.environ, {**outside, "SLURM_JOB_ID": "17"}, clear=True),
            mock.patch("time.time", return_value=CREATED),
            mock.patch("socket.gethostname", return_value="node7"),
            mock.patch("os.getpid", return_value=4242),
            mock.patch.object(uuid, "uuid4", return_value=types.SimpleNamespace(hex=RUN_ID)),
            mock.patch.object(sys, "argv", ["train_cluster.py", "--run-name", "one"]),
        ):
            stack.enter_context(patch)
        yield


def _key_pair(number: int) -> tuple[bytes, bytes]:
    """No secret: a CURVE pair that anybody can make again."""
    secret = bytes(zmq.utils.z85.encode(bytes([number]) * 32))
    return zmq.curve_public(secret), secret


def _write_golden_job(run_dir: RunDir) -> None:
    """A record of a small config: that of a real one changes with each key of the schema."""
    config = b'{\n  "gamma": 0.5\n}\n'
    record = job_record.JobRecord(
        schema_version=job_record.SCHEMA_VERSION,
        id=2,
        started=CREATED,
        command=["python", "-m", "cluster_rl.train_cluster"],
        folder="/home/user",
        host="node7",
        pid=4242,
        slurm={"JOB_ID": "17"},
        git=job_record.GitState(commit="ef" * 20, dirty=True),
        versions={"python": "3.11.0", "cuda": None},
        config_sha256=hashlib.sha256(config).hexdigest(),
        config=msgspec.Raw(config),
    )
    job_record.save_job_record(run_dir.job_record(2), record)


def _progress() -> Progress:
    progress = Progress(
        run_name="one",
        target_total_steps=1000,
        env_steps=640,
        episodes=3,
        updates=20,
        sequences=8,
        params_version=2,
        rates=Rates(env_steps_per_sec=100.5, updates_per_sec=2.25),
        samples_per_insert=0.9,
        replay=ReplayProgress(transitions=600, capacity=1000, bytes=12345),
        milestones={"LEFT_HOME": 77},
        milestones_elsewhere={"FERN_BADGE": 640},
        quests=QuestProgress(
            frontier={"FERN_BADGE": 0.5},
            stagnant=["FERN_BADGE"],
            alarms={"LEFT_HOME": QuestAlarm(level="critical", probability=0.96875, mean=0.25, target=0.75)},
        ),
        mean_return_recent=-0.25,
        evaluation=EVALUATION,
        activity="training",
    )
    job = progress.continue_job("token", "a new run")
    job.config_sha256, job.ends = "12" * 32, CREATED + 3600
    progress.end_job("time is up", was_complete=True)
    progress.begin_job()
    return progress


def _rendezvous() -> Rendezvous:
    return Rendezvous(
        protocol=5,
        run="one",
        endpoint="tcp://127.0.0.1:5555",
        public_key=_key_pair(1)[0].decode(),
        incarnation=wire_golden.INCARNATION,
        host="node7",
        pid=4242,
        slurm_job_id="17",
        written_unix_sec=CREATED,
    )


def _write_archive(run_dir: RunDir) -> None:
    archive = Archive(run_dir.archive, ROM.sha1, "frontier", 10, 10**6)
    header = StateHeader(
        key="0123456789abcdef",
        tag="archive",
        rom_sha1=ROM.sha1,
        milestones=["LEFT_HOME"],
        map_id=3,
        x=4,
        y=5,
        steps=640,
        episode=(3, wire_golden.INCARNATION, 1, 5),
        step=77,
        start_id="boot",
    )
    StartStates(run_dir.archive, 3, 0.5, proposes=True).propose(header, b"memory", STATE)
    archive.admit()
    archive.count(header.key, header.episode, reached=True)
    archive.next_record = 500
    archive.publish()


def _write_replay(run_dir: RunDir) -> None:
    log = ReplayLog(  # a segment for each block
        run_dir.replay,
        wire_golden.SPEC,
        owner=RUN_ID,
        milestones=wire_golden.MILESTONES,
        segment_bytes=1,
        segment_transitions=1000,
    )
    for seq, block in enumerate(wire_golden.blocks()):
        log.append(wire_golden.ACTOR, wire_golden.INCARNATION, seq, block, decode_header(block))
    log.close()


def _episode() -> EpisodeLog:
    header = EpisodeHeader(
        rom_sha1=ROM.sha1,
        rom_kind=ROM.kind,
        pyboy_version="2.8.1",
        frame_skip=24,
        run="one",
        actor=3,
        incarnation=wire_golden.INCARNATION,
        emulator=1,
        episode=5,
        seed=77,
        params_version=12,
        epsilon=0.25,
        started="2023-11-14T22:13:20+00:00",
        steps=4,
        episode_return=3.5,
        terms={"event": 3.0, "step": 0.5},
        milestones=[Milestone("LEFT_HOME", 3)],
        reason="terminated",
        complete=True,
        ram_hash_interval_steps=2,
        start=EpisodeStart(id="boot", tag="beginning", milestones=[]),
        blackouts=[2],
    )
    return EpisodeLog(
        header=header,
        snapshot=STATE,
        actions=np.array([1, 2, 3, 0], np.uint8),
        checks=np.array([500, 600, 700, 65535], np.uint16),
        positions=np.arange(12, dtype=np.uint8).reshape(4, 3),
        ram_hashes=np.array([2**63, 5], np.uint64),
    )


if __name__ == "__main__":
    made = files()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name, content in made.items():
        (FOLDER / name).write_bytes(content)
