"""Episode logs in; an MP4 and a picture of the path for each episode, and maps of where the agent has been, out.

Run as `python -m cluster_rl.replayer`.

The main process reads and checks every log, draws the maps, and hands the logs whose video is missing or out of date to
worker processes, which emulate each episode again from its snapshot and actions. While it renders, a worker compares
the RAM with what was recorded after each step; a replay that leaves its recording gives no video but a line that says
at which step. Beside each `NAME.mp4` `NAME.png` shows the episode's path on the map as the episode saw it, and a
`NAME.json` says which log they show and how large they are; where both are there so they are not made again.

Nothing here imports torch, so it runs wherever the emulator does.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import concurrent.futures
import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import filelock
import msgspec

from cluster_rl.emulator.console import Frame
from cluster_rl.emulator.playback import Diverged, Stopped, check_fits, first_state, knows_rewards, replay, reward_parts
from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_OK, UserError, as_text, exit_code_of, run_command
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.bars import Bar
from cluster_rl.report.heatmap import VisitCounts, draw_maps
from cluster_rl.report.overlay import Facts, Narrator
from cluster_rl.report.path import SeenMap, draw_path
from cluster_rl.report.positions import known_places
from cluster_rl.report.recording import Recording
from cluster_rl.report.video import find_encoder, video_frames
from cluster_rl.report.video_record import VideoRecord, is_finished, path_picture, record_path
from cluster_rl.rewards import INTRINSIC_TERMS
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.episode_log import SUFFIX, EpisodeHeader, EpisodeLog, log_paths, parse_log, read_log_bytes
from cluster_rl.runs.layout import RunDir

_POLL_SEC = 0.2


def expected_video_frames(steps: int, frame_skip: int, fps: int) -> int:
    """Frames in the video of an episode: as many as fit in the time that its steps take on a Game Boy.

    At 30 fps that is every second frame, and two in a row about every 4 seconds, since 59.7275 is less than 60.
    """
    return video_frames(steps * frame_skip, fps)


@dataclass(frozen=True)
class Job:
    """One log to play again, `frames` of the game. `video` is None where it is only checked."""

    log: Path
    video: Path | None
    fps: int
    overlay: bool
    frames: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a line for the user, and the exit code it asks for."""

    code: int
    line: str


def render(
    log: EpisodeLog,
    rom: Rom,
    source: str,
    stopping: Callable[[], bool],
    video: Path,
    fps: int,
    commentary: Commentary | None = None,
) -> SeenMap:
    """Renders an episode to an MP4 at the game's speed, with a panel if somebody comments on it.

    Returns the map as the episode saw it.

    Raises as `replay` does, and `UserError` where the encoder fails; the video is then not written.
    """
    seen = SeenMap(World.for_rom(rom.sha1))
    known = iter(known_places(log.positions).tolist())
    last: Frame
    with Recording([video], None, fps, sys.maxsize, commentary is not None) as recording:

        def on_frame(frame: Frame) -> None:
            nonlocal last
            last = frame
            recording.on_frame(frame)

        def on_step(state: GameState) -> None:
            recording.step(*(commentary.step(state) if commentary is not None else ()))
            if next(known):
                seen.look(state, last)

        replay(log, rom, source, stopping, on_frame, on_step)
    return seen


class Commentary:
    """What the panel tells of an episode. Logs have no values of a network's."""

    def __init__(self, log: EpisodeLog, rom: Rom, source: str, stopping: Callable[[], bool]) -> None:
        """Plays the episode to learn what was paid when. Raises as `replay` does."""
        header, world = log.header, World.for_rom(rom.sha1)
        self._frame_skip = header.frame_skip
        parts = reward_parts(log, rom, world, source, stopping)
        self._steps = zip(log.actions.tolist(), parts, strict=True)
        # No more is known of how a button was chosen: epsilon is not the share of random ones (docs/metrics.md).
        self._chosen = f"epsilon {header.epsilon:.3g}"
        state = first_state(log, source)
        reached = header.start.milestones if header.start is not None else []
        self._latch = ProgressLatch(world.milestones)
        self._latch.start(state)
        self._told = set(reached)
        self._return = 0.0
        self._narrator = Narrator(world, knows_rewards=knows_rewards(header))
        self._narrator.start(state, reached)

    def step(self, state: GameState) -> tuple[Facts, Facts]:
        """The facts during the next step, which led to `state`, and after it."""
        action, parts = next(self._steps)
        during = self._narrator.press(BUTTONS[action], self._chosen)
        milestones = [name for name in self._latch.update(state) if name not in self._told]
        self._return += sum(amount for name, amount in parts.items() if name not in INTRINSIC_TERMS)
        return during, self._narrator.look(self._frame_skip, state, milestones, parts, self._return)


