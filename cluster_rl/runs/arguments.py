"""The two options that say which run is meant, the same for every command."""

from __future__ import annotations

import argparse
import os

from cluster_rl.runs.layout import DEFAULT_ROOT


def add_run_name(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds `--run-name`, required unless it has a default, and `--runs`, whose default the environment may set."""
    parser.add_argument("--run-name", required=default is None, default=default, help="name of the run's folder")
    runs = os.environ.get("CLUSTER_RL_RUNS") or str(DEFAULT_ROOT)
    parser.add_argument(
        "--runs", default=runs, help=f"folder of all runs (default: CLUSTER_RL_RUNS, or {DEFAULT_ROOT})"
    )
