from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_run import ChaosRun

_CHAOS_SEC = 1800  # for whole trainings, on a machine that has much else to do


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("chaos") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_CHAOS_SEC))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ChaosRun]:
    run = ChaosRun(tmp_path)
    yield run
    run.close()
