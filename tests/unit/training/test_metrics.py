"""Metrics: what is written is read back, by us and by TensorBoard, also after a crash in mid-line."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_disk import SmallDisk

from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES
from cluster_rl.training.event_file import About
from cluster_rl.training.metrics import MetricsWriter, RateMeter, read_metrics, summarise


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path, "one").create()


def test_rows_are_json_lines(run_dir: RunDir) -> None:
    writer = MetricsWriter(run_dir)
    writer.write(100, 5, {"loss": 0.25, "return": float("nan")})
    writer.write(200, 9, {"loss": 0.125})
    first, second = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert (first["env_steps"], first["updates"], first["loss"], first["return"]) == (100, 5, 0.25, None)
    assert second["time"] >= first["time"] > 1.6e9
    assert read_metrics(run_dir.metrics) == [first, second]
    writer.close()


def test_tensorboard_reads_the_same_figures(run_dir: RunDir) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    writer = MetricsWriter(run_dir)
    writer.write(100, 5, {"loss": 0.25})
    writer.write(200, 9, {"loss": math.nan})
    (file,) = run_dir.tensorboard.iterdir()
    events = list(EventFileLoader(str(file)).Load())  # before close(): a live run is read too
    writer.close()
    assert events[0].file_version == "brain.Event:2"
    # The loader turns plain values into tensors of one float.
    found = [(e.step, v.tag, v.tensor.float_val[0]) for e in events[1:] for v in e.summary.value]
    assert found[:3] == [(100, "updates", 5.0), (100, "loss", 0.25), (200, "updates", 9.0)]
    assert found[3][:2] == (200, "loss")
    assert math.isnan(found[3][2])


def test_tensorboard_has_the_first_figures_pictures_texts_and_config(run_dir: RunDir) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    about = About({"versions": "python 3\ntorch *2*"}, {"gamma": 0.9, "rom": "", "curve": True, "n_step": 5})
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    writer = MetricsWriter(run_dir, about)
    writer.write(100, 5, {"learner/loss": 0.25, "learner/other": 1.0}, pictures={"screens": levels})
    writer.write(200, 9, {"learner/loss": 0.5})
    writer.close()
    events = EventAccumulator(str(run_dir.tensorboard)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("0_first/learner/loss")] == [(100, 0.25), (200, 0.5)]
    assert [tag for tag in events.Tags()["scalars"] if tag.startswith("0_first/")] == ["0_first/learner/loss"]
    assert "0_first/learner/loss" not in read_metrics(run_dir.metrics)[0]
    (picture,) = events.Images("screens")
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        assert np.array_equal(np.asarray(image), levels)
    (text,) = events.Tensors("about/versions")
    assert text.tensor_proto.string_val[0] == b"    python 3\n    torch *2*"
    assert events.SummaryMetadata("about/versions").plugin_data.plugin_name == "text"
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert (hparams["gamma"].number_value, hparams["n_step"].number_value) == (0.9, 5)
    assert (hparams["curve"].bool_value, hparams["rom"].WhichOneof("kind")) == (True, "string_value")


def test_distributions_are_percentiles_in_the_row_and_a_histogram_in_tensorboard(run_dir: RunDir) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = np.arange(101, dtype=np.float32).reshape(1, 101) - 50
    writer = MetricsWriter(run_dir)
    writer.write(100, 5, {"loss": 0.25}, {"error": values, "nothing": np.zeros(0), "one": np.array([7])})
    writer.close()
    (row,) = read_metrics(run_dir.metrics)
    percentiles = {"min": -50, "p01": -49, "p10": -40, "p50": 0, "p90": 40, "p99": 49, "max": 50}
    assert {name: row[f"error/{name}"] for name in percentiles} == percentiles
    assert row["error/mean"] == pytest.approx(0)
    assert not [name for name in row if name.startswith("nothing")]
    assert {row[f"one/{name}"] for name in percentiles} == {7.0}

    events = EventAccumulator(str(run_dir.tensorboard)).Reload()
    assert set(events.Tags()["histograms"]) == {"error", "one"}
    (found,) = events.Histograms("error")
    histogram = found.histogram_value
    assert found.step == 100
    assert (histogram.min, histogram.max, histogram.num, histogram.sum) == (-50, 50, 101, 0)
    assert histogram.sum_squares == pytest.approx(2 * sum(n * n for n in range(51)))
    assert len(histogram.bucket) == len(histogram.bucket_limit)
    assert sum(histogram.bucket) == 101
    assert histogram.bucket[0] == 0
    assert list(histogram.bucket_limit) == sorted(histogram.bucket_limit)


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.05337143, 0.05337143, 0.05337134], np.float32),
        np.array([1e30, np.nextafter(np.float32(1e30), np.float32(0))], np.float32),
        np.array([1.0, np.nextafter(1.0, 2.0)]),
        np.array([0.0, 5e-324]),
        np.array([-1e30, 0.0]),
        np.array([3, 3]),
    ],
)
def test_numbers_as_near_each_other_as_can_be_have_a_histogram(
    run_dir: RunDir, values: npt.NDArray[np.floating[Any]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(run_dir)
    writer.write(100, 5, {}, {"error": values})
    writer.close()
    (found,) = EventAccumulator(str(run_dir.tensorboard)).Reload().Histograms("error")
    histogram = found.histogram_value
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    assert sum(histogram.bucket) == histogram.num == values.size
    assert list(histogram.bucket_limit) == sorted(histogram.bucket_limit)


def test_summary_of_a_skewed_sample() -> None:
    found = summarise(np.array([[0.0, 0.0], [0.0, 4.0]]))
    assert (found["mean"], found["p50"], found["min"], found["max"]) == (1.0, 0.0, 0.0, 4.0)


@pytest.mark.parametrize("torn", [b'{"time": 1, "env_', b'{"time":1}', b"\x00" * 200_000])
def test_a_torn_last_line_is_cut_off_at_the_next_start(run_dir: RunDir, torn: bytes) -> None:
    writer = MetricsWriter(run_dir)
    writer.write(100, 5, {})
    writer.close()
    whole = run_dir.metrics.read_bytes()
    run_dir.metrics.write_bytes(whole + torn)
    assert len(read_metrics(run_dir.metrics)) == 1
    writer = MetricsWriter(run_dir)
    assert run_dir.metrics.read_bytes() == whole
    writer.write(200, 6, {})
    writer.close()
    assert [row["env_steps"] for row in read_metrics(run_dir.metrics)] == [100, 200]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_long_tail_without_a_lines_end_is_moved_aside(run_dir: RunDir, rows: int) -> None:
    writer = MetricsWriter(run_dir)
    for _ in range(rows):
        writer.write(100, 5, {})
    writer.close()
    whole = run_dir.metrics.read_bytes()
    for tail, aside in ((bytes(MAX_ROW_BYTES), 0), (bytes(MAX_ROW_BYTES + 1), 1), (b"x" * 3 * MAX_ROW_BYTES, 2)):
        run_dir.metrics.write_bytes(whole + tail)
        writer = MetricsWriter(run_dir)
        writer.close()
        assert run_dir.metrics.read_bytes() == whole
        moved = sorted(run_dir.path.glob("metrics.jsonl.damaged*"))
        assert len(moved) == aside
        assert len(writer.notes) == bool(aside)
        if aside:
            assert moved[-1].read_bytes() == tail
            words = f"what lies in it from byte {len(whole)} on is no row; moved to {moved[-1].name}"
            assert writer.notes == [f"{run_dir.metrics}: {words}"]
        assert writer.newest_env_steps == (100 if rows else -1)


def test_a_file_whose_last_line_has_no_end_far_and_wide_is_moved_aside_whole(run_dir: RunDir) -> None:
    run_dir.metrics.write_bytes(b"{}\n")
    os.truncate(run_dir.metrics, 1 << 40)
    writer = MetricsWriter(run_dir)
    assert (run_dir.metrics.read_bytes(), len(writer.notes)) == (b"", 1)
    writer.close()
    assert run_dir.metrics.with_name("metrics.jsonl.damaged").stat().st_size == 1 << 40


def test_a_tail_that_a_full_disk_lets_nobody_move_stays(disk: SmallDisk) -> None:
    run_dir = RunDir(disk.folder, "run").create()
    run_dir.metrics.write_bytes(b"{}\n" + bytes(MAX_ROW_BYTES + 1))
    before = run_dir.metrics.read_bytes()
    with disk.full(), pytest.raises(StorageError, match=r"metrics\.jsonl"):
        MetricsWriter(run_dir)
    assert run_dir.metrics.read_bytes() == before
    assert not list(run_dir.path.glob("*.damaged*"))


def test_a_file_that_is_one_torn_line_becomes_empty(run_dir: RunDir) -> None:
    run_dir.metrics.write_bytes(b"x" * 100_000)
    MetricsWriter(run_dir).close()
    assert run_dir.metrics.read_bytes() == b""
    assert read_metrics(run_dir.path / "missing") == []


def test_a_damaged_line_in_the_middle_is_named(run_dir: RunDir) -> None:
    run_dir.metrics.write_bytes(b'{"time": 1}\nnoise\n{"time": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2: damaged"):
        read_metrics(run_dir.metrics)


def test_neither_torch_nor_tensorflow_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from cluster_rl.runs.layout import RunDir\n"
        "from cluster_rl.training.metrics import MetricsWriter\n"
        "assert 'tensorboard' not in sys.modules\n"
        "MetricsWriter(RunDir(sys.argv[1], 'one').create()).write(1, 1, {'a': 1.0})\n"
        "assert 'tensorboard' in sys.modules\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_rate_over_a_window() -> None:
    meter = RateMeter(window_sec=10)
    assert meter.update(0, now_sec=100.0) == 0.0
    assert meter.update(50, now_sec=105.0) == 10.0
    assert meter.update(100, now_sec=110.0) == 10.0
    # The first point is now older than the window and the second is at its edge: 300 more in 10 s.
    assert meter.update(350, now_sec=115.0) == 30.0
    # A pause shows as a falling rate, not as the last one.
    assert meter.update(350, now_sec=135.0) == 0.0
    assert len(meter._points) <= 3


def test_rate_of_two_looks_at_one_instant_is_zero() -> None:
    meter = RateMeter()
    meter.update(1, now_sec=1.0)
    assert meter.update(5, now_sec=1.0) == 0.0


def test_a_row_that_a_full_disk_cuts_short_is_left_out_of_both_files(disk: SmallDisk) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run_dir = RunDir(disk.folder, "one").create()
    writer = MetricsWriter(run_dir)
    values = {f"value/{number}": number / 3 for number in range(300)}
    writer.write(100, 1, values)
    refused = 0
    with disk.full(left_bytes=8192):
        for step in range(101, 120):
            try:
                writer.write(step, 1, values)
            except StorageError:
                refused += 1
    assert refused > 10
    writer.write(200, 2, values)
    writer.close()
    rows = read_metrics(run_dir.metrics)
    assert (rows[0]["env_steps"], rows[-1]["env_steps"]) == (100, 200)
    assert all(len(row) == 303 for row in rows)
    (file,) = run_dir.tensorboard.iterdir()
    steps = [event.step for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    assert (steps[0], steps[-1]) == (100, 200)
