"""Cells and circles of an episode, counted by hand."""

from __future__ import annotations

from cluster_rl.exploration.roaming import LOOP_VISITS, Roaming


def walk(roaming: Roaming, *cells: tuple[int, int, int] | None, rewarded: bool = False) -> None:
    for cell in cells:
        roaming.step(cell, rewarded)


def test_a_cell_counts_once_and_an_unknown_one_never() -> None:
    roaming = Roaming()
    roaming.arrive((1, 0, 0))
    walk(roaming, (1, 0, 1), (1, 0, 0), None, (2, 0, 0))
    assert roaming.cells == {(1, 0, 0), (1, 0, 1), (2, 0, 0)}
    assert roaming.loop_share == 0.0


def test_steps_on_cells_entered_too_often_are_circles() -> None:
    roaming = Roaming()
    assert roaming.loop_share == 0.0
    for _ in range(LOOP_VISITS):
        walk(roaming, (1, 0, 0), (1, 0, 1))
    assert roaming.loop_share == 0.0
    walk(roaming, (1, 0, 0), (1, 0, 0), (1, 0, 1), (9, 9, 9))  # to stand still there is one of them too
    assert roaming.loop_share == 3 / (2 * LOOP_VISITS + 4)


def test_a_reward_makes_a_way_new() -> None:
    roaming = Roaming()
    for _ in range(LOOP_VISITS):
        walk(roaming, (1, 0, 0), (1, 0, 1))
    walk(roaming, (1, 0, 0), rewarded=True)
    for _ in range(LOOP_VISITS - 1):
        walk(roaming, (1, 0, 1), (1, 0, 0))
    assert roaming.loop_share == 0.0
    walk(roaming, (1, 0, 1), (1, 0, 0))
    assert roaming.loop_share > 0
