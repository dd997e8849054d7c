"""Where everything of one run lies: `cluster_runs/<run-name>/`. docs/run_directory.md describes every file.

Every process uses it. In: a root folder and a run name. Out: paths; nothing exists on disk until `create()`.
"""

from __future__ import annotations

import re
from pathlib import Path

from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import explain_os_error, real_path

DEFAULT_ROOT = Path("cluster_runs")
MAX_RUN_NAME = 100
_RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def check_run_name(run_name: str) -> str:
    """Returns the name. Raises `UserError` for one that is no safe name of a folder."""
    if len(run_name) > MAX_RUN_NAME:
        raise UserError(f"run name of {len(run_name)} characters: at most {MAX_RUN_NAME} are allowed")
    if not _RUN_NAME.fullmatch(run_name) or ".." in run_name:
        raise UserError(
            f"run name {run_name!r}: use letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_', "
            "and without '..'"
        )
    return run_name


class RunDir:
    """Paths of one run. `root` is the folder of all runs."""

    def __init__(self, root: str | Path, run_name: str) -> None:
        self.run_name = check_run_name(run_name)
        self.root = Path(root)
        self.path = self.root / run_name

        self.identity = self.path / "run.json"
        self.config = self.path / "config.json"
        self.progress = self.path / "progress.json"
        self.online_params = self.path / "online_params.pt"
        self.checkpoint = self.path / "checkpoint"
        self.replay = self.path / "replay"
        self.episode_logs = self.path / "episode_logs"
        self.archive = self.path / "archive"
        self.videos = self.path / "videos"
        self.greedy = self.path / "greedy"
        self.metrics = self.path / "metrics.jsonl"
        self.episodes = self.path / "episodes.jsonl"
        self.quests = self.path / "quests.jsonl"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.html"
        self.exports = self.path / "exports"
        self.tensorboard = self.path / "tensorboard"
        self.logs = self.path / "logs"
        self.jobs = self.path / "jobs"
        self.rendezvous = self.path / "rendezvous.json"
        self.lock = self.path / "run.lock"
        self.keys = self.path / "keys"
        self.chain = self.path / "chain.json"
        self._folders = (
            *(self.checkpoint, self.replay, self.episode_logs, self.videos, self.tensorboard, self.logs, self.jobs),
            self.keys,
            self.archive,
            self.greedy,
            self.exports,
        )

    def actors_chain(self, job: int) -> Path:
        """`chain.json` of the actor job with this number."""
        return self.path / f"chain-actors-{job}.json"

    def of_seed(self, seed: int) -> RunDir:
        """The run of one seed, where this is the name of several: `NAME-s3`."""
        return RunDir(self.root, f"{self.run_name}-s{seed}")

    def seeds(self) -> list[RunDir]:
        """Those of the runs `NAME-s1`, `NAME-s2`, ... that are there, by their number."""
        found = re.compile(rf"{re.escape(self.run_name)}-s(0|[1-9]\d*)")
        names = [path.name for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []
        return [self.of_seed(seed) for seed in sorted(int(match[1]) for match in map(found.fullmatch, names) if match)]

    def replay_in(self, replay_dir: str) -> Path:
        """Where the replay log lies with this `replay_dir` of the config."""
        return Path(replay_dir) if replay_dir else self.replay

    def job_record(self, number: int) -> Path:
        """With what the job of this number was made, `jobs/NNN.json`."""
        return self.jobs / f"{number:03}.json"

    @staticmethod
    def owner_of(path: Path) -> Path | None:
        """The folder of the run that keeps something of its own at `path`, there or not, or in a folder that `path` is
        in; None where no run does. `exports/` is free. Raises as `real_path` does, and `OSError`.
        """
        some = RunDir(Path(), "run")
        own = {value.name for value in vars(some).values() if isinstance(value, Path) and value.parent == some.path}
        for real in (real_path(path.parent) / path.name, real_path(path)):  # a link is the run's too
            for folder in real.parents:
                first = real.relative_to(folder).parts[0]
                is_own = (
                    first in own - {some.exports.name} or re.fullmatch(r"chain-actors-\d+\.json", first) is not None
                )
                if is_own and _is_run(folder):
                    return folder
        return None

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    def check_kinds(self) -> None:
        """Raises `UserError` if a folder lies where the run keeps a file, or a file where it keeps a folder."""
        for path in (value for value in vars(self).values() if isinstance(value, Path)):
            is_folder = path in self._folders or path in (self.root, self.path)
            if not is_folder and path.is_dir():
                raise UserError(f"{path}: a folder lies where the run keeps a file; move it away")
            if is_folder and path.exists() and not path.is_dir():
                raise UserError(f"{path}: a file lies where the run needs a folder; move it away")

    def exists(self) -> bool:
        """Whether the run has a folder."""
        return self.path.is_dir()

    def create(self) -> RunDir:
        """Makes the run's folder and those every run has; harmless when they are there. Returns itself.

        Raises `UserError` if they cannot be made. `keys/` is made by `wire.keys` with its own permissions.
        """
        try:
            if self.path.is_symlink() and not self.path.exists():  # what it led to was moved aside
                real_path(self.path).mkdir(exist_ok=True)
            for folder in (self.checkpoint, self.replay, self.episode_logs, self.logs, self.tensorboard, self.jobs):
                folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"{error.filename}: a file lies where the run needs a folder; move it away") from None
        except OSError as error:
            raise explain_os_error(error, self.path) from None
        return self

    def require_config(self) -> Path:
        """The config of the run's newest job. Raises `UserError` if there is none yet, or no such run."""
        if not self.require().config.exists():
            raise UserError(f"{self.config}: not there yet; the run's first job writes it when it starts")
        return self.config

    def require(self) -> RunDir:
        """Returns itself. Raises `UserError`, naming the runs there are, if the run does not exist."""
        if not self.exists():
            known = sorted(p.name for p in self.root.iterdir() if p.is_dir()) if self.root.is_dir() else []
            there = f"runs there are {', '.join(known[:8])}" if known else "no runs are there"
            raise UserError(f"run {self.run_name!r}: not found in {self.root}; {there}")
        return self


def _is_run(folder: Path) -> bool:
    """Whether it is that of a run, by what each has from its first job on."""
    run_dir = RunDir(folder.parent, "run")
    there = {
        path.name: (folder / path.name).exists() for path in (run_dir.identity, run_dir.config, run_dir.checkpoint)
    }
    return there[run_dir.identity.name] or (there[run_dir.config.name] and there[run_dir.checkpoint.name])
