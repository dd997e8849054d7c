"""Episode logs in; a video and a picture of the path for each episode, a list of the videos, and maps of where the
agent has been, out.

Run as `python -m cluster_rl.replayer`.

The main process reads and checks every log, chooses among them, draws the maps, and hands the logs whose video is
missing or out of date to worker processes, which emulate each episode again from its snapshot and actions. While it
renders, a worker compares the RAM with what was recorded after each step; a replay that leaves its recording gives no
video but a line that says at which step. A video is called as its log and then what the episode was like
(`report/video_record.py`). Beside `NAME.mp4` `NAME.png` shows the path on the map as the episode saw it, and a
`NAME.json` says which log they show and how large they are; where both are there so they are not made again.
`index.html` and `index.csv` list all videos of the folder.

With `--greedy` it first has `cluster_rl.evaluate` play with a run's published parameters, in a process of its own:
nothing here imports torch, so it runs wherever the emulator does.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import bisect
import concurrent.futures
import contextlib
import datetime
import hashlib
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from cluster_rl.config import load_config
from cluster_rl.emulator.playback import check_fits
from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_OK, UserError, exit_code_of, run_command
from cluster_rl.game.world import World
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.rendering.plan import Entry, Plan, choose, find_milestone, make_plan
from cluster_rl.rendering.work import Job, Look, Outcome, start_worker, work
from cluster_rl.report.bars import Bar
from cluster_rl.report.ground import Glimpse, add_to_ground, ground_of
from cluster_rl.report.heatmap import VisitCounts, draw_maps
from cluster_rl.report.overlay import Chance, chances_of
from cluster_rl.report.recording import GIF_FPS_MAX
from cluster_rl.report.video import find_encoder
from cluster_rl.report.video_index import PAGE, write_index
from cluster_rl.report.video_record import ENDINGS, VideoRecord, read_records, rename
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.runs.episode_log import SUFFIX, EpisodeHeader, log_paths, parse_log, read_log_bytes
from cluster_rl.runs.layout import RunDir

_POLL_SEC = 0.2
_SPEED_MAX = 1000


@dataclass(frozen=True)
class Options:
    """The command line. `logs` is a folder of them, or the logs themselves; `run_dir` is the run they are of, if known.

    `best` is how many of the highest returns are wanted, 0 for all; `milestone` which one episodes must have reached,
    empty for any. `greedy` is how many episodes are played first, which then are the logs.
    """

    logs: Path | list[Path]
    run_dir: RunDir | None
    out: Path
    look: Look
    rom: str
    workers: int
    limit: int
    best: int
    milestone: str
    greedy: int
    videos: bool
    maps: bool
    check: bool


def run(options: Options) -> int:
    """Does what the command line asks for and returns the exit code.

    2 where a log could not be used or a video not be encoded, 1 where a replay diverged or failed; whatever is good is
    rendered nevertheless.
    Raises `UserError` where there is nothing to begin with.
    """
    rom = load_rom(options.rom)
    world = World.for_rom(rom.sha1)
    milestone = find_milestone(world, options.milestone) if options.milestone else None
    if options.greedy:
        _find_encoder(options.look)  # before anything is played for nothing
        played = _play_greedily(options)
        if isinstance(played, int):
            return played
        options = replace(options, logs=played)
    paths = _log_files(options.logs)
    if options.videos:
        _check_names(paths)
    visits = VisitCounts()
    with Bar("reading", len(paths), "logs") as bar:
        entries = read_logs(rom, paths, visits, bar)
    codes = [EXIT_OK if len(entries) == len(paths) else EXIT_BAD_INPUT]
    if not entries:
        return EXIT_BAD_INPUT
    chosen = choose(entries, options.best, milestone)
    if not chosen:
        _say(f"none of {len(entries)} episodes {'is finished' if milestone is None else f'reached {milestone.name}'}")
    for environment, count in Counter(entry.header.environment for entry in chosen if entry.header.environment).items():
        _say(
            f"{count} of {len(chosen)} episodes were played by {environment}: the logs hold what its scripts did in "
            "each step, which is done again, in fast motion"
        )
    if options.check:
        jobs = [Job(entry.path, entry.game_frames, None, options.look) for entry in chosen]
        return max([*codes, *(outcome.code for _, outcome in _outcomes(jobs, options))])
    records = read_records(options.out)
    chances = None
    if options.look.overlay and options.run_dir is not None:
        try:
            chances, problem = chances_by_time(options.run_dir, world)
            if problem:
                _say(f"error: {problem}; of those rows no chances are drawn", EXIT_BAD_INPUT)
                codes.append(EXIT_BAD_INPUT)
        except UserError as error:
            _say(f"error: {error}; no chances are drawn", exit_code_of(error))
            codes.append(exit_code_of(error))
    plan = make_plan(options.out, options.look, chosen, records, chances) if options.videos else Plan([], [], 0)
    if plan.jobs:
        _find_encoder(options.look)
    with _sole_writer(options.out):
        if options.videos:
            codes += _render(plan, len(chosen), options, records, world)
        if options.maps:  # last, as what the episodes of the videos saw lies under them
            codes += _draw_maps(visits, len(entries), options.out / "maps", world)
    return max(codes)


def _draw_maps(visits: VisitCounts, episodes: int, folder: Path, world: World) -> Iterator[int]:
    """Draws where all episodes have been; yields exit codes. A ground that cannot be read is told, and left out."""
    ground = None
    try:
        ground = ground_of(world, folder)
    except UserError as error:
        _say(f"error: {error}", exit_code_of(error))
        yield exit_code_of(error)
    with Bar("drawing maps"):
        drawn = draw_maps(visits, world, folder, ground)
    _say(f"{folder}: {len(drawn)} maps of {visits.steps} steps in {episodes} episodes")


def read_logs(rom: Rom, paths: Sequence[Path], visits: VisitCounts, bar: Bar) -> list[Entry]:
    """Reads and checks all logs, counts their visits, and says what is wrong with which. The good ones are returned."""
    entries: list[Entry] = []
    for number, path in enumerate(paths):
        bar.to(number)
        try:
            data = read_log_bytes(path)
            log = parse_log(data, str(path))
            check_fits(log, rom, str(path))
        except UserError as error:
            _say(f"error: {error}", EXIT_BAD_INPUT)
            continue
        visits.add(log.positions, log.header.blackouts, _began(log.header))
        entries.append(Entry(path, log.header, hashlib.sha256(data).hexdigest()))
    return entries


def _render(plan: Plan, chosen: int, options: Options, read: Mapping[Path, VideoRecord], world: World) -> Iterator[int]:
    """Renames, has workers render, and keeps the list of videos; yields exit codes."""
    records = {video: record for video, record in read.items() if video.exists()}
    for old, new, record in plan.renamed:
        try:
            rename(old, new, record)
        except OSError as error:
            raise explain_os_error(error, new) from None
        del records[old]
        records[new] = record
    if plan.finished + len(plan.renamed):
        _say(f"{plan.finished + len(plan.renamed)} of {chosen} videos are finished already")
    yield _list(options.out, records, world)
    seen = Glimpse({}, {}, {})
    for job, outcome in _outcomes(plan.jobs[: options.limit or None], options):
        yield outcome.code
        if outcome.glimpse is not None:
            seen.update(outcome.glimpse)
        assert job.video is not None
        if outcome.record is not None:
            records[job.video] = outcome.record
        records = {video: record for video, record in records.items() if video not in job.older or video.exists()}
        if outcome.record is None and not job.video.exists():
            records.pop(job.video, None)
        yield _list(options.out, records, world)
    if seen.looks and options.maps:
        add_to_ground(options.out / "maps", world, seen)
    if records:
        _say(f"{options.out / PAGE}: all {len(records)} videos, best first")


def _list(out: Path, records: Mapping[Path, VideoRecord], world: World) -> int:
    """Writes the list of videos, if there are any. One that cannot be written is told, and costs no video."""
    try:
        if records or (out / PAGE).exists():
            write_index(out, records, world)
    except UserError as error:
        _say(f"error: {error}", exit_code_of(error))
        return exit_code_of(error)
    return EXIT_OK


def chances_by_time(run_dir: RunDir, world: World) -> tuple[Callable[[EpisodeHeader], Mapping[str, Chance]], str]:
    """What the run had told of its quests last when an episode began, and what was wrong with the file, if it is there.

    Raises `UserError` where it cannot be read.
    """
    from cluster_rl.report.run_rows import read_quests  # scipy takes most of a second

    rows, problem = read_quests(run_dir.quests) if run_dir.quests.exists() else ([], "")
    times = [row.time for row in rows]

    def chances(header: EpisodeHeader) -> Mapping[str, Chance]:
        # The log has whole seconds.
        number = bisect.bisect_right(times, _began(header) + 1.0)
        return chances_of(rows[number - 1].frontier, rows[number - 1].quests, world) if number else {}

    return chances, problem


def _began(header: EpisodeHeader) -> float:
    """When an episode began, in Unix seconds; 0 where its log tells no time."""
    try:
        return datetime.datetime.fromisoformat(header.started).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _play_greedily(options: Options) -> list[Path] | int:
    """Has the run's published parameters play; the logs of that, or the exit code where it failed, as it has told."""
    assert options.run_dir is not None
    folder = options.run_dir.greedy / "episode_logs"
    before = set(log_paths(folder))
    command = [sys.executable, "-m", "cluster_rl.evaluate", "--runs", str(options.run_dir.root)]
    command += ["--run-name", options.run_dir.run_name, "--episodes", str(options.greedy), "--logs", str(folder)]
    command += ["--rom", options.rom] if options.rom else []
    parent_pid = os.getpid()
    try:
        done = subprocess.run(command, check=False, preexec_fn=lambda: die_with_parent(parent_pid))
    except OSError as error:
        raise UserError(f"nothing is played: {command[0]} cannot be started: {error.strerror}") from None
    if done.returncode:
        return max(done.returncode, EXIT_FAILURE)
    return sorted(set(log_paths(folder)) - before)


