"""`slurm/settings.env`: what differs between clusters and users, the cluster's limits among it.

The job scripts read it as shell, `python -m cluster_rl.cluster` reads it here: the same values, or none. In: the file,
and the environment, which goes before it. Out: a `ClusterSettings`, or a `UserError` that names the line.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.small_file import MissingFileError, read_bytes

SETTINGS_FILE = Path("slurm") / "settings.env"
_PREFIX = "CLUSTER_RL_"


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings; an empty text is "not set", an infinite limit is none. `docs/cluster.md` lists them."""

    python: str = ""
    runs: str = ""
    rom: str = ""
    account: str = ""
    gpu_partition: str = ""
    cpu_partition: str = ""
    max_jobs: float = math.inf
    max_cpus: float = math.inf
    max_hours: float = math.inf
    max_gpumem_gb: float = math.inf


def read_settings(path: Path = SETTINGS_FILE, environment: Mapping[str, str] = os.environ) -> ClusterSettings:
    """Reads the file and what the environment has.

    Raises `UserError` for a line that is not understood, or that the shell, which reads the same file in the job
    scripts, would understand otherwise.
    """
    try:
        lines = read_bytes(path).decode().split("\n")
    except MissingFileError:
        raise UserError(
            f"{path}: no such file; call this from the repository's folder, or make it here with: "
            "python -m cluster_rl.cluster init"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    found: dict[str, tuple[str, str]] = {}  # name -> value, and where it is from
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, equals, text = line.partition("=")
        if not equals or not name.startswith(_PREFIX) or _field(name) not in ClusterSettings.__struct_fields__:
            known = ", ".join(_PREFIX + field.upper() for field in ClusterSettings.__struct_fields__)
            raise UserError(f"{where}: {line.strip()!r} is no setting; write NAME=value, with NAME one of {known}")
        if "\r" in line:
            raise UserError(
                f"{path}: has the line ends of Windows, which the shell reads as part of a value; save it anew"
            )
        try:
            word, has_more = _first_word(text)
        except ValueError as error:
            raise UserError(f"{where}: {name}: {error}") from None
        if has_more and text[0].isspace():
            raise UserError(f"{where}: {name}: no space may stand after =")
        if has_more:
            raise UserError(f"{where}: {name}: {text!r} is more than one word; put quotes around it")
        value = os.path.expandvars(word)
        if "$" in value or "`" in value or ("$" in text and ("'" in text or "\\" in text)):
            raise UserError(f"{where}: {name}: {text!r}: only $NAME of a variable that is set may stand here")
        if value.startswith("~") or ":~" in value:
            if not text.startswith("~/") or ":~" in value:
                raise UserError(f"{where}: {name}: {text!r}: ~ stands for your home only as ~/, and without quotes")
            value = str(Path(value).expanduser())
        found[name] = (value, where)
    for field in ClusterSettings.__struct_fields__:
        name = _PREFIX + field.upper()
        if name in environment:
            found[name] = (environment[name], "the environment")
    values = {_field(name): _value(name, text, where) for name, (text, where) in found.items()}
    return msgspec.convert(values, ClusterSettings)


def _first_word(text: str) -> tuple[str, bool]:
    """The word right behind `=`, without its quotes, and whether more follows that is no comment.

    Raises ValueError for quotes that are left open. `shlex.split` takes every # for a comment, and ; for a letter.
    """
    reader = shlex.shlex(text, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    reader.commenters = ""  # within a word # is a letter
    word = "" if not text or text[0].isspace() else reader.get_token() or ""
    reader.commenters = "#"
    return word, reader.get_token() is not None or text[:1] in tuple(reader.punctuation_chars)


def _field(name: str) -> str:
    return name.removeprefix(_PREFIX).lower()


def _value(name: str, text: str, where: str) -> str | float:
    if not _field(name).startswith("max_"):
        return text
    if not text:
        return math.inf
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UserError(f"{where}: {name}: {text!r} is no limit; give a number, or nothing for none")
    return limit
