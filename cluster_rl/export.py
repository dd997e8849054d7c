"""A run in the forms of other programs: CSV tables, walked coordinates, Weights & Biases.

    python -m cluster_rl.export --run-name NAME --to csv|coords|wandb [--out PATH] [--episodes N]

In: the files of a run, which may be training meanwhile. Out: `exports/` in the run's folder, or `--out`, and lines that
say what was written and what was damaged. docs/export.md describes each form.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster_rl.errors import EXIT_OK, run_command
from cluster_rl.report.bars import say
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.layout import RunDir

Form = Literal["csv", "coords", "wandb"]
FORMS: tuple[Form, ...] = ("csv", "coords", "wandb")
MOST_EPISODES = 1000


@dataclass(frozen=True)
class Options:
    """The command line. `out` is a folder, which need not be there."""

    run_dir: RunDir
    form: Form
    out: Path
    episodes: int


def run(options: Options) -> int:
    """Exports and returns the exit code. Raises `UserError`."""
    # Each here, so that a wrong command line is answered at once and no form needs another one's packages.
    if options.form == "csv":
        from cluster_rl.exporting.tables import export_tables

        told = export_tables(options.run_dir, options.out)
    elif options.form == "coords":
        from cluster_rl.exporting.coords import export_coords

        told = export_coords(options.run_dir, options.out, options.episodes)
    else:
        from cluster_rl.exporting.wandb_run import export_wandb

        told = export_wandb(options.run_dir, options.out)
    for line in told:
        say(line)
    return EXIT_OK


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """The command line as `Options`. Raises `UserError`, for a run that does not exist too."""
    parser = Arguments(prog="python -m cluster_rl.export", description="A run in the forms of other programs.")
    add_run_name(parser)
    parser.add_argument("--to", required=True, choices=FORMS, help="the form; docs/export.md describes each")
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="the folder to export into (default: exports/FORM in the run's folder)"
    )
    parser.add_argument(
        "--episodes",
        type=whole_number(1),
        metavar="N",
        help=f"coords of at most so many episodes, spread evenly over the run (default: {MOST_EPISODES})",
    )
    given = parser.parse_args(arguments)
    if given.episodes is not None and given.to != "coords":
        parser.error("--episodes: only for --to coords")
    run_dir = RunDir(given.runs, given.run_name).require()
    out = given.out or run_dir.exports / given.to
    return Options(run_dir, given.to, out, given.episodes or MOST_EPISODES)


def main() -> int:
    """The command."""
    return run(parse_arguments())


def command() -> None:
    """`cluster-rl-export`."""
    run_command(main)


if __name__ == "__main__":
    command()
