"""The options that say which run is meant, the same for every command."""

from __future__ import annotations

import argparse
import os

from cluster_rl.configs.files import config_name
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import DEFAULT_ROOT, check_run_name


def add_run_name(parser: argparse.ArgumentParser, otherwise: str | None = None) -> None:
    """Adds `--run-name`, and `--runs`, whose default the environment may set.

    `otherwise` says in words what holds without a name; None: one must be given.
    """
    words = "name of the run's folder" + ("" if otherwise is None else f" (default: {otherwise})")
    parser.add_argument("--run-name", required=otherwise is None, help=words)
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
