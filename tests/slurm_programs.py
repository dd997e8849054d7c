"""Programs that stand where SLURM's would, for unit tests."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def put_program(folder: Path, name: str, script: str) -> None:
    """A shell script of this name."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def job_programs(home: Path) -> Path:
    """Where the programs lie that a job submitted from this folder finds."""
    return home.parent / "bin"
