"""Our environment with the observation of pokemonred_puffer's: its keys, its packing, its canvas of visited cells.

For policies that were made for that observation; `make_puffer_env` puts it on where it is asked to. In: an `Env`. Out:
the same steps, ours in reward and end, seen as that project shows them with its `two_bit` and `reduce_res` on and
`use_global_map` off, its defaults. Names, addresses and forms are those of its commit e3bd1b1, odd ones included:
numbers of two bytes are read with the lower one first, as it does, and so are not the game's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from cluster_rl.emulator.console import SCREEN_SHAPE
from cluster_rl.emulator.env import Env
from cluster_rl.game import ram

_SAFARI_STEPS = 0xD70D
_MOVEMENT_FLAGS = 0xD736
_FACING = ram.wSpriteStateData1 + 9
_BITS = {
    "game_corner_rocket": (ram.wMissableObjectFlags + 8, 6),
    "saffron_guard": (ram.wStatusFlags1, 6),
    "lapras": (ram.wStatusFlags4, 0),
}
_LEDGE_OR_FISHING = 0x80
_PARTY_BYTES = {"species": 0, "status": 4, "type1": 5, "type2": 6, "level": 33}
_PARTY_WORDS = {"hp": 1, "maxHP": 34, "attack": 36, "defense": 38, "speed": 40, "special": 42}
_MOVES_AT = 8
_PACKED_SHAPE = (SCREEN_SHAPE[0], SCREEN_SHAPE[1] // 4, 1)
_CELL_PIXELS = 8  # of a screen of every second one
_RIVAL_SCRIPT = 4


class PufferKeys(gymnasium.Wrapper[dict[str, Any], Any, Any, Any]):
    """An `Env` whose observations have that project's 26 keys, of the dtypes that it has; shapes are its space's."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._env = env
        width, height = env.world.canvas_size
        self._margin = 20
        self._visited = np.zeros((height + 2 * self._margin, width + 2 * self._margin), np.float32)
        box = gymnasium.spaces.Box
        bytes_, words = (lambda *shape: box(0, 255, shape, np.uint8)), box(0, 2**16 - 1, (ram.PARTY_SLOTS,), np.uint32)
        self.observation_space = gymnasium.spaces.Dict(
            {name: bytes_(*_PACKED_SHAPE) for name in ("screen", "visited_mask")}
            | {name: bytes_(1) for name in ("direction", "blackout_map_id", "battle_type", "map_id", "rival_3", *_BITS)}
            | {name: bytes_(ram.BAG_SLOTS) for name in ("bag_items", "bag_quantity")}
            | {name: bytes_(ram.PARTY_SLOTS) for name in _PARTY_BYTES}
            | {"moves": bytes_(ram.PARTY_SLOTS, 4), "events": bytes_(ram.EVENT_BYTES)}
            | dict.fromkeys(_PARTY_WORDS, words)
            | {"safari_steps": box(0, 2**16 - 1, (1,), np.uint32)}
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `Env.reset`; no cell is visited yet."""
        _, info = self._env.reset(seed=seed, options=options)
        self._visited[:] = 0.0
        return self.observe(), info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """As `Env.step`."""
        _, reward, terminated, truncated, info = self._env.step(action)
        image = self._env.console.full_image()
        at = self._cell()
        inc = 0.5 if image[ram.image_index(_MOVEMENT_FLAGS)] & _LEDGE_OR_FISHING else 1.0
        self._visited[at] = min(1.0, self._visited[at] + inc)
        return self.observe(), reward, terminated, truncated, info

    def observe(self) -> dict[str, Any]:
        """What is seen now."""
        image = np.frombuffer(self._env.console.full_image(), np.uint8)

        def some(address: int, count: int = 1) -> npt.NDArray[np.uint8]:
            at = ram.image_index(address)
            return image[at : at + count].copy()

        bag = some(ram.wBagItems, 2 * ram.BAG_SLOTS)
        bag[2 * int(some(ram.wNumBagItems)[0]) :] = 0
        party = some(ram.wPartyMons, ram.PARTY_SLOTS * ram.PARTY_MON_BYTES).reshape(ram.PARTY_SLOTS, -1)
        safari = some(_SAFARI_STEPS, 2).astype(np.uint32)
        return (
            {
                "screen": _packed(3 - self._env.console.screen()),
                "visited_mask": _packed(self._mask(bool(some(ram.wIsInBattle)[0]))),
                "direction": some(_FACING) // 4,
                "blackout_map_id": some(ram.wLastBlackoutMap),
                "battle_type": some(ram.wIsInBattle) + np.uint8(1),
                "map_id": some(ram.wCurMap),
                "bag_items": bag[::2],
                "bag_quantity": bag[1::2],
                "moves": party[:, _MOVES_AT : _MOVES_AT + 4],
                "events": some(ram.wEventFlags, ram.EVENT_BYTES),
                "rival_3": (some(ram.wSSAnne2FCurScript) == _RIVAL_SCRIPT).astype(np.uint8),
                "safari_steps": safari[:1] * 256 + safari[1:],
            }
            | {name: party[:, at] for name, at in _PARTY_BYTES.items()}
            | {
                name: np.ascontiguousarray(party[:, at : at + 2]).view("<u2")[:, 0].astype(np.uint32)
                for name, at in _PARTY_WORDS.items()
            }
            | {name: some(address) >> np.uint8(bit) & np.uint8(1) for name, (address, bit) in _BITS.items()}
        )

    def _cell(self) -> tuple[int, int]:
        """Row and column on its canvas; its middle for what has no place there."""
        state = self._env.state
        place = self._env.world.global_position(state.map_id, state.x, state.y)
        if place is None:
            rows, columns = self._visited.shape
            return rows // 2, columns // 2
        return place[1] + self._margin, place[0] + self._margin

    def _mask(self, in_battle: bool) -> npt.NDArray[np.uint8]:
        """How often the cells on the screen were entered, [72, 80], 0 to 3."""
        if in_battle:
            return np.zeros(SCREEN_SHAPE, np.uint8)
        row, column = self._cell()
        cells = self._visited[row - 4 : row + 6, column - 4 : column + 6]
        pixels = (255 * np.repeat(np.repeat(cells, _CELL_PIXELS, 0), _CELL_PIXELS, 1)).astype(np.uint8)[3:-5]
        return np.digitize(pixels, np.array([0, 64, 128, 255], np.uint8), right=True).astype(np.uint8)


def _packed(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[72, 80] of 0 to 3 as [72, 20, 1], four a byte, the first one in its highest bits."""
    quads = values.reshape(SCREEN_SHAPE[0], -1, 4) << np.array([6, 4, 2, 0], np.uint8)
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(quads, axis=2).astype(np.uint8)[..., np.newaxis]
    return packed
