"""Frames: compact observations, as they are stored and sent, to the tensors that every network takes.

Actors pack screens; the learner and acting networks unpack and prepare them on the device that computes. In: shades or
packed screens, context and crop as bytes, the previous action and reward. Out: `Frames`, float32.

Names: M frames, C context slots, S side of the map-memory crop, A actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SCREEN_HEIGHT = 72
SCREEN_WIDTH = 80


def pack_screen(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Packs shades 0-3, uint8 [..., 72, 80], into uint8 [..., 72, 20]: pixel j of a byte in bits 2j and 2j + 1."""
    # In a (little-endian) word of four pixels, one product moves each to its place in the highest byte; no two of its
    # sixteen terms share a bit.
    words = np.ascontiguousarray(screen).view(np.uint32) * np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
    return (words >> np.uint32(24)).astype(np.uint8)


def unpack_screen(packed: Tensor) -> Tensor:
    """The inverse of `pack_screen` on the tensor's device: uint8 [..., 72, 20] -> uint8 [..., 72, 80]."""
    # Each byte is spread over the four of a (little-endian) 32-bit word: first its halves 16 bits apart, then the
    # pixels of each half 8 apart. On contiguous words this is three times as fast as writing every fourth byte.
    words = packed.to(torch.int32)
    words = words.bitwise_or_(words << 12).bitwise_and_(0x000F000F)
    words = words.bitwise_or_(words << 6).bitwise_and_(0x03030303)
    return words.view(torch.uint8)


_PIXELS_OF_BYTE = (
    unpack_screen(torch.arange(256, dtype=torch.uint8).unsqueeze(1)).float().mul_(1.0 / 3.0).numpy()
)  # [256, 4] float32

CROP_CODES = 5
CROP_CODE_STEP = 51
CROP_PLANES = 1 + CROP_CODES


def expand_crop(crop: Tensor) -> Tensor:
    """Takes the codes of a crop's second plane apart: uint8 [M, 2, S, S] -> float32 [M, 6, S, S].

    Plane 0 / 255, then one plane of 0 and 1 for each code k * 51, k from 1; code 0 has none.
    """
    codes = torch.arange(CROP_CODE_STEP, 256, CROP_CODE_STEP, dtype=torch.uint8, device=crop.device)
    planes = torch.empty((crop.shape[0], CROP_PLANES, *crop.shape[2:]), device=crop.device)
    torch.mul(crop[:, 0], 1.0 / 255.0, out=planes[:, 0])
    torch.eq(crop[:, 1:], codes.view(1, -1, 1, 1), out=planes[:, 1:])
    return planes


class Frames(NamedTuple):
    """M frames as encoders take them: all that is the same for every network is done."""

    screen: Tensor  # [M, 1, 72, 80] float32, 0 to 1, channels last
    context: Tensor  # [M, C] float32, 0 to 1
    crop: Tensor  # [M, 6, S, S] float32, see `expand_crop`
    history: Tensor  # [M, A + 1] float32: previous action one-hot, logarithm of the previous reward


def screens_of_shades(shades: Tensor) -> Tensor:
    """Screens as encoders take them: uint8 [M, 72, 80], 0-3 -> float32 [M, 1, 72, 80], 0 to 1, channels last."""
    return shades.unsqueeze(1).float().mul_(1.0 / 3.0).contiguous(memory_format=torch.channels_last)


def screens_of_packed(packed: Tensor) -> Tensor:
    """`screens_of_shades` of what `pack_screen` packed: uint8 [M, 72, 20] -> float32 [M, 1, 72, 80]."""
    if packed.device.type != "cpu" or type(packed) is not Tensor:  # the estimate of memory has tensors without values
        return screens_of_shades(unpack_screen(packed))
    # One pass over memory instead of five: a table says what four pixels each byte stands for.
    screens = torch.from_numpy(_PIXELS_OF_BYTE.take(packed.numpy().ravel(), axis=0))
    return screens.view(-1, 1, SCREEN_HEIGHT, SCREEN_WIDTH)


def prepare_frames(
    screens: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor, num_actions: int
) -> Frames:
    """Compact observations to `Frames`, on their device.

    Args:
        screens: [M, 1, 72, 80] float32, see `screens_of_shades`.
        context: [M, C] uint8, value / 255.
        crop: [M, 2, S, S] uint8, see `expand_crop`.
        prev_action: [M] int64, `num_actions` where there is none.
        prev_reward: [M] float32.
        num_actions: A.
    """
    # "None" has a class of its own in the one-hot vector, whose column is dropped: zeros.
    action = functional.one_hot(prev_action, num_actions + 1)[:, :-1].float()
    # Rewards span decades; the logarithm keeps a rare large one from swamping the cell.
    reward = (prev_reward.sign() * prev_reward.abs().log1p()).unsqueeze(1)
    return Frames(screens, context.float() * (1.0 / 255.0), expand_crop(crop), torch.cat([action, reward], dim=1))
