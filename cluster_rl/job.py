"""What a job checks and says before it starts; shared by the launcher and the serial mode.

In: command-line arguments. Out: a checked config, the run's folder and ROM, or a `UserError` while nothing exists yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.emulator.rom import Rom, load_rom
from cluster_rl.emulator.snapshot import load_savestate_file
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import DEFAULT_ROOT, RunDir
from cluster_rl.runs.resume import check_resumable

OVERRIDES_HELP = (
    "Every config key may be given as --key value (docs/config.md lists them), for example --rewards.badge 10."
)


def add_run_arguments(parser: argparse.ArgumentParser, default_config: str, default_run_name: str | None) -> None:
    """The options that name a config and a run."""
    parser.add_argument(
        "--config", default=default_config, help="JSON or YAML file, or the name of a preset (default: %(default)s)"
    )
    parser.add_argument(
        "--run-name", required=default_run_name is None, default=default_run_name, help="name of the run's folder"
    )
    parser.add_argument("--runs", default=str(DEFAULT_ROOT), help="folder of all runs (default: %(default)s)")


def load_run(known: argparse.Namespace, overrides: Sequence[str]) -> tuple[Config, RunDir]:
    """Config and folder (not created) from the options of `add_run_arguments` and what was left over."""
    run_dir = RunDir(known.runs, known.run_name)
    return load_config(known.config, split_overrides(overrides)), run_dir


def check_job(config: Config, run_dir: RunDir) -> Rom:
    """Loads the ROM and checks it, the savestate and an earlier job of the run against the config.

    Raises `UserError`, before anything is created.
    """
    rom = load_rom(config.rom)
    if config.initial_state:
        load_savestate_file(config.initial_state, rom)
    before = check_resumable(run_dir, config)
    if before is not None and before.rom != config.rom and load_rom(before.rom).sha1 != rom.sha1:
        raise UserError(
            f"run {run_dir.run_name!r} plays {before.rom or 'the embedded cartridge'}, not "
            f"{config.rom or 'the embedded cartridge'}; give the same --rom, or another --run-name"
        )
    return rom
