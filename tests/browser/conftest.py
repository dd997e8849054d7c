"""A browser, and a real run to look at, each made once for all tests of this folder.

`CLUSTER_RL_PICTURES=FOLDER` has the tests leave pictures of what they saw there; otherwise they leave nothing.
`CLUSTER_RL_PICTURES_RUN=cluster_runs/NAME` has `test_pictures.py` look at that run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from run_fixtures import Launcher, environment, make, overrides

from cluster_rl.runs.layout import RunDir

PICTURES, PICTURED_RUN = "CLUSTER_RL_PICTURES", "CLUSTER_RL_PICTURES_RUN"
ROOT = Path(__file__).resolve().parents[2]
# At the priority of all tests, and without rest: with its own it would wait for those beside it.
WATCH = (
    "from cluster_rl.watching import drawing; drawing.NICE = drawing.REST = 0; drawing.LOOK_SEC = 0.1; "
    "from cluster_rl.watch import command; command()"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    browser = chromium.Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: chromium.Chromium) -> Iterator[chromium.Page]:
    """A new tab. What it complains of, or fetches from elsewhere, is a failure of any test."""
    with browser.page() as page:
        yield page
        assert page.problems == []
        elsewhere = [url for url in page.fetched if not re.match(r"file:///|http://127\.0\.0\.1:|about:blank", url)]
        assert elsewhere == []


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of some hundred env steps in serial mode, with one video and its page; or the one that is named, whose page
    is made anew."""
    if PICTURED_RUN in os.environ:
        path = (ROOT / os.environ[PICTURED_RUN]).absolute()
        run_dir = RunDir(path.parent, path.name).require()
        make("report", run_dir)
        return run_dir
    folder = tmp_path_factory.mktemp("trained")
    changes = overrides(num_actors=1, envs_per_actor=4, target_total_steps=600, samples_per_insert=0.2)
    launcher = Launcher(folder, *changes, "--no-video", module="train_slim")
    assert launcher.wait() == 0, launcher.output
    make("replayer", launcher.run_dir, "--limit", "1", "--workers", "1", "--no-maps")
    make("report", launcher.run_dir)
    return launcher.run_dir


@pytest.fixture(scope="session")
def run_dir(trained: RunDir, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A copy of that run, to change."""
    runs = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained.path, runs / trained.run_name)
    return RunDir(runs, trained.run_name)


@pytest.fixture(scope="session")
def watch(run_dir: RunDir) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address at which that copy is watched by all tests, and the process."""
    words = ["--run-name", run_dir.run_name, "--runs", str(run_dir.root), "--every-sec", "1"]
    words += [] if PICTURED_RUN in os.environ else ["--speed", "4"]  # films of a quarter of the pictures
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH, *words], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = re.findall(r"http://\S+", process.stdout.readline())[0]
    for _ in range(30):  # each waits some seconds for the first page
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url) as answer:
            assert answer.status == 200
            break
    yield url, process
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture
def picture(page: chromium.Page, tmp_path: Path) -> Callable[..., Path]:
    """Makes a picture of the page under a name, of all that is seen or from one element to another, and returns its
    path; it is kept where pictures are asked for."""
    folder = tmp_path if PICTURES not in os.environ else ROOT / os.environ[PICTURES]
    folder.mkdir(parents=True, exist_ok=True)

    def take(name: str, *selectors: str) -> Path:
        page.screenshot(folder / f"{name}.png", *selectors)
        return folder / f"{name}.png"

    return take
