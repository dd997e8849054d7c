"""What a file or folder of frames has in common with the others: it is kept whole, or not at all."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class WholeOutput:
    """A context manager that keeps what was written only if its block ends without an exception."""

    def finish(self) -> None:
        """Completes what was written, without its name yet; nothing, where each frame is written at once."""

    def close(self) -> None:
        """Finishes, and gives it its name."""
        raise NotImplementedError

    def abort(self) -> None:
        """Removes what was written."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
