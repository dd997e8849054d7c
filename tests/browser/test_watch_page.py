"""The page that follows a run, in a browser: it plays and renews itself, and nothing that was chosen is lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from chromium import Page

from cluster_rl.runs.layout import RunDir

# The run, which is made once for all tests, is not of the first one's time.
pytestmark = pytest.mark.timeout(200, func_only=True)
Watch = tuple[str, "subprocess.Popen[str]"]
VIDEO = "document.getElementById('film-video')"
ROWS = "[...document.querySelectorAll('#episodes-1 tbody tr')]"
KEPT = {
    "sorted": "document.querySelector('#episodes-1 thead tr').cells[4].getAttribute('aria-sort')",
    "filter": "document.querySelector('select.milestone').value",
    "slice": "document.querySelector('#map-1-slider').value",
    "layer": "[...document.querySelectorAll('#map-1 .layer')].findIndex(one => one.classList.contains('shown'))",
    "fold": "document.querySelector('#episodes details, #run details').open",
    "scrolled": "document.querySelector('#episodes .low').scrollTop",
    "focus": "document.activeElement.id",
    "place": "Math.round(document.getElementById('map').getBoundingClientRect().top)",
}


def append_episode(run_dir: RunDir, **changes: Any) -> str:
    """An episode more, like the newest but for `changes`; returns its name."""
    rows = run_dir.episodes.read_bytes().splitlines()
    row = msgspec.json.decode(rows[-1])
    row |= {"record": row["record"] + 1, "env_steps": row["env_steps"] + 60, "episode": 1000 + len(rows)}
    row |= {"reason": "truncated"} | changes
    with run_dir.episodes.open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")
    return f"a{row['actor']:03d}-e{row['emulator']:02d}-{row['incarnation']:x}-{row['episode']:06d}"


@pytest.fixture
def shown(page: Page, watch: Watch) -> Page:
    page.go(watch[0])
    page.until("document.title === 'Run tiny'")
    return page


def test_the_newest_greedy_episode_plays(shown: Page, picture: Callable[[str], None]) -> None:
    shown.until(f"{VIDEO}.currentTime > 0.3")
    assert "the newest with the lowest epsilon" in shown.js("document.getElementById('film-words').textContent")
    picture("watch-light")
    shown.prefer(color_scheme="dark")
    picture("watch-dark")
    shown.seek(VIDEO, 0.5)
    assert shown.js(f"{VIDEO}.currentTime >= {VIDEO}.duration / 2")


def test_a_newer_one_waits_for_its_turn_or_to_be_asked_for(shown: Page, watch: Watch, run_dir: RunDir) -> None:
    shown.until(f"{VIDEO}.currentTime > 0")
    shown.js(f"{VIDEO}.pause()")
    playing = shown.js(f"[{VIDEO}.src, {VIDEO}.currentTime]")
    log = min(run_dir.episode_logs.glob("*.eplog"))
    match = re.fullmatch(r"a(\d+)-e(\d+)-([0-9a-f]+)-(\d+)", log.stem)
    assert match is not None
    ids = {
        "actor": int(match[1]),
        "emulator": int(match[2]),
        "incarnation": int(match[3], 16),
        "episode": int(match[4]),
    }
    append_episode(run_dir, **ids, epsilon=0.0)
    shown.until("!document.getElementById('film-newer').hidden")
    assert shown.js(f"[{VIDEO}.src, {VIDEO}.currentTime]") == playing
    shown.click("#film-newer")
    shown.until(f"{VIDEO}.currentTime > 0.2 && {VIDEO}.src !== {playing[0]!r}")
    assert log.stem in shown.js("document.getElementById('film-words').textContent")
    assert {url.split("/")[2] for url in shown.fetched if url != "about:blank"} == {watch[0].split("/")[2]}


def test_what_is_chosen_stays_when_an_episode_has_ended(shown: Page, run_dir: RunDir) -> None:
    shown.until(f"{VIDEO}.currentTime > 0")
    shown.js(f"{VIDEO}.pause()")
    shown.click("#episodes-1 thead th:nth-child(5) button")
    shown.click("#episodes-1 thead th:nth-child(5) button")
    shown.js("document.querySelector('select.milestone').focus()")
    shown.press("ArrowDown")
    shown.js(f"{KEPT['fold'].removesuffix('.open')}.open = true")
    shown.js(f"{KEPT['scrolled']} = 7")
    shown.js("document.querySelector('#map-1-slider').focus()")
    shown.press("ArrowRight")
    shown.press("ArrowRight")
    shown.js("document.getElementById('map').scrollIntoView({behavior: 'instant'}); scrollBy(0, 40)")
    before = {name: shown.js(expression) for name, expression in KEPT.items()}
    assert (before["sorted"], before["slice"], before["layer"], before["fold"]) == ("descending", "2", 2, True)
    assert before["focus"] == "map-1-slider"
    playing = shown.js(f"[{VIDEO}.src, {VIDEO}.currentTime]")
    rows = shown.js(f"{ROWS}.length")
    name = append_episode(run_dir, milestones={})
    shown.until(f"{ROWS}.length === {rows + 1}")
    assert name in shown.js(f"{ROWS}.map(row => row.cells[0].textContent).join()")
    assert {name: shown.js(expression) for name, expression in KEPT.items()} == before
    assert shown.js(f"[{VIDEO}.src, {VIDEO}.currentTime]") == playing
    assert shown.js(f"{ROWS}.filter(row => !row.hidden).length") < rows

    # Words that are marked stay marked: what they are in comes later than the rest.
    shown.js("getSelection().selectAllChildren(document.querySelector('#episodes-1 tbody th'))")
    shown.js("window.before = document.getElementById('returns').innerHTML; 0")
    append_episode(run_dir)
    shown.until("document.getElementById('returns').innerHTML !== before")
    assert shown.js("String(getSelection())") != ""
    assert shown.js(f"{ROWS}.length") == rows + 1
    shown.js("getSelection().removeAllRanges()")
    shown.until(f"{ROWS}.length === {rows + 2}")


def test_a_video_of_the_run_plays_by_its_link(page: Page, watch: Watch) -> None:
    page.prefer(reduced_motion="reduce")
    page.go(watch[0])
    page.until("document.title === 'Run tiny'")
    (link,) = page.js(
        "[...document.querySelectorAll('#episodes a')].filter(a => a.href.endsWith('.mp4')).map(a => a.href)"
    )
    page.until(f"!{VIDEO}.hidden && {VIDEO}.readyState > 1")
    assert page.js(f"[{VIDEO}.paused, {VIDEO}.currentTime]") == [True, 0]  # who wants no motion starts it
    page.go(page.js("document.getElementById('film-picture').href"))
    assert page.js("document.querySelector('img').naturalWidth") > 100
    page.go(link)
    page.until("document.querySelector('video').currentTime > 0.3")


def test_without_the_token_there_is_a_line(page: Page, watch: Watch) -> None:
    page.go(watch[0].rsplit("/", 2)[0] + "/")
    assert page.js("document.body.textContent").startswith("Forbidden: no such token")
    page.forget()  # the browser calls that an error


def test_the_end_of_watch_is_told_and_the_page_stays(shown: Page, watch: Watch) -> None:
    """The last of all: nobody can watch any more."""
    rows = shown.js(f"{ROWS}.length")
    assert shown.problems == []
    watch[1].terminate()
    shown.until("document.getElementById('told').textContent.startsWith('No answer')")
    assert shown.js(f"{ROWS}.length") == rows
    shown.forget()  # that it could not be reached is no fault of the page
