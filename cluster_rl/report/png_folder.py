"""Frames in, a folder of PNGs out: `frame-000001.png` and so on, all of them or no folder at all.

`debug_rollout` and the replayer use it. In: Game Boy frames as uint8 [144, 160, 3], or pictures with a panel. Out: a
folder that has its name only once it is complete; the pictures are those of a video, pixel by pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_rl.report.video import SCALE
from cluster_rl.report.whole_output import Partial, WholeOutput
from cluster_rl.runs.atomic import explain_os_error, real_path

_FAST: Final[dict[str, Any]] = {"compress_level": 3}  # a third of the time, for half as many bytes again


class PngFolder(WholeOutput):
    """Writes one folder; a context manager that keeps it only if its block ends without an exception.

    Until `close` it is a `Partial`: of two with one name the first to close gets it. Frames must come in one size.
    """

    def __init__(self, path: Path, scale: int = SCALE) -> None:
        """`scale` is pixels of a picture per pixel of a frame. There must be nothing at `path`, or an empty folder.

        Raises as `explain_os_error` says.
        """
        self.path = path
        self.frames = 0
        self._scale = scale
        try:
            # Where it leads: an empty folder that is a link stays one.
            self._partial = Partial(real_path(path), is_folder=True)
        except OSError as error:
            raise explain_os_error(error, path) from None

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Appends a frame, uint8 [h, w, 3]. Raises `StorageError` for a full disk and the like."""
        from PIL import Image  # here: who makes no PNGs need not pay for it

        self.frames += 1
        picture = frame.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        try:
            Image.fromarray(picture).save(self._partial.path / f"frame-{self.frames:06}.png", **_FAST)
        except OSError as error:
            raise explain_os_error(error, self.path) from None

    def close(self) -> None:
        """Gives the folder its name. Raises as `write` does, and leaves none."""
        try:
            self._partial.keep()
        except OSError as error:
            self.abort()
            raise explain_os_error(error, self.path) from None

    def abort(self) -> None:
        """Removes what was written."""
        self._partial.drop()

    def size_bytes(self) -> int:
        """Of all its files; to be asked once it is closed."""
        return sum(file.stat().st_size for file in self.path.iterdir())
