"""What `python -m cluster_rl.cluster` would submit, and the submitting itself; `checks.py` says whether it can work.

In: settings, a job script, options and the trainer's arguments. Out: a `Plan`, and jobs in the queue; or a `UserError`
for what is not understood, and for what SLURM refuses.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from cluster_rl.batch_system.job_script import SCRIPTS, JobRequest, read_request
from cluster_rl.batch_system.seeds import array_option, job_comment
from cluster_rl.batch_system.settings import ClusterSettings
from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.errors import UserError
from cluster_rl.jobs import slurm
from cluster_rl.jobs.presets import choose_config
from cluster_rl.jobs.slurm import SlurmError
from cluster_rl.runs.layout import RunDir

LOGS = SCRIPTS / "logs"
FRESH = "--fresh"
_ACTORS_SCRIPT = "actors"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs to submit: the trainer's, then those of actors. `commands` are sbatch's, one a request; `config` is the
    trainer's, and `fresh` whether it begins a new run. With `seeds` each job is an array with a task for each, at most
    `tasks_at_once` of them at a time."""

    settings: ClusterSettings
    run_dir: RunDir
    seeds: range | None
    tasks_at_once: int
    requests: list[JobRequest]
    commands: list[list[str]]
    config: Config
    fresh: bool

    @property
    def runs(self) -> list[tuple[RunDir, Config]]:
        """What is trained: the run, or that of each seed."""
        if self.seeds is None:
            return [(self.run_dir, self.config)]
        return [
            (self.run_dir.of_seed(seed), msgspec.structs.replace(self.config, base_seed=seed)) for seed in self.seeds
        ]


def make_plan(
    settings: ClusterSettings,
    script: str,
    *,
    runs: str,
    run_name: str,
    actor_jobs: int,
    seeds: range | None,
    chain: bool,
    sbatch_options: Sequence[str],
    trainer: Sequence[str],
) -> Plan:
    """The jobs of `slurm/SCRIPT.sbatch` and of `actor_jobs` more. Raises `UserError` for what is not understood, in the
    trainer's arguments too.

    `sbatch_options` are for the trainer's job. With `seeds` a run of each, NAME-s1 and so on, with it as `base_seed`.
    """
    run_dir = RunDir(runs, run_name)
    try:
        sbatch_options = [word for option in sbatch_options for word in shlex.split(option)]
    except ValueError as error:
        raise UserError(f"--sbatch: {error}") from None
    if actor_jobs < 0:
        raise UserError(f"--actor-jobs {actor_jobs}: must be at least 0")
    ours = ["--requeue"] if chain else []  # SBATCH_NO_REQUEUE would keep a chain from going on
    if seeds is not None:
        ours.append(f"--output={LOGS}/%x-%A_%a.out")
    # What the user types comes later, and holds.
    own = _site_options(settings, read_request(script, sbatch_options)) + ours + sbatch_options
    request = read_request(script, own)
    if chain and request.requeues is False:
        raise UserError("--sbatch=--no-requeue: a chain goes on by requeueing; leave --chain out")
    arguments = list(trainer) + ([f"--actor_jobs={actor_jobs}"] if actor_jobs else [])
    config = _trainers_config(settings, request, arguments, actor_jobs, seeds)
    tasks = 1 if seeds is None else len(seeds)
    tasks_at_once = int(min(tasks, max(1, settings.max_jobs / (1 + actor_jobs))))
    chained = "yes" if chain else "no"
    common = [f"--comment={job_comment(run_dir, seeds)}", f"--export=ALL,CLUSTER_RL_CHAIN={chained}"]
    if seeds is not None:
        common.append(array_option(seeds, tasks_at_once))
    named = ["--run-name", run_name, "--runs", runs]
    requests, commands = [request], [_command(request, [*common, *own]) + named + arguments]
    if actor_jobs:
        options = _site_options(settings, read_request(_ACTORS_SCRIPT)) + ours
        joining = read_request(_ACTORS_SCRIPT, options)
        command = _command(joining, [*common, *options]) + named
        requests += [joining] * actor_jobs
        wait = ["--learner_wait_seconds", f"{config.learner_wait_seconds:g}"]
        commands += [[*command, "--job", str(number), *wait] for number in range(1, actor_jobs + 1)]
    return Plan(
        settings=settings,
        run_dir=run_dir,
        seeds=seeds,
        tasks_at_once=tasks_at_once,
        requests=requests,
        commands=commands,
        config=config,
        fresh=FRESH in arguments,
    )


