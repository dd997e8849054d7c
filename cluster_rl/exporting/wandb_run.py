"""A run as an offline run of Weights & Biases, which `wandb sync FOLDER` uploads from a machine with an account.

`cluster_rl.export --to wandb` uses it, with the package wandb. In: metrics, config, progress and videos of a run.
Out: a folder `offline-run-...`. Nothing is sent anywhere.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Final

from cluster_rl.errors import UserError, read_error
from cluster_rl.exporting.output import cannot_write, make_folder, require
from cluster_rl.exporting.tables import Row, cells_of
from cluster_rl.report.bars import Bar
from cluster_rl.report.run_facts import Videos, flat, videos_in
from cluster_rl.report.run_rows import Rows
from cluster_rl.report.whole_output import Partial
from cluster_rl.runs.atomic import real_path
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress
from cluster_rl.runs.small_file import read_json

PROJECT: Final = "cluster_rl"
MOST_VIDEOS: Final = 20
"""The newest: they are copied now, and uploaded later."""


def export_wandb(run_dir: RunDir, out: Path) -> list[str]:
    """Writes the run as a new folder into `out`; returns lines that say so. Raises `UserError` where the package is
    missing, the run has no metrics, or the folder cannot be written."""
    wandb: Any = require("wandb", "wandb")
    if not run_dir.metrics.is_file():
        raise UserError(f"{run_dir.metrics}: not there yet; the learner writes it from its first rows on")
    config = flat(read_json(run_dir.require_config(), dict[str, Any]))
    make_folder(out)
    run_id = secrets.token_hex(4)  # each export is a run of its own there: one of an id cannot be uploaded twice
    whole = out / f"offline-run-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}"
    try:
        partial = Partial(real_path(whole), is_folder=True)
    except OSError as error:
        raise cannot_write(error, whole) from None
    try:
        told = _log(wandb, run_dir, config, partial.path, run_id)
        _keep_alone(partial.path)
        partial.keep()
    except OSError as error:
        raise cannot_write(error, whole) from None
    except wandb.errors.Error as error:
        raise UserError(f"wandb: {' '.join(str(error).split())}") from None
    finally:
        partial.drop()  # nothing is there any more if it was kept
    return [f"{whole}: {told[0]}; to upload it: wandb sync {whole}", *told[1:]]


def _log(wandb: Any, run_dir: RunDir, config: dict[str, Any], folder: Path, run_id: str) -> list[str]:
    """Has the package write its folder below `folder`; returns what was written, and what was damaged."""
    run = wandb.init(
        mode="offline",
        dir=str(folder),
        project=PROJECT,
        name=run_dir.run_name,
        id=run_id,
        config=config,
        # Of the run, and not of the machine and process that export it.
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    run.define_metric("env_steps")
    run.define_metric("*", step_metric="env_steps")
    rows = Rows(run_dir.metrics, Row)
    count, env_steps = 0, 0.0
    with Bar("writing rows"):
        for row in rows:
            cells = cells_of(row, rows.leave_out)
            run.log({name: value for name, value in cells.items() if value is not None})
            at = cells.get("env_steps")
            env_steps = at if isinstance(at, int | float) else env_steps
            count += 1
        found = videos_in(run_dir.videos)
        newest = newest_videos(run_dir.videos, found)
        for episode, name in newest:
            video = run_dir.videos / name
            try:
                media = {f"videos/{episode}": wandb.Video(str(video), format="mp4")}
                if episode in found.pictures:
                    media[f"paths/{episode}"] = wandb.Image(str(run_dir.videos / found.pictures[episode]))
            except OSError as error:
                raise read_error(error, error.filename or video) from None
            run.log({"env_steps": env_steps, **media})
        progress = read_progress(run_dir.progress)
        if progress is not None:
            run.summary["episodes"] = progress.episodes
            for milestone, first in progress.milestones.items():
                run.summary[f"milestone/{milestone}"] = first
        run.finish()
    problems = [f"WARNING: {rows.problem}"] if rows.problem else []
    return [f"{count:,} rows, {len(newest)} videos", *problems]


def newest_videos(folder: Path, videos: Videos) -> list[tuple[str, str]]:
    """(episode, name of its video) of the newest in `folder`, oldest first. Raises `UserError` where one cannot be
    looked at."""
    made: dict[str, float] = {}
    for episode, name in videos.there.items():
        try:
            made[episode] = (folder / name).stat().st_mtime
        except OSError as error:
            raise read_error(error, folder / name) from None
    return [(episode, videos.there[episode]) for episode in sorted(made, key=made.__getitem__)[-MOST_VIDEOS:]]


def _keep_alone(folder: Path) -> None:
    """Leaves in `folder` what the package made in the run's own folder below, without links into the home directory."""
    (made,) = (path for path in (folder / "wandb").iterdir() if path.name.startswith("offline-run-") and path.is_dir())
    for path in made.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / "wandb")
    shutil.rmtree(folder / "logs", ignore_errors=True)
    shutil.rmtree(folder / "tmp", ignore_errors=True)
