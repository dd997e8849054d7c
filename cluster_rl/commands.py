"""The console commands, `cluster-rl-train` and so on: each imports its program, which takes seconds.

Before that, those of trainers and of `watch` hold the stop signals, and all others give up what Python makes of Ctrl-C;
so do the programs themselves where they are called as `python -m cluster_rl.train_cluster`.
"""

from __future__ import annotations

from cluster_rl.errors import end_quietly
from cluster_rl.jobs.signals import hold_signals


def train() -> None:
    """`cluster-rl-train`."""
    hold_signals()
    from cluster_rl import train_cluster

    train_cluster.command()


def train_slim() -> None:
    """`cluster-rl-train-slim`."""
    hold_signals()
    from cluster_rl import train_slim

    train_slim.command()


def evaluate() -> None:
    """`cluster-rl-evaluate`."""
    end_quietly()
    from cluster_rl import evaluate

    evaluate.command()


def replayer() -> None:
    """`cluster-rl-replayer`."""
    end_quietly()
    from cluster_rl import replayer

    replayer.command()


def debug_rollout() -> None:
    """`cluster-rl-debug-rollout`."""
    end_quietly()
    from cluster_rl import debug_rollout

    debug_rollout.command()


def start_state() -> None:
    """`cluster-rl-start-state`."""
    end_quietly()
    from cluster_rl import start_state

    start_state.command()


def cluster() -> None:
    """`cluster-rl-cluster`."""
    end_quietly()
    from cluster_rl import cluster

    cluster.command()


def report() -> None:
    """`cluster-rl-report`."""
    end_quietly()
    from cluster_rl.report import __main__ as report

    report.command()


def export() -> None:
    """`cluster-rl-export`."""
    end_quietly()
    from cluster_rl import export

    export.command()


def watch() -> None:
    """`cluster-rl-watch`."""
    hold_signals()
    from cluster_rl import watch

    watch.command()