def _draw_path(log: EpisodeLog, rom: Rom, seen: SeenMap, video: Path) -> int:
    """Draws the episode's path beside its video; returns the picture's size in bytes, 0 where no map was seen.

    A picture of an older recording goes first, so that none stays where this one cannot be drawn.
    """
    picture, header = path_picture(video), log.header
    picture.unlink(missing_ok=True)
    milestones = [(milestone.name, milestone.step) for milestone in header.milestones]
    title = f"{as_text(video.stem)}: {header.steps} steps, return {header.episode_return:.1f}{_begun_at(header)}"
    drawn = draw_path(seen, log.positions, milestones, World.for_rom(rom.sha1), title, picture)
    return picture.stat().st_size if drawn else 0


def _begun_at(header: EpisodeHeader) -> str:
    """Where the episode began, if that was not the beginning."""
    start = header.start
    return f", from {start.tag} {start.id}" if start is not None and start.tag != "beginning" else ""


# --- worker processes ---

_rom: Rom
_stop: Event
_frames: Synchronized[int]  # of the game, replayed by all workers together


def _start_worker(rom_path: str, stop: Event, frames: Synchronized[int]) -> None:
    """Runs once in each worker: loads the ROM, and sees to it that no worker outlives the main process."""
    global _rom, _stop, _frames
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process tells us to stop
    _rom, _stop, _frames = load_rom(rom_path), stop, frames
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(EXIT_FAILURE)

    threading.Thread(target=follow, daemon=True).start()


def _work(job: Job) -> Outcome:
    source = str(job.log)

    def stopping() -> bool:
        with _frames.get_lock():  # after every step
            _frames.value += log.header.frame_skip
        return _stop.is_set()

    try:
        data = read_log_bytes(job.log)
        log = parse_log(data, source)
        if job.video is None:
            replay(log, _rom, source, stopping)
            return Outcome(EXIT_OK, f"{source}: {log.header.steps} steps replay as recorded")
        commentary = Commentary(log, _rom, source, _stop.is_set) if job.overlay else None
        seen = render(log, _rom, source, stopping, job.video, job.fps, commentary)
        record = VideoRecord(
            log_sha256=hashlib.sha256(data).hexdigest(),
            fps=job.fps,
            steps=log.header.steps,
            frames=expected_video_frames(log.header.steps, log.header.frame_skip, job.fps),
            complete=log.header.complete,
            video_bytes=job.video.stat().st_size,
            path_bytes=None,
            overlay=job.overlay,
        )
        made = f"{job.video}: {record.steps} steps, {record.frames} frames"
        try:
            record = msgspec.structs.replace(record, path_bytes=_draw_path(log, _rom, seen, job.video))
        except Exception as error:  # noqa: BLE001  (told; whatever it is, the video is whole)
            made = f"{made}; failed: the picture of its path: {error or type(error).__name__}"
        write_atomic(record_path(job.video), msgspec.json.encode(record) + b"\n")
        return Outcome(EXIT_OK if record.path_bytes is not None else EXIT_FAILURE, made)
    except UserError as error:
        return Outcome(exit_code_of(error), f"error: {error}")
    except Diverged as error:
        if job.video is not None:  # an older video would show a recording that is no longer there
            job.video.unlink(missing_ok=True)
            record_path(job.video).unlink(missing_ok=True)
            path_picture(job.video).unlink(missing_ok=True)
        return Outcome(EXIT_FAILURE, f"diverged: {error}")
    except OSError as error:
        return Outcome(EXIT_FAILURE, f"failed: {source}: {error}")
    except Stopped:
        return Outcome(EXIT_FAILURE, f"stopped: {source}")


# --- main process ---


@dataclass(frozen=True)
class Options:
    """The command line. `logs` is a folder of them, or the logs themselves."""

    logs: Path | list[Path]
    out: Path
    fps: int
    overlay: bool
    rom: str
    workers: int
    limit: int
    videos: bool
    maps: bool
    check: bool


@dataclass(frozen=True)
class Plan:
    """What the logs ask for: jobs for workers, visits to draw, and what was found wrong."""

    jobs: list[Job]
    visits: VisitCounts
    episodes: int
    finished: int
    bad: int


