"""What a job checks and says before it starts; shared by the launcher and the serial mode.

In: command-line arguments. Out: a checked config, the run's folder, its lock and ROM, or a `UserError` while nothing
exists yet; with `--dry-run`, the plan in words.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from cluster_rl.config import Config, config_to_json, load_config, split_overrides
from cluster_rl.configs.files import config_name, is_stand_in
from cluster_rl.emulator.given_states import place_given_states, read_given_states
from cluster_rl.emulator.puffer_env import check_paid, environment_of, make_console
from cluster_rl.emulator.school import start_snapshot
from cluster_rl.emulator.spaces import observation_spec, quests_in
from cluster_rl.errors import StorageError, UserError, is_of_storage
from cluster_rl.exploration.archive import ArchiveDir
from cluster_rl.exploration.bayes_quests import QuestRules
from cluster_rl.game.world import World
from cluster_rl.jobs import fresh as fresh_start
from cluster_rl.jobs.continuity import check_whole, run_id_of
from cluster_rl.jobs.devices import learner_device, why_no_cuda
from cluster_rl.jobs.disk_needs import check_disk, check_disk_here, disk_needs
from cluster_rl.jobs.host_needs import check_here, check_memory, core_warning, host_needs
from cluster_rl.jobs.machine import core_limit, file_size_limit, memory_limit, process_limit
from cluster_rl.jobs.memory_estimate import GpuEstimate, estimate_gpu, estimate_replay
from cluster_rl.jobs.presets import warnings_of_game
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.jobs.supervise import BACKOFF_FIRST_SEC, BACKOFF_MAX_SEC, STORAGE_PATIENCE_SEC
from cluster_rl.model import build_model, parameter_count
from cluster_rl.report.bars import Bar, count_words, say, size_words
from cluster_rl.rom import Rom, load_rom, preflight
from cluster_rl.runs.arguments import add_run_name, run_name_of_config
from cluster_rl.runs.atomic import nearest_existing, remove_temporaries, write_atomic
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.identity import check_environment, ensure_identity, read_identity
from cluster_rl.runs.job_record import write_job_record
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock, current_holder
from cluster_rl.runs.progress import DamagedProgressError, read_progress
from cluster_rl.runs.resume import changed_settings, check_resumable
from cluster_rl.runs.slurm_job import slurm_job_id
from cluster_rl.wire.sockets import listening_host, resolve_bind_host


def add_run_arguments(parser: argparse.ArgumentParser, default_config: str) -> None:
    """The options that name a config and a run. `default_config` says in words the one for none."""
    parser.add_argument("--config", help=f"JSON or YAML file, or the name of a preset (default: {default_config})")
    parser.add_argument(
        "--default-config",
        metavar="NAME",
        help="the config where none is given, unless Red is played; for scripts",
    )
    add_run_name(parser, "the config's name")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and print the plan; start and create nothing"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="move what the run has aside, deleting nothing, and start a new one"
    )


def load_run(known: argparse.Namespace, overrides: Sequence[str]) -> tuple[Config, RunDir]:
    """Config and folder (not created) from the options of `add_run_arguments` and what was left over.

    Raises `UserError` where a shipped file would stand in for the one that a run was made with.
    """
    given = split_overrides(overrides)
    config = load_config(known.config, given)
    run_name = run_name_of_config(known.config) if known.run_name is None else known.run_name
    run_dir = RunDir(known.runs, run_name)
    if is_stand_in(known.config) and not known.fresh:
        overridden = {override.partition("=")[0] for override in given}
        changed = changed_settings(run_dir, config, besides=overridden)
        if changed:
            raise UserError(
                f"config {known.config}: no such file, and run {run_name!r} was not made with the shipped one of that "
                f"name ({changed[0]}); bring the file back, or give --config {config_name(known.config)} if that is "
                "meant"
            )
    return config, run_dir


class CheckedJob(NamedTuple):
    """A job that may start."""

    rom: Rom
    fresh: bool  # a new run begins, and one that is there is moved aside first
    notes: list[str]


def check_job(config: Config, run_dir: RunDir, fresh: bool = False) -> CheckedJob:
    """Loads the ROM and checks everything that a child would stumble over, from the savestate to the folders.

    All but the device, see `learner_device`: who plans a job need not have the GPU that it will have. `fresh`: a new
    run is asked for, which this very SLURM job may have begun before it was requeued. Raises `UserError`, before
    anything is created.
    """
    notes = []
    if fresh and fresh_start.is_begun(run_dir):
        fresh = False
        notes.append("--fresh: this job made the run before it was requeued, and goes on with it")
    with Bar("checking ROM, savestate, network and folders"):
        rom = check_config(config)
        if config.puffer:
            notes.append(f"environment: {environment_of(config)}, from {config.puffer}")
        notes += check_run(config, run_dir, rom, fresh)
    return CheckedJob(rom, fresh, notes)


def check_config(config: Config) -> Rom:
    """The part of `check_job` that is the same for all runs of a config."""
    check_paid(config)
    rom = load_rom(config.rom)
    if config.initial_state or config.puffer:
        with make_console(config, rom) as console:
            if config.initial_state:
                console.load(start_snapshot(config.initial_state, rom), f"initial_state {config.initial_state}")
    read_given_states(config, rom)
    QuestRules.from_config(config, quests_in(World.for_rom(rom.sha1), config.initial_state))
    with torch.device("meta"):
        build_model(config, observation_spec(config))
    resolve_bind_host(listening_host(config.bind_host, config.actor_jobs > 0))
    if config.replay_dir:
        _check_writable(Path(config.replay_dir), "replay_dir ")
    return rom


def check_run(config: Config, run_dir: RunDir, rom: Rom, fresh: bool = False) -> list[str]:
    """The part of `check_job` that looks at the run's folder; lines about what of it will not be there or is changed.

    `fresh`: a run that is there will be moved aside first.
    """
    run_dir.check_kinds()
    for folder in (run_dir.path, run_dir.checkpoint, run_dir.replay, run_dir.episode_logs, run_dir.logs):
        _check_writable(folder)
    if fresh and fresh_start.has_something(run_dir):
        return []
    changes = check_resumable(run_dir, config)
    identity = read_identity(run_dir.identity)
    if identity is not None and identity.rom_sha1 != rom.sha1:
        raise UserError(
            f"run {run_dir.run_name!r} plays {identity.rom_title} (SHA-1 {identity.rom_sha1}), not {rom.title} "
            f"({rom.sha1}); give the same --rom, or another --run-name"
        )
    check_environment(identity, run_dir.run_name, environment_of(config))
    replay = run_dir.replay_in(config.replay_dir)
    run_id_of(run_dir, replay)
    return [*check_whole(run_dir, replay), *changes]


@contextlib.contextmanager
def open_job(config: Config, run_dir: RunDir, serial: bool = False, fresh: bool = False) -> Iterator[StopFlag]:
    """Checks a job, takes over the stop signals, makes the run's folder and holds its lock while the job lasts.

    Says what is played, on which device, and which settings are not those of the run's last job. Raises `UserError`,
    before anything is created, for what `check_job` refuses, for a GPU that is not there, for more memory or disk than
    there is, and for a run that another process trains. `serial`: all in this process. `fresh`: a run that is there is
    moved aside, unless this very SLURM job made it before it was requeued.

    A SLURM job has waited in the queue: storage that refuses its start is waited for, as long as for a child's. Where a
    signal ends that, the flag is set, and nothing is held.
    """
    device = learner_device(config)
    stop, held = _LateFlag(), contextlib.ExitStack()

    def begin() -> None:
        nonlocal fresh
        rom, fresh, first = check_job(config, run_dir, fresh)
        spec = observation_spec(config)
        tight = check_here(config, spec, device.type, serial=serial) + check_disk_here(config, run_dir, spec, fresh)
        stop.install()
        aside = fresh_start.set_aside(run_dir, run_dir.replay_in(config.replay_dir)) if fresh else None
        fresh = False  # at a second try this run's own beginnings are there
        if aside is not None:
            say(f"--fresh: what the run had is now in {aside}")
        run_dir.create()
        with contextlib.ExitStack() as locked:
            locked.enter_context(RunLock(run_dir))
            crash_point("launcher.locked")
            print(f"run {run_dir.path}: {preflight(rom)}", flush=True)
            lines = [*first, *warnings_of_game(config, rom), *_warnings_of_target(config), device.line, *tight]
            for line in lines:
                say(line)
            if config.actor_jobs:
                print(_actors_plan(config), flush=True)
            begin_job(config, run_dir, rom)
            crash_point("launcher.job_begun")
            held.push(locked.pop_all())

    _when_storage_lets(begin, stop)
    with held:
        yield stop


class _LateFlag(StopFlag):
    """Takes over the signals once, at whichever try it is asked to."""

    _installed = False

    def install(self) -> StopFlag:
        if not self._installed:
            self._installed = True
            super().install()
        return self


def _when_storage_lets(begin: Callable[[], None], stop: StopFlag) -> None:
    """Calls `begin`; in a SLURM job again and again while storage refuses it, but not longer than a learner is started
    again, nor once `stop` is set."""
    started, pause_sec = time.monotonic(), BACKOFF_FIRST_SEC
    while True:
        try:
            return begin()
        except (StorageError, OSError) as error:
            if isinstance(error, OSError) and not is_of_storage(error):
                raise
            if slurm_job_id() is None or time.monotonic() - started > STORAGE_PATIENCE_SEC:
                raise
            print(f"{error}; trying again in {pause_sec:g} s", flush=True)
        if stop.install().wait(pause_sec):
            return None
        pause_sec = min(2 * pause_sec, BACKOFF_MAX_SEC)


def dry_run(config: Config, run_dir: RunDir, serial: bool = False, fresh: bool = False) -> None:
    """Does the checks of `open_job` and prints the plan, without creating or starting anything.

    Raises `UserError` as `open_job` would, but for a GPU that only the job needs to have: the plan says so.
    """
    rom, fresh, first = check_job(config, run_dir, fresh)
    check_free(run_dir)
    with Bar("working out the plan"):
        for line in _plan(config, run_dir, rom, serial, fresh, first):
            say(line)


def check_free(run_dir: RunDir) -> None:
    """Raises `UserError` if some process trains the run now."""
    holder = current_holder(run_dir)
    if holder is not None:
        raise UserError(f"run {run_dir.run_name!r} is being trained by {holder}; wait for its end, or stop it")


def begin_job(config: Config, run_dir: RunDir, rom: Rom) -> None:
    """Writes what a job's processes read. The caller holds the run's lock."""
    archive = ArchiveDir(run_dir.archive)
    for folder in (run_dir.path, run_dir.jobs, run_dir.episode_logs, archive.path, archive.incoming, archive.states):
        remove_temporaries(folder)
    lost = not run_dir.identity.exists()
    run_id = run_id_of(run_dir, run_dir.replay_in(config.replay_dir))
    ensure_identity(run_dir.identity, rom.sha1, rom.title, run_id, environment_of(config))
    if lost and run_id is not None:
        say(f"{run_dir.identity} was not there; the run's id, {run_id}, is taken back from its other files")
    place_given_states(read_given_states(config, rom), run_dir.archive)
    write_atomic(run_dir.config, config_to_json(config))
    # A learner that was killed leaves it behind, and actors would knock at a closed port first.
    run_dir.rendezvous.unlink(missing_ok=True)
    write_job_record(config, run_dir)  # last: a start that storage refuses is tried again, and has no record


def gpu_need(config: Config) -> GpuEstimate:
    """What the learner takes of a GPU; says first what the next seconds go to."""
    print("estimating GPU memory: going through one update by the shapes of its tensors, a few seconds", flush=True)
    return estimate_gpu(config, observation_spec(config))


def _plan(config: Config, run_dir: RunDir, rom: Rom, serial: bool, fresh: bool, first: Sequence[str]) -> Iterator[str]:
    """What a job would do and take, a line each, as they become known. `first`: what the checks had to say."""
    spec = observation_spec(config)
    with torch.device("meta"):
        parameters = parameter_count(build_model(config, spec))
    no_cuda = why_no_cuda() if config.device == "cuda" else None
    positions = f"{config.burn_in} + {config.unroll_length} + {config.n_step}"
    hours = (
        f"at most {config.max_runtime_seconds / 3600:.2f} h" if config.max_runtime_seconds else "without a time limit"
    )
    yield f"game: {preflight(rom)}"
    yield from warnings_of_game(config, rom)
    yield from _warnings_of_target(config)
    yield f"run: {run_dir.path}, {_where_run_stands(run_dir)}"
    yield from first
    if fresh and fresh_start.has_something(run_dir):
        yield f"--fresh: all that is moved to {run_dir.path}.before-..., and a new run begins"
    yield f"target: {config.target_total_steps:,} env steps; this job {hours}"
    yield _actors_plan(config)
    yield (
        f"network: {config.model.kind}, {parameters:,} parameters; batches of {config.batch_size} sequences x "
        f"({positions}) positions"
    )
    yield _replay_plan(config)
    yield from check_disk(disk_needs(config, run_dir, spec, fresh), file_size_limit())
    yield from _host_plan(config, serial)
    yield _device_plan(config, no_cuda)
    if config.device != "cpu":
        yield _gpu_plan(gpu_need(config))
    passed = "all checks passed" if no_cuda is None else "all checks but that of the device passed"
    yield f"dry run: {passed}; nothing was started or created"


def _warnings_of_target(config: Config) -> list[str]:
    target, first = config.target_total_steps, config.min_replay_transitions
    if target >= first:
        return []
    return [
        f"WARNING: target_total_steps {target:,} is less than min_replay_transitions {first:,}: the run will end "
        "before it learns anything"
    ]


def _actors_plan(config: Config) -> str:
    actors = f"actors: {config.num_actors} with {config.envs_per_actor} emulators each"
    if not config.actor_jobs:
        return actors
    host = listening_host(config.bind_host, others_come=True)
    warning = ""
    if resolve_bind_host(host).is_loopback:
        warning = "; that is loopback, which other nodes cannot reach: give --bind_host 0.0.0.0"
    return f"{actors}, and as many in each of {config.actor_jobs} actor jobs, which join at {host}{warning}"


def _where_run_stands(run_dir: RunDir) -> str:
    if not run_dir.exists():
        return "new"
    try:
        progress = read_progress(run_dir.progress)
    except DamagedProgressError:
        return "goes on (its progress.json is damaged and will be rebuilt)"
    if progress is None:
        return "exists, nothing trained yet"
    jobs = count_words(len(progress.jobs), "job")
    return f"goes on at env step {progress.env_steps:,}, update {progress.updates:,}, after {jobs}"


def _replay_plan(config: Config) -> str:
    replay = estimate_replay(config, observation_spec(config))
    capacity = config.replay_capacity_transitions
    low, high = replay.log
    return (
        f"replay: {capacity:,} transitions; in RAM index {size_words(replay.index)} and batches "
        f"{size_words(replay.batches)}; when full about {size_words(low)} to {size_words(high)} on disk "
        f"({low / capacity:.0f} to {high / capacity:.0f} bytes a transition)"
    )


def _host_plan(config: Config, serial: bool) -> Iterator[str]:
    """Memory and cores of this machine that the job would take. Raises `UserError` where it cannot have them."""
    device = "cpu" if config.device == "cpu" or (config.device == "auto" and why_no_cuda() is not None) else "cuda"
    needs, there = host_needs(config, observation_spec(config), device, serial=serial), memory_limit()
    tight = check_memory(needs, there, process_limit())
    yield f"{needs}; there is {size_words(there.amount)} ({there.source})"
    if tight:
        yield tight
    cores = core_limit()
    warning = "" if serial else core_warning(config, cores)
    yield warning or f"cores: {cores.amount:g} ({cores.source})"


def _device_plan(config: Config, no_cuda: str | None) -> str:
    if no_cuda is not None:
        return f"device: CUDA, which a job must have and this machine lacks: {no_cuda}"
    device = learner_device(config)
    if device.type != "cuda":
        return device.line
    card = torch.cuda.get_device_properties(0)
    return f"{device.line}, {card.name}, {size_words(card.total_memory)}"


def _gpu_plan(need: GpuEstimate) -> str:
    return (
        f"GPU memory: about {size_words(need.total)}: networks {size_words(need.networks)}, optimiser "
        f"{size_words(need.optimizer)}, batches {size_words(need.batches)}, an update {size_words(need.update)} (of it "
        f"{size_words(need.saved)} kept for the backward pass), allowed for CUDA and its libraries "
        f"{size_words(need.allowance)}"
    )


def _check_writable(folder: Path, what: str = "") -> None:
    """Raises `UserError` if `folder` is no folder that can be written to or made, `StorageError` if it is read-only for
    now. Makes nothing."""
    there = nearest_existing(folder)
    if not there.is_dir():
        raise UserError(f"{what}{folder}: {there} is a file; give a folder")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise StorageError(f"{what}{folder}: the file system is mounted read-only", folder, errno.EROFS)
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{what}{folder}: {there} cannot be written to; check its permissions, or give another folder")
