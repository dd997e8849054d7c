"""The learner's benchmark: a smoke run with tiny sizes, its exit code, and what the bare pass computes."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "learner.py"
TINY = [
    *("--rounds", "2", "--updates", "2", "--steps", "120", "--transitions", "300", "--synthetic"),
    *("--learner_threads", "1", "--batch_size", "4", "--unroll_length", "6", "--burn_in", "3", "--n_step", "2"),
    *("--lstm_hidden_size", "16", "--num_quantiles", "4", "--model.conv_channels", "[4,4,4]"),
]


def run_bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("w_rnd", ["0", "0.01"])
def test_measures_all_loops_and_exits_by_the_goals(tmp_path: Path, w_rnd: str) -> None:
    done = run_bench(tmp_path, *TINY, "--json", "--w_rnd", w_rnd)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if figures["missed"] else 0), done.stderr
    missed = {
        "whole_over_update": figures["whole_over_update"] < 0.95,
        "update_over_bare": figures["update_over_bare"] > 1.5,
        "curiosity_over_update_cpu": figures.get("curiosity_over_update_cpu", 0.0) > 0.05,
    }
    assert figures["missed"] == [name for name, is_missed in missed.items() if is_missed]
    assert figures["transitions"] >= 300
    assert figures["frames"] == 4 * (3 + 6 + 2)
    assert ("curiosity_over_update_cpu" in figures) == (w_rnd != "0")
    for loop in ("whole", "update", "bare") + ("curiosity",) * (w_rnd != "0"):
        for clock in ("wall", "cpu"):
            assert 0 < figures[f"{loop}_{clock}_ms_min"] <= figures[f"{loop}_{clock}_ms_median"]
    # An update holds a bare pass and more, whatever the load of the machine.
    assert figures["update_over_bare_cpu"] > 1
    assert not list(tmp_path.iterdir())  # the run it wrote is gone


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--rounds", "0")
    assert (done.returncode, done.stderr) == (2, "error: --rounds 0: at least 1 is needed\n")


_PAGE_FAULTS = """
import resource, torch
from cluster_rl.config import load_config
from cluster_rl.learner import prepare_process
prepare_process(load_config("cpu"))
def allocate():
    torch.empty(50_000_000).fill_(1)  # 200 MB: glibc would take this from mmap, and give it back, each time
allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc is told to keep memory")
def test_the_learner_keeps_large_blocks() -> None:
    done = subprocess.run([sys.executable, "-c", _PAGE_FAULTS], capture_output=True, text=True, check=True, timeout=120)
    # Each block has 48,828 pages. One more may be made where the first one's place turns out too small.
    assert int(done.stdout) < 2 * 48_828
