"""Which run a command means."""

from __future__ import annotations

import pytest

from cluster_rl.errors import UserError
from cluster_rl.runs.arguments import run_name_of_config


def test_each_config_has_a_run_of_its_own() -> None:
    names = [run_name_of_config(config) for config in ("cluster_rl/cluster_config.json", "slim", "a/slim_cpu.yml")]
    assert names == ["cluster_config", "slim", "slim_cpu"]


def test_a_file_whose_name_is_no_name_of_a_run() -> None:
    with pytest.raises(UserError, match=r"config my config\.yaml: .* give --run-name"):
        run_name_of_config("my config.yaml")
