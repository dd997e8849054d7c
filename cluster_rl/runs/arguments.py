"""How every command reads its options, those that say which run is meant, and what `--help` says of config keys."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from cluster_rl import __version__
from cluster_rl.config import Config, config_groups, config_values
from cluster_rl.configs.files import config_name
from cluster_rl.configs.values import bounds_words, default_words
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import DEFAULT_ROOT, check_run_name

OVERRIDES_HELP = (
    "Every config key may be given as --key value (docs/config.md lists them), for example --rewards.badge 10."
)
_KEY_COLUMNS = 36


class Arguments(argparse.ArgumentParser):
    """Options are written in full, with dashes or underscores; what is wrong with one is a `UserError` of one line.

    Every command has `--version`, as it has `--help`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        if self.add_help:
            words = f"cluster_rl {__version__}, Python {platform.python_version()}"
            self.add_argument("--version", action="version", version=words, help="print it and end")

    def parse_known_args(  # type: ignore[override]  # typeshed has an overload for each kind of namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        ours = words.index("--") if "--" in words else len(words)  # what follows is another program's
        return super().parse_known_args([*map(self._as_named, words[:ours]), *words[ours:]], namespace)

    def error(self, message: str) -> Any:
        raise UserError(f"{message}; {self.prog} --help lists the options")

    def _as_named(self, word: str) -> str:
        """`--run_name=x` as `--run-name=x`; what is no option here may be a config key, and stays."""
        name, equals, value = word.partition("=")
        names = {option.replace("_", "-"): option for option in self._option_string_actions}
        return names.get(name.replace("_", "-"), name) + equals + value if name.startswith("--") else word


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """The `type` of an option that is a whole number from `low` to `high`."""
    bounds = f"at least {low}" if high is None else f"{low} to {high}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, {bounds}, not {text!r}") from None
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be {bounds}, not {number}")
        return number

    return read


def config_help() -> str:
    """Every config key by group, as wide as the terminal; the same that docs/config.md says."""
    columns = shutil.get_terminal_size().columns - 2
    defaults = config_values(Config())
    lines = ["Every config key may be given as --key value, such as --rewards.badge 10, or stand in the config file."]
    for title, keys in config_groups().items():
        lines += ["", f"{title}:"]
        for key, meta in keys.items():
            unit = (meta.extra or {})["unit"]
            limits = " ".join(word for word in (unit, bounds_words(meta)) if word)
            words = f"{meta.description} ({limits + '; ' if limits else ''}default {default_words(defaults[key])})"
            lines += textwrap.wrap(
                words,
                max(columns, 2 * _KEY_COLUMNS),
                initial_indent=f"  --{key} ".ljust(_KEY_COLUMNS),
                subsequent_indent=" " * _KEY_COLUMNS,
                break_on_hyphens=False,
            )
    return "\n".join([*lines, "", "Defaults are those without a preset or config file."])


def add_run_name(parser: argparse.ArgumentParser, otherwise: str | None = None, several: bool = False) -> None:
    """Adds `--run-name`, and `--runs`, whose default the environment may set.

    `otherwise` says in words what holds without a name; None: one must be given. With `several`, any number is taken.
    """
    words = "names of the runs' folders" if several else "name of the run's folder"
    words += "" if otherwise is None else f" (default: {otherwise})"
    many: dict[str, Any] = {"nargs": "+", "action": "extend"} if several else {}
    parser.add_argument("--run-name", required=otherwise is None, help=words, **many)
    runs = os.environ.get("CLUSTER_RL_RUNS") or str(DEFAULT_ROOT)
    parser.add_argument(
        "--runs", default=runs, help=f"folder of all runs (default: CLUSTER_RL_RUNS, or {DEFAULT_ROOT})"
    )


def run_name_of_config(config: str) -> str:
    """The run of a trainer that was told none: the name of its config's file, so two files of one name share it.

    Raises `UserError` where the file's name is no name of a run.
    """
    try:
        return check_run_name(config_name(config))
    except UserError:
        raise UserError(f"config {config}: its name cannot be a run's; give --run-name") from None
