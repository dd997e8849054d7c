"""Config files: which one is meant, and what it holds.

`config.load_config` uses it in any process. In: a path, or the name of a config that is shipped. Out: a plain mapping.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cluster_rl.errors import UserError, read_error

PRESET_DIR = Path(__file__).parent
_SUFFIXES = (".json", ".yaml", ".yml")
_MAX_VALUES = 100_000  # a config has about a hundred
_MAX_BYTES = 1 << 22
# `!!int ""`, `!!bool x` and the like make yaml's constructors stumble over what they did not expect.
_NOT_VALID = (ValueError, LookupError, AttributeError, ArithmeticError, yaml.YAMLError, RecursionError)


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
    """What a JSON or YAML file holds. Raises `UserError` where that is no mapping, or says anything twice."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8-sig")  # some editors begin a file with a mark that it is UTF-8
    except UnicodeDecodeError as error:
        raise UserError(f"config {path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise read_error(error, path, "config") from None
    if len(data) > _MAX_BYTES:
        raise UserError(f"config {path}: more than {_MAX_BYTES} bytes; give a config file")
    try:
        if path.suffix == ".json":
            raw = json.loads(text, object_pairs_hook=_pairs)
        else:
            raw = yaml.load(text, _Loader)
    except _NOT_VALID as error:
        raise UserError(f"config {path}: not valid {path.suffix.lstrip('.') or 'YAML'}: {_words(error)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"config {path}: must be a mapping of keys to values, not {type(raw).__name__}")
    if _is_endless(raw):
        raise UserError(f"config {path}: a part of it holds itself, or it holds more than {_MAX_VALUES} values")
    return raw


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which YAML would take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        _once(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        return node


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _once(key for key, _ in pairs)
    return dict(pairs)


def _once(keys: Iterable[str]) -> None:
    for key, count in Counter(keys).items():
        if count > 1:
            raise ValueError(f"key {key!r} is written {count} times in one place; leave one")


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if "integer string conversion" in str(error):
        return "a number of more than 4,300 digits"
    return str(error)


def _is_endless(raw: Any) -> bool:
    """Whether a mapping, with all that YAML's aliases repeat, is larger than any config, or has no end."""
    ahead, seen = [raw], 0
    while ahead and seen <= _MAX_VALUES:
        value, seen = ahead.pop(), seen + 1
        if isinstance(value, dict | list):
            ahead.extend(value.values() if isinstance(value, dict) else value)
    return bool(ahead)


def _shipped() -> dict[str, Path]:
    """The configs of this package by the names that they are known by."""
    return {file.stem: file for file in PRESET_DIR.iterdir() if file.suffix in _SUFFIXES}


def _from_here(path: Path) -> Path:
    """As one would type it: relative where it lies below the working directory."""
    real, here = path.resolve(), Path.cwd()
    return real.relative_to(here) if real.is_relative_to(here) else real
