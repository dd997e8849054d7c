"""The page of a run as a browser shows it from disk: drawn, to be read in light and dark, used by mouse and by keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from chromium import Page

from cluster_rl.runs.layout import RunDir

# The run, which is made once for all tests, is not of the first one's time.
pytestmark = pytest.mark.timeout(200, func_only=True)
ROWS = "[...document.querySelectorAll('#episodes-1 tbody tr')]"
RETURNS = f"{ROWS}.map(row => Number(row.cells[3].dataset.key))"
SORTED = "document.querySelector('#episodes-1 thead tr').cells[3].getAttribute('aria-sort')"
LAYERS = "[...document.querySelectorAll('#map-1 .layer')]"


@pytest.fixture
def shown(page: Page, trained: RunDir) -> Page:
    page.go(trained.report.as_uri())
    return page


def test_all_is_drawn(shown: Page) -> None:
    assert shown.js("document.title") == "Run tiny"
    sizes = shown.js(
        "[...document.querySelectorAll('figure svg')].map(svg => [svg.getBoundingClientRect().width, "
        "svg.getBoundingClientRect().height, svg.querySelectorAll('path').length])"
    )
    assert len(sizes) >= 6
    assert all(width > 200 and height > 80 and paths > 3 for width, height, paths in sizes)
    width, height = shown.js(
        "(({width, height}) => [width, height])(document.querySelector('.map svg').getBoundingClientRect())"
    )
    assert width > 300
    assert height > 100
    # Pictures inside it, as data, are whole.
    assert shown.js(
        "Promise.all([...document.querySelectorAll('.map image')].map(image => { const copy = new Image(); "
        "copy.src = image.getAttribute('href'); return copy.decode().then(() => copy.naturalWidth); }))"
        ".then(widths => widths.length > 2 && widths.every(width => width > 0))"
    )
    assert shown.js("document.documentElement.scrollWidth <= innerWidth")
    assert shown.fetched == [shown.js("location.href")]


def test_it_sorts_by_a_click_and_by_keys(shown: Page) -> None:
    found = shown.js(RETURNS)
    assert len(set(found)) > 2
    shown.click("#episodes-1 thead th:nth-child(4) button")
    assert (shown.js(RETURNS), shown.js(SORTED)) == (sorted(found), "ascending")
    shown.js("document.querySelectorAll('#episodes-1 thead button')[3].focus()")
    shown.press("Enter")
    assert (shown.js(RETURNS), shown.js(SORTED)) == (sorted(found, reverse=True), "descending")
    shown.press(" ")
    assert shown.js(SORTED) == "ascending"
    shown.press("Tab")
    shown.press("Enter")
    assert shown.js(SORTED) is None
    assert shown.js("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


def test_it_filters_by_a_milestone(shown: Page) -> None:
    every = shown.js(f"{ROWS}.length")
    choice = shown.js("document.querySelector('select.milestone').options[1].value")
    shown.js("document.querySelector('select.milestone').focus()")
    shown.press("ArrowDown")
    left = shown.js(f"{ROWS}.filter(row => row.getBoundingClientRect().height > 0).length")
    assert 0 < left < every
    assert shown.js("document.querySelector('select.milestone').value") == choice
    assert shown.js("document.getElementById('episodes-1-count').textContent") == f"{left} shown"


def test_the_slider_moves_the_map(shown: Page) -> None:
    seen = f"{LAYERS}.map(layer => getComputedStyle(layer).display !== 'none')"
    count = shown.js(f"{LAYERS}.length")
    assert shown.js(seen) == [True] + [False] * (count - 1)
    words = shown.js("document.querySelector('#map-1-slice').textContent")
    shown.js("document.querySelector('#map-1-slider').focus()")
    shown.press("ArrowRight")
    assert shown.js(seen) == [False, True] + [False] * (count - 2)
    assert shown.js("document.querySelector('#map-1-slice').textContent") != words
    shown.press("End")
    assert shown.js(seen) == [False] * (count - 1) + [True]


@pytest.mark.parametrize("box", ["map-1-marks", "map-1-way-1", "map-1-way-2"])
def test_a_tick_shows_doors_and_people_or_the_way_of_an_episode(shown: Page, box: str) -> None:
    """At first doors, people and the first way are ticked."""
    groups = "[...document.querySelectorAll('#map-1 g.way')]"
    seen = f"Object.fromEntries({groups}.map(one => [one.id, getComputedStyle(one).display !== 'none']))"
    before = shown.js(seen)
    assert {name for name, is_seen in before.items() if is_seen} == {"map-1-marks", "map-1-way-1"}
    shown.click(f"input[data-way='{box}']")
    assert shown.js(seen) == before | {box: not before[box]}
    shown.js(f"document.querySelector(\"input[data-way='{box}']\").focus()")
    shown.press(" ")
    assert shown.js(seen) == before


def test_light_and_dark(shown: Page, picture: Callable[[str], None]) -> None:
    """What is written stands out from what it is written on, in either."""
    brightness = (
        "[document.body, ...document.querySelectorAll('figure svg text')]"
        ".map(one => getComputedStyle(one)).map(style => "
        "[style.color, style.fill, getComputedStyle(document.body).backgroundColor].map(colour => "
        "colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part) / 765, 0)))"
    )
    for scheme, dark in (("light", False), ("dark", True)):
        shown.prefer(color_scheme=scheme)
        (ink, _, paper), *texts = shown.js(brightness)
        assert (paper < 0.3, ink < 0.5) == (dark, not dark)
        assert len(texts) > 20
        assert all(abs(fill - paper) > 0.4 for _, fill, paper in texts)
        picture(f"report-{scheme}")


def test_a_video_beside_the_page_plays(shown: Page) -> None:
    (link,) = shown.js(
        "[...document.querySelectorAll('#episodes a')].filter(a => a.href.endsWith('.mp4')).map(a => a.href)"
    )
    shown.go(link)
    shown.until("document.querySelector('video').currentTime > 0.3")
    assert shown.js("document.querySelector('video').videoHeight") == 432
