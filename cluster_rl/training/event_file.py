"""TensorBoard event files: figures, histograms, pictures, and what a job is.

`training.metrics` writes one for each job of the learner. In: numbers, grey pictures, texts. Out: records, each whole
or not there. No tensorflow, no torch: events are TensorBoard's own, which is imported with the first file.
"""

from __future__ import annotations

import io
import os
import socket
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster_rl.runs.growing_file import GrowingFile

FIRST_GROUP: Final = "0_first"
"""TensorBoard orders groups by name, and this one comes before all others."""
FIRST: Final = (
    *("evaluate/return", "episode/return", "episode/steps", "learner/q_start", "learner/loss", "learner/grad_norm"),
    *("env_steps_per_sec", "updates_per_sec", "lag/training/p50", "staleness/delta_q_last", "priority/ess"),
)
"""What to look at first: whether it learns, how fast, and whether it is healthy. They are in their own groups too."""

_HISTOGRAM_BUCKETS = 30

Distributions = Mapping[str, npt.NDArray[Any]]
Pictures = Mapping[str, npt.NDArray[np.uint8]]


class About(NamedTuple):
    """What a job is: texts by name, and config keys with their values, by which runs are told apart."""

    texts: Mapping[str, str]
    config: Mapping[str, bool | float | str]


class EventFile:
    """One TensorBoard event file of this process. Raises `OSError`."""

    def __init__(self, folder: Path, about: About | None) -> None:
        # Half a second of imports that readers and tests of the rows need not pay.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto: Any = event_pb2
        self._writer_of_records: Any = RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000_000}.{socket.gethostname()}.{os.getpid()}"
        self._file = GrowingFile(folder / name)
        self._record(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if about is not None:
            self._record(self._said(about))

    def write(
        self, now_sec: float, step: int, values: Mapping[str, float], distributions: Distributions, pictures: Pictures
    ) -> None:
        """One event: scalars, those of `FIRST` twice, histograms, and pictures of grey levels, uint8 [h, w]."""
        event = self._proto.Event(wall_time=now_sec, step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        for name in FIRST:
            if name in values:
                event.summary.value.add(tag=f"{FIRST_GROUP}/{name}", simple_value=values[name])
        for name, numbers in distributions.items():
            counts, edges = _histogram(numbers)
            histogram = event.summary.value.add(tag=name).histo
            histogram.min, histogram.max = float(numbers.min()), float(numbers.max())
            histogram.num = numbers.size
            histogram.sum = float(numbers.sum())
            histogram.sum_squares = float(np.square(numbers, dtype=np.float64).sum())
            # The first edge closes an empty bucket: TensorBoard would begin the first one at minus infinity.
            histogram.bucket_limit.extend(edges.tolist())
            histogram.bucket.extend([0.0, *counts.tolist()])
        for name, levels in pictures.items():
            image = event.summary.value.add(tag=name).image
            image.height, image.width = levels.shape
            image.colorspace = 1  # grey
            image.encoded_image_string = _png(levels)
        self._record(event)

    def _said(self, about: About) -> Any:
        """The event of texts and of the config, which the tabs TEXT and HPARAMS show."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        event = self._proto.Event(wall_time=time.time())
        for name, text in about.texts.items():
            value = event.summary.value.add(tag=f"about/{name}")
            value.metadata.plugin_data.plugin_name = "text"
            value.tensor.dtype = 7  # DT_STRING, without dimensions
            value.tensor.string_val.append(textwrap.indent(text, " " * 4).encode())  # as code, to Markdown
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for name, setting in about.config.items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(setting), "number_value")
            setattr(start.hparams[name], kind, setting)
        figures = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in FIRST]
        for tag, data in (
            (metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=_experiment(about, figures))),
            (metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
        ):
            value = event.summary.value.add(tag=tag)
            value.metadata.CopyFrom(metadata.create_summary_metadata(data))
            value.tensor.CopyFrom(metadata.NULL_TENSOR)
        return event

    def _record(self, event: Any) -> None:
        record = io.BytesIO()
        self._writer_of_records(record).write(event.SerializeToString())
        self._file.append(record.getvalue())

    def close(self) -> None:
        """What was written is with the kernel already."""
        self._file.close()


def _experiment(about: About, figures: list[Any]) -> Any:
    """What the tab HPARAMS has as columns."""
    from tensorboard.plugins.hparams import api_pb2

    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    columns = [
        api_pb2.HParamInfo(name=name, type=kinds.get(type(setting), api_pb2.DATA_TYPE_FLOAT64))
        for name, setting in about.config.items()
    ]
    return api_pb2.Experiment(hparam_infos=columns, metric_infos=figures)


def _png(levels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _histogram(numbers: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(counts, edges) in equal buckets; in one where the numbers are too near each other to have edges between them.

    In float64: `np.histogram` takes the numbers' own kind, and raises where that cannot tell its edges apart.
    """
    exact = numbers.astype(np.float64)
    low, high = exact.min(), exact.max()
    divides = high - low > max(1e-12 * max(abs(low), abs(high)), 1e-300)
    return np.histogram(exact, _HISTOGRAM_BUCKETS if divides else 1)
