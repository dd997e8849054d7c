"""The two options that say which run is meant, the same for every command."""

from __future__ import annotations

import argparse

from cluster_rl.runs.layout import DEFAULT_ROOT


def add_run_name(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds `--run-name`, required unless it has a default, and `--runs`."""
    parser.add_argument("--run-name", required=default is None, default=default, help="name of the run's folder")
    parser.add_argument("--runs", default=str(DEFAULT_ROOT), help="folder of all runs (default: %(default)s)")
