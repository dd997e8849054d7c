"""The pictures of a run's pages, as the README shows them: there is something on each, and it is small.

Made of a run of one's own, and kept, by

    export CLUSTER_RL_PICTURES=results/pictures CLUSTER_RL_PICTURES_RUN=cluster_runs/quickstart
    pytest tests/browser/test_pictures.py
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import Page
from PIL import Image
from run_fixtures import make

from cluster_rl.runs.layout import RunDir

Watch = tuple[str, "subprocess.Popen[str]"]
# The run, which is made once for all tests, is not of the first one's time.
pytestmark = pytest.mark.timeout(300, func_only=True)
MOST_BYTES = 150_000
RECORDS = Path(__file__).resolve().parents[2] / "results" / "rivals" / "raw"
VIDEO = "document.getElementById('film-video')"


def looked_at(path: Path) -> None:
    """Something is drawn, and a repository can hold it."""
    with Image.open(path) as picture:
        assert min(picture.size) > 200
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 20
    assert path.stat().st_size <= MOST_BYTES


def test_the_map_with_a_path(page: Page, trained: RunDir, picture: Callable[..., Path]) -> None:
    page.go(trained.report.as_uri())
    looked_at(picture("page-map", "#map .controls", "#map .legend"))


def test_the_milestones_over_time(page: Page, trained: RunDir, picture: Callable[..., Path]) -> None:
    page.go(trained.report.as_uri())
    looked_at(picture("page-milestones", "#milestones .charts", "#milestones table"))


def test_a_run_beside_rivals(page: Page, trained: RunDir, picture: Callable[..., Path], tmp_path: Path) -> None:
    records = [str(RECORDS / f"{agent}-seed{seed}.jsonl") for agent in ("maskable_ppo", "r2d2") for seed in range(1, 6)]
    seeds = sorted(path.name for path in trained.root.glob(f"{trained.run_name}-seed*"))
    runs = ["--run-name", trained.run_name, *seeds]
    make("report", trained, *runs, "--out", str(tmp_path / "compared.html"), "--rival", *records)
    page.go((tmp_path / "compared.html").as_uri())
    for part, place in (("#milestones", 1), ("#returns", 1)):
        named = page.js(f"document.querySelector('{part} figure:nth-child({place})').textContent")
        assert "rival maskable_ppo (5 runs" in named
        assert "rival r2d2 (5 runs" in named
    page.js("document.querySelector('#returns .charts').prepend(document.querySelector('#milestones figure'))")
    looked_at(picture("page-rivals", "#returns figure:nth-child(1)", "#returns figure:nth-child(2)"))


def test_what_watch_plays(page: Page, watch: Watch, picture: Callable[..., Path]) -> None:
    page.go(watch[0])
    page.until(f"{VIDEO}.currentTime > 0", limit_sec=250)
    page.seek(VIDEO, 0.5)
    looked_at(picture("watch", "#film h2", "#film-words"))
