"""What each part of our agent is worth: tasks of Lanternvale, learned with the part and without it.

    python -m scripts.bench.ablations [--tasks ...] [--seeds 1 ... 5] [--env-steps N] [--episodes 40] [--out DIR]
                                      [--key value ...]
    python -m scripts.bench.ablations --plot-only

From the repository's root, with `pip install 'cluster_rl[bench]'`. `tasks.py` says what is trained: lessons, which are
the default, and whole games (`--tasks lanternvale --seeds 1 2 3`). Any config key may be given as --key value, for all
alike. After each training of ours greedy episodes are played with what it learned, from where the task begins.
Trainings go one after another, one seed of everything before the next; each writes DIR/TASK/ARM/raw/, and what was
played goes to DIR/TASK/ARM/greedy/. What is complete is not done again, so the same command goes on after an
interruption. At the end, and with --plot-only from the records alone, the table goes to DIR/table.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from cluster_rl.config import Config, split_overrides
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.runs.arguments import Arguments
from cluster_rl.runs.atomic import write_atomic

from ..learning.__main__ import Unfinished, run_trainings, unfinished
from ..learning.agents import OURS, agent_config, check_installed
from ..learning.record import record_path
from .greedy import play_greedily, read_greedy
from .report import table
from .tasks import GAME_STEPS, LESSON_STEPS, LESSONS, TASKS, Task


@dataclasses.dataclass(frozen=True)
class ArmTraining:
    """An arm of a task as it is trained here, in a folder of its own."""

    name: str
    arm: str
    config: Config
    env_steps: int
    folder: Path

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @property
    def agent(self) -> str:
        return self.task.arms[self.arm].agent

    def unfinished(self, seeds: list[int]) -> dict[int, Unfinished]:
        """By seed. Raises as `learning.__main__.unfinished`."""
        todo = unfinished([self.agent], seeds, self.config, self.env_steps, 0.0, self.folder / "raw")
        return {training.seed: training for training in todo}

    def run(self, seed: int, todo: Unfinished | None, episodes: int) -> bool:
        """Trains it if that is still to be done, and plays with it if that is; False if the training failed."""
        path = self.folder / "greedy" / f"seed{seed}.json"
        if todo is not None:
            path.unlink(missing_ok=True)  # of an earlier training
            if not run_trainings([todo], 0.0):
                return False
        found = read_greedy(path)
        if self.agent in OURS and (found is None or found.episodes != episodes):
            run_dir = self.folder / "runs" / record_path(self.folder, self.agent, seed).stem
            own = agent_config(self.agent, self.config, seed, self.env_steps)
            play_greedily(own, run_dir, self.task, episodes, seed, path)
        return True


def main() -> int:
    wide = argparse.RawDescriptionHelpFormatter
    parser = Arguments(prog="python -m scripts.bench.ablations", description=__doc__, formatter_class=wide)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(LESSONS), metavar="TASK")
    parser.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="of these tasks; all if not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="SEED")
    parser.add_argument(
        "--env-steps", type=int, help=f"of each training (default: {LESSON_STEPS:,}, of a game {GAME_STEPS:,})"
    )
    parser.add_argument("--episodes", type=int, default=40, help="greedy ones after it (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/ablations"), help="default: %(default)s")
    parser.add_argument("--plot-only", action="store_true", help="the table from the records that are there")
    known, rest = parser.parse_known_args()
    if min(known.env_steps or 1, known.episodes) < 1 or known.env_steps == 0 or min(known.seeds) < 0:
        raise UserError("--env-steps and --episodes must be at least 1, --seeds at least 0")
    unknown = set(known.arms).difference(*(TASKS[name].arms for name in known.tasks))
    if unknown:
        raise UserError(f"--arms {' '.join(sorted(unknown))}: no such arm in {', '.join(known.tasks)}")
    overrides = split_overrides(rest)
    arms = [
        ArmTraining(
            name,
            arm,
            TASKS[name].config(arm, overrides),
            known.env_steps or TASKS[name].env_steps,
            known.out / name / arm,
        )
        for name in dict.fromkeys(known.tasks)
        for arm in TASKS[name].arms
        if not known.arms or arm in known.arms
    ]
    if not known.plot_only:
        check_installed(sorted({arm.agent for arm in arms}))
        todo = [arm.unfinished(known.seeds) for arm in arms]  # all before any training
        for seed in dict.fromkeys(known.seeds):
            for arm, waiting in zip(arms, todo, strict=True):
                print(f"{arm.name}, {arm.task.arms[arm.arm].title}, seed {seed}", flush=True)
                if not arm.run(seed, waiting.get(seed), known.episodes):
                    return EXIT_FAILURE
    text = table(known.out, TASKS)
    if not text:
        raise UserError(f"{known.out}: no complete records; run without --plot-only first")
    write_atomic(known.out / "table.md", text.encode())
    print(text)
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
