"""What `python -m cluster_rl.cluster` would submit, whether it can work, and the submitting itself.

In: settings, a job script, options and the trainer's arguments. Out: a `Plan`, one line for each thing checked, and
jobs in the queue; or a `UserError` that says what SLURM or the trainer would have refused later.
"""

from __future__ import annotations

import itertools
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence

import msgspec

from cluster_rl.batch_system.job_script import SCRIPTS, JobRequest, read_request
from cluster_rl.batch_system.seeds import array_option, is_of_run, job_comment
from cluster_rl.batch_system.settings import ClusterSettings
from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.errors import UserError
from cluster_rl.jobs import slurm
from cluster_rl.jobs.machine import Limit
from cluster_rl.jobs.presets import choose_config, warnings_of_game
from cluster_rl.jobs.slurm import SlurmError
from cluster_rl.report.bars import Bar
from cluster_rl.runs.atomic import nearest_existing
from cluster_rl.runs.layout import RunDir

LOGS = SCRIPTS / "logs"
_ACTORS_SCRIPT = "actors"
_PYTHON_TIMEOUT_SEC = 120.0
_LEAST_WORK_SEC = 60.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs to submit: the trainer's, then those of actors. `commands` are sbatch's, one a request; `config` is the
    trainer's. With `seeds` each job is an array with a task for each, at most `tasks_at_once` of them at a time."""

    settings: ClusterSettings
    run_dir: RunDir
    seeds: range | None
    tasks_at_once: int
    requests: list[JobRequest]
    commands: list[list[str]]
    config: Config

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
    # What the user types comes later, and holds.
    ours = ["--requeue"] if chain else []  # SBATCH_NO_REQUEUE would keep a chain from going on
    if seeds is not None:
        ours.append(f"--output={LOGS}/%x-%A_%a.out")
    own = _site_options(settings, read_request(script, sbatch_options)) + ours + sbatch_options
    request = read_request(script, own)
    if chain and request.requeues is False:
        raise UserError("--sbatch=--no-requeue: a chain goes on by requeueing; leave --chain out")
    if not request.trains:
        raise UserError(f"{request.script}: trains nothing, so cluster cannot check it; submit it with sbatch")
    if actor_jobs and request.module != "train_cluster":
        raise UserError(f"{request.script}: the slim agent is one process; leave --actor-jobs out")
    arguments = list(trainer) + ([f"--actor_jobs={actor_jobs}"] if actor_jobs else [])
    preset, rest = _take_config(arguments, request.preset, request.module == "train_slim")
    if settings.rom:
        rest = [f"--rom={settings.rom}", *rest]
    overrides = split_overrides(rest)
    if seeds is not None and any(override.partition("=")[0] == "base_seed" for override in overrides):
        raise UserError("--base_seed: with --seeds each run has its own; leave it out")
    config = load_config(preset or choose_config(request.default_preset, rest), overrides)
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
    )


def check_plan(plan: Plan) -> None:
    """Prints a line for each thing that is checked. Raises `UserError` with everything that will not work."""
    problems: list[str] = []
    for note in dict.fromkeys(note for request in plan.requests for note in request.notes):
        print(f"--  {note}", flush=True)
    variables = sorted({variable for request in plan.requests for variable in request.variables})
    if variables:
        print(f"--  environment: {', '.join(variables)}: goes before the scripts' own; unset what you do not mean")
    with Bar("checking", len(_CHECKS), "checks") as bar:
        for number, (what, check) in enumerate(_CHECKS.items()):
            if check is _check_with_slurm and problems:
                break  # SLURM's own view, of a request that makes sense
            bar.to(number, what)
            try:
                print(f"ok  {what}: {check(plan)}", flush=True)
            except UserError as error:
                print(f"NO  {what}: {error}", flush=True)
                problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))


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


def _check_limits(plan: Plan) -> str:
    limits = plan.settings
    for request in plan.requests:
        asked = (
            ("CPUs", request.cpus, limits.max_cpus, "CLUSTER_RL_MAX_CPUS"),
            ("hours", request.time_sec / 3600, limits.max_hours, "CLUSTER_RL_MAX_HOURS"),
            ("GB of GPU memory", request.gpumem_gb, limits.max_gpumem_gb, "CLUSTER_RL_MAX_GPUMEM_GB"),
        )
        for what, amount, limit, name in asked:
            if amount > limit:
                raise UserError(f"{request} asks for {amount:g} {what}; a job may have {limit:g} ({name})")
        if request.time_sec <= request.warning_sec + _LEAST_WORK_SEC:
            minutes, warning = request.time_sec / 60, request.warning_sec / 60
            raise UserError(
                f"{request} asks for {minutes:g} minutes and is warned {warning:g} minutes before their end; "
                "ask for more --time, or another --signal"
            )
    first = plan.requests[0]
    hours = "no time limit of its own" if math.isinf(first.time_sec) else f"{first.time_sec / 3600:.3g} h"
    memory = f", {first.memory_gb:g} GB of memory" if first.memory_gb else ""
    gpu = ""
    if first.wants_gpu:
        gpu = ", a GPU" if first.gpus == 1 else f", {first.gpus} GPUs"
        gpu += f" with {first.gpumem_gb:g} GB" if first.gpumem_gb else ""
    return f"{first}: partition {first.partition or 'of SLURM'}, {first.cpus} CPUs{memory}, {hours}{gpu}"


