"""The curriculum: at which of the known states an episode begins, and what makes a state worth to begin at.

Pure functions and one struct. The learner weighs the states (`archive.py`), actors draw by the weights. States that
lack the same required milestone first are a stage, and a stage counts by how likely that one is to be missed (mean
return would not tell, for a state beside a badge always looks good). Within a stage a state counts by how seldom it was
tried (Go-Explore, Ecoffet et al. 2021) and by what followed from it. No weight is ever 0: what nothing follows from
today may be what a better agent needs tomorrow.
"""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from cluster_rl.config import Weighting
from cluster_rl.learning.sequences import Name, Names, StartTag
from cluster_rl.runs.small_file import Count

CELL_TILES = 8
"""A cell of the archive is so many map tiles wide and high: about a screen."""
CLEARLY_FEWER = 0.8
"""A state replaces that of its cell if it took at most this share of its steps."""
FORGET = 0.98
"""What an entry's counts are multiplied by before an episode is added: the newest 50 count, for the agent changes."""
_STAGE_FLOOR = 0.05
_FOLLOWED_FLOOR = 0.1


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """A state that episodes may begin at, as the archive's index tells of it.

    `key` is that of its cell, or the file's name of a user's state; `steps` are those from the beginning, over all
    episodes that led there. `episodes` began there, and `followed` of these reached a new milestone or a new cell;
    both fade with `FORGET`. `drawn` counts them all, for ever.
    """

    key: Name
    tag: StartTag
    milestones: Names
    map_id: Count
    steps: Count
    size_bytes: Count
    episodes: float = 0.0
    followed: float = 0.0
    drawn: Count = 0
    weight: float = 1.0

    def after(self, followed: bool) -> Entry:
        """With one more episode from here; `followed`: it reached something new."""
        return msgspec.structs.replace(
            self,
            episodes=self.episodes * FORGET + 1,
            followed=self.followed * FORGET + followed,
            drawn=self.drawn + 1,
        )


def cell_key(map_id: int, x: int, y: int, milestones: Iterable[str]) -> str:
    """The key of a cell: map, milestones as a set, coarse position; 16 hexadecimal digits."""
    names = ",".join(sorted(milestones))
    cell = f"{map_id} {x // CELL_TILES} {y // CELL_TILES} {names}"
    return hashlib.blake2b(cell.encode(), digest_size=8).hexdigest()


def weights_of(
    entries: Sequence[Entry], weighting: Weighting, quest_weights: Mapping[str, float] | None = None
) -> list[float]:
    """The weight of each entry, more than 0 and at most 1; those of a stage add up to the stage's.

    `uniform` gives all the same. `quest_weights` are of the required milestones in the order of play: a stage is all
    states that lack the same one first, and counts as much as that one does; those that lack none count least. Without
    them all states are one stage.
    """
    if weighting == "uniform":
        return [1.0] * len(entries)
    stage_weights = quest_weights or {"": 1.0}
    stages = collections.defaultdict(list)
    for entry in entries:
        missing = (name for name in stage_weights if name not in entry.milestones)
        stages[next(missing, "")].append(entry)
    weights: dict[str, float] = {}
    for name, members in stages.items():
        stage = min(1.0, max(_STAGE_FLOOR, stage_weights.get(name, 0.0)))
        interests = [_interest(entry) for entry in members]
        total = math.fsum(interests)
        weights |= {entry.key: stage * one / total for entry, one in zip(members, interests, strict=True)}
    return [weights[entry.key] for entry in entries]


def _interest(entry: Entry) -> float:
    followed = (1 + entry.followed) / (1 + entry.episodes)
    return max(_FOLLOWED_FLOOR, followed) / math.sqrt(1 + entry.episodes)


def draw(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    """One entry in proportion to the weights. Raises ValueError where there is none."""
    edges = np.cumsum([entry.weight for entry in entries])
    if not len(edges) or not edges[-1] > 0:
        raise ValueError("no state to draw from")
    return entries[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(entries) - 1)]


def third_of(milestones: int, most: int) -> str:
    """Whether a start with so many `milestones` is `early`, `middle` or `late`, by thirds of `most`, those of the run's
    furthest episode."""
    return ("early", "middle", "late")[min(2, 3 * milestones // max(1, most))]
