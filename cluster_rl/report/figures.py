"""How every picture of a report is saved: whole or not at all, and the same bytes for the same content.

Heat maps and paths use it. In: a matplotlib figure. Out: a PNG file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure under its final name once it is complete."""
    # Here, because matplotlib takes most of a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    partial = path.with_name(f".{path.name}.partial")
    # No "Software" entry: it would name the library's version, and pictures of equal content should be equal.
    figure.savefig(partial, format="png", metadata={"Software": None})
    partial.replace(path)
