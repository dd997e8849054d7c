"""A job script of `slurm/` as a request to SLURM: its `#SBATCH` lines, options that override them, and what it runs.

`python -m cluster_rl.cluster` uses it. In: the script's text and options of sbatch. Out: a `JobRequest`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from cluster_rl.batch_system.sbatch_options import (
    TYPED,
    Options,
    environment_options,
    of_environment,
    read_options,
    refuse,
    script_words,
    with_one_memory,
)
from cluster_rl.errors import UserError
from cluster_rl.jobs.slurm import duration_sec

SCRIPTS = Path("slurm")
_RUNS = re.compile(r"^run_job ([\w.]+)(?: --config (\S+)| --default-config (\S+))? .*\"\$@\"$", re.MULTILINE)
_GPUMEM = re.compile(r"gpumem[:=](\d+(?:\.\d+)?)([KMGT]?)", re.IGNORECASE)
_UNIT_GB = {"": 2.0**-30, "K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10}
_T = TypeVar("_T")


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a script asks of SLURM, and the module of cluster_rl that it runs.

    `preset` is its config, `default_preset` the one for a trainer that is given none; empty: none.
    CPUs, GPUs and memory (0 if not said) are those of the whole job. `requeues` is None where nothing was said of it.
    `logs` are the files of its output, with SLURM's `%j` and the like in them. `variables` are those of the environment
    that count, as `NAME=value`; `notes` say what was passed over.
    """

    script: Path
    module: str
    preset: str
    default_preset: str
    partition: str
    cpus: int
    time_sec: float
    warning_sec: float
    gpus: int
    gpumem_gb: float
    memory_gb: float
    requeues: bool | None
    logs: list[Path]
    variables: list[str]
    notes: list[str]

    @property
    def trains(self) -> bool:
        """Whether it runs a trainer: not actors alone, nor a notebook server."""
        return _is_trainer(self.module)

    @property
    def wants_gpu(self) -> bool:
        """Whether it asks for a GPU."""
        return self.gpus > 0

    def __str__(self) -> str:
        """The script, and what changes it: for a message about what it asks for."""
        return f"{self.script}{' with ' if self.variables else ''}{', '.join(self.variables)}"


