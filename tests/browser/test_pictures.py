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

from cluster_rl.runs.layout import RunDir

Watch = tuple[str, "subprocess.Popen[str]"]
# The run, which is made once for all tests, is not of the first one's time.
pytestmark = pytest.mark.timeout(300, func_only=True)
MOST_BYTES = 150_000
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


def test_what_watch_plays(page: Page, watch: Watch, picture: Callable[..., Path]) -> None:
    page.go(watch[0])
    page.until(f"{VIDEO}.currentTime > 3 || {VIDEO}.currentTime > {VIDEO}.duration / 2", limit_sec=250)
    looked_at(picture("watch", "#film h2", "#film-words"))
