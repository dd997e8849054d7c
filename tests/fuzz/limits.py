"""One input to one decoder, held to what is promised: the documented exceptions, at most two seconds and 500 MB."""

from __future__ import annotations

import resource
import time
import traceback
from dataclasses import dataclass

from decoders import Decoder

MAX_SEC = 2.0
MAX_BYTES = 500 * 2**20


@dataclass(frozen=True)
class Tried:
    """What one input did. `refused`: in the documented way. `problem` is empty where all is as promised."""

    seconds: float
    refused: bool
    problem: str


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def try_input(decoder: Decoder, data: bytes) -> Tried:
    """Decodes; whatever comes of it is in what is returned. Seconds are those of this thread on a core."""
    before, started, refused, problem = peak_bytes(), time.thread_time(), False, ""
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
    if not problem and peak_bytes() - before > MAX_BYTES:
        problem = f"{(peak_bytes() - before) / 2**20:.0f} MB"
    return Tried(seconds, refused, problem)