def _check_queue(plan: Plan) -> str:
    asked, limit = len(plan.requests) * plan.tasks_at_once, plan.settings.max_jobs
    waiting = "" if plan.seeds is None or plan.tasks_at_once == len(plan.seeds) else ", the others wait for them"
    if not slurm.installed():
        if asked > limit:
            raise UserError(f"{asked} jobs; a user may have {limit:g} in the queue (CLUSTER_RL_MAX_JOBS)")
        return f"{asked} job(s) more{waiting}; no SLURM on this machine, so those in the queue are not counted"
    try:
        jobs = slurm.queued_jobs()
    except SlurmError as error:
        raise UserError(str(error)) from None
    for job, (run_dir, _) in itertools.product(jobs, plan.runs):
        if is_of_run(job, run_dir):
            raise UserError(
                f"job {job.job_id} ({job.name}) of run {run_dir.run_name!r} is in the queue already; wait for it, or "
                "cancel"
            )
    there = len(jobs)
    if there + asked > limit:
        raise UserError(
            f"{there} jobs are in the queue and {asked} more would be; a user may have {limit:g} "
            "(CLUSTER_RL_MAX_JOBS); wait for one to end, or cancel one"
        )
    return f"{there} job(s) in it, {asked} more{waiting}"


def _check_python(plan: Plan) -> str:
    """The interpreter that the job will run imports the package, and its PyTorch can use the GPU that is asked for."""
    program = plan.settings.python or shutil.which("python3") or "python3"
    code = "import msgspec, pyboy, zmq, cluster_rl, torch; print(torch.__version__, torch.version.cuda)"
    try:
        done = subprocess.run(
            [program, "-c", code], capture_output=True, text=True, timeout=_PYTHON_TIMEOUT_SEC, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"CLUSTER_RL_PYTHON {program}: cannot be run: {error}") from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"CLUSTER_RL_PYTHON {program}: {said}; scripts/env_setup.sh makes an environment")
    version, _, cuda = done.stdout.strip().partition(" ")
    words = f"{program}, PyTorch {version} " + ("without CUDA" if cuda == "None" else f"for CUDA {cuda}")
    if cuda == "None" and plan.config.device == "cuda":
        words += ", and device is cuda; make another environment with scripts/env_setup.sh --torch cuda --prefix DIR"
        if slurm.installed():  # else this is hardly the machine where the jobs will run
            raise UserError(words)
    return words


def _check_folders(plan: Plan) -> str:
    """Room on the disk and in the quota for what a run keeps. Whether they can be written, `_check_run` sees."""
    free: float = shutil.disk_usage(nearest_existing(plan.run_dir.root)).free
    words = f"{plan.run_dir.path}, {free / 1e9:.1f} GB free on its disk, "
    quota = quota_left_bytes()
    if quota is None:
        words += "`quota` here does not say what is left of your quota"
    elif math.isinf(quota):
        words += "no quota"
    else:
        words += f"{quota / 1e9:.1f} GB left of your quota"
        free = min(free, quota)
    if free < 0.2e9:
        raise UserError(f"{words}: a checkpoint and its successor may not fit; free some, or give another --runs")
    return words