def _trainers_config(
    settings: ClusterSettings, request: JobRequest, arguments: Sequence[str], actor_jobs: int, seeds: range | None
) -> Config:
    """What the trainer will make of its arguments. Raises `UserError` for those that do not go with the request."""
    if not request.trains:
        raise UserError(f"{request.script}: trains nothing, so cluster cannot check it; submit it with sbatch")
    if actor_jobs and request.module != "train_cluster":
        raise UserError(f"{request.script}: the slim agent is one process; leave --actor-jobs out")
    preset, rest = _take_config(arguments, request.preset, request.module == "train_slim")
    if settings.rom:
        rest = [f"--rom={settings.rom}", *rest]
    overrides = split_overrides(rest)
    if seeds is not None and any(override.partition("=")[0] == "base_seed" for override in overrides):
        raise UserError("--base_seed: with --seeds each run has its own; leave it out")
    return load_config(preset or choose_config(request.default_preset, rest), overrides)


def submit(plan: Plan) -> None:
    """Makes the folders that the jobs need and submits them. Raises `UserError` if SLURM refuses one."""
    if not slurm.installed():
        raise UserError(
            "no SLURM on this machine; submit from the cluster's login node, or train here with: "
            f"bash {plan.requests[0].script} --run-name {plan.run_dir.run_name}"
        )
    for request in plan.requests:
        _make_log_folders(request)
    for run_dir, _ in plan.runs:
        run_dir.create()
    for command, request in zip(plan.commands, plan.requests, strict=True):
        try:
            job_id = slurm.submit_job(command)
        except SlurmError as error:
            raise UserError(f"{request.script}: {error}") from None
        log = str(request.logs[0])
        for pattern, stands_for in (("%j", job_id), ("%A", job_id), ("%x", "*"), ("%a", "*")):
            log = log.replace(pattern, stands_for)
        what = "job" if plan.seeds is None else "array"
        print(f"submitted {what} {job_id}: {request.script}, log {log}", flush=True)


def _make_log_folders(request: JobRequest) -> None:
    """A job whose log folder is missing fails before its first line. Raises `UserError`."""
    for log in request.logs:
        folder = next(parent for parent in log.parents if "%" not in str(parent))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: the folder of a job's log cannot be made: {error.strerror}") from None


def _command(request: JobRequest, options: Sequence[str]) -> list[str]:
    return ["sbatch", "--parsable", *options, str(request.script)]


def _site_options(settings: ClusterSettings, request: JobRequest) -> list[str]:
    partition = settings.gpu_partition if request.wants_gpu else settings.cpu_partition
    options = {"--account": settings.account, "--partition": partition}
    return [f"{name}={value}" for name, value in options.items() if value]


def _take_config(trainer: Sequence[str], preset: str, slim: bool) -> tuple[str, list[str]]:
    """The value of `--config`, the last one given, and the other arguments without `--fresh` and the slim agent's
    `--no-video`."""
    rest: list[str] = []
    words = list(trainer)
    while words:
        word = words.pop(0)
        if word == "--config" and words:
            preset = words.pop(0)
        elif word.startswith("--config="):
            preset = word.removeprefix("--config=")
        elif word != FRESH and (word.replace("_", "-") != "--no-video" or not slim):
            rest.append(word)
    return preset, rest
