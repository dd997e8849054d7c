from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_run import ChaosRun


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ChaosRun]:
    run = ChaosRun(tmp_path)
    yield run
    run.close()