def run(options: Options) -> int:
    """Does what the command line asks for and returns the exit code.

    2 where a log could not be used or a video not be encoded, 1 where a replay diverged or failed; whatever is good is
    rendered nevertheless.
    Raises `UserError` where there is nothing to begin with.
    """
    rom = load_rom(options.rom)
    paths = _log_files(options.logs)
    with Bar("reading", len(paths), "logs") as bar:
        plan = read_logs(options, rom, paths, bar)
    codes = [EXIT_BAD_INPUT if plan.bad else EXIT_OK]
    if plan.episodes == 0:
        return EXIT_BAD_INPUT
    if options.videos and plan.jobs:
        find_encoder(".mp4")  # told once, not for every video
    with contextlib.nullcontext() if options.check else _sole_writer(options.out):
        if options.maps:
            with Bar("drawing maps"):
                drawn = draw_maps(plan.visits, World.for_rom(rom.sha1), options.out / "maps")
            _say(f"{options.out / 'maps'}: {len(drawn)} maps of {plan.visits.steps} steps in {plan.episodes} episodes")
        if plan.finished:
            _say(f"{plan.finished} of {plan.episodes} videos are finished already")
        for outcome in _outcomes(plan.jobs[: options.limit or None], options):
            _say(outcome.line, outcome.code)
            codes.append(outcome.code)
    return max(codes)


def read_logs(options: Options, rom: Rom, paths: Sequence[Path], bar: Bar) -> Plan:
    """Reads and checks all logs, says what is wrong with which, and plans the rest."""
    visits = VisitCounts()
    jobs: list[Job] = []
    episodes = finished = bad = 0
    for number, path in enumerate(paths):
        bar.to(number)
        try:
            data = read_log_bytes(path)
            log = parse_log(data, str(path))
            check_fits(log, rom, str(path))
        except UserError as error:
            _say(f"error: {error}", EXIT_BAD_INPUT)
            bad += 1
            continue
        episodes += 1
        visits.add(log.positions)
        video = None if options.check else options.out / f"{path.stem}.mp4"
        if video is not None and is_finished(video, hashlib.sha256(data).hexdigest(), options.fps, options.overlay):
            finished += 1
        elif options.videos or options.check:
            jobs.append(Job(path, video, options.fps, options.overlay, log.header.steps * log.header.frame_skip))
    # Newest first: --limit then shows what the agent does now.
    jobs.sort(key=lambda job: job.log.stat().st_mtime_ns, reverse=True)
    return Plan(jobs, visits, episodes, finished, bad)


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


def _outcomes(jobs: list[Job], options: Options) -> Iterator[Outcome]:
    """Works on the jobs in worker processes; yields what became of each as it ends."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    frames = context.Value("q", 0)
    pool = ProcessPoolExecutor(min(options.workers, len(jobs)), context, _start_worker, (options.rom, stop, frames))
    with Bar("checking" if options.check else "rendering", sum(job.frames for job in jobs), "frames") as bar:
        try:
            waiting = {pool.submit(_work, job) for job in jobs}
            while waiting:
                ended, waiting = concurrent.futures.wait(waiting, _POLL_SEC, FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
                # Past the lock: a worker may have died with it.
                bar.to(frames.get_obj().value, f"{len(jobs) - len(waiting)} of {len(jobs)} episodes")
        except BrokenProcessPool:
            yield Outcome(EXIT_FAILURE, "failed: a worker process died (out of memory?); run again to do the rest")
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
    parser = Arguments(prog="python -m cluster_rl.replayer", description="Episode logs to MP4 and maps.")
    add_run_name(parser, "--logs says which episodes")
    parser.add_argument(
        "--logs", type=Path, nargs="+", metavar="PATH", help="folder of episode logs, or some *.eplog, without maps"
    )
    parser.add_argument("--out", type=Path, help="folder for videos and maps (default: videos/ of the run)")
    parser.add_argument("--fps", type=whole_number(1, 120), default=30, help="frames a second, 1 to 120 (default: 30)")
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="beside the game: button, place, badges, rewards and milestones as they come",
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
    if given.overlay and (given.maps_only or given.check):
        parser.error("--overlay is of videos, and none is rendered with --maps-only or --check")
    if given.run_name is not None:
        given.logs = [RunDir(given.runs, given.run_name).require().episode_logs]
    files = len(given.logs) > 1 or given.logs[0].is_file()
    folder = given.logs[0].parent if files else given.logs[0]
    out = given.out or (folder.parent / "videos" if folder.absolute().name == "episode_logs" else None)
    if out is None and not given.check:
        parser.error("--out is needed where the logs are not those of a run, unless --check is given")
    return Options(
        logs=given.logs if files else folder,
        out=out or Path(),
        fps=given.fps,
        overlay=given.overlay,
        rom=given.rom,
        workers=given.workers,
        limit=given.limit,
        videos=not (given.maps_only or given.check),
        # The maps of a few episodes would take the place of those of the whole folder.
        maps=given.maps_only or not (files or given.no_maps or given.check),
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
