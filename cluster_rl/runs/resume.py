"""Whether a run that exists can be gone on with by this config and ROM.

The launcher asks before anything is written. In: the run directory and the new config. Out: the config before, or a
`UserError` that names the key that does not fit.
"""

from __future__ import annotations

from cluster_rl.config import Config, load_config, sequence_schema_values
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import RunDir


def check_resumable(run_dir: RunDir, config: Config) -> Config | None:
    """The config of the run's last job, None for a new run.

    Raises `UserError` if it had other shapes, which the run's replay and weights keep. Everything else (targets, rates,
    rewards, intervals) may change from job to job.
    """
    if not run_dir.config.exists():
        return None
    before = load_config(run_dir.config)
    old, new = sequence_schema_values(before), sequence_schema_values(config)
    for key, value in old.items():
        if new[key] != value:
            raise UserError(
                f"run {run_dir.run_name!r} was made with {key} {value}, not {new[key]}; give the same value, or "
                "another --run-name"
            )
    return before
