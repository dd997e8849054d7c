"""Python runs this before a program, where this folder is in PYTHONPATH: an actor then notes what it is told is kept.

A line for each acknowledgement, `incarnation next_seq`, in the file that CHAOS_ACKS names; one `write` each, so that
lines of several processes and of killed ones are whole.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_MESSAGES = "cluster_rl.wire.messages"


def _note_acknowledgements(messages: Any) -> None:
    notes = os.open(os.environ["CHAOS_ACKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    decode = messages.decode_from_learner

    def noting(*arguments: Any, **options: Any) -> Any:
        message, frame = decode(*arguments, **options)
        if isinstance(message, messages.Ack):
            os.write(notes, b"%d %d\n" % (message.incarnation, message.next_seq))
        return message, frame

    messages.decode_from_learner = noting


class _AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets the module be found and run as ever, then has its decoder noted."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MESSAGES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _note_acknowledgements(module)


if "cluster_rl.actor" in sys.orig_argv:
    sys.meta_path.insert(0, _AfterImport())
