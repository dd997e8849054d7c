"""The rate limiter: how many positions are trained for each one that the actors deliver.

Runs in the learner. In: counts of sampled and inserted positions. Out: whether the learner may sample and whether the
actors may be granted more. The learner waits for data, the actors wait for the learner.

After Reverb's SampleToInsertRatio (Cassirer et al. 2021), but that the first min_size positions are owed their samples
too: once they are there, the actors wait until the learner has made up for them, and then play with what they taught.
All counts are trained positions, none burn-in or tail. What one inserted position is owed, `rate`, may change at given
counts of inserted ones: much while there is little to learn from, less when it is mostly known. With

    owed(inserted) = the sum of the rates of the first `inserted` positions
    ahead(inserted) = sampled - owed(inserted)
    rate = the highest that one of the next insert_chunk positions has
    buffer = max(tolerance * rate * min_size, 2 * max(sample_chunk, rate * insert_chunk))

    sampling n is allowed     if inserted >= min_size and ahead(inserted) + n <= buffer
    inserting n is allowed    if ahead(inserted + n) >= -buffer, always so below min_size

so |ahead| <= buffer once the learner has caught up with min_size, and again once a side that a falling rate put beyond
a smaller buffer has waited. Both could be refused at once only if 2 * buffer < sample_chunk + rate * insert_chunk,
which the second term of the buffer rules out: while one side waits, the other may go on.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from cluster_rl.config import Config, limiter_buffer


class RateLimiter:
    """Counts and two questions. `sampled` and `inserted` may each be advanced by one thread.

    samples_per_insert: positions to sample for each one inserted. schedule: (inserted, samples_per_insert) from there
    on, in order. min_size: positions to insert before the first sample. tolerance: how far one side may run ahead, as a
    fraction of min_size. sample_chunk and insert_chunk: the most positions that one question asks for.
    """

    def __init__(
        self,
        samples_per_insert: float,
        min_size: int,
        tolerance: float,
        *,
        sample_chunk: int,
        insert_chunk: int,
        schedule: Sequence[tuple[int, float]] = (),
    ) -> None:
        # Of each stretch of the schedule: where it begins, its rate, and what all positions before it are owed.
        self._begins, self._rates, self._owed_before = [0], [samples_per_insert], [0.0]
        for begins, rate in schedule:
            self._owed_before.append(self.owed(begins))
            self._begins.append(begins)
            self._rates.append(rate)
        self.min_size = min_size
        self.sample_chunk = sample_chunk
        self.insert_chunk = insert_chunk
        self._tolerance = tolerance
        self._forgiven = 0  # counted as sampled though it was not; below 0 the other way round
        self.sampled = 0
        self.inserted = 0

    @classmethod
    def from_config(cls, config: Config) -> RateLimiter:
        """One batch is sampled at a time; one sequence of every emulator may arrive at a time."""
        return cls(
            config.samples_per_insert,
            config.min_replay_transitions,
            config.samples_per_insert_tolerance,
            sample_chunk=config.sample_chunk,
            insert_chunk=config.insert_chunk,
            schedule=config.samples_per_insert_schedule,
        )

    def owed(self, inserted: int) -> float:
        """Positions to be sampled, all in all, for the first `inserted`."""
        stretch = bisect.bisect_right(self._begins, inserted) - 1
        return self._owed_before[stretch] + self._rates[stretch] * (inserted - self._begins[stretch])

    @property
    def ahead(self) -> float:
        """Positions sampled beyond what is owed; negative where the learner is behind."""
        return self.sampled + self._forgiven - self.owed(self.inserted)

    @property
    def buffer(self) -> float:
        """How far either side may run ahead of the other, in sampled positions."""
        first = bisect.bisect_right(self._begins, self.inserted) - 1
        behind = bisect.bisect_right(self._begins, self.inserted + self.insert_chunk)
        return limiter_buffer(
            max(self._rates[first:behind]),
            self.min_size,
            self._tolerance,
            sample_chunk=self.sample_chunk,
            insert_chunk=self.insert_chunk,
        )

    def may_sample(self, positions: int, in_flight: int = 0) -> bool:
        """Whether `positions` more (at most `sample_chunk`) may be sampled; `in_flight` are, but not recorded yet."""
        if positions > self.sample_chunk:
            raise ValueError(f"RateLimiter: {positions} positions asked for, sample_chunk is {self.sample_chunk}")
        return self.inserted >= self.min_size and self.ahead + in_flight + positions <= self.buffer

    def room(self) -> int:
        """Positions that may be asked of all actors together now, 0 while they must wait."""
        if self.inserted < self.min_size:
            return self.min_size - self.inserted + self.insert_chunk  # whole sequences, so not exactly to the minimum
        covered = self.sampled + self._forgiven + self.buffer
        stretch = max(0, bisect.bisect_right(self._owed_before, covered) - 1)
        may_be_there = self._begins[stretch] + (covered - self._owed_before[stretch]) / self._rates[stretch]
        return max(0, int(may_be_there) - self.inserted)

    def record_sample(self, positions: int) -> None:
        """Positions that were sampled."""
        self.sampled += positions

    def record_insert(self, positions: int) -> None:
        """Positions that were logged. What has arrived always counts, also where it was not asked for."""
        self.inserted += positions

    def state_dict(self) -> dict[str, float]:
        """What the log cannot tell: `sampled`, how much was `forgiven`, and how far it was `ahead`."""
        return {"sampled": self.sampled, "forgiven": self._forgiven, "ahead": self.ahead}

    def load_state_dict(self, state: dict[str, float], inserted: int) -> None:
        """Resumes with the log's own count of env steps.

        Where nothing was lost, nothing changes. Else what is beyond the allowed band is forgiven: updates lost in a
        crash are made up for by at most one buffer, or by what was owed already, not in a burst; a lost log does not
        stop the learner until as much has been played again; and other rates hold from now on, not for the past.
        """
        self.inserted = inserted
        even = self.owed(inserted)
        owed = max(self.buffer, -state.get("ahead", 0.0))
        low = math.floor(even - owed) if inserted >= self.min_size else 0
        self.sampled, forgiven = int(state["sampled"]), int(state.get("forgiven", 0))
        self._forgiven = min(max(self.sampled + forgiven, low), math.floor(even + self.buffer)) - self.sampled
