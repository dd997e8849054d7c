"""Whether a run that exists can be gone on with by this config and ROM.

The launcher asks before anything is written. In: the run directory and the new config. Out: nothing, or a `UserError`
that names the key that does not fit.
"""

from __future__ import annotations

from cluster_rl.config import Config, load_config, sequence_schema_values
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import RunDir


def _kept_values(config: Config) -> dict[str, object]:
    """What the replay's blocks and the weights were made for. Values under h(x) mean nothing without it."""
    return sequence_schema_values(config) | {"value_rescaling": config.value_rescaling}


def check_resumable(run_dir: RunDir, config: Config) -> None:
    """Raises `UserError` if the run's last job had other shapes, which its replay and weights keep.

    Everything else (targets, rates, rewards, intervals) may change from job to job.
    """
    has_data = any(run_dir.replay.glob("segment-*")) or any(run_dir.checkpoint.glob("*"))
    if not run_dir.config.exists() or not has_data:
        return  # new, or its first job never got as far as keeping anything
    before = load_config(run_dir.config)
    old, new = _kept_values(before), _kept_values(config)
    for key, value in old.items():
        if new[key] != value:
            raise UserError(
                f"run {run_dir.run_name!r} was made with {key} {value}, not {new[key]}; give the same value, or "
                "another --run-name"
            )
