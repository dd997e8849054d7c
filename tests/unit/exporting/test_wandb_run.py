"""A run as an offline run of Weights & Biases, read again by the package's reader; a line where that is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run, metrics_row
from PIL import Image

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.exporting.wandb_run import export_wandb, newest_videos
from cluster_rl.report.run_facts import Videos
from cluster_rl.runs.layout import RunDir


def made(root: Path) -> RunDir:
    return make_run(
        root,
        config=Config(gamma=0.9),
        metrics=[metrics_row(0), metrics_row(1, learner__loss=0.5) | {"episode/return": None}],  # type: ignore[dict-item]
        milestones={"LEFT_HOME": 150},
    )


def records(data: bytes) -> Iterator[bytes]:
    """What a `.wandb` file holds: a log as LevelDB has it, behind a header of seven bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, part = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_without_the_package_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"python -m pip install 'cluster_rl\[wandb\]'"):
        export_wandb(made(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_newest_videos_and_one_that_is_gone(tmp_path: Path) -> None:
    names = {f"e{number}": f"v{number}.mp4" for number in range(22)}
    for number, name in enumerate(names.values()):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100 - number, 100 - number))
    found = newest_videos(tmp_path, Videos(names))
    assert [episode for episode, _ in found] == [f"e{number}" for number in reversed(range(20))]
    (tmp_path / "v3.mp4").unlink()
    with pytest.raises(UserError, match=r"v3\.mp4: cannot be read"):
        newest_videos(tmp_path, Videos(names))


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed: pip install -e '.[wandb]'"
)
def test_rows_config_and_summary(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    run_dir = made(tmp_path)
    run_dir.videos.mkdir()
    (run_dir.videos / "a000.mp4").write_bytes(b"a video")
    Image.new("L", (4, 3)).save(run_dir.videos / "a000.png")
    told = export_wandb(run_dir, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    assert told[0].startswith(f"{folder}: 2 rows, 1 videos; to upload it: wandb sync ")
    assert folder.name.startswith("offline-run-")
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    (path,) = folder.glob("run-*.wandb")
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        name = lambda item: item.key or "/".join(item.nested_key)  # noqa: E731
        if record.HasField("run"):
            assert record.run.display_name == "made"
            config |= {name(item): json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            history.append({name(item): json.loads(item.value_json) for item in record.history.item})
        if record.HasField("summary"):
            summary |= {name(item): json.loads(item.value_json) for item in record.summary.update}
    assert config["gamma"] == 0.9
    assert [(row["env_steps"], row.get("learner/loss")) for row in history] == [
        (100, None),
        (200, 0.5),
        (200, None),
    ]
    (video,) = (path for path in folder.rglob("*.mp4"))
    assert video.read_bytes() == b"a video"
    assert history[-1]["videos/a000/path"] == str(video.relative_to(folder / "files")), history[-1]
    assert "paths/a000/path" in history[-1]
    assert summary["milestone/LEFT_HOME"] == 150
