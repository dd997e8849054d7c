"""Jobs of a batch system: what follows when one has ended.

    python -m cluster_rl.cluster after-job --exit-code N [--cancelled] -- ARGUMENTS OF THE TRAINER

The job scripts in `slurm/` call it. In: how the trainer ended, and its arguments, which name the run. Out: a line in
the job's log, and exit code 85 if the run's next job should follow, else the code to end with.
"""

from __future__ import annotations

import argparse

from cluster_rl.errors import EXIT_UNFINISHED, run_command
from cluster_rl.runs.chain import after_job, read_chain, save_chain
from cluster_rl.runs.layout import DEFAULT_ROOT, RunDir
from cluster_rl.runs.progress import read_progress


def conclude(run_dir: RunDir, exit_code: int, cancelled: bool) -> int:
    """Applies the rule of the chain to a job that has ended; the exit code for its script. Raises `UserError`."""
    progress = read_progress(run_dir.progress)
    env_steps = progress.env_steps if progress is not None else 0
    state, verdict = after_job(read_chain(run_dir.chain), exit_code, env_steps, cancelled)
    if verdict.goes_on:
        run_dir.create()  # the job may have crashed before it did, and its crash must count
    if run_dir.exists():
        save_chain(run_dir.chain, state)
    print(f"run {run_dir.run_name}: {verdict.reason}", flush=True)
    return EXIT_UNFINISHED if verdict.goes_on else verdict.exit_code


def main() -> int:
    """`python -m cluster_rl.cluster`."""
    parser = argparse.ArgumentParser(prog="python -m cluster_rl.cluster", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    after = commands.add_parser("after-job", help="whether the run's next job should follow; for the job scripts")
    after.add_argument("--exit-code", type=int, required=True, help="of the trainer")
    after.add_argument("--cancelled", action="store_true", help="somebody ended the job")
    after.add_argument("trainer", nargs="*", help="the trainer's arguments, after --")
    known = parser.parse_args()
    run = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    run.add_argument("--run-name", default="slim")
    run.add_argument("--runs", default=str(DEFAULT_ROOT))
    named, _ = run.parse_known_args(known.trainer)
    return conclude(RunDir(named.runs, named.run_name), known.exit_code, known.cancelled)


if __name__ == "__main__":
    run_command(main)
