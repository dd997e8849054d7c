"""What a program does not need it does not import: commands answer at once, also from a cold network disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

EMULATION = {"pyboy", "numpy", "gymnasium"}
LEARNING = {"torch", "matplotlib", "tensorboard"}


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("cluster", LEARNING | EMULATION),
        ("jobs.actor_job", LEARNING | EMULATION),
        ("emulator", LEARNING | {"pyboy"}),
        ("replayer", LEARNING),
        ("start_state", LEARNING),
        ("report.__main__", LEARNING | EMULATION),
        ("export", LEARNING | EMULATION),
        ("exporting.tables", LEARNING | {"pyboy", "wandb"}),
        ("exporting.coords", LEARNING | {"pyboy", "wandb"}),
        ("watch", LEARNING | EMULATION),
        ("debug_rollout", LEARNING | {"pyboy"}),
    ],
)
def test_a_program_is_spared(module: str, unneeded: set[str]) -> None:
    lines = f"import sys, cluster_rl.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert not unneeded & set(done.stdout.split())
