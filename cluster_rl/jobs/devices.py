"""Where the learner runs: the config's wish, what this machine has, and words for the user where they differ."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from cluster_rl.config import Config
from cluster_rl.errors import UserError


class LearnerDevice(NamedTuple):
    """Where the learner will run: `type` is a torch device type, `line` says it and why, for the user."""

    type: str
    line: str


def learner_device(config: Config) -> LearnerDevice:
    """What `device` of the config comes to on this machine. Raises `UserError` for `cuda` where there is none."""
    if config.device == "cpu":
        return LearnerDevice("cpu", "device: CPU, as configured")
    problem = why_no_cuda()
    if problem is None:
        return LearnerDevice("cuda", "device: CUDA")
    if config.device == "cuda":
        raise UserError(f"device cuda: {problem}; run it where a GPU is, or give --device auto or --device cpu")
    return LearnerDevice("cpu", f"device: CPU, as CUDA cannot be used: {problem}")


def why_no_cuda() -> str | None:
    """Why PyTorch cannot use a GPU here, in words; None if it can. Does not take any of a GPU's memory."""
    if torch.cuda.is_available():
        return None
    if not torch.backends.cuda.is_built():
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "no device or driver was found (does nvidia-smi show one?)"
    # SLURM has written each of these for a job without a GPU.
    if visible.strip() in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {visible.strip() or 'empty'}, so this job has no GPU"
    return f"no device or driver was found (CUDA_VISIBLE_DEVICES is {visible}; does nvidia-smi show one?)"