def read_request(name: str, options: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> JobRequest:
    """The request of `slurm/NAME.sbatch` as sbatch would make it: options (`--time=1:00:00`, `-c 4`) go before its
    variables (`SBATCH_TIMELIMIT`), and those before the script.

    Raises `UserError` for an unknown script, for options or values that are not understood, and for what would undo
    what `cluster` relies on.
    """
    script = SCRIPTS / f"{name.removeprefix(f'{SCRIPTS}/').removesuffix('.sbatch')}.sbatch"
    try:
        with script.open(encoding="utf-8", errors="replace", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        known = (
            ", ".join(sorted(path.stem for path in SCRIPTS.glob("*.sbatch"))) or "none; call this from the repository"
        )
        raise UserError(f"{script}: no such job script; there are {known}") from None
    except OSError as error:
        raise UserError(f"{script}: cannot be read: {error.strerror}") from None
    if "\r\n" in text:
        raise UserError(f"{script}: has the line ends of Windows, which sbatch refuses; save it anew")
    words, notes = script_words(text, str(script))
    own, of_script = read_options(words, str(script))
    typed, of_typed = read_options(options, TYPED)
    outer, of_variables = environment_options(environment)
    asked = with_one_memory(own | outer | typed)
    refuse(asked)
    notes = [*notes, *of_script, *of_variables, *of_typed]
    values = _Values(asked, notes)
    if "exclusive" in asked:
        notes.append(f"{asked['exclusive'].where}: --exclusive: the node's other CPUs are not counted here")
    module, preset, default_preset = _module_and_presets(text)
    cpus, gpus, gpumem_gb, memory_gb = _amounts(values)
    logs = [values.get("output", str, "slurm-%j.out"), values.get("error", str, "")]
    return JobRequest(
        script=script,
        module=module,
        preset=preset,
        default_preset=default_preset,
        partition=values.get("partition", str, ""),
        cpus=cpus,
        time_sec=values.get("time", _time_sec, math.inf),
        warning_sec=_warning_sec(values.get("signal", str, "")),
        gpus=gpus,
        gpumem_gb=gpumem_gb,
        memory_gb=memory_gb,
        requeues=asked["requeue"].value == "yes" if "requeue" in asked else None,
        logs=[Path(log) for log in logs if log],
        variables=sorted(option.where for option in asked.values() if of_environment(option)),
        notes=notes,
    )


def is_trainers_script(command: str) -> bool:
    """Whether a job's command, a path with arguments, is a job script that trains: neither an interactive session nor a
    notebook server, which may train too. A script that is not there, or cannot be read, is none."""
    words = command.split(" ")
    for end in range(len(words), 0, -1):  # a path may have spaces
        try:
            text = Path(" ".join(words[:end])).read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue
        return _is_trainer(_module_and_presets(text)[0])
    return False


def _module_and_presets(text: str) -> tuple[str, str, str]:
    """The module of cluster_rl that a job script of this text runs, with which preset, and with which one where none is
    given; empty: none."""
    runs = _RUNS.search(text)
    return (runs[1], runs[2] or "", runs[3] or "") if runs else ("", "", "")


def _is_trainer(module: str) -> bool:
    return module.startswith("train_")


class _Values:
    """Values of options, read one by one; one that cannot be read is noted, or an error if it was typed."""

    def __init__(self, asked: Options, notes: list[str]) -> None:
        self._asked, self._notes = asked, notes

    def get(self, name: str, read: Callable[[str], _T], default: _T) -> _T:
        """`read` raises `ValueError`. Raises `UserError`."""
        option = self._asked.get(name)
        if option is None:
            return default
        try:
            return read(option.value)
        except ValueError as error:
            if option.where == TYPED:
                raise UserError(f"{TYPED}=--{name}: {error}") from None
            self._notes.append(f"{option.where}: --{name}: {error}; it is not counted, sbatch judges it")
            return default


def _amounts(values: _Values) -> tuple[int, int, float, float]:
    """CPUs, GPUs, GB of GPU memory and GB of memory of the whole job, multiplied as sbatch does."""
    nodes = values.get("nodes", _least_nodes, 1)
    tasks_given = values.get("ntasks", _number, 0)
    tasks = tasks_given or nodes * values.get("ntasks-per-node", _number, 1)
    nodes = min(nodes, tasks)
    sockets = nodes * values.get("sockets-per-node", _number, 1)
    gpus = max(
        values.get("gpus", _count, 0),
        values.get("gpus-per-node", _count, 0) * nodes,
        values.get("gpus-per-socket", _count, 0) * sockets,
        values.get("gpus-per-task", _count, 0) * tasks,
        values.get("gres", _gpus_of_gres, 0) * nodes,
        values.get("tres-per-task", _gpus_of_gres, 0) * tasks,
    )
    if not tasks_given:
        tasks = values.get("ntasks-per-gpu", _number, 0) * gpus or tasks
    cpus = max(
        values.get("cpus-per-task", _number, 1) * tasks,
        values.get("cpus-per-gpu", _number, 0) * gpus,
        values.get("mincpus", _number, 0) * nodes,
    )
    memory_gb = (
        values.get("mem", _memory_gb, 0.0) * nodes
        or values.get("mem-per-cpu", _memory_gb, 0.0) * cpus
        or values.get("mem-per-gpu", _memory_gb, 0.0) * gpus
    )
    return cpus, gpus, values.get("gres", _gpumem_gb, 0.0) * nodes, memory_gb


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r}: not a number")
    return int(text)


def _least_nodes(text: str) -> int:
    """`2`, or the least of `1-3`."""
    return _number(re.split(r"[-,:]", text)[0])


def _count(text: str) -> int:
    """GPUs of `2`, `a100:2`, `a100:1,v100:1`; a type alone is one."""
    numbers = [item.rpartition(":")[2] for item in text.split(",")]
    return sum(int(number) if number.isdecimal() else 1 for number in numbers)


def _gpus_of_gres(text: str) -> int:
    """GPUs of `gpu:a100:2,gpumem:10G`, or `gres/gpu:2`."""
    items = [re.sub(r"^gres[/:]|\(.*", "", item.strip()).replace("=", ":") for item in text.split(",")]
    return sum(_count(item) for item in items if item.split(":")[0] == "gpu")


def _gpumem_gb(gres: str) -> float:
    """GPU memory in GB (of SLURM: GiB) that a `--gres` asks for on each node."""
    return sum(float(amount) * _UNIT_GB[unit.upper()] for amount, unit in _GPUMEM.findall(gres))


def _memory_gb(text: str) -> float:
    """GB (of SLURM: GiB) of `16G`; MB without a unit."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r}: no amount of memory; write 16G")
    return int(found[1]) * _UNIT_GB[found[2].upper() or "M"]


def _time_sec(text: str) -> float:
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return math.inf
    try:
        return duration_sec(text) or math.inf  # 0 asks for no limit
    except ValueError as error:
        raise ValueError(f"{error}; write HH:MM:SS") from None


def _warning_sec(signal: str) -> float:
    """Seconds before the end at which `--signal=[B:]NAME[@SECONDS]` comes; SLURM's default is 60."""
    found = re.search(r"@(\d+)$", signal)
    return float(found[1]) if found else 60.0 * bool(signal)
