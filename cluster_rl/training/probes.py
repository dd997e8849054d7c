"""What metrics find out by running the network once more: values where episodes begin, staleness of stored states;
and by looking into blocks: what was on the screen.

In: the online network and blocks of the replay. Out: figures of one row, a picture. Updates never pay for any of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.config import Config
from cluster_rl.learning import targets
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.model import QNetwork
from cluster_rl.networks.frames import SCREEN_HEIGHT, SCREEN_WIDTH, unpack_screen
from cluster_rl.training.staleness import q_discrepancy
from cluster_rl.wire.codec import BlockArrays, BlockError, SequenceHeader, decode_arrays

STALENESS_SEQUENCES = 4  # of the newest batch, at most
STALENESS_STEPS = 500  # played again before each, at least, or from its episode's start
_STALENESS_SCAN = 2000  # sequences of all emulators looked through for those of one episode
_PICTURE_SCREENS = (2, 4)  # rows and columns

_FRAME = ("screen_packed", "context", "crop")
_Window = tuple[SequenceHeader, BlockArrays]
Entry = tuple[SequenceHeader, bytes]  # of the replay: a sequence's header and block


def start_value(network: QNetwork, starts: list[dict[str, npt.NDArray[Any]]], config: Config) -> float:
    """Mean value, in reward units and without noise, of the best valid action where episodes begin."""
    count, device = len(starts), network.head_value.bias.device
    columns = [np.stack([start[name] for start in starts]) for name in _FRAME]
    before = [np.full(count, network.spec.num_actions, np.int64), np.zeros(count, np.float32)]
    with torch.no_grad():
        frames = [torch.from_numpy(column).to(device) for column in (*columns, *before)]
        outputs, _ = network.recur(network.encode(*frames).unsqueeze(0), network.initial_state(count))
        values = _values(network, outputs[-1], config).cpu().numpy()  # [count, A]
    masks = np.stack([start["mask"] for start in starts])
    return float(np.where(masks, values, -np.inf).max(-1).mean())


def staleness_row(
    network: QNetwork,
    updates: int,
    batch: dict[int, Entry],
    read: Callable[[int], Entry | None],
    spec: BlockSpec,
    config: Config,
) -> dict[str, float]:
    """How far off the values that are trained are because stored states were computed by older weights.

    For a few sequences of the newest batch that do not begin their episode, evenly spread over it by age:
    `q_discrepancy` at the first and at the last trained position between the values that training sees (from the
    stored state and the burn-in) and those when the steps before are played again with the present weights. These
    are taken from the windows of the same episode in the replay, back to its first step or over at least
    `STALENESS_STEPS` steps; where that is not the episode's start, the oldest window's own stored state and burn-in
    begin. So the measure is exact for the share `from_start` of the sequences, and for the others as good as the
    network forgets within `history_steps`. A sequence without any window before it is left out. No noise.
    """
    later = sorted(number for number, (header, _) in batch.items() if header.first_step > 0)
    picked = np.linspace(0, len(later) - 1, min(STALENESS_SEQUENCES, len(later))).astype(int)
    deltas, lengths, whole, ages = [], [], [], []
    for number in (later[index] for index in picked.tolist()):
        header, block = batch[number]
        try:
            sequence = decode_arrays(block, spec)
            blocks_before = _history(read, number, header)
            history = [decode_arrays(before, spec) for before in blocks_before]
        except BlockError:  # sampling finds it, takes it out and counts it (`replay/damaged`)
            continue
        if not history:
            continue
        deltas.append(sequence_staleness(network, sequence, history, config).tolist())
        begin = history[0][0].first_step
        lengths.append(header.first_step - begin)
        whole.append(begin == 0)
        ages.append(header.age(updates))
    if not deltas:
        return {}
    return {
        "staleness/delta_q_first": float(np.mean([delta[0] for delta in deltas])),
        "staleness/delta_q_last": float(np.mean([delta[-1] for delta in deltas])),
        "staleness/history_steps": float(np.mean(lengths)),
        "staleness/from_start": float(np.mean(whole)),
        "staleness/age_updates": float(np.mean(ages)),
    }


def screens_picture(batch: Iterable[Entry], spec: BlockSpec) -> npt.NDArray[np.uint8]:
    """What the first sequences of a batch saw where they are trained first: grey levels, uint8 [2 x 72, 4 x 80]."""
    rows, columns = _PICTURE_SCREENS
    picture = np.zeros((rows, columns, SCREEN_HEIGHT, SCREEN_WIDTH), np.uint8)
    for place, (header, block) in enumerate(itertools.islice(batch, rows * columns)):
        try:
            packed = decode_arrays(block, spec)[1].screen_packed[header.burn_in_length]
        except BlockError:  # sampling finds it, takes it out and counts it (`replay/damaged`)
            continue
        shades = unpack_screen(torch.from_numpy(packed.copy())).numpy()
        picture[divmod(place, columns)] = 255 - 85 * shades  # shade 0 is the lightest
    return picture.swapaxes(1, 2).reshape(rows * SCREEN_HEIGHT, columns * SCREEN_WIDTH)


def sequence_staleness(network: QNetwork, sequence: _Window, history: list[_Window], config: Config) -> torch.Tensor:
    """`q_discrepancy` at each trained position of a sequence, [t]: as it is trained, from its stored state and burn-in,
    against the same weights having played `history` before it.

    `history` are the windows of the same episode right before the sequence, oldest first, at least one. The oldest
    starts from its own stored state, which is exact (zeros) at an episode's start.
    """
    header, arrays = sequence
    first, stop = header.burn_in_length, header.burn_in_length + header.train_length
    with torch.no_grad():
        replayed, _ = network.recur(_features(network, sequence, 0, stop), _state(network, arrays))
        state = _state(network, history[0][1])
        for index, window in enumerate(history):
            # A window after the oldest goes on where the one before ended: its own burn-in was played already.
            start, burn_in = (0 if index == 0 else window[0].burn_in_length), window[0].burn_in_length
            _, state = network.recur(_features(network, window, start, burn_in + window[0].train_length), state)
        true, _ = network.recur(_features(network, sequence, first, stop), state)
        return q_discrepancy(_values(network, replayed[first:, 0], config), _values(network, true[:, 0], config))


def _features(network: QNetwork, window: _Window, start: int, stop: int) -> torch.Tensor:
    """Features [stop - start, 1, F] of a window's positions."""
    header, arrays = window
    device = network.head_value.bias.device
    columns = [*(getattr(arrays, name) for name in _FRAME), *arrays.previous(header)]
    # Copied, because a block's arrays are read-only.
    return network.encode(*(torch.from_numpy(column[start:stop].copy()).to(device) for column in columns)).unsqueeze(1)


