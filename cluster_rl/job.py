"""What a job checks and says before it starts; shared by the launcher and the serial mode.

In: command-line arguments. Out: a checked config, the run's folder and ROM, or a `UserError` while nothing exists yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from cluster_rl.config import Config, config_to_json, load_config, split_overrides
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.rom import Rom, load_rom
from cluster_rl.emulator.snapshot import load_savestate_file
from cluster_rl.errors import UserError
from cluster_rl.model import build_model
from cluster_rl.runs.atomic import remove_temporaries, write_atomic
from cluster_rl.runs.identity import ensure_identity, read_identity
from cluster_rl.runs.layout import DEFAULT_ROOT, RunDir
from cluster_rl.runs.resume import check_resumable
from cluster_rl.spaces import observation_spec
from cluster_rl.wire.sockets import resolve_bind_host

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
    """Loads the ROM and checks everything that a child would stumble over: savestate, network, address, earlier jobs.

    Raises `UserError`, before anything is created.
    """
    rom = load_rom(config.rom)
    if config.initial_state:
        snapshot = load_savestate_file(config.initial_state, rom)
        with Console(rom, config.frame_skip) as console:
            console.load(snapshot, f"initial_state {config.initial_state}")
    with torch.device("meta"):
        build_model(config, observation_spec(config))
    resolve_bind_host(config.bind_host)
    if config.replay_dir and Path(config.replay_dir).exists() and not Path(config.replay_dir).is_dir():
        raise UserError(f"replay_dir {config.replay_dir}: is a file; give a folder")
    check_resumable(run_dir, config)
    identity = read_identity(run_dir.identity)
    if identity is not None and identity.rom_sha1 != rom.sha1:
        raise UserError(
            f"run {run_dir.run_name!r} plays {identity.rom_title} (SHA-1 {identity.rom_sha1}), not {rom.title} "
            f"({rom.sha1}); give the same --rom, or another --run-name"
        )
    return rom


def begin_job(config: Config, run_dir: RunDir, rom: Rom) -> None:
    """Writes what a job's processes read. The caller holds the run's lock."""
    remove_temporaries(run_dir.path)
    ensure_identity(run_dir.identity, rom.sha1, rom.title)
    write_atomic(run_dir.config, config_to_json(config))
    # A learner that was killed leaves it behind, and actors would knock at a closed port first.
    run_dir.rendezvous.unlink(missing_ok=True)
