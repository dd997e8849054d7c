"""Times updates of the checkout that PYTHONPATH names; started by `update_against.py`, once for each checkout.

usage: timed_updates.py CONFIG BATCH.npz [key=value ...]

Says which package it has imported. Then reads a number of updates from each line of stdin, makes them on the batch, and
answers with their CPU seconds.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np
import torch

import cluster_rl
from cluster_rl.config import load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.learner import prepare_process
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2


def main() -> None:
    config_name, path, *overrides = sys.argv[1:]
    config = load_config(config_name, overrides)
    prepare_process(config)
    torch.set_num_threads(1)
    names = {field.name for field in dataclasses.fields(Batch)}
    with np.load(path) as arrays:
        batch = Batch.from_numpy({name: arrays[name] for name in arrays.files if name in names}, torch.device("cpu"))
    learner = R2D2(config, observation_spec(config), "cpu", config.base_seed)
    print(cluster_rl.__file__, flush=True)
    for line in sys.stdin:
        seconds = 0.0
        for _ in range(int(line)):
            # As new: a batch keeps its frames unpacked, and a real one comes with none.
            fresh = dataclasses.replace(batch)
            started = time.process_time()
            learner.update(fresh)
            seconds += time.process_time() - started
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
