"""The learning tests of memory over many seeds: does every row pass, and does every ablation fail?

    python scripts/bench/memory_seeds.py [--seeds 10] [--jobs 2]

Runs what tests/learning/memory_tasks.py describes with seeds 1, 2, ... and prints a Markdown table: a row's gap is the
smallest judged one of a training, an ablation's the largest, whatever its sign. A seed counts as passed if the row's
gap reaches the bound and the ablation's stays below the lower one, as in the tests. Exits with 1 if one did not pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from cluster_rl.errors import UserError, run_command
from cluster_rl.jobs.signals import die_with_parent

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "learning"))

from memory_tasks import FAIL_GAP, PASS_GAP, ROWS, ablation_gap, pass_gap


def measure(name: str, whole: bool, seed: int) -> tuple[float, float]:
    """The gap of one training of a row, whole or ablated, and the CPU seconds that it took."""
    torch.set_num_threads(1)
    began = time.process_time()
    gap = (pass_gap if whole else ablation_gap)(ROWS[name], seed)
    seconds = time.process_time() - began
    print(f"{name}, {'whole' if whole else 'ablation'}, seed {seed}: {gap:.3f}, {seconds:.1f} s", file=sys.stderr)
    return gap, seconds


def three(values: list[float]) -> str:
    """Smallest, median and largest."""
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="seeds of each row (default 10)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default 2)")
    arguments = parser.parse_args()
    for name in ("seeds", "jobs"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    seeds = range(1, arguments.seeds + 1)
    # Rows may share an ablation: it is trained once, under the first one's name.
    ablation_of = {name: next(other for other in ROWS if ROWS[other].ablation is ROWS[name].ablation) for name in ROWS}
    trainings = [(name, True, seed) for seed in seeds for name in ROWS]
    trainings += [(name, False, seed) for seed in seeds for name in dict.fromkeys(ablation_of.values())]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, die_with_parent, (os.getpid(),)) as pool:
        results = dict(zip(trainings, pool.map(measure, *zip(*trainings, strict=True)), strict=True))

    print("| row | gap (min / median / max) | ablation's gap (min / median / max) | passed | CPU seconds a seed |")
    print("| --- | --- | --- | --- | --- |")
    all_passed = True
    for name, row in ROWS.items():
        whole = [results[name, True, seed] for seed in seeds]
        ablated = [results[ablation_of[name], False, seed] for seed in seeds]
        passed = sum(a[0] >= PASS_GAP and b[0] < FAIL_GAP for a, b in zip(whole, ablated, strict=True))
        all_passed &= passed == len(seeds)
        seconds = statistics.mean(a[1] + b[1] for a, b in zip(whole, ablated, strict=True))
        gaps = f"{three([gap for gap, _ in whole])} | {three([gap for gap, _ in ablated])}"
        print(f"| {name}: {row.proves} | {gaps} | {passed}/{len(seeds)} | {seconds:.0f} |")
    return 0 if all_passed else 1


if __name__ == "__main__":
    run_command(main)
