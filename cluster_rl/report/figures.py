"""How every picture of a report is saved: whole or not at all, and the same bytes for the same content.

Heat maps and paths use it. In: a matplotlib figure. Out: a PNG file.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_rl.runs.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(figure: Figure, path: Path, source: str = "") -> None:
    """Writes the figure; the PNG tells a `source` under that keyword. Raises `UserError` as `write_atomic` does."""
    # Here, because matplotlib takes most of a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    png = io.BytesIO()
    # No "Software" entry: it would name the library's version, and pictures of equal content should be equal.
    figure.savefig(png, format="png", metadata={"Software": None, "Source": source or None})
    write_atomic(path, png.getvalue())
