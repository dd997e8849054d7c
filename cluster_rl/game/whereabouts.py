"""Whether the player's map and position belong together: while a map loads, its id stands beside the old coordinates.

Rewards and the map memory use it, in the environment of an actor. In: each look at the game. Out: a truth value.
"""

from __future__ import annotations

from cluster_rl.game.state import GameState


class Whereabouts:
    """One emulator's, from an episode's start; a look may be asked about more than once."""

    def __init__(self) -> None:
        self._map_id = -1
        self._header: tuple[object, ...] = ()

    def known(self, state: GameState) -> bool:
        """False between cells, before the game, in scripts, and while a map loads."""
        if not state.in_game or state.walk_counter or state.joy_ignore:
            return False
        if state.map_id != self._map_id:
            # A door of the real game sets the id, fades out and loads then: until then size, doors and signs are old.
            header = (state.map_size, state.tileset, state.warps, state.signs)
            if state.warps and header == self._header:
                return False
            self._map_id, self._header = state.map_id, header
        return True
