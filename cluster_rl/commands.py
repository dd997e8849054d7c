"""The console commands `cluster-rl-train` and `cluster-rl-train-slim`.

They hold the stop signals before they import their program, which takes seconds; so do the programs themselves where
they are called as `python -m cluster_rl.train_cluster`.
"""

from __future__ import annotations

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
