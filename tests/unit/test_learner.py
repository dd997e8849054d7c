"""The learner's threads."""

from __future__ import annotations

import ast
import inspect
import threading

import pytest

from cluster_rl import learner

# Of newer Pythons than the one that runs here: 3.13 and 3.14.
NEWER = {"_handle", "_os_thread_handle", "_context", "_set_os_name"}
MEANT = {"__init__", "run"}


def own_names(thread: type[threading.Thread]) -> set[str]:
    """Methods of a class, and what its methods assign to `self`."""
    tree = ast.parse(inspect.getsource(thread))
    methods = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    stored = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }
    return methods | stored


@pytest.mark.parametrize("thread", [learner.WireThread, learner.SamplerThread])
def test_no_thread_hides_what_python_keeps_in_its_own(thread: type[threading.Thread]) -> None:
    """A thread with a `_handle` of its own never starts in Python 3.13."""
    pythons = {*dir(threading.Thread()), *vars(threading.Thread()), *NEWER}
    names = own_names(thread)
    assert {"_trainer", "_ended"} <= names
    assert names & pythons - MEANT == set()
