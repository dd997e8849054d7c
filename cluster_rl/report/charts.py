"""Curves as pictures inside a page: small SVG that follows the page's light and dark, and says in words what it shows.

The report's page uses it. In: `Curve`s. Out: SVG text for HTML, with its own title and description, and without any
reference to elsewhere. The same curves give the same bytes. matplotlib draws; it takes most of a second to import.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cluster_rl.report.curves import Curve, printable, words_of

# Okabe and Ito's colours for all kinds of sight, without the yellow, which nobody sees on white.
PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES: Final = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)))
ALARM_COLOUR: Final = PALETTE[1]
_INK: Final = "#010203"  # stands for the page's own colour of text
_MOST_NAMED = 12  # lines in a legend; all are in the words
_LONGEST = 48  # letters of a name in a legend
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_NAMESPACE = re.compile(r"^\{[^}]*\}")


@dataclass(frozen=True)
class Chart:
    """One picture: a panel, or several with one curve each where `panels` is true. `limits` are of y."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    limits: tuple[float, float] | None = None
    panels: bool = False
    alarms: Sequence[Curve | None] = ()
    """With panels: a second, dashed curve in each."""
    log_x: bool = False

    @property
    def words(self) -> list[str]:
        """A line for each curve."""
        return [words_of(curve) for curve in self.curves]

    @property
    def has_bands(self) -> bool:
        """Whether any line is the median of several runs."""
        return any(curve.of > 1 for curve in self.curves)


def draw(chart: Chart, name: str) -> str:
    """The chart as an `<svg>` element; `name` begins its ids, and must be another one for each picture of a page.

    A chart without any points is an empty text.
    """
    if not any(len(curve.x) for curve in chart.curves):
        return ""
    chart = replace(chart, curves=[replace(curve, name=printable(curve.name)) for curve in chart.curves])
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        if chart.panels:
            figure = _panels(Figure, chart)
        else:
            figure = _panel(Figure, chart)
        FigureCanvasSVG(figure)
        svg = io.BytesIO()
        with warnings.catch_warnings():  # the page's reader has other fonts than whoever makes it
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(svg, format="svg", transparent=True)
    return for_page(svg.getvalue(), name, chart.title, chart.words)


def _panel(figure_class: Any, chart: Chart) -> Any:
    """All curves in one panel, and below it their names where there are several."""
    from matplotlib.ticker import NullFormatter

    one = len(chart.curves) == 1 and not chart.has_bands
    named = 0 if one or len(chart.curves) > _MOST_NAMED else len(chart.curves)
    columns = 4 if max(len(curve.label) for curve in chart.curves) < 14 else 2
    height = 3.0 + 0.2 * -(-named // columns)
    figure = figure_class(figsize=(6.4, height))
    axes = figure.add_axes((0.1, 1 - 2.52 / height, 0.87, 2.4 / height))
    for number, curve in enumerate(chart.curves):
        _line(axes, curve, number)
    if chart.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    _dress(axes, chart)
    axes.set_xlabel(f"{chart.x_label}{', logarithmic' if chart.log_x else ''}", fontsize=9)
    axes.set_ylabel(chart.y_label, fontsize=9)
    if named:
        below = {"loc": "lower left", "bbox_to_anchor": (0.08, 0.0), "ncols": columns}
        figure.legend(**below, fontsize=8, frameon=False, labelcolor=_INK)
    return figure


def _panels(figure_class: Any, chart: Chart) -> Any:
    """A small panel for each curve, four in a row, all with the same axes."""
    columns = min(4, len(chart.curves))
    rows = -(-len(chart.curves) // columns)
    figure = figure_class(figsize=(2.4 * columns + 0.3, 1.5 * rows + 0.4))
    last = max(curve.x[-1] for curve in chart.curves if len(curve.x))
    for number, curve in enumerate(chart.curves):
        row, column = divmod(number, columns)
        width, height = 1 / columns, 1 / (rows + 0.25)
        place = (column * width + 0.18 * width, 1 - (row + 0.86) * height, 0.78 * width, 0.66 * height)
        axes = figure.add_axes(place)
        _line(axes, curve, 0)
        alarm = chart.alarms[number] if number < len(chart.alarms) else None
        if alarm is not None and len(alarm.x):
            axes.plot(alarm.x, alarm.y, color=ALARM_COLOUR, linewidth=1, linestyle=_DASHES[1], gid="line alarm")
        _dress(axes, chart)
        axes.set_title(curve.name, fontsize=7, pad=3)
        axes.tick_params(labelsize=6.5)
        if last > 0:
            axes.set_xlim(0, 1.03 * last)  # so that a single point there is whole
        axes.locator_params(nbins=3)
    figure.text(0.5, 0.03 / rows, chart.x_label, fontsize=8, ha="center")
    return figure


def _line(axes: Any, curve: Curve, number: int) -> None:
    """A curve in its own colour and dashes, with a band if it has one."""
    colour = PALETTE[number % len(PALETTE)]
    dashes = _DASHES[number // len(PALETTE) % len(_DASHES)]
    step = "steps-post" if curve.steps else "default"
    if curve.low is not None and curve.high is not None and len(curve.x):
        fill = "post" if curve.steps else None
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.22, linewidth=0, step=fill)
        if len(curve.x) == 1:  # whose band has no width
            axes.vlines(curve.x, curve.low, curve.high, color=colour, alpha=0.4, linewidth=4)
    axes.plot(
        curve.x,
        curve.y,
        color=colour,
        linestyle=dashes,
        linewidth=1.6,
        drawstyle=step,
        marker="o" if len(curve.x) == 1 else None,
        label=f" {_shortened(curve.label)}",  # a legend leaves out what begins with _
        gid=f"line {words_of(curve)}",
    )


def _dress(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, color=_INK, linewidth=0.5)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    if chart.limits is not None:
        axes.set_ylim(*chart.limits)
    elif all(curve.steps for curve in chart.curves):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def _short(value: float, _: int = 0) -> str:
    """A tick's number: `25M`, `350k`, `0.25`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.6g}"


def for_page(svg: bytes, name: str, title: str, words: Sequence[str]) -> str:
    """matplotlib's SVG as an element of an HTML page: no prologue, namespaces and metadata, ids of its own, short
    numbers, the page's colour where the ink is, and a title that a mouse shows for each line."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            bare = _bare(key)  # an id holds a line's words, until they are its title
            text = value if bare == "id" else _NUMBER.sub(_rounded, value)
            element.set(bare, text.replace(_INK, "currentColor"))
        _own_ids(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-words")
    described = ElementTree.Element("desc", id=f"{name}-words")
    described.text = "; ".join(words)
    headed = ElementTree.Element("title", id=f"{name}-title")
    headed.text = title
    root[:0] = [headed, described]
    return ElementTree.tostring(root, encoding="unicode")


def _own_ids(element: Any, name: str) -> None:
    """Ids begin with the picture's name; those of groups that nothing refers to go, and a line's becomes its title."""
    found = element.get("id")
    if found is not None:
        del element.attrib["id"]
        if found.startswith("line "):
            told = ElementTree.Element("title")
            told.text = found.removeprefix("line ")
            element.insert(0, told)
        elif element.tag != "g":
            element.set("id", f"{name}-{found}")
    for key, value in element.attrib.items():
        if key == "href":
            element.set(key, value.replace("#", f"#{name}-", 1))
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _bare(name: str) -> str:
    return _NAMESPACE.sub("", name)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
