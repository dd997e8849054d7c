"""Charts: small SVG for a page, that says in words what it shows and follows the page's colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from cluster_rl.report.charts import Chart, draw
from cluster_rl.report.curves import Curve, banded, counted

X = np.arange(400.0)
CURVES = [Curve("up", X, X), Curve("down", X, -X)]


def chart(*curves: Curve, **changes: object) -> Chart:
    return Chart("Return", "env steps", "reward", curves, **changes)  # type: ignore[arg-type]


def test_a_chart_says_what_it_shows() -> None:
    svg = draw(chart(*CURVES), "c1")
    root = ElementTree.fromstring(svg)  # so it is well formed too
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root.iter()}
    title, words = (root.get("aria-labelledby") or "").split()
    assert named[title] == "Return"
    assert named[words] == "up: from 0 to 399, least 0, most 399; down: from 0 to -399, least -399, most 0"
    tips = [element.text for element in root.iter("title")]
    assert tips[1:] == ["up: from 0 to 399, least 0, most 399", "down: from 0 to -399, least -399, most 0"]


def test_a_chart_is_small_and_refers_to_nothing_outside() -> None:
    noisy = Curve("noise", X, np.random.default_rng(0).random(400))
    svg = draw(chart(noisy), "c1")
    assert len(svg) < 20_000
    assert not re.search(r"https?:|xmlns|<style|<metadata| d=\"[^\"]*\d\.\d\d", svg)
    for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', svg):
        assert f'id="{reference}"' in svg


def test_ids_are_the_charts_own() -> None:
    one, two = (set(re.findall(r' id="([^"]+)"', draw(chart(*CURVES), name))) for name in ("c1", "c2"))
    assert one
    assert not one & two


def test_the_same_curves_give_the_same_bytes() -> None:
    assert draw(chart(*CURVES), "c1") == draw(chart(*CURVES), "c1")


def test_ink_is_the_pages() -> None:
    svg = draw(chart(*CURVES), "c1")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "#000000" not in svg
    assert {"#0072b2", "#d55e00"} <= set(re.findall(r"#[0-9a-f]{6}", svg))


def test_names_of_any_letters_do_no_harm() -> None:
    hostile = "a\x00b</svg><script>$x^2$ " + "é" * 60
    svg = draw(chart(Curve(hostile, X, X), Curve("_b", X, X)), "c1")
    texts = [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]
    assert any(text.strip().startswith("a�b</svg><script>$x^2$") and text.endswith("…") for text in texts)
    assert any(text.strip() == "_b" for text in texts)


def test_a_mouse_is_told_a_lines_own_numbers() -> None:
    svg = draw(chart(Curve("loss", X, 0.00123 + 0.0029 * (X - X[0]) / (X[-1] - X[0]))), "c1")
    (tip,) = [found for found in re.findall("<title[^>]*>([^<]*)</title>", svg) if "0.0012" in found]
    assert "0.0041" in tip


def test_a_band_and_counts_and_panels() -> None:
    band = banded("seeds", [counted("a", [3], 10), counted("b", [5], 10)])
    assert "fill-opacity: 0.2" in draw(chart(band), "c1")
    panels = chart(*CURVES, panels=True, alarms=[Curve("", X, X / 400), None])
    svg = draw(panels, "c2")
    assert svg.count("<title>alarm</title>") == 1
    assert [name for name in ("up", "down") if f">{name}<" in svg] == ["up", "down"]


def test_a_legend_says_what_a_band_holds() -> None:
    young = Curve("b", X[:100], X[:100])
    svg = draw(chart(banded("seeds", [Curve("a", X, X), young])), "c1")
    assert ">seeds (2 runs, all up to 99)<" in svg.replace("> ", ">")
    assert "(2 runs" not in draw(chart(Curve("a", X, X)), "c1")


@pytest.mark.filterwarnings("error")
def test_panels_of_the_very_beginning_are_drawn_without_a_warning() -> None:
    begun = Curve("a", X[:1], X[:1] + 0.5)
    assert "<svg" in draw(chart(begun, begun, panels=True), "c1")
    assert "<svg" in draw(chart(begun, limits=(0, 1)), "c2")
    assert "<svg" in draw(chart(counted("a", [], 0)), "c3")


def test_the_interval_of_a_single_point_is_seen() -> None:
    wide, narrow = (Curve("a", X[5:6], X[:1] + 0.5, X[:1] + low, X[:1] + 1 - low) for low in (0.1, 0.4))
    assert draw(chart(wide, limits=(0, 1)), "c1") != draw(chart(narrow, limits=(0, 1)), "c1")
    assert "stroke-width: 4" in draw(chart(wide, panels=True), "c1")


def test_a_logarithmic_axis_begins_with_the_first() -> None:
    svg = draw(chart(counted("a", [10, 20, 4000], 100_000), log_x=True), "c1")
    texts = [(element.text or "").strip() for element in ElementTree.fromstring(svg).iter("text")]
    assert {"10", "100", "1k", "10k", "100k", "env steps, logarithmic"} <= set(texts)
    assert not any("mathdefault" in text for text in texts)


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(chart(), "c1") == draw(chart(Curve("a", np.empty(0), np.empty(0))), "c1") == ""
    assert draw(chart(Curve("a", X[:1], X[:1])), "c1")
