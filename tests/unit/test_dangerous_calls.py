"""No pickle, no shell, no `eval` anywhere in the package or its scripts: all data is data."""

from __future__ import annotations

from pathlib import Path

import pytest
from dangerous_calls import dangerous_calls

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("cluster_rl", "scripts") for path in (ROOT / folder).rglob("*.py"))


def test_nothing_runs_what_it_reads() -> None:
    assert len(SOURCES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in SOURCES
        for line, what in dangerous_calls(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as data",
        "from pickle import loads",
        "def late():\n    import _pickle",
        "import dill",
        "import marshal",
        "import shelve",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, map_location='cpu')",
        "from torch import load\nload(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=safe)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "from numpy import load as read\nread(path, allow_pickle=flag)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "from subprocess import Popen\nPopen(line, shell=yes)",
        "import os\nos.system(line)",
        "from os import system",
        "import os\nos.popen(line)",
        "import subprocess\nsubprocess.getoutput(line)",
        "eval(text)",
        "exec(text)",
        "import builtins\nbuiltins.exec(text)",
        "compile(text, 'x', 'exec')",
        "__import__(name)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nclass L(yaml.Loader):\n    pass\nyaml.load(text, L)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import full_load",
        "import multiprocessing\nmultiprocessing.Queue()",
        "import multiprocessing as mp\nq = mp.SimpleQueue",
        "from multiprocessing import Manager",
        "from multiprocessing import managers",
        "from multiprocessing.queues import JoinableQueue",
        "import multiprocessing\ncontext = multiprocessing.get_context('spawn')\ncontext.Queue()",
        "import multiprocessing\nmultiprocessing.get_context('fork').Pipe()",
        "import torch.multiprocessing as mp\nmp.Queue()",
    ],
)
def test_each_is_caught(source: str) -> None:
    assert list(dangerous_calls(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "import subprocess\nsubprocess.run([program], shell=False)",
        "model.eval()\nre.compile(text)\nself.exec(text)",
        "import yaml\nyaml.safe_load(text)\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass L(yaml.SafeLoader):\n    pass\nyaml.load(text, L)",
        "import json\njson.load(file)",
        "import queue\nqueue.Queue()",
        "import multiprocessing\ncontext = multiprocessing.get_context('spawn')\ncontext.Event()",
    ],
)
def test_what_is_safe_is_not(source: str) -> None:
    assert not list(dangerous_calls(source))
