"""What a worker process of the replayer does with one log: plays it again, and renders it or only compares.

In: a `Job`. Out: an `Outcome`, and under its name the video, with its picture and record beside it; where a replay
leaves its recording, no video, and none of an older recording either.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec

from cluster_rl.emulator.playback import Diverged, Stopped, replay
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, exit_code_of
from cluster_rl.rendering.episode import Commentary, draw_path_of, render
from cluster_rl.report.ground import Glimpse, glimpse_of
from cluster_rl.report.overlay import Chance
from cluster_rl.report.video import video_frames
from cluster_rl.report.video_record import Kind, VideoRecord, remove, size_bytes, told_by, write_record
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.episode_log import EpisodeLog, parse_log, read_log_bytes


@dataclass(frozen=True)
class Look:
    """How videos should look: frames a second, times as fast as the game, with a panel or without, and of what kind."""

    fps: int
    speed: int
    overlay: bool
    kind: Kind


@dataclass(frozen=True)
class Job:
    """One log to play again, `frames` of the game. `video` is None where it is only checked.

    `older` are videos of the same log under other names, which this one takes the place of; `chances` of milestones
    are told in the panel.
    """

    log: Path
    frames: int
    video: Path | None
    look: Look
    older: tuple[Path, ...] = ()
    chances: Mapping[str, Chance] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a line for the user, the exit code it asks for, what was rendered, and what of the map was
    seen in it."""

    code: int
    line: str
    record: VideoRecord | None = None
    glimpse: Glimpse | None = None


_rom: Rom
_stop: Event
_frames: Synchronized[int]  # of the game, replayed by all workers together


def start_worker(rom_path: str, stop: Event, frames: Synchronized[int]) -> None:
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


def work(job: Job) -> Outcome:
    """Does a job. Whatever is wrong with its log or its files is told by the outcome."""
    source = str(job.log)
    try:
        data = read_log_bytes(job.log)
        log = parse_log(data, source)
        if job.video is None:
            replay(log, _rom, source, _stopping(log))
            return Outcome(EXIT_OK, f"{source}: {log.header.steps} steps replay as recorded")
        return _rendered(job, job.video, log, hashlib.sha256(data).hexdigest())
    except UserError as error:
        return Outcome(exit_code_of(error), f"error: {error}")
    except Diverged as error:
        try:
            for video in (job.video, *job.older):  # an older video would show a recording that is no longer there
                if video is not None:
                    remove(video)
        except OSError as left:
            return Outcome(EXIT_FAILURE, f"diverged: {error}; an older video stays: {left}")
        return Outcome(EXIT_FAILURE, f"diverged: {error}")
    except OSError as error:
        return Outcome(EXIT_FAILURE, f"failed: {source}: {error}")
    except Stopped:
        return Outcome(EXIT_FAILURE, f"stopped: {source}")


def _stopping(log: EpisodeLog) -> Callable[[], bool]:
    """What a replay asks after every step, which is counted by it."""

    def stopping() -> bool:
        with _frames.get_lock():
            _frames.value += log.header.frame_skip
        return _stop.is_set()

    return stopping


def _rendered(job: Job, video: Path, log: EpisodeLog, log_sha256: str) -> Outcome:
    source, header, look = str(job.log), log.header, job.look
    commentary = None
    if look.overlay:
        commentary = Commentary(log, _rom, source, _stop.is_set, job.chances, look.speed)
    if look.kind == "png" and video.is_dir():  # of an older recording: a folder gets its name only where there is none
        remove(video)
    seen = render(log, _rom, source, _stopping(log), video, look.fps, commentary, look.speed)
    record = VideoRecord(
        log_sha256=log_sha256,
        fps=look.fps,
        steps=header.steps,
        frames=video_frames(header.steps * header.frame_skip, look.fps, look.speed),
        complete=header.complete,
        video_bytes=size_bytes(video),
        path_bytes=None,
        overlay=look.overlay,
        kind=look.kind,
        speed=look.speed,
        **told_by(header, look.speed),
    )
    made = f"{video}: {record.steps} steps, {record.frames} frames"
    try:
        record = msgspec.structs.replace(record, path_bytes=draw_path_of(log, _rom, seen, video, job.log.stem))
    except Exception as error:  # noqa: BLE001  (told; whatever it is, the video is whole)
        made = f"{made}; failed: the picture of its path: {error or type(error).__name__}"
    write_record(video, record)
    for older in job.older:
        remove(older)
    return Outcome(EXIT_OK if record.path_bytes is not None else EXIT_FAILURE, made, record, glimpse_of(seen))
