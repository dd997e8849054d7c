"""Command lines of a trainer, each in a process of its own, without its seconds of imports.

A server process imports the trainer's module once; each call is a fork of it, with its own folder, variables and
output. What happens during the imports themselves is tested elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_SERVER = """
import importlib, json, os, sys, tempfile
module = importlib.import_module("cluster_rl." + sys.argv[1])
for name in ("torch._dynamo", "cluster_rl.emulator.console"):  # which a trainer imports later, for seconds
    importlib.import_module(name)
for line in sys.stdin:
    call = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(call["folder"])
            os.environ.clear()
            os.environ.update(call["environment"])
            sys.argv = [module.__file__, *call["arguments"]]
            module.command()
            os._exit(70)  # command() leaves the process
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    print(json.dumps([code, *texts]), flush=True)
"""


class ForkedCommands:
    """Runs `python -m cluster_rl.MODULE ARGUMENTS` as often as asked; a context manager."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        call = {"folder": str(folder), "environment": dict(environment), "arguments": arguments}
        print(json.dumps(call), file=self._server.stdin, flush=True)
        code, out, err = json.loads(self._server.stdout.readline())
        return subprocess.CompletedProcess([self._module, *arguments], code, out, err)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()