def _state(network: QNetwork, arrays: BlockArrays) -> tuple[torch.Tensor, torch.Tensor]:
    """A block's stored state as the network takes it, [1, 1, H] each."""
    device = network.head_value.bias.device
    hidden, memory = (torch.from_numpy(part.astype(np.float32)) for part in (arrays.state_h, arrays.state_c))
    return hidden.view(1, 1, -1).to(device), memory.view(1, 1, -1).to(device)


def _values(network: QNetwork, outputs: torch.Tensor, config: Config) -> torch.Tensor:
    """Q values [..., A] in reward units, without noise, of recurrent outputs [..., H]."""
    quantiles = network.head(outputs, noise=False)
    return targets.expected_values(quantiles, config.value_rescaling, config.stream_weights)


def _history(read: Callable[[int], Entry | None], sequence_id: int, header: SequenceHeader) -> list[bytes]:
    """Blocks of the windows right before a sequence in its episode, oldest first, without a hole.

    They reach back to the episode's start or over at least `STALENESS_STEPS` steps, as far as they are in the replay.
    `read` gives a sequence's header and block by its id. An actor sends an emulator's windows in their order:
    those before have lower ids.
    """
    blocks: list[bytes] = []
    start = header.first_step
    for other in range(sequence_id - 1, max(-1, sequence_id - 1 - _STALENESS_SCAN), -1):
        if start == 0 or header.first_step - start >= STALENESS_STEPS:
            break
        entry = read(other)
        if entry is None:
            continue
        found, block = entry
        if _episode(found) == _episode(header) and found.first_step + found.train_length == start:
            blocks.append(block)
            start = found.first_step
    return blocks[::-1]


def _episode(header: SequenceHeader) -> tuple[int, int, int, int]:
    return header.actor, header.incarnation, header.emulator, header.episode
