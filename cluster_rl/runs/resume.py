"""Whether a run that exists can be gone on with by this config and ROM.

The launcher asks before anything is written. In: the run directory and the new config. Out: lines about what changes,
or a `UserError` that names the key that does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from cluster_rl.config import Config, config_values, load_config, sequence_schema_values
from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs.job_record import newest_config
from cluster_rl.runs.layout import RunDir


def _kept_values(config: Config) -> dict[str, object]:
    """What the replay's blocks and the weights were made for.

    Values under h(x) mean nothing without it. With a stream of intrinsic rewards the learner takes what was paid for
    tiles out of what the environment paid as one number.
    """
    kept = sequence_schema_values(config) | {"value_rescaling": config.value_rescaling}
    return kept | {"rewards.novelty": config.rewards.novelty} if config.intrinsic_stream else kept


def check_resumable(run_dir: RunDir, config: Config) -> list[str]:
    """Lines about what is not as in the run's last job, and where its config cannot be read, what was compared.

    Raises `UserError` if that job had other shapes, which the run's replay and weights keep. Everything else (targets,
    rates, intervals, rewards but for `rewards.novelty` in a stream of its own) may change from job to job.
    """
    before, note = _config_before(run_dir)
    lines = [note] * bool(note)
    if before is None:
        return lines
    old, new = _kept_values(before), _kept_values(config)
    for key, value in old.items():
        if new.get(key) == value:
            continue
        why = f"with {key} {value}, not {new.get(key)}; give the same value"
        if key == "intrinsic_stream":  # no key of a config: what makes it
            give = "--intrinsic_gamma, and --rewards.novelty or --w_rnd, above 0" if value else "--intrinsic_gamma 0"
            why = f"{'with' if value else 'without'} a value of curiosity's own: give {give}"
        raise UserError(f"run {run_dir.run_name!r} was made {why}, or another --run-name")
    changes = _changes(before, config)
    return [*lines, *([f"not as in the run's last job: {', '.join(changes)}"] if changes else [])]


def changed_settings(run_dir: RunDir, config: Config, besides: Collection[str] = ()) -> list[str]:
    """`key NEW (was OLD)` for each key that the run's last job had otherwise, `besides` some; none for a new run."""
    before, _ = _config_before(run_dir)
    return [] if before is None else _changes(before, config, besides)


def _changes(before: Config, config: Config, besides: Collection[str] = ()) -> list[str]:
    old, new = config_values(before), config_values(config)
    changed = [key for key in new if new[key] != old[key] and key not in besides]
    return [f"{key} {json.dumps(new[key])} (was {json.dumps(old[key])})" for key in changed]


def _config_before(run_dir: RunDir) -> tuple[Config | None, str]:
    """The last job's, and a note where it had to be looked for.

    None for a run that is new, or whose first job never got as far as keeping anything; and where no file has it any
    more: then the shapes in the headers of the replay log are all that guards it.
    """
    has_data = any(run_dir.replay.glob("segment-*")) or any(run_dir.checkpoint.glob("*"))
    if not run_dir.config.exists() or not has_data:
        return None, ""
    try:
        return load_config(run_dir.config), ""
    except StorageError:
        raise
    except UserError as error:
        found = newest_config(run_dir)
        if found is None:
            return None, f"{error}; no record of a job tells what changes; this job writes the file anew"
        return found[1], f"{error}; {found[0]} tells what the last job's was; this job writes the file anew"
