"""Options of sbatch as sbatch reads them: from a script's `#SBATCH` lines, from variables, from a command line.

`batch_system/job_script.py` uses it. In: text, words, an environment. Out: long names with their values, and a note for
each thing that was passed over; sbatch itself judges that when the job is submitted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster_rl.errors import UserError
from cluster_rl.jobs.slurm import OF_THE_CALL

TYPED = "--sbatch"
_LETTERS_TEXT = (
    "a:array A:account b:begin B:extra-node-info c:cpus-per-task C:constraint d:dependency D:chdir e:error F:nodefile "
    "G:gpus h:help H:hold i:input J:job-name k:no-kill L:licenses m:distribution M:clusters n:ntasks N:nodes o:output "
    "O:overcommit p:partition q:qos Q:quiet s:oversubscribe S:core-spec t:time v:verbose V:version w:nodelist W:wait "
    "x:exclude"
)
# A word after these is no value of theirs: some take one, but only behind "=".
_FLAGS_TEXT = (
    "contiguous exclusive get-user-env help hold ignore-pbs kill-on-invalid-dep nice no-kill no-requeue overcommit "
    "oversubscribe parsable propagate quiet reboot requeue spread-job stepmgr test-only usage use-min-nodes verbose "
    "version wait"
)
_WITH_VALUE_TEXT = (
    "account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container "
    "container-id core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency "
    "distribution error exclude export export-file extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node "
    "gpus-per-socket gpus-per-task gres gres-flags hint input job-name licenses mail-type mail-user mcs-label mem "
    "mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu "
    "ntasks-per-node ntasks-per-socket open-mode output partition power prefer priority profile qos reservation "
    "resv-ports segment signal sockets-per-node switches thread-spec threads-per-core time time-min tmp tres-bind "
    "tres-per-task uid wait-all-nodes wckey wrap"
)
# The options that sbatch takes from variables of their name; it ignores others of the kind.
_WITH_VARIABLE_TEXT = (
    "account acctg-freq batch clusters cluster-constraint constraint container core-spec cpus-per-gpu delay-boot "
    "distribution error exclusive export get-user-env gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket "
    "gpus-per-task gres gres-flags hint ignore-pbs input job-name mem-bind mem-per-cpu mem-per-gpu network no-kill "
    "no-requeue open-mode output overcommit partition power profile qos requeue reservation signal spread-job "
    "thread-spec threads-per-core use-min-nodes wait-all-nodes wckey"
)
_LETTERS = dict(pair.split(":") for pair in _LETTERS_TEXT.split())
_FLAGS = frozenset(_FLAGS_TEXT.split())
_WITH_VALUE = frozenset(_WITH_VALUE_TEXT.split())
_KNOWN = _FLAGS | _WITH_VALUE
_VARIABLES = {f"SBATCH_{name.upper().replace('-', '_')}": name for name in _WITH_VARIABLE_TEXT.split()} | {
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_BURST_BUFFER": "bb",
    "SBATCH_CPU_FREQ_REQ": "cpu-freq",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_REQ_SWITCH": "switches",
    "SBATCH_TIMELIMIT": "time",
}
# Two change how sbatch answers and nothing of the job, and our calls leave them out; the third has no option alone.
_NO_OPTIONS = (*OF_THE_CALL, "SBATCH_WAIT4SWITCH")
# What would undo that `cluster` submits, finds and requeues jobs; and what does the same.
_REFUSED = {
    "array": "its tasks would all train one run; give --seeds, which makes an array with a run each",
    "clusters": "its queue would not be asked; set SLURM_CLUSTERS, which all commands of SLURM follow",
    "comment": "the run's jobs are known by their comment; name them with --sbatch=--job-name=NAME",
    "export": "the job gets all variables of your shell; set NAME=value before the command",
    "export-file": "the job gets all variables of your shell; set NAME=value before the command",
    "help": "nothing would be submitted; see sbatch --help",
    "quiet": "sbatch would not tell the job's number; leave it out",
    "test-only": "nothing would be submitted; type check in place of submit",
    "usage": "nothing would be submitted; see sbatch --help",
    "version": "nothing would be submitted; see sbatch --version",
    "wait": "submit would wait for the job's end; leave it out, and look with status",
    "wrap": "a job script is submitted; name it with --script",
}
_MEMORY = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})
# What is given with each job, so that it does not matter elsewhere.
_GIVEN = ("comment", "export")


class Option(NamedTuple):
    """The value of an option, empty for a flag, and where it is from: a script's path, `SBATCH_X=VALUE`, or `TYPED`."""

    value: str
    where: str


Options = dict[str, Option]  # by long name, without dashes; `requeue` is "yes" or "no"


def script_words(text: str, where: str) -> tuple[list[str], list[str]]:
    """The words of a script's `#SBATCH` lines up to its first command, and notes. Raises `UserError` for a line that
    sbatch refuses to read."""
    words: list[str] = []
    notes: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.startswith("#SBATCH"):
            if line.strip() and not line.lstrip().startswith("#"):
                break
            if not notes and re.match(r"#(PBS|BSUB)\s", line):
                notes.append(
                    f"{where}, line {number}: sbatch reads lines of {line.split()[0]} too, and here they do not count"
                )
            continue
        rest = line.removeprefix("#SBATCH").strip()
        if re.match(r"(het|pack)job\b", rest):
            return words, [*notes, f"{where}, line {number}: {rest}: only the part before it is looked at"]
        lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
        lexer.whitespace_split = True
        lexer.escapedquotes = "\"'"  # unlike the shell's, a backslash of sbatch holds within '...' too
        try:
            words += list(lexer)
        except ValueError:
            raise UserError(f"{where}, line {number}: a quote has no end, so sbatch refuses it") from None
    return words, notes


