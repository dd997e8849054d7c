"""Documents: every link leads somewhere, and every file, module and command that they name is there."""

from __future__ import annotations

import configparser
import importlib.util
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import cluster_rl
from cluster_rl.emulator.registration import LANTERNVALE_ID, RED_ID

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "results", "tests", "cluster_rl", "scripts", "slurm")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
# What is told of the past may name what is gone.
OF_TODAY = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCED = re.compile(r"^```.*?^```", re.M | re.S)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n+)+")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#* *$", re.M)
_PATH = re.compile(r"(?<![\w./-])(?:(?:cluster_rl|scripts|tests|slurm|docs|results)/[\w./*-]*|[\w/*]+\.py\b)")
_MODULE = re.compile(r"\b(?:cluster_rl|scripts)(?:\.[a-z_]\w*)+")
_COMMAND = re.compile(r"python -m ((?:cluster_rl|scripts)[\w.]*)")


def links(page: Path) -> list[str]:
    """Targets of the page's links and images, those to other sites left out."""
    prose = _SPAN.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    return [target for target in _LINK.findall(prose) if not _ELSEWHERE.match(target)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def code(page: Path) -> str:
    """All code of the page: blocks and spans."""
    text = page.read_text(encoding="utf-8")
    blocks = _FENCED.findall(text) + _INDENTED.findall(text)
    return "\n".join(blocks + _SPAN.findall(_FENCED.sub("", text)))


def exists(name: str) -> bool:
    """Whether a file or folder has this name, or any this pattern, seen from the root or from the package. A name alone
    may lie in any folder of the package."""
    pattern = name.rstrip("/.")
    inside = pattern if "/" in pattern else f"**/{pattern}"
    return any(ROOT.glob(pattern)) or any((ROOT / "cluster_rl").glob(inside))


def is_module(name: str) -> bool:
    """Whether it can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def runs(name: str) -> bool:
    """Whether `python -m` runs it: a package by its `__main__`, a module by what it does under that name."""
    spec = importlib.util.find_spec(name) if is_module(name) else None
    if spec is None or spec.origin is None:
        return False
    if spec.submodule_search_locations is not None:
        return is_module(f"{name}.__main__")
    return '__name__ == "__main__"' in Path(spec.origin).read_text(encoding="utf-8")


def test_there_are_pages_and_they_name_things() -> None:
    """The patterns find what they should: else all others pass for want of anything to check."""
    names = "\n".join(map(code, OF_TODAY))
    assert sum(len(links(page)) for page in PAGES) > 30
    assert {"README.md", "results.md", "training.md"} <= {page.name for page in PAGES}
    assert len(set(_PATH.findall(names))) > 40
    assert len(set(_MODULE.findall(names))) > 5
    assert len(set(_COMMAND.findall(names))) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = unquote(link).partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_named_exists(page: Path) -> None:
    text = code(page)
    assert [name for name in _PATH.findall(text) if name not in (LANTERNVALE_ID, RED_ID) and not exists(name)] == []
    assert [name for name in _MODULE.findall(text) if not is_module(name)] == []
    assert [name for name in _COMMAND.findall(text) if not runs(name)] == []


def test_the_citation_is_of_this_version() -> None:
    """Ours, and that of the emulator that is pinned."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (cluster_rl.__version__, setup["metadata"]["license"])
    (pyboy,) = (work for work in citation["references"] if work["type"] == "software")
    assert f"pyboy=={pyboy['version']}" in setup["options"]["install_requires"].split()
