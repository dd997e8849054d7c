"""One HTML page of a run, or of several side by side, that opens from disk without any network.

Run as `python -m cluster_rl.report --run-name NAME [NAME ...]`. In: the files of the runs, of which any may be missing
or damaged: the page says so. Out: `report.html` in the run's folder, or `--out`; with `--map-video` no page, but a film
of the map over the training. Nothing here imports torch, so a login node shows what a cluster learned.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.report.bars import Bar, count_words, size_words
from cluster_rl.runs.arguments import Arguments, add_run_name
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.layout import RunDir

if TYPE_CHECKING:
    from cluster_rl.report.run_facts import RunFacts

MOST_RUNS = 10
"""Side by side: more lines than that nobody can tell apart."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    runs: list[RunDir]
    out: Path
    map_video: Path | None
    """Made in place of the page."""
    rivals: tuple[Path, ...] = ()


def run(options: Options) -> int:
    """Makes the page and returns the exit code. Raises `UserError` where it cannot be written."""
    # Here, so that a wrong command line is answered at once.
    from cluster_rl.report.page import page_of
    from cluster_rl.report.rivals import read_rivals
    from cluster_rl.report.run_facts import read_run

    rivals = read_rivals(options.rivals)

    with Bar("reading", len(options.runs), "runs") as bar:
        facts = []
        for number, run_dir in enumerate(options.runs):
            bar.to(number, run_dir.run_name)
            facts.append(read_run(run_dir))
    if options.map_video is not None:
        return _film(facts[0], options.map_video)
    with Bar("making the page"):
        page = page_of(facts, options.out, rivals=rivals).encode()
    write_atomic(options.out, page)
    missing = sum(len(run.problems) for run in facts)
    told = f", which says what {count_words(missing, 'file')} {'lacks' if missing == 1 else 'lack'}" if missing else ""
    print(f"{options.out}: {size_words(len(page))}{told}")
    return EXIT_OK


def _film(facts: RunFacts, path: Path) -> int:
    from cluster_rl.report.map_film import write_film

    logs = write_film(facts, path)
    print(f"{path}: {size_words(path.stat().st_size)}, of {count_words(logs, 'episode')}")
    return EXIT_OK


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """The command line as `Options`. Raises `UserError`, for a run that does not exist too."""
    parser = Arguments(prog="python -m cluster_rl.report", description="One HTML page of a run, or of several.")
    add_run_name(parser, several=True)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="the page (default: report.html in the run's folder, or report-FIRST-and-N-more.html in --runs)",
    )
    parser.add_argument(
        "--map-video",
        type=Path,
        metavar="FILE.mp4",
        help="no page, but a film of one run's map over its training; FILE.gif is a GIF",
    )
    parser.add_argument(
        "--rival",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE.jsonl",
        help="records of other agents' trainings, drawn beside the runs: docs/rivals.md",
    )
    given = parser.parse_args(arguments)
    names = list(dict.fromkeys(given.run_name))
    if len(names) > MOST_RUNS:
        parser.error(f"--run-name: {len(names)} runs; at most {MOST_RUNS} can be told apart on one page")
    runs = [RunDir(given.runs, name).require() for name in names]
    if given.map_video is not None:
        _check_film(parser, given.map_video, len(runs), given.out is not None or bool(given.rival))
    out = given.out or (
        runs[0].report if len(runs) == 1 else runs[0].root / f"report-{runs[0].run_name}-and-{len(runs) - 1}-more.html"
    )
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file in it")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page's name ends in .html; any other file of this name would be lost")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: its folder is not there; make it first")
    return Options(runs, out, given.map_video, tuple(dict.fromkeys(given.rival)))


def _check_film(parser: Arguments, path: Path, runs: int, is_of_page: bool) -> None:
    """Refuses what cannot be made; `is_of_page` where an option of the page's is given. Raises `UserError`."""
    if runs > 1:
        parser.error("--map-video: a film is of one run; give one name")
    if is_of_page:
        parser.error("--map-video takes the place of the page: leave out --out and --rival")
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"--map-video {path}: give a name that ends in .mp4 or .gif")
    if path.is_dir():
        raise UserError(f"--map-video {path}: is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise UserError(f"--map-video {path}: its folder is not there; make it first")


def main() -> int:
    """The command."""
    return run(parse_arguments())


def command() -> None:
    """`cluster-rl-report`."""
    run_command(main)


if __name__ == "__main__":
    command()
