"""What a wrong value of a key is answered: what it must be, and how the given one would be written."""

from __future__ import annotations

import pytest

from cluster_rl.config import load_config
from cluster_rl.errors import UserError


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("max_runtime_seconds=2m", "must be a whole number of seconds, not '2m'; write 120"),
        ("max_runtime_seconds=1h", "must be a whole number of seconds, not '1h'; write 3600"),
        ("max_runtime_seconds=1h30m", "must be a whole number of seconds, not '1h30m'; write 5400"),
        ("max_runtime_seconds=2 Hours", "must be a whole number of seconds, not '2 Hours'; write 7200"),
        ("max_runtime_seconds=04:00:00", "must be a whole number of seconds, not '04:00:00'; write 14400"),
        ("max_runtime_seconds=1-12:00:00", "must be a whole number of seconds, not '1-12:00:00'; write 129600"),
        ("max_runtime_seconds=3.5", "must be a whole number of seconds, not 3.5"),
        ("max_runtime_seconds=0.5s", "must be a whole number of seconds, not '0.5s'"),
        ("max_runtime_seconds=soon", "must be a whole number of seconds, not 'soon'"),
        ("max_runtime_seconds=-1", "Expected `int` >= 0"),
        ("progress_interval_seconds=2m", "must be a number of seconds, not '2m'; write 120"),
        ("progress_interval_seconds=0", "Expected `float` > 0.0"),
        ("target_total_steps=25M", "must be a whole number of env steps, not '25M'; write 25000000"),
        ("target_total_steps=1,000,000", "must be a whole number of env steps, not '1,000,000'; write 1000000"),
        ("target_total_steps=true", "must be a whole number of env steps, not True"),
        ("target_total_steps=null", "must be a whole number of env steps, not None"),
        ("learning_rate=fast", "must be a number, not 'fast'"),
        ("learning_rate=3", "Expected `float` <= 1.0"),
        ("value_rescaling=yes", "must be true or false, not 'yes'"),
        ("device=gpu", "Invalid enum value 'gpu'; it is one of auto, cpu, cuda"),
    ],
)
def test_a_wrong_value(override: str, answer: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    assert str(caught.value) == f"defaults and overrides: {override.partition('=')[0]}: {answer}"


def test_what_is_a_number_all_the_same() -> None:
    config = load_config(None, ["target_total_steps=1e6", "num_actors=2.0", "learning_rate=1e-3"])
    assert (config.target_total_steps, config.num_actors, config.learning_rate) == (1_000_000, 2, 1e-3)
    assert load_config(None, ["target_total_steps='5'".replace("'", '"')]).target_total_steps == 5


def test_a_file_in_place_of_a_number_is_shown_in_part() -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [f"gamma={'x' * 10_000}"])
    assert len(str(caught.value)) < 150
