"""Config files: which one is meant, and what it holds.

`config.load_config` uses it in any process. In: a path, or the name of a config that is shipped. Out: a plain mapping.
"""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from cluster_rl.errors import UserError

PRESET_DIR = Path(__file__).parent
_SUFFIXES = (".json", ".yaml", ".yml")


def find_config(path: str | Path) -> Path:
    """The file as given, or the shipped one that has its name, whatever folder and ending were written.

    So `configs/slim.yaml` works from anywhere. Says on stderr which file is taken in place of one that is not there.
    Raises `UserError` where neither is.
    """
    if not str(path):
        raise UserError("config: its path is empty; give a file, a preset, or leave --config out")
    given = Path(path)
    shipped = _shipped()
    by_name = str(path) in shipped
    if given.exists() and not (by_name and given.is_dir()):
        return given
    name = config_name(given)
    if name not in shipped:
        near = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"config {path}: no such file; {hint}those shipped are {', '.join(sorted(shipped))}")
    if not by_name:
        print(f"{path} is not there; using {_from_here(shipped[name])}", file=sys.stderr, flush=True)
    return shipped[name]


def is_stand_in(path: str | Path) -> bool:
    """Whether `find_config` takes a shipped file for another one that was named and is not there."""
    return not Path(path).exists() and str(path) not in _shipped()


def config_name(path: str | Path) -> str:
    """The file's name without its ending: what a shipped config is known by."""
    given = Path(path)
    return given.stem if given.suffix in _SUFFIXES else given.name


def read_config_file(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file holds. Raises `UserError` where that is no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: cannot be read: {error}") from None
    try:
        raw = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"config {path}: not valid {path.suffix.lstrip('.') or 'YAML'}: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"config {path}: must be a mapping of keys to values, not {type(raw).__name__}")
    return raw


def _shipped() -> dict[str, Path]:
    """The configs of this package by the names that they are known by."""
    return {file.stem: file for file in PRESET_DIR.iterdir() if file.suffix in _SUFFIXES}


def _from_here(path: Path) -> Path:
    """As one would type it: relative where it lies below the working directory."""
    real, here = path.resolve(), Path.cwd()
    return real.relative_to(here) if real.is_relative_to(here) else real