def read_options(words: Sequence[str], where: str) -> tuple[Options, list[str]]:
    """`--name=value`, `--name value`, `-x value`, `-xvalue` and flags as long names, and notes on what is unknown.

    Raises `UserError` for what is no option, or has no value, if `where` says that it was typed.
    """
    found: Options = {}
    notes: list[str] = []
    rest = list(words)

    def value_of(name: str) -> str:
        if name in _WITH_VALUE and not rest and where == TYPED:  # sbatch would take the script's path for it
            raise UserError(f"{where}=--{name}: its value is missing; write --{name}=VALUE")
        return rest.pop(0) if rest and (name in _WITH_VALUE or not rest[0].startswith("-")) else ""

    def unknown(word: str) -> None:
        notes.append(f"{where}: {word} is not known here and passed over; sbatch judges it")

    while rest:
        word = rest.pop(0)
        if re.match(r"--\w", word):
            start, equals, value = word[2:].partition("=")
            name = _whole_name(start)
            if not equals and name not in _FLAGS:
                value = value_of(name)
            if name in _KNOWN:
                _put(found, name, value, where)
            else:
                unknown(f"--{name}")
        elif re.match(r"-[A-Za-z]", word):
            letters = word[1:]
            while letters:  # flags may stand together, and the last letter may take a value
                name, letters = _LETTERS.get(letters[0], letters[0]), letters[1:]
                if name not in _FLAGS:
                    value, letters = letters or value_of(name), ""
                if name in _FLAGS:
                    _put(found, name, "", where)
                elif name in _KNOWN:
                    _put(found, name, value, where)
                else:
                    unknown(f"-{name}")
        elif where == TYPED:
            raise UserError(f"{where}: {word!r} is no option of sbatch; write --name=value")
        else:
            unknown(repr(word))
    return found, notes


def environment_options(environment: Mapping[str, str]) -> tuple[Options, list[str]]:
    """What sbatch would take from variables, and notes on those it ignores."""
    found: Options = {}
    notes = []
    for variable, value in sorted(environment.items()):
        name = _VARIABLES.get(variable)
        if name is not None:
            off = name in _FLAGS and value.lower() in ("0", "no")
            if not off and name not in _GIVEN:
                _put(found, name, value, f"{variable}={value}")
        elif variable.startswith("SBATCH_") and variable not in _NO_OPTIONS:
            notes.append(f"environment: {variable} is no variable of sbatch's and changes nothing")
    return found, notes


def with_one_memory(asked: Options) -> Options:
    """The options without the variables that give way to another way to ask for memory, typed or in the script.

    Raises `UserError` for two ways to ask, as sbatch does: what is typed replaces only the same option of the script.
    """
    ways = {name: option for name, option in sorted(asked.items()) if name in _MEMORY}
    counted = {name: option for name, option in ways.items() if not of_environment(option)} or ways
    if len(counted) > 1:
        given = " and ".join(_given(name, option) for name, option in counted.items())
        raise UserError(f"{given}: sbatch takes memory in one way alone; leave one out, or ask as the script does")
    return {name: option for name, option in asked.items() if name not in ways or name in counted}


def of_environment(option: Option) -> bool:
    """Whether a variable gave it."""
    return option.where.startswith("SBATCH_")


def refuse(asked: Options) -> None:
    """Raises `UserError` for options, typed or elsewhere, that undo what the commands of `cluster` rely on."""
    for name, why in _REFUSED.items():
        option = asked.get(name)
        # In a script, what is given with each job goes before these.
        if option is not None and (option.where == TYPED or name not in _GIVEN):
            raise UserError(f"{_given(name, option)}: {why}")
    folder = asked.get("chdir")
    if folder is not None and Path(folder.value).absolute() != Path.cwd():
        raise UserError(f"{_given('chdir', folder)}: a job starts where it is submitted; go there first")
    signal = asked.get("signal")
    if signal is not None and not re.match(r"([RB]+:)?(SIG)?(USR[12]|10|12)(@|$)", signal.value, re.IGNORECASE):
        raise UserError(f"{_given('signal', signal)}: a job expects USR2 as its warning; write --signal=B:USR2@SECONDS")


def _given(name: str, option: Option) -> str:
    value = f"={option.value}" if option.value else ""
    if of_environment(option):
        return f"{option.where} in the environment"
    return f"{option.where}{'=' if option.where == TYPED else ': '}--{name}{value}"


def _put(found: Options, name: str, value: str, where: str) -> None:
    if name in ("requeue", "no-requeue"):  # one setting, of which the last word holds
        name, value = "requeue", "no" if name == "no-requeue" else "yes"
    found[name] = Option(value, where)


def _whole_name(start: str) -> str:
    """sbatch takes the beginning of a name for the whole where only one begins so."""
    begun = [name for name in _KNOWN if name.startswith(start)]
    return begun[0] if len(begun) == 1 and start not in _KNOWN else start
