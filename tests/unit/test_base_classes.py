"""Our classes hide no name of a class of others that they build on, but those that are there to be replaced.

A thread with a `_handle` of its own never starts in Python 3.13. What the base classes have is asked of the libraries
that run here; `scripts/test_pythons.sh` asks the oldest and the newest Python.
"""

from __future__ import annotations

import argparse
import ast
import http.server
import importlib
import inspect
import io
import pkgutil
import socketserver
import textwrap
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Protocol

import gymnasium
import pytest
import torch
import yaml

import cluster_rl
from cluster_rl.emulator.console import PyBoy

# By the class that says so: what its subclasses are meant to have of their own.
MEANT: dict[type, set[str]] = {
    threading.Thread: {"run"},
    torch.nn.Module: {"forward"},
    torch.nn.Linear: {"forward"},
    gymnasium.Env: {"reset", "step", "render", "close", "metadata", "render_mode", "observation_space", "action_space"},
    gymnasium.Wrapper: {"reset", "step"},
    io.FileIO: {"write"},
    io.TextIOBase: {"write", "writable", "fileno", "encoding", "_abc_impl"},
    socketserver.TCPServer: {"address_family", "allow_reuse_address", "request_queue_size"},
    socketserver.BaseServer: {"verify_request", "handle_error"},
    socketserver.ThreadingMixIn: {"daemon_threads"},
    socketserver.BaseRequestHandler: {"server"},
    socketserver.StreamRequestHandler: {"timeout"},
    http.server.BaseHTTPRequestHandler: {
        "close_connection",
        "log_message",
        "protocol_version",
        "send_error",
        "version_string",
    },
    argparse.ArgumentParser: {"error", "parse_known_args"},
    yaml.SafeLoader: {"compose_mapping_node"},
    # What others call of it is watched on the way; it calls none of them but by `button`, and `stop` where it is thrown
    # away, which is meant.
    PyBoy: {
        "tick",
        "send_input",
        "memory",
        "register_file",
        "gameshark",
        "load_state",
        "set_color_palette",
        "stop",
    },
    # Python gives them to each class of members.
    Enum: {name for name in vars(Enum) if name.startswith("_") and name.endswith("_")},
    # Python gives them to each class that says what others must have.
    Protocol: {"_abc_impl", "_is_protocol"},  # type: ignore[dict-item]
}
# Of newer Pythons than one that may run here: 3.13 and 3.14.
NEWER: dict[type, set[str]] = {threading.Thread: {"_handle", "_os_thread_handle", "_context", "_set_os_name"}}


def stored_by(cls: type) -> set[str]:
    """What the methods of a class store in `self`; nothing for one that is not written in Python."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return set()
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def names(cls: type) -> set[str]:
    """Those that a class itself gives to its instances; Python's own `__names__` are left out."""
    found = {*vars(cls), *stored_by(cls), *getattr(cls, "__annotations__", {})}
    return {name for name in found if not (name.startswith("__") and name.endswith("__"))}


def hidden(cls: type) -> set[str]:
    """Names of the bases of others that a class has anew and is not meant to."""
    bases = [base for base in cls.__mro__[1:] if not base.__module__.startswith("cluster_rl")]
    theirs = set().union(*(names(base) | NEWER.get(base, set()) for base in bases))
    meant = set().union(*(MEANT.get(base, set()) for base in bases))
    return names(cls) & theirs - meant


def ours() -> Iterator[type]:
    for module in pkgutil.walk_packages(cluster_rl.__path__, "cluster_rl."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if cls.__module__ == module.name:
                yield cls


def test_no_class_hides_what_its_base_keeps_for_itself() -> None:
    classes = list(ours())
    assert {"WireThread", "QNetwork", "Env", "Step", "Config", "UserError"} <= {cls.__name__ for cls in classes}
    assert {cls.__qualname__: found for cls in classes if (found := hidden(cls))} == {}


class Hidden(threading.Thread):
    def __init__(self) -> None:
        super().__init__()
        self._handle = 1

    def run(self) -> None: ...

    def join(self, timeout: float | None = None) -> None: ...


class Numbered(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.half = 2

    def forward(self) -> None: ...


class Counted(gymnasium.Env[int, int]):
    _np_random = None


@pytest.mark.parametrize(
    ("cls", "found"), [(Hidden, {"_handle", "join"}), (Numbered, {"half"}), (Counted, {"_np_random"})]
)
def test_what_is_hidden_is_found(cls: type, found: set[str]) -> None:
    assert hidden(cls) == found
