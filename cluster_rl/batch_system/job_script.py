"""A job script of `slurm/` as a request to SLURM: its `#SBATCH` lines, options that override them, and what it runs.

`python -m cluster_rl.cluster` uses it. In: the script's text and options of sbatch. Out: a `JobRequest`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.jobs.slurm import duration_sec

SCRIPTS = Path("slurm")
_SHORT = {
    "-a": "--array",
    "-A": "--account",
    "-c": "--cpus-per-task",
    "-G": "--gpus",
    "-J": "--job-name",
    "-n": "--ntasks",
    "-N": "--nodes",
    "-o": "--output",
    "-p": "--partition",
    "-t": "--time",
}
_GPU_OPTIONS = ("--gpus", "--gpus-per-node", "--gpus-per-task")
_RUNS = re.compile(r"^run_job ([\w.]+)(?: --config (\S+))? .*\"\$@\"$", re.MULTILINE)
_GPUMEM = re.compile(r"gpumem[:=](\d+(?:\.\d+)?)([KMGT]?)", re.IGNORECASE)
_UNIT_GB = {"": 2.0**-30, "K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10}


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a script asks of SLURM, and the module of cluster_rl that it runs with which preset (empty: none)."""

    script: Path
    module: str
    preset: str
    partition: str
    cpus: int
    time_sec: float
    warning_sec: float
    wants_gpu: bool
    gpumem_gb: float
    array: str

    @property
    def trains(self) -> bool:
        """Whether it runs a trainer: not actors alone, nor a notebook server."""
        return self.module.startswith("train_")


def read_request(name: str, options: Sequence[str] = ()) -> JobRequest:
    """The request of `slurm/NAME.sbatch` with options of sbatch in place of its own (`--time=1:00:00`, `-c 4`).

    Raises `UserError` for an unknown script, and for options or values that are not understood.
    """
    script = SCRIPTS / f"{name.removeprefix(f'{SCRIPTS}/').removesuffix('.sbatch')}.sbatch"
    try:
        text = script.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = (
            ", ".join(sorted(path.stem for path in SCRIPTS.glob("*.sbatch"))) or "none; call this from the repository"
        )
        raise UserError(f"{script}: no such job script; there are {known}") from None
    except OSError as error:
        raise UserError(f"{script}: cannot be read: {error.strerror}") from None
    runs = _RUNS.search(text)
    own = [word for line in text.splitlines() if line.startswith("#SBATCH ") for word in line.split()[1:]]
    asked = _options(own, str(script)) | _options(options, "--sbatch")
    cpus = _number(asked, "--cpus-per-task", 1) * _number(asked, "--ntasks", 1)
    return JobRequest(
        script=script,
        module=runs[1] if runs else "",
        preset=(runs[2] or "") if runs else "",
        partition=asked.get("--partition", ""),
        cpus=cpus,
        time_sec=_time(asked.get("--time", "")),
        warning_sec=_warning(asked.get("--signal", "")),
        wants_gpu="gpu" in asked.get("--gres", "") or any(asked.get(name) for name in _GPU_OPTIONS),
        gpumem_gb=_gpumem(asked.get("--gres", "")),
        array=asked.get("--array", ""),
    )


def _options(words: Sequence[str], where: str) -> dict[str, str]:
    """`--name=value`, `--name value`, `-x value`, `-xvalue` and `--flag` as long names with values."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if re.match(r"--\w", word):
            name, equals, value = word.partition("=")
        elif re.match(r"-[A-Za-z]", word):
            name, value = _SHORT.get(word[:2], word[:2]), word[2:].removeprefix("=")
            equals = value
        else:
            raise UserError(f"{where}: {word!r} is no option of sbatch; write --name=value")
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        found[name] = value
    return found


def _number(asked: dict[str, str], name: str, default: int) -> int:
    text = asked.get(name, str(default))
    if not text.isdigit():
        raise UserError(f"{name} {text!r}: not a number")
    return int(text)


def _time(text: str) -> float:
    if not text or text.upper() in ("UNLIMITED", "INFINITE"):
        return math.inf
    try:
        return duration_sec(text)
    except ValueError as error:
        raise UserError(f"--time: {error}; write HH:MM:SS") from None


def _warning(signal: str) -> float:
    """Seconds before the end at which `--signal=[B:]NAME[@SECONDS]` comes; SLURM's default is 60."""
    found = re.search(r"@(\d+)$", signal)
    return float(found[1]) if found else 60.0 * bool(signal)


def _gpumem(gres: str) -> float:
    """GPU memory in GB (of SLURM: GiB) that a `--gres` asks for."""
    return sum(float(amount) * _UNIT_GB[unit.upper()] for amount, unit in _GPUMEM.findall(gres))
