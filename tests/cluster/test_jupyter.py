"""slurm/jupyter.sbatch: a Jupyter server on a node, behind a socket that only its user may open."""

from __future__ import annotations

import importlib.util
import re
import socket
import stat
import sys
from pathlib import Path

import pytest
from slurm_fixtures import Slurm


def log(home: Path, job: int) -> str:
    path = home / "slurm" / "logs" / f"jupyter-{job}.out"
    return path.read_text() if path.exists() else ""


def test_without_jupyterlab_it_says_so(slurm: Slurm, home: Path) -> None:
    bare = home / "python"
    bare.write_text('#!/bin/sh\ncase "$*" in *jupyterlab*) exit 1 ;; esac\n', encoding="utf-8")
    bare.chmod(0o755)
    job = slurm.submit("slurm/jupyter.sbatch", cwd=home, CLUSTER_RL_PYTHON=str(bare))
    slurm.wait_for_state(job, "FAILED")
    assert slurm.field(job, "ExitCode") == "2:0"
    assert "no jupyterlab in" in log(home, job)
    assert "env_setup.sh --notebook" in log(home, job)


@pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="jupyterlab is not installed ([notebook])")
def test_a_server_on_a_node(slurm: Slurm, home: Path) -> None:
    job = slurm.submit("slurm/jupyter.sbatch", cwd=home, CLUSTER_RL_PYTHON=sys.executable, HOME=str(home))
    address = re.compile(r"http://localhost:8888/lab\?token=([0-9a-f]{16,})")
    slurm.wait_for(lambda: address.search(log(home, job)) is not None, "no address in the log")
    tunnel = re.search(r"-L 8888:(\S+) \S+@(\S+)", log(home, job))
    assert tunnel is not None
    assert tunnel[2] == slurm.field(job, "NodeList")
    path = Path(tunnel[1])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def status(query: str) -> str:
        """First line of the server's answer, as a browser at the other end of the tunnel gets it."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(f"GET /api/sessions{query} HTTP/1.0\r\nHost: localhost:8888\r\n\r\n".encode())
            return client.makefile().readline()

    token = address.search(log(home, job))
    assert token is not None
    assert " 403 " in status("")
    assert " 200 " in status(f"?token={token[1]}")
    slurm.call("scancel", str(job), cwd=home)
    slurm.wait_for_state(job, "CANCELLED")
    slurm.wait_for(lambda: not path.parent.exists(), "the socket's folder stays")