def _find_encoder(look: Look) -> None:
    """Raises `UserError` where there is none: once, not for every video."""
    if look.kind != "png":
        find_encoder(ENDINGS[look.kind])


def _log_files(logs: Path | list[Path]) -> list[Path]:
    """Raises `UserError` for a folder that is missing or has no logs."""
    if isinstance(logs, list):
        return logs
    paths = sorted(log_paths(logs))
    if not paths:
        what = f"no *{SUFFIX} files in it" if logs.is_dir() else "no such folder or file"
        inside = logs / "episode_logs"
        give = f"give {inside}" if inside.is_dir() else "give the episode_logs folder of a run, or a log in it"
        raise UserError(f"--logs {logs}: {what}; {give}")
    return paths


def _check_names(paths: Sequence[Path]) -> None:
    """Raises `UserError` for two logs of one name: each would take the other's video for its own."""
    name, count = Counter(path.stem for path in paths).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"--logs: {count} of them are called {name}{SUFFIX}; render them one by one, each with an --out"
        )


def _outcomes(jobs: list[Job], options: Options) -> Iterator[tuple[Job, Outcome]]:
    """Works on the jobs in worker processes; tells, and yields, what became of each as it ends."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    frames = context.Value("q", 0)
    pool = ProcessPoolExecutor(min(options.workers, len(jobs)), context, start_worker, (options.rom, stop, frames))
    with Bar("checking" if options.check else "rendering", sum(job.frames for job in jobs), "frames") as bar:
        try:
            waiting = {pool.submit(work, job): job for job in jobs}
            while waiting:
                ended, _ = concurrent.futures.wait(waiting, _POLL_SEC, FIRST_COMPLETED)
                for future in ended:
                    outcome = future.result()
                    _say(outcome.line, outcome.code)
                    yield waiting.pop(future), outcome
                # Past the lock: a worker may have died with it.
                bar.to(frames.get_obj().value, f"{len(jobs) - len(waiting)} of {len(jobs)} episodes")
        except BrokenProcessPool:
            outcome = Outcome(EXIT_FAILURE, "failed: a worker process died (out of memory?); run again to do the rest")
            _say(outcome.line, outcome.code)
            yield next(iter(waiting.values())), outcome
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    """Makes the output folder and holds its lock. Raises `UserError` where either cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / ".replayer.lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"--out {out}: another replayer is writing there; wait for it, or give another folder"
        ) from None
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _say(line: str, code: int = EXIT_OK) -> None:
    print(" ".join(line.split()), file=sys.stderr if code else sys.stdout, flush=True)


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """The command line as `Options`. Raises `UserError`, for a run that does not exist too."""
    parser = Arguments(prog="python -m cluster_rl.replayer", description="Episode logs to videos and maps.")
    add_run_name(parser, "--logs says which episodes")
    parser.add_argument(
        "--logs", type=Path, nargs="+", metavar="PATH", help="folder of episode logs, or some *.eplog, without maps"
    )
    parser.add_argument(
        "--greedy",
        type=whole_number(1),
        nargs="?",
        const=1,
        default=0,
        metavar="N",
        help="play N greedy episodes (1 if not given) with the run's published parameters, and render those",
    )
    parser.add_argument("--out", type=Path, help="folder for videos and maps (default: videos/ of the run)")
    parser.add_argument("--best", type=whole_number(1), default=0, metavar="N", help="only the N highest returns")
    parser.add_argument("--milestone", default="", help="only episodes that reached it, by its name or title")
    parser.add_argument(
        "--format", choices=list(ENDINGS), default="mp4", help="png is a folder of frames (default: mp4)"
    )
    parser.add_argument("--fps", type=whole_number(1, 120), default=30, help="frames a second, 1 to 120 (default: 30)")
    parser.add_argument(
        "--speed", type=whole_number(1, _SPEED_MAX), default=1, help="times as fast as the game (default: 1)"
    )
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="beside the game: button, place, badges, rewards and milestones as they come; of a run its quests too",
    )
    parser.add_argument(
        "--rom", default="", help="ROM or embedded world the logs were recorded with; the small world if not given"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--workers", type=whole_number(1), default=cores, help=f"processes; default is one a core ({cores} here)"
    )
    parser.add_argument(
        "--limit", type=whole_number(0), default=0, help="render only this many of the newest episodes; 0 is all"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--maps-only", action="store_true", help="draw maps, render nothing")
    kinds.add_argument("--no-maps", action="store_true", help="render, draw no maps")
    kinds.add_argument("--check", action="store_true", help="replay and compare only; write nothing")
    given = parser.parse_args(arguments)
    if (given.logs is None) == (given.run_name is None):
        parser.error("give --run-name or --logs: a run, or a folder of episode logs")
    if given.greedy and given.run_name is None:
        parser.error("--greedy plays with a run's parameters: give --run-name")
    for name, words in (("overlay", "is of"), ("greedy", "makes"), ("best", "chooses"), ("milestone", "chooses")):
        if getattr(given, name) and (given.maps_only or (given.check and name in ("overlay", "greedy"))):
            parser.error(f"--{name} {words} videos, and none is rendered with --maps-only or --check")
    if given.format == "gif" and given.fps > GIF_FPS_MAX:
        parser.error(f"argument --fps: must be at most {GIF_FPS_MAX} with a GIF, not {given.fps}")
    run_dir = RunDir(given.runs, given.run_name).require() if given.run_name is not None else None
    if run_dir is not None:
        given.logs = [run_dir.episode_logs]
    files = len(given.logs) > 1 or given.logs[0].is_file()
    folder = given.logs[0].parent if files else given.logs[0]
    if given.greedy:
        assert run_dir is not None
        folder = run_dir.greedy / "episode_logs"
        given.rom = given.rom or load_config(run_dir.require_config()).rom
    out = given.out or (folder.parent / "videos" if folder.absolute().name == "episode_logs" else None)
    if out is None and not given.check:
        parser.error("--out is needed where the logs are not those of a run, unless --check is given")
    return Options(
        logs=list(dict.fromkeys(given.logs)) if files else folder,
        run_dir=run_dir,
        out=out or Path(),
        look=Look(given.fps, given.speed, given.overlay, given.format),
        rom=given.rom,
        workers=given.workers,
        limit=given.limit,
        best=given.best,
        milestone=given.milestone,
        greedy=given.greedy,
        videos=not (given.maps_only or given.check),
        # The maps of a few episodes would take the place of those of the whole folder.
        maps=given.maps_only or not (files or given.greedy or given.no_maps or given.check),
        check=given.check,
    )


def main() -> int:
    """The command."""
    return run(parse_arguments())


def command() -> None:
    """`cluster-rl-replayer`."""
    run_command(main)


if __name__ == "__main__":
    command()