def quota_left_bytes() -> float | None:
    """What the tightest of this user's quotas leaves, by `quota -w`: infinity without a quota, None if not known."""
    if shutil.which("quota") is None:
        return None
    try:
        # Its exit code is 1 for who is over quota, and for file systems that did not answer.
        done = subprocess.run(["quota", "-w"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    left = []
    for line in done.stdout.splitlines():
        # Filesystem, KiB used (with * where over), soft limit, hard limit, and the same of files.
        found = re.match(r"\s*\S+\s+(\d+)\*?\s+(\d+)\s+(\d+)(?:\s|$)", line)
        if found:
            limit = int(found[2]) or int(found[3])
            left.append(1024 * (limit - int(found[1])) if limit else math.inf)
    if not left and done.returncode == 0 and done.stdout.strip().endswith(": none"):
        return math.inf
    return min(left, default=None)


def _check_run(plan: Plan) -> str:
    """Config, ROM, savestate and what the run already has, with the checks of the trainer itself."""
    from cluster_rl.jobs import opening  # torch takes seconds, and the other commands do not need it

    request, config = plan.requests[0], plan.config
    if config.actor_jobs != len(plan.requests) - 1:
        raise UserError(
            f"actor_jobs {config.actor_jobs}: give --actor-jobs {config.actor_jobs}, which submits them too"
        )
    if config.device == "cuda" and not request.wants_gpu:
        raise UserError(f"device cuda, but {request.script} asks for no GPU; take another script, or --device auto")
    # The login node need not have a name that others know.
    for run_dir, own in plan.runs:
        rom = opening.check_job(msgspec.structs.replace(own, bind_host=own.bind_host or "0.0.0.0"), run_dir)
        opening.check_free(run_dir)
    words = "" if plan.seeds is None else f"{plan.runs[0][0].run_name} to {plan.runs[-1][0].run_name}: "
    words += f"{rom.title}, {config.model.kind} network, {config.total_actors} actors"
    words += "".join(f"; {line}" for line in warnings_of_game(config, rom))
    if request.wants_gpu and config.device != "cpu":
        need_gb = opening.gpu_need(config).total / 1e9
        words += f", about {need_gb:.1f} GB of GPU memory"
        if request.gpumem_gb and need_gb > request.gpumem_gb:
            raise UserError(
                f"the config needs about {need_gb:.1f} GB of GPU memory and {request.script} asks for "
                f"{request.gpumem_gb:g}; give a smaller --batch_size, or --sbatch=--gres=gpumem:{math.ceil(need_gb)}G"
            )
    return words + "".join(f"; {line}" for line in _host_needs(plan))


def _host_needs(plan: Plan) -> list[str]:
    """Memory and cores that each kind of job takes, and warnings. Raises `UserError` where a script asks for less."""
    from cluster_rl.emulator.spaces import observation_spec
    from cluster_rl.jobs import host_needs

    config, lines = plan.config, []
    for request in plan.requests[:2]:  # the others are like the second
        device = "cuda" if request.wants_gpu and config.device != "cpu" else "cpu"
        needs = host_needs.host_needs(
            config,
            observation_spec(config),
            device,
            serial=request.module == "train_slim",
            learner=request.trains,
        )
        if request.memory_gb:
            asked = Limit(2**30 * request.memory_gb, f"what {request.script} asks for")
            wanted = f"--mem={math.ceil(1.1 * needs.total / 2**30)}G"
            where = f"--sbatch={wanted}" if request.trains else f"{wanted} in {request.script}"
            host_needs.check_memory(needs, asked, Limit(math.inf, ""), f", or {where}")
        lines.append(str(needs))
        if request.module != "train_slim":
            lines.append(host_needs.core_warning(config, Limit(request.cpus, f"what {request.script} asks for")))
    return [line for line in lines if line]


def _take_config(trainer: Sequence[str], preset: str, slim: bool) -> tuple[str, list[str]]:
    """The value of `--config`, the last one given, and the other arguments without the slim agent's `--no-video`."""
    rest: list[str] = []
    words = list(trainer)
    while words:
        word = words.pop(0)
        if word == "--config" and words:
            preset = words.pop(0)
        elif word.startswith("--config="):
            preset = word.removeprefix("--config=")
        elif word.replace("_", "-") != "--no-video" or not slim:
            rest.append(word)
    return preset, rest


def _check_with_slurm(plan: Plan) -> str:
    if not slurm.installed():
        return "no SLURM on this machine: nobody was asked when it would start"
    for command, request in zip(plan.commands, plan.requests, strict=True):
        try:
            # On stderr it says: "sbatch: Job 17 to start at 2026-11-22T15:04:05 using 8 processors on nodes ..."
            said = slurm.run_slurm([command[0], "--test-only", *command[2:]], stderr=True)
        except SlurmError as error:
            fewer = ""
            if plan.seeds is not None and plan.tasks_at_once < len(plan.seeds):
                some = f"{plan.seeds[0]}-{plan.seeds[plan.tasks_at_once - 1]}"
                fewer = f"; if it counts tasks that wait too, give --seeds {some} first"
            raise UserError(f"{request.script}: SLURM would refuse it: {error}{fewer}") from None
        if request is plan.requests[0]:
            starts = [line for line in said.splitlines() if " to start at " in line]
            words = starts[-1] if starts else "accepted"
    return words.removeprefix("sbatch: ")


_CHECKS: dict[str, Callable[[Plan], str]] = {
    "limits": _check_limits,
    "queue": _check_queue,
    "python": _check_python,
    "folders": _check_folders,
    "run": _check_run,
    "sbatch": _check_with_slurm,
}
