"""A binary tree of sums over leaves, for drawing indices in proportion to their value.

Runs in the learner, inside the replay. In: values of leaves. Out: drawn leaves. All operations take whole arrays: one
numpy call a level instead of one a node.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class SumTree:
    """`capacity` leaves (a power of two), all 0 at first. Not thread-safe.

    Node 1 is the root, node i has the children 2i and 2i + 1, and every parent is recomputed from its two children, so
    that rounding errors do not add up over time.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"SumTree: capacity must be a power of two, not {capacity}")
        self.capacity = capacity
        self._nodes = np.zeros(2 * capacity, np.float64)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._nodes[1])

    @property
    def leaves(self) -> npt.NDArray[np.float64]:
        """[capacity] view; read only by contract."""
        return self._nodes[self.capacity :]

    @property
    def nbytes(self) -> int:
        """Memory of the nodes."""
        return self._nodes.nbytes

    def set(self, indices: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Sets leaves `indices` [M] to `values` [M] >= 0; of equal indices the last one counts."""
        nodes = indices + self.capacity
        self._nodes[nodes] = values
        while len(nodes) and nodes[0] > 1:
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def set_one(self, index: int, value: float) -> None:
        """`set` for a single leaf, several times faster than with arrays of length 1."""
        nodes = self._nodes
        node = index + self.capacity
        nodes[node] = value
        while node > 1:
            node >>= 1
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]

    def sample(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """Draws `count` leaves [count] in proportion to their value, never one of value 0.

        Stratified: one draw from each of `count` equal slices of the total (Schaul et al. 2016, appendix B.2.1), which
        has the same expectation as independent draws and less variance. Raises `ValueError` if all leaves are 0.
        """
        if not self.total > 0:
            raise ValueError("SumTree.sample: all leaves are 0")
        return self.find((np.arange(count) + rng.random(count)) * (self.total / count))

    def find(self, prefixes: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The leaves in which running sums of `prefixes` [M] fall, 0 <= prefix < total."""
        rest = prefixes.copy()
        nodes = np.ones(len(rest), np.int64)
        while nodes.size and nodes[0] < self.capacity:
            nodes *= 2
            left = self._nodes[nodes]
            # Rounding may leave a rest that no leaf has any more: an empty right side is never entered. An empty left
            # side is not either, as `rest` is at least 0.
            right = (rest >= left) & (self._nodes[nodes + 1] > 0)
            rest -= np.where(right, left, 0.0)
            nodes += right
        return nodes - self.capacity
