"""One input to one decoder, held to what is promised: the documented exceptions, at most two seconds and 500 MB."""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from decoders import Decoder

MAX_SEC = 2.0
MAX_BYTES = 500 * 2**20


@dataclass(frozen=True)
class Tried:
    """What one input did. `refused`: in the documented way. `problem` is empty where all is as promised.

    `grown_bytes`: the most memory that the process had meanwhile, above what it had before.
    """

    seconds: float
    grown_bytes: int
    refused: bool
    problem: str


def resident_bytes() -> int:
    """Memory that this process has now."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """From now on `peak_bytes` is counted anew: what one input took must not hide what a later one does."""
    Path("/proc/self/clear_refs").write_bytes(b"5")


def peak_bytes() -> int:
    """The most memory that this process has had since `forget_peak`."""
    status = Path("/proc/self/status").read_bytes()
    return 1024 * int(status.partition(b"VmHWM:")[2].split(maxsplit=1)[0])


def try_input(decoder: Decoder, data: bytes) -> Tried:
    """Decodes; whatever comes of it is in what is returned. Seconds are those of this thread on a core."""
    forget_peak()
    before, started, refused, problem = resident_bytes(), time.thread_time(), False, ""
    try:
        decoder.decode(data)
    except decoder.allowed as error:
        refused = True
        if not str(error).strip():
            problem = f"{type(error).__name__} without a word"
    except Exception as error:  # noqa: BLE001  (it is what is looked for)
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(str(error).split())[:200]
        problem = f"{type(error).__name__}: {words} ({last.filename.rpartition('/')[2]}, line {last.lineno})"
    seconds = time.thread_time() - started
    if not problem and seconds > MAX_SEC:
        problem = f"{seconds:.1f} s"
    grown = max(0, peak_bytes() - before)
    if not problem and grown > MAX_BYTES:
        problem = f"{grown / 2**20:.0f} MB"
    return Tried(seconds, grown, refused, problem)
