"""Writes checkpoints in a thread of its own, so that training does not wait for the disk.

Runs in the learner and in serial mode. In: a state taken between two updates, which nobody changes any more. Out: what
`save_checkpoint` writes, one at a time, each after the replay log that it counts is on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster_rl.runs.checkpoint import save_checkpoint


class CheckpointWriter:
    """Writes checkpoints into `folder`. All methods are for one thread.

    `sync_log` puts the replay log on disk. It is called after the state was taken and before it is written: what a
    checkpoint counts is in the log, whenever the process is killed. An exception does not end a write: the process
    waits for it at its end.
    """

    def __init__(self, folder: Path, sync_log: Callable[[], None]) -> None:
        self._folder = folder
        self._sync_log = sync_log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._newest: Future[None] | None = None
        self._newest_updates = -1  # of the state that is being written
        self.newest_number = 0  # of the newest that is on disk and was read back; 0 before the first of this process

    @property
    def pending(self) -> bool:
        """Whether a checkpoint was begun, and nobody has looked yet how its write ended."""
        return self._newest is not None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._newest is not None and not self._newest.done()

    def is_of(self, updates: int) -> bool:
        """Whether the checkpoint that was begun last, and not looked at yet, holds the state after `updates`."""
        return self.pending and self._newest_updates == updates

    def begin(self, tensors: Mapping[str, torch.Tensor | np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> None:
        """Has a checkpoint written, see `save_checkpoint`; after the one that is being written, if there is one.

        Where that one fails, this one makes up for it: its error is not raised.
        """
        self._newest_updates = int(meta["updates"])
        self._newest = self._thread.submit(self._write, tensors, meta)

    def wait(self) -> None:
        """Returns when the newest checkpoint is on disk; raises, once, what ended its write early."""
        newest, self._newest = self._newest, None
        if newest is not None:
            newest.result()

    def _write(self, tensors: Mapping[str, torch.Tensor | np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> None:
        self._sync_log()
        path = save_checkpoint(self._folder, tensors, meta)
        self.newest_number = int(path.name.rpartition("-")[2])
