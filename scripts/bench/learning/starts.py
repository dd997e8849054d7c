"""The archive of start states for agents that are not ours: the same states, cells, weights and bounds.

An emulator's process draws from it and proposes, the training's own process lets states in, counts what followed and
keeps the quests' posteriors.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster_rl.config import Config
from cluster_rl.emulator.given_states import place_given_states, read_given_states
from cluster_rl.emulator.spaces import quests_in
from cluster_rl.exploration.archive import Archive, StartStates
from cluster_rl.exploration.bayes_quests import QuestRules, Records, count_episode, start_weights
from cluster_rl.game.world import World
from cluster_rl.learning.sequences import is_elsewhere
from cluster_rl.rom import load_rom

TEND_SEC = 2.0


class Starts:
    """One training's archive, at first of the user's own states alone. Raises `UserError` where they are unfit."""

    def __init__(self, config: Config, folder: Path) -> None:
        rom = load_rom(config.rom)
        given = read_given_states(config, rom)
        if folder.exists():
            shutil.rmtree(folder)
        place_given_states(given, folder)
        self._config, self._folder = config, folder
        bounds = (config.archive_entries, config.archive_megabytes * 10**6)
        self._archive = Archive(folder, rom.sha1, config.start_weighting, *bounds)
        self._archive.publish()
        self._tended_at = time.monotonic()
        self._quests: Records = {}
        self._rules = QuestRules.from_config(config, quests_in(World.for_rom(rom.sha1), config.initial_state))

    def of(self, index: int) -> StartStates:
        """What the emulator of that number draws from."""
        return StartStates(self._folder, index, self._config.start_share, self._config.archive_entries > 0, TEND_SEC)

    def note(self, infos: list[Mapping[str, Any]]) -> None:
        """After each step of all emulators: counts the episodes that ended, and now and then lets states in."""
        ended = [info for info in infos if "summary" in info]
        if ended or time.monotonic() - self._tended_at >= TEND_SEC:
            self._archive.admit()  # first: what an episode found comes before its end
        for info in ended:
            summary = info["summary"]
            start = summary["start"]
            count_episode(
                self._quests,
                self._rules,
                start=start["milestones"],
                reached=summary["milestones"],
                steps=summary["episode_steps"],
                ended_by_game=summary["reason"] == "terminated",
            )
            if is_elsewhere(start["tag"]):
                self._archive.count(start["id"], info["episode_id"], reached=bool(summary["milestones"]))
        if time.monotonic() - self._tended_at >= TEND_SEC:
            self._archive.weigh_by(start_weights(self._quests, self._rules))
            self._archive.publish()
            self._tended_at = time.monotonic()
