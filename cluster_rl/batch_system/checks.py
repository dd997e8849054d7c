"""Whether jobs that `python -m cluster_rl.cluster` would submit can work, before they are.

In: a `Plan`. Out: one line for each thing checked; or a `UserError` with what SLURM or the trainer would have refused
later.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable

import msgspec

from cluster_rl.batch_system.seeds import job_comment, own_comment
from cluster_rl.batch_system.submission import Plan
from cluster_rl.errors import UserError
from cluster_rl.jobs import slurm
from cluster_rl.jobs.machine import Limit
from cluster_rl.jobs.presets import warnings_of_game
from cluster_rl.jobs.slurm import SlurmError
from cluster_rl.report.bars import Bar, size_words
from cluster_rl.runs.atomic import nearest_existing

_PYTHON_TIMEOUT_SEC = 120.0
_LEAST_WORK_SEC = 60.0


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
    planned = {job_comment(run_dir, None): run_dir.run_name for run_dir, _ in plan.runs}
    for job in jobs:
        run_name = planned.get(own_comment(job))
        if run_name is not None:
            raise UserError(
                f"job {job.job_id} ({job.name}) of run {run_name!r} is in the queue already; wait for it, or cancel"
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
    words = f"{plan.run_dir.path}, {size_words(free)} free on its disk, "
    quota = quota_left_bytes()
    if quota is None:
        words += "`quota` here does not say what is left of your quota"
    elif math.isinf(quota):
        words += "no quota"
    else:
        words += f"{size_words(quota)} left of your quota"
        free = min(free, quota)
    if free < 0.2e9:
        raise UserError(f"{words}: a checkpoint and its successor may not fit; free some, or give another --runs")
    return words


def _check_disk(plan: Plan) -> str:
    """What all runs will write, against the disks that are seen from here: a `replay_dir` may be of another machine."""
    from cluster_rl.emulator.spaces import observation_spec
    from cluster_rl.jobs.disk_needs import check_disk, disk_needs

    spec = observation_spec(plan.config)
    job_sec = plan.requests[0].time_sec
    needs = [need for run_dir, own in plan.runs for need in disk_needs(own, run_dir, spec, plan.fresh, job_sec)]
    if plan.config.replay_dir:
        needs = [need for need in needs if need.what != "replay"]
    return "; ".join(check_disk(needs, Limit(math.inf, "")))


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
    rom = opening.check_config(msgspec.structs.replace(config, bind_host=config.bind_host or "0.0.0.0"))
    runs, notes = plan.runs, []
    for run_dir, own in runs:
        notes += opening.check_run(own, run_dir, rom, plan.fresh)
        opening.check_free(run_dir)
    words = "" if plan.seeds is None else f"{runs[0][0].run_name} to {runs[-1][0].run_name}: "
    words += f"{rom.title}, {config.model.kind} network, {config.total_actors} actors"
    words += "".join(f"; {line}" for line in [*warnings_of_game(config, rom), *dict.fromkeys(notes)])
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
            wanted = f"--mem={math.ceil((1.1 * needs.total + needs.allowance) / 2**30)}G"
            where = f"--sbatch={wanted}" if request.trains else f"{wanted} in {request.script}"
            lines.append(host_needs.check_memory(needs, asked, Limit(math.inf, ""), f", or {where}"))
        lines.append(str(needs))
        if request.module != "train_slim":
            lines.append(host_needs.core_warning(config, Limit(request.cpus, f"what {request.script} asks for")))
    return [line for line in lines if line]


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
    "disk": _check_disk,
    "sbatch": _check_with_slurm,
}
