"""Jobs of a batch system: check, submit, look at and cancel those of a run, and say what follows when one has ended.

    python -m cluster_rl.cluster init
    python -m cluster_rl.cluster check  --run-name NAME [--script train_cpu] [--actor-jobs N] [--sbatch=OPTION] [...]
    python -m cluster_rl.cluster submit --run-name NAME [--chain] [--dry-run] [the same options] [--key value ...]
    python -m cluster_rl.cluster submit --run-name NAME --seeds N [...]       # runs NAME-s1 to NAME-sN, as an array
    python -m cluster_rl.cluster status --run-name NAME
    python -m cluster_rl.cluster cancel --run-name NAME
    python -m cluster_rl.cluster after-job --module NAME --exit-code N [--cancelled] -- ARGUMENTS OF THE TRAINER

From the repository's folder, or from one where `init` has written the job scripts of an installed package. `--script`
names a job script in `slurm/`; what is left over goes to the trainer. `status` and `cancel` of NAME mean the runs
NAME-s1, NAME-s2, ... too.
`after-job` is for the job scripts: it prints a line for the job's log, and exits with code 85 if the run's next job
should follow, else with the code to end with. Without SLURM, `check`, `submit --dry-run` and `status` do what they can
and say so.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster_rl.batch_system.chain import ChainState, after_job, read_chain, save_chain
from cluster_rl.batch_system.checks import check_plan
from cluster_rl.batch_system.job_files import write_job_files
from cluster_rl.batch_system.job_script import SCRIPTS, is_trainers_script
from cluster_rl.batch_system.seeds import is_of_run, read_seeds
from cluster_rl.batch_system.settings import SETTINGS_FILE, ClusterSettings, read_settings
from cluster_rl.batch_system.submission import make_plan, submit
from cluster_rl.config import load_config
from cluster_rl.errors import EXIT_OK, EXIT_UNFINISHED, StorageError, UserError, run_command
from cluster_rl.jobs import slurm
from cluster_rl.jobs.presets import run_of
from cluster_rl.jobs.slurm import Ending, QueuedJob, SlurmError
from cluster_rl.jobs.status import doing, line_of, milestones_of, storage_problem, time_of_job, warning_of_run
from cluster_rl.report.bars import duration_words, say
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.layout import DEFAULT_ROOT, RunDir
from cluster_rl.runs.lock import current_holder
from cluster_rl.runs.progress import DamagedProgressError, read_progress
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.runs.small_file import UnreadableError

# What `squeue` gives as the reason of a job that waits, for people.
_REASONS = {
    "Resources": "the nodes are busy; it is next in line",
    "Priority": "others are before it in the queue",
    "BeginTime": "it was requeued; SLURM holds it back for about two minutes",
    "Dependency": "it waits for the end of another job",
    "JobHeldUser": "it is held; release it with: scontrol release JOB",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionTimeLimit": "it asks for more time than its partition allows, and will never start",
    "PartitionNodeLimit": "it asks for more than its partition has, and will never start",
    "ReqNodeNotAvail": "a node it needs is down or reserved, perhaps for maintenance",
    "QOSMaxJobsPerUserLimit": "you have as many running jobs as you may; it starts when one ends",
    "QOSMaxSubmitJobPerUserLimit": "you have as many jobs in the queue as you may",
    "QOSMaxCpuPerUserLimit": "your running jobs use as many CPUs as you may have",
    "QOSMaxGRESPerUser": "your running jobs use as many GPUs, or as much GPU memory, as you may have",
    "AssocGrpCpuLimit": "your group uses as many CPUs as it may have",
    "AssocGrpGRES": "your group uses as many GPUs as it may have",
    "None": "SLURM has not looked at it yet",
}


_SEED_HEAD = ("run", "job", "env steps", "milestones", "return", "now")
_NOTHING_KNOWN = ("",) * (len(_SEED_HEAD) - 2)
_NO_JOB = "no job that `cluster submit` made for this run is in the queue, and no job script trains it"


def conclude(run_dir: RunDir, actor_job: int | None, exit_code: int, cancelled: bool) -> int:
    """Applies the rule of the chain to a job that has ended; the exit code for its script. Raises `UserError`.

    `actor_job` is the number of a job of actors alone, None for a trainer's. `cancelled`: the job's script was told to
    end; SLURM is asked too. Damaged files end no chain: the next job
    rebuilds progress.json, and crashes are counted anew. Nor does storage that refuses them: this job is then not
    counted.
    """
    if actor_job is None:
        path, when_done = run_dir.chain, "the run has reached its target"
    else:
        path, when_done = run_dir.actors_chain(actor_job), "no learner wants these actors any more"
    env_steps, before, counted = _counts(run_dir, path)
    ending = slurm.ending()
    requeued = ending is Ending.TO_START_AGAIN
    state, verdict = after_job(before, exit_code, env_steps, cancelled or ending is not None, requeued, when_done)
    try:
        if verdict.goes_on:
            run_dir.create()  # the job may have crashed before it did, and its crash must count
        if counted and run_dir.exists():
            save_chain(path, state)
    except StorageError as error:
        print(f"this job is not counted: {error}", flush=True)
    print(f"run {run_dir.run_name}: {verdict.reason}", flush=True)
    return EXIT_UNFINISHED if verdict.goes_on else verdict.exit_code


def _counts(run_dir: RunDir, path: Path) -> tuple[int, ChainState, bool]:
    """The run's env steps, what the chain remembers in `path`, and whether this job counts.

    Where storage does not give both it does not: neither is known. Raises `NewerFormatError`.
    """
    env_steps, before = 0, ChainState()
    try:
        try:
            progress = read_progress(run_dir.progress)
            env_steps = progress.env_steps if progress is not None else 0
        except DamagedProgressError as error:
            print(error, flush=True)
        try:
            before = read_chain(path)
        except UnreadableError as error:
            print(f"{error}; crashes are counted anew", flush=True)
    except StorageError as error:
        print(f"this job is not counted: {error}", flush=True)
        return 0, ChainState(), False
    return env_steps, before, True


def print_status(run_dir: RunDir) -> None:
    """The run's jobs in the queue, its learner, its progress; of the runs of its seeds a row each.

    Raises `UserError` if there is none of them.
    """
    seeds = run_dir.seeds()
    if not seeds:
        run_dir.require()
    queue: list[QueuedJob] = []
    unknown = ""
    if not slurm.installed():
        unknown = "no SLURM on this machine: its queue cannot be shown"
    else:
        try:
            queue = slurm.queued_jobs()
        except SlurmError as error:
            unknown = f"the queue cannot be shown: {error}"
    if unknown:
        print(unknown)
    if run_dir.exists():
        if not unknown:
            print("\n".join(_job_line(job) for job in _jobs_of(run_dir, queue)) or _NO_JOB)
        _print_run(run_dir)
    if seeds:
        _print_rows([_SEED_HEAD, *(_seed_row(run, _jobs_of(run, queue)) for run in seeds)])


def _seed_row(run_dir: RunDir, jobs: Sequence[QueuedJob]) -> list[str]:
    """One run among those of several seeds, as `_SEED_HEAD` says. Its newest job tells why none is there."""
    try:
        progress = read_progress(run_dir.progress)
    except UserError:
        return [run_dir.run_name, "progress.json cannot be read", *_NOTHING_KNOWN]
    state = "; ".join(_job_line(job).removeprefix("job ") for job in jobs)
    if not state and (holder := current_holder(run_dir)) is not None:
        state = f"trained by {holder}"
    if progress is None:
        return [run_dir.run_name, state or "no job", *_NOTHING_KNOWN]
    mean_return = progress.mean_return_recent
    return [
        run_dir.run_name,
        state or f"no job; {(progress.jobs and progress.jobs[-1].reason) or 'the last left no word'}",
        f"{progress.env_steps:,} of {progress.target_total_steps:,}",
        f"{len(progress.milestones)} of {milestones_of(run_dir, _initial_state(run_dir), progress)}",
        "" if mean_return is None else f"{mean_return:.2f}",
        ", ".join(doing(progress, storage_problem(progress, run_dir))),
    ]


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _print_run(run_dir: RunDir) -> None:
    """What is to be feared of its game, who trains it, and its progress."""
    warning = warning_of_run(run_dir)
    if warning:
        say(warning)
    now = time.time()
    learner = read_rendezvous(run_dir.rendezvous)
    if learner is None:
        holder = current_holder(run_dir)
        print(f"trained by {holder}" if holder is not None else "learner: none is running")
    else:
        of_job = f", SLURM job {learner.slurm_job_id}" if learner.slurm_job_id else ""
        since = duration_words(now - learner.written_unix_sec)
        print(f"learner: {learner.endpoint} on {learner.host}{of_job}, since {since}")
    progress = read_progress(run_dir.progress)
    if progress is None:
        print("progress: none yet")
        return
    milestones = milestones_of(run_dir, _initial_state(run_dir), progress)
    print(f"progress: {line_of(progress, milestones, storage_problem(progress, run_dir))}")
    for job in progress.jobs[-3:]:
        how = job.reason or (f"running, {time_of_job(job)}" if job.ended is None else "ended without a reason")
        where = f"SLURM job {job.slurm_job_id} on {job.host}" if job.slurm_job_id else job.host
        print(f"  job {job.id}: {where}, from env step {job.env_steps_start:,}: {how}")


def _initial_state(run_dir: RunDir) -> str:
    """Where the run's episodes start; empty where its config is not there or of another program's version."""
    try:
        return load_config(run_dir.config).initial_state
    except UserError:
        return ""


def cancel(run_dir: RunDir) -> None:
    """Ends all jobs of the run and of those of its seeds, each with a checkpoint.

    Raises `UserError` where that is not possible.
    """
    runs = run_dir.seeds()
    if run_dir.exists() or not runs:
        runs = [run_dir.require(), *runs]
    try:
        queue = slurm.queued_jobs()
        jobs = [job for run in runs for job in _jobs_of(run, queue)]
        if not jobs:
            print(_NO_JOB)
            return
        slurm.run_slurm(["scancel", *(job.job_id for job in jobs)])
    except SlurmError as error:
        raise UserError(f"cancel: {error}") from None
    print(f"cancelled: {', '.join(job.job_id for job in jobs)}; running ones write a checkpoint first")


def _jobs_of(run_dir: RunDir, queue: Sequence[QueuedJob]) -> list[QueuedJob]:
    """Those that `submit` made for the run, and the job script that trains it now, however it was submitted."""
    holder = current_holder(run_dir)
    training = holder.slurm_job_id if holder is not None else None
    return [
        job for job in queue if is_of_run(job, run_dir) or (job.job_id == training and is_trainers_script(job.command))
    ]


def _job_line(job: QueuedJob) -> str:
    if job.state == "PENDING":
        reason = job.reason.split(",")[0].strip("()")
        return f"job {job.job_id} {job.name}: waits ({job.reason}): {_REASONS.get(reason, 'see man squeue')}"
    left = f"{job.left_sec / 60:.0f} min left" if job.left_sec < float("inf") else "no time limit"
    return f"job {job.job_id} {job.name}: {job.state.lower()} on {job.nodes or 'no node yet'}, {left}"


def _parser() -> Arguments:
    parser = Arguments(
        prog="python -m cluster_rl.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="whether a job would be accepted and could run")
    start = commands.add_parser("submit", help="check, then submit the run's jobs")
    for command in (check, start):
        command.add_argument(
            "--chain", action="store_true", help="requeue until the target is reached, not one job only"
        )
        command.add_argument("--dry-run", action="store_true", help="check, and print the commands; submit nothing")
        command.add_argument(
            "--script", default="train_gpu", metavar="NAME", help="job script in slurm/ (default: train_gpu)"
        )
        command.add_argument(
            "--actor-jobs", type=whole_number(0), default=0, metavar="N", help="jobs of actors alone beside it"
        )
        command.add_argument(
            "--seeds", metavar="N", help="as an array, runs NAME-s1 to NAME-sN with these base seeds; A-B: A to B"
        )
        command.add_argument(
            "--sbatch",
            action="append",
            default=[],
            metavar="OPTION",
            help="of sbatch, such as --sbatch=--time=1:00:00",
        )
    for name in ("status", "cancel"):
        commands.add_parser(name, help=f"{name} of a run's jobs")
    for command in commands.choices.values():
        add_run_name(command)
        command.set_defaults(runs=None)  # a word that is given goes before settings.env, which goes before the default
    commands.add_parser("init", help="write the job scripts and their settings to slurm/ here", allow_abbrev=False)
    after = commands.add_parser("after-job", help="whether the run's next job should follow; for the job scripts")
    after.add_argument("--module", required=True, help="the trainer, such as train_cluster")
    after.add_argument("--exit-code", type=int, required=True, help="of the trainer")
    after.add_argument("--cancelled", action="store_true", help="somebody ended the job")
    after.add_argument("trainer", nargs="*", help="the trainer's arguments, after --")
    return parser


def main() -> int:
    """`python -m cluster_rl.cluster`."""
    known, rest = _parser().parse_known_args()
    if known.command == "after-job":
        return _after_job(known)
    if known.command == "init":
        _refuse(known, rest)
        for path in write_job_files(Path(), sys.executable):
            print(f"written: {path}")
        print(f"look at {SETTINGS_FILE} and at the #SBATCH lines of {SCRIPTS}/*.sbatch; they stay as you change them")
        return EXIT_OK
    settings = read_settings()
    known.runs = known.runs or settings.runs or str(DEFAULT_ROOT)
    run_dir = RunDir(known.runs, known.run_name)
    if known.command in ("status", "cancel"):
        _refuse(known, rest)
        if known.command == "status":
            print_status(run_dir)
        else:
            cancel(run_dir)
        return EXIT_OK
    return _check_or_submit(settings, known, rest)


def _after_job(known: argparse.Namespace) -> int:
    """The exit code for the job's script."""
    try:
        run_dir = run_of(known.trainer)
    except UserError:  # the trainer has told of it
        run_dir = None
    if run_dir is None:
        return int(known.exit_code)
    of_actors = Arguments(add_help=False)
    of_actors.add_argument("--job", type=int, default=1)
    # A job that runs since before the module moved calls it by its old name.
    is_actor_job = known.module.rpartition(".")[2] == "actor_job"
    actor_job = of_actors.parse_known_args(known.trainer)[0].job if is_actor_job else None
    return conclude(run_dir, actor_job, known.exit_code, known.cancelled)


def _refuse(known: argparse.Namespace, rest: Sequence[str]) -> None:
    if rest:
        raise UserError(f"{rest[0]}: {known.command} does not know this option")


def _check_or_submit(settings: ClusterSettings, known: argparse.Namespace, trainer: Sequence[str]) -> int:
    plan = make_plan(
        settings,
        known.script,
        runs=known.runs,
        run_name=known.run_name,
        actor_jobs=known.actor_jobs,
        seeds=None if known.seeds is None else read_seeds(known.seeds),
        chain=known.chain,
        sbatch_options=known.sbatch,
        trainer=trainer,
    )
    check_plan(plan)
    if known.dry_run:
        for command in plan.commands:
            print(f"would run: {shlex.join(command)}")
        print("dry run: nothing was submitted or created")
    elif known.command == "submit":
        submit(plan)
    return EXIT_OK


def command() -> None:
    """`cluster-rl-cluster`."""
    run_command(main, only_logs=sys.argv[1:2] == ["after-job"])


if __name__ == "__main__":
    command()
