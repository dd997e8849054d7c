"""A run's page that follows the run, on this machine's loopback: what it learns now, and the newest episode as a video.

    python -m cluster_rl.watch --run-name NAME [--port PORT] [--every-sec SECONDS]

Made for a node that is reached by `ssh -L`. In: the files of the run, which are only read, while it trains or after.
Out: a line with the address, which has a token in it, and what `watching/` serves there until a signal ends it.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

import concurrent.futures
import getpass
import os
import secrets
import shlex
import socket
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster_rl.errors import run_command
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.layout import RunDir

_SPEED_MAX = 1000
_ENDING_SEC = 10.0


@dataclass(frozen=True)
class Options:
    """The command line. `rom` is empty for what the run's config says."""

    run_dir: RunDir
    host: str
    port: int
    every_sec: int
    speed: int
    rom: str


def run(options: Options, stop: StopFlag) -> int:
    """Serves the page until `stop` is set, and returns the exit code. Raises `UserError` where it cannot begin."""
    # Here, so that a wrong command line is answered at once.
    from cluster_rl.rom import load_rom
    from cluster_rl.watching.board import Board
    from cluster_rl.watching.drawing import Drawer
    from cluster_rl.watching.projection import Projectionist
    from cluster_rl.watching.server import Server

    if options.rom:
        load_rom(options.rom)
    board = Board()
    # Not in the run's folder: watch writes nothing there, and its videos are worth nothing once it has ended.
    with (
        Server(options.host, options.port, secrets.token_urlsafe(), board) as server,
        tempfile.TemporaryDirectory(prefix="cluster-rl-watch-", ignore_cleanup_errors=True) as folder,
    ):
        projectionist = Projectionist(board, Path(folder), options.rom, options.speed)
        drawer = Drawer(options.run_dir, board, options.every_sec, projectionist.offer)
        if not server.is_loopback:
            print(
                "WARNING: other machines reach this, and nothing is encrypted; the token is all that keeps it private"
            )
        print(
            f"{options.run_dir.run_name}: {server.url}{_tunnel(server.place) if server.is_loopback else ''}", flush=True
        )
        threads = ThreadPoolExecutor(3)
        work = [
            threads.submit(projectionist.run, stop.wait),
            threads.submit(drawer.run, stop.wait),
            threads.submit(server.serve_forever),
        ]
        while not stop:
            ended = concurrent.futures.wait(work, 0, concurrent.futures.FIRST_EXCEPTION).done
            for future in ended:
                stop.set("a mistake")
                server.shutdown()
                future.result()
            stop.wait(1.0)
        server.shutdown()
        concurrent.futures.wait(work[:1], _ENDING_SEC)  # what it renders is in the folder
    print(f"{stop.reason}: ended; the run goes on as it did", flush=True)
    return stop.exit_code


def _tunnel(place: str) -> str:
    """How to come to `place`, host and port of loopback, from another machine, where somebody has come by SSH."""
    if "SSH_CONNECTION" not in os.environ:
        return ""
    there = shlex.quote(f"{getpass.getuser()}@{socket.gethostname()}")
    return f" (on your own machine first: ssh -N -L {place}:{place} {there})"


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """The command line as `Options`. Raises `UserError`, for a run that does not exist too."""
    parser = Arguments(prog="python -m cluster_rl.watch", description="A run's page that follows the run.")
    add_run_name(parser)
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=0, help="where it listens; 0 takes a free port (default: 0)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; any but the default shows the run to other machines, without encryption "
        "(default: 127.0.0.1)",
    )
    parser.add_argument(
        "--every-sec",
        type=whole_number(1, 86_400),
        default=30,
        metavar="SECONDS",
        help="the page is drawn anew at most so often, where files have changed (default: 30)",
    )
    parser.add_argument(
        "--speed",
        type=whole_number(1, _SPEED_MAX),
        default=1,
        help="times as fast as the game that the episode plays, at least; a long one plays faster (default: 1)",
    )
    parser.add_argument("--rom", default="", help="ROM or embedded world of the run (default: as its config says)")
    given = parser.parse_args(arguments)
    run_dir = RunDir(given.runs, given.run_name).require()
    return Options(run_dir, given.host, given.port, given.every_sec, given.speed, given.rom)


def main() -> int:
    """The command."""
    options = parse_arguments()
    return run(options, StopFlag().install())


def command() -> None:
    """`cluster-rl-watch`."""
    run_command(main, only_logs=True)


if __name__ == "__main__":
    command()
