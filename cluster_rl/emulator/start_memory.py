"""What an agent remembers where an archived state was saved, so that an episode from there goes on as that one did.

The environment of an actor packs and unpacks it. In: the latch of milestones and event flags, what rewards have been
paid for, the map memory, and the network's recurrent state. Out: bytes beside the snapshot, some kilobytes. They are
kept, and not begun empty, because they are cheap beside the snapshot (`docs/start_states.md` has figures) and because
values then mean the same: a map that was entered on the way pays nothing again, and doors that were seen stay known.
The recurrent state may hold what somebody said once, long before; as in the replay's sequences it is that of the
parameters of its time (stored state, Kapturowski et al. 2019).
"""

from __future__ import annotations

from typing import Any

import msgspec
import zstandard

from cluster_rl.errors import UserError
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.occupancy_memory import OccupancyMemory, OccupancyState
from cluster_rl.rewards import EpisodeMemory, RewardCalculator, RewardState
from cluster_rl.runs.small_file import decode_msgpack

_MAX_BYTES = 1 << 24  # 64 of the largest maps have 5 MB


class StartMemory(msgspec.Struct, kw_only=True, frozen=True):
    """All of it, as plain data; `latch` is `ProgressLatch.state_dict`.

    `recurrent` is of whoever plays, who alone knows what it means; empty where nobody said, as in files of before.
    """

    latch: dict[str, Any]
    rewards: RewardState
    occupancy: OccupancyState
    recurrent: bytes = b""


def pack_memory(latch: ProgressLatch, rewards: RewardCalculator, occupancy: OccupancyMemory, recurrent: bytes) -> bytes:
    """What is remembered now, msgpack and zstd."""
    memory = StartMemory(
        latch=latch.state_dict(),
        rewards=rewards.memory_state,
        occupancy=occupancy.memory_state,
        recurrent=recurrent,
    )
    return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(memory))


def check_memory(memory: StartMemory, latch: ProgressLatch, occupancy: OccupancyMemory, source: str) -> None:
    """Raises `UserError` where it is of another game, or was made with another `occupancy_crop_radius`."""
    try:
        latch.load_state_dict(memory.latch)
        occupancy.check(memory.occupancy)
        EpisodeMemory.from_state(memory.rewards)
    except (KeyError, ValueError, TypeError, UserError) as error:
        raise UserError(f"{source}: what is remembered there does not fit: {error}") from None


def unpack_memory(data: bytes, source: str) -> StartMemory | None:
    """The inverse; None for no bytes, where nothing is remembered. Raises `UserError` for what is damaged."""
    if not data:
        return None
    try:
        if not 0 < zstandard.frame_content_size(data) <= _MAX_BYTES:
            raise UserError(f"{source}: damaged: what is remembered there has an impossible size")
        plain = zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise UserError(f"{source}: damaged: what is remembered there cannot be unpacked ({error})") from None
    return decode_msgpack(plain, StartMemory, source)
