"""Golden bytes of a run's files: today's program still writes them, and reads what they hold.

A change of format fails here before it meets an older run. Segments of the replay log are in tests/unit/wire.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import run_golden
import torch
import wire_golden
import zstandard
from run_golden import EPISODE, INITIAL_STATE, ROM, RUN_ID, STATE

from cluster_rl.batch_system.chain import ChainState, read_chain
from cluster_rl.emulator.snapshot import load_savestate_file, unpack
from cluster_rl.exploration.archive import read_index, read_state
from cluster_rl.report.video_record import VideoRecord
from cluster_rl.runs.checkpoint import load_checkpoint, unflatten_state
from cluster_rl.runs.episode_log import read_log
from cluster_rl.runs.evaluation import read_evaluation
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.job_record import read_job_record
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import holder_path, read_holder
from cluster_rl.runs.progress import read_progress
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.runs.small_file import read_json
from cluster_rl.training.episode_rows import read_episode_rows
from cluster_rl.training.metrics import read_metrics
from cluster_rl.wire.keys import load_learner_keys

TODAY = run_golden.files()


@pytest.mark.parametrize("name", run_golden.GOLDEN)
def test_our_writers_make_the_same_bytes(name: str) -> None:
    if name in run_golden.HOLD_ZSTD and zstandard.ZSTD_VERSION != wire_golden.ZSTD_VERSION:
        pytest.skip(f"made with zstd {wire_golden.ZSTD_VERSION}, which may compress to other bytes than this one")
    assert TODAY[name] == (run_golden.FOLDER / name).read_bytes()


def test_there_is_no_other_file() -> None:
    assert {path.name for path in run_golden.FOLDER.iterdir()} == run_golden.GOLDEN.keys()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """The golden files, in their places."""
    run_dir = RunDir(tmp_path, "one").create()
    for name, place in run_golden.GOLDEN.items():
        path = run_dir.path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((run_golden.FOLDER / name).read_bytes())
        path.chmod(0o600)
    return run_dir


def test_what_people_and_programs_look_at(run_dir: RunDir) -> None:
    identity = read_identity(run_dir.identity)
    assert identity is not None
    assert (identity.run_id, identity.rom_sha1, identity.rom_title) == (RUN_ID, ROM.sha1, "LANTERN")
    progress = read_progress(run_dir.progress)
    assert progress is not None
    assert (progress.env_steps, progress.updates, progress.milestones) == (640, 20, {"LEFT_HOME": 77})
    assert [(job.id, job.host, job.reason) for job in progress.jobs] == [(1, "node7", "time is up"), (2, "node7", "")]
    learner = read_rendezvous(run_dir.rendezvous)
    assert learner is not None
    assert (learner.endpoint, learner.incarnation) == ("tcp://127.0.0.1:5555", wire_golden.INCARNATION)
    assert read_evaluation(run_dir.evaluation) == progress.evaluation == run_golden.EVALUATION
    assert read_chain(run_dir.chain) == ChainState(crashes=1, stalls=1, env_steps=640)
    assert str(read_holder(holder_path(run_dir))).startswith("process 4242 on node7, SLURM job 17, since 2023-11-1")
    assert learner.public_key == load_learner_keys(run_dir.keys).public
    job = read_job_record(run_dir.job_record(2))
    assert (job.slurm, bytes(job.config)) == ({"JOB_ID": "17"}, b'{\n    "gamma": 0.5\n  }')
    ((row, end),) = read_episode_rows(run_dir.episodes)
    assert (row.record, row.env_steps, row.start_tag, row.milestones["FERN_BADGE"]) == (1, 640, "archive", 4)
    assert end == run_dir.episodes.stat().st_size
    index = read_index(run_dir.archive / "index.json")
    (entry,) = index.entries
    assert (index.rom_sha1, index.next_record) == (ROM.sha1, 500)
    assert (entry.key, entry.steps, entry.drawn, entry.followed) == ("0123456789abcdef", 640, 1, 1.0)
    assert entry.weight == 1.0
    state = read_state(run_dir.archive / "states" / f"{entry.key}.start")
    assert (state.snapshot, state.memory, state.header.step) == (STATE, b"memory", 77)
    assert read_metrics(run_dir.metrics) == [
        {"time": run_golden.CREATED, "env_steps": 640, "updates": 20, "loss": 0.25, "return": None}
    ]


def test_what_a_run_goes_on_from(run_dir: RunDir) -> None:
    loaded = load_checkpoint(run_dir.checkpoint)
    assert loaded is not None
    assert (loaded.updates, loaded.number, loaded.meta["seed"]) == (20, 2, 2**70)
    state = unflatten_state(loaded.tensors, loaded.meta["state"])
    assert torch.equal(state["weights"], torch.tensor([[1.5, -2.0]]))
    assert np.array_equal(state["random"], np.arange(3))


def test_what_is_played_again(run_dir: RunDir) -> None:
    log = read_log(run_dir.episode_logs / EPISODE)
    assert (log.header.episode, log.header.reason, log.snapshot) == (5, "terminated", STATE)
    assert log.checks.tolist() == [500, 600, 700, 65535]
    assert log.ram_hashes.tolist() == [2**63, 5]
    assert unpack(load_savestate_file(str(run_dir.path / INITIAL_STATE), ROM), ROM) == STATE
    (video,) = run_dir.videos.iterdir()
    assert read_json(video, VideoRecord).frames == 12
