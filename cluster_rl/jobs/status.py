"""How far a run is, for the person who started it: a live table on a terminal, else one line a minute.

Runs in the launcher; `cluster status` says the same in a line. In: progress.json, as the learner writes it. Out: text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console as Terminal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster_rl.config import SCHOOL_PREFIX, Config
from cluster_rl.errors import UserError
from cluster_rl.game.world import World
from cluster_rl.report.bars import LINE_INTERVAL_SEC, duration_words, is_live, size_words
from cluster_rl.rom import game_warning
from cluster_rl.runs.atomic import why_unwritable
from cluster_rl.runs.evaluation import Evaluation
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Job, Progress, QuestProgress, read_progress

_LIVE_INTERVAL_SEC = 1.0
_STALE_SEC = 15.0
_SHOWN_QUESTS = 3
_SILENT_SEC = 120.0  # progress.json is written every few seconds; a checkpoint of a large run takes longer


def line_of(progress: Progress, milestones: int, problem: str = "") -> str:
    """The run's counters, what is left of its target, and what goes on, see `doing`, in one line."""
    mean_return = progress.mean_return_recent
    return ", ".join(
        [
            f"env_steps {progress.env_steps:,} of {progress.target_total_steps:,} "
            f"({progress.rates.env_steps_per_sec:.0f}/s{_left_of_target(progress, ', ')})",
            f"updates {progress.updates:,} ({progress.rates.updates_per_sec:.1f}/s)",
            f"episodes {progress.episodes:,}",
            f"return {'-' if mean_return is None else f'{mean_return:.2f}'}",
            *([] if progress.evaluation is None else [evaluated(progress.evaluation, brief=True)]),
            f"milestones {len(progress.milestones)} of {milestones}",
            *alarms_of(progress.quests),
            *doing(progress, problem),
        ]
    )


def evaluated(evaluation: Evaluation, brief: bool = False) -> str:
    """What the newest evaluation found and how old it is. Much older than the interval: those after it failed."""
    words = evaluation.return_words if brief else evaluation.words
    return f"{words} ({duration_words(max(0.0, time.time() - evaluation.began))} ago)"


def time_of_job(job: Job) -> str:
    """How long a job has run, and how long it will."""
    if job.ended is not None:
        return duration_words(job.ended - job.started)
    now = time.time()
    left = f", {duration_words(max(0.0, job.ends - now))} left" if job.ends is not None else ", without a limit"
    return duration_words(now - job.started) + left


def milestones_of(run_dir: RunDir, initial_state: str, progress: Progress) -> int:
    """How many milestones there are in the part of the game that is played: in the game, or in a lesson.

    Those that the run has reached count too, also where it began elsewhere.
    """
    identity = read_identity(run_dir.identity)
    world = World.for_rom(identity.rom_sha1 if identity is not None else "")
    there = {milestone.name for milestone in world.milestones_from(initial_state.removeprefix(SCHOOL_PREFIX))}
    return len(there | set(progress.milestones))


def warning_of_run(run_dir: RunDir) -> str:
    """`game_warning` of the ROM that the run plays; empty for a run that has not begun."""
    identity = read_identity(run_dir.identity)
    return "" if identity is None else game_warning(identity.rom_sha1, identity.rom_title)


class StatusView:
    """Shows one job. A context manager: the terminal is given back at its end."""

    def __init__(self, run_dir: RunDir, config: Config, job_token: str) -> None:
        self._run_dir = run_dir
        self._config = config
        self._token = job_token
        self._restored = ""
        self._stale_sec = 2.0 + 2.0 * config.progress_interval_seconds
        self._problem = ""  # of storage, as was said
        self._warning = warning_of_run(run_dir)
        self._live = Live(console=Terminal(file=sys.stdout), auto_refresh=False) if is_live(sys.stdout) else None
        self._started = time.monotonic()
        self._due = self._started
        self._line_due = self._started + LINE_INTERVAL_SEC

    def __enter__(self) -> StatusView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line above the live table, or just prints it."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def refresh(self) -> None:
        """Shows the present progress if it is time to."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _LIVE_INTERVAL_SEC
        progress = self._read()
        self._look_at_storage(progress)
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
        elif now >= self._line_due:
            self._line_due = now + LINE_INTERVAL_SEC
            self.say(self._line(progress) if progress is not None else self._starting())

    def _look_at_storage(self, progress: Progress | None) -> None:
        """Says at once when storage refuses what the learner writes, and when it takes it again."""
        problem = storage_problem(progress, self._run_dir, self._stale_sec) if progress is not None else ""
        if bool(problem) != bool(self._problem):
            self.say(problem or "storage takes again what is written")
        self._problem = problem

    def finish(self) -> None:
        """The last words: where the run stands and why the job stopped."""
        progress = self._read()
        if progress is None:
            self.say("stopped before the learner was up; nothing was learned")
            return
        job = progress.jobs[-1]
        self.say(f"{self._line(progress)}; stopped: {job.reason or 'the learner ended without a word'}")

    def _read(self) -> Progress | None:
        """The progress of this job; None until its learner has written one."""
        try:
            progress = read_progress(self._run_dir.progress)
        except UserError as error:
            self.say(str(error))
            return None
        if progress is None or not progress.jobs or progress.jobs[-1].token != self._token:
            return None
        if progress.jobs[-1].restored != self._restored:
            self._restored = progress.jobs[-1].restored
            self._line_due = self._started  # a line as soon as the learner is up
            self.say(f"learner: {self._restored}")
        return progress

    def _starting(self) -> str:
        return f"the learner starts: {duration_words(time.monotonic() - self._started)}"

    def _line(self, progress: Progress) -> str:
        milestones = milestones_of(self._run_dir, self._config.initial_state, progress)
        warning = "; WARNING: not Pokémon Red, see above" if self._warning else ""
        return f"[{time_of_job(progress.jobs[-1])}] {line_of(progress, milestones, self._problem)}{warning}"

    def _table(self, progress: Progress | None) -> Table:
        table = Table(title=f"run {self._run_dir.run_name}", show_header=False)
        if self._warning:
            table.add_row("", Text(self._warning, style="bold"))
        for name, value in [("now", self._starting())] if progress is None else self._rows(progress):
            table.add_row(name, value)
        return table

    def _rows(self, progress: Progress) -> Iterator[tuple[str, str]]:
        rates, replay = progress.rates, progress.replay
        mean_return = progress.mean_return_recent
        newest = sorted(progress.milestones.items(), key=lambda item: item[1])[-3:]
        reached = ": " + ", ".join(f"{milestone} at {step:,}" for milestone, step in newest) if newest else ""
        milestones = milestones_of(self._run_dir, self._config.initial_state, progress)
        yield "now", ", ".join(doing(progress, self._problem)) or progress.jobs[-1].reason
        yield "job", time_of_job(progress.jobs[-1])
        yield "env steps", f"{progress.env_steps:,} of {progress.target_total_steps:,}{_left_of_target(progress, ', ')}"
        yield "env steps/s", f"{rates.env_steps_per_sec:.0f}"
        yield "updates", f"{progress.updates:,} ({rates.updates_per_sec:.1f}/s)"
        asked = self._config.samples_per_insert_at(progress.env_steps)
        yield "samples per insert", f"{progress.samples_per_insert:.2f} over the run, {asked:g} now"
        yield "replay", f"{replay.transitions:,} of {replay.capacity:,} transitions, {size_words(replay.bytes)}"
        yield "episodes", f"{progress.episodes:,}"
        yield "recent return", "-" if mean_return is None else f"{mean_return:.3f}"
        if progress.evaluation is not None:
            yield "evaluation", evaluated(progress.evaluation)
        yield "milestones", f"{len(progress.milestones)} of {milestones}{reached}"
        for name, told in (("quests ahead", quests_ahead(progress.quests)), ("alarms", alarms_of(progress.quests))):
            if told:
                yield name, "; ".join(told)


def quests_ahead(quests: QuestProgress) -> list[str]:
    """`NAME 0.31`, or `NAME 0.31 (no growth)`, of the first quests that episodes do not reach reliably."""
    ahead = list(quests.frontier.items())[:_SHOWN_QUESTS]
    return [f"{name} {mean:.2f}{' (no growth)' * (name in quests.stagnant)}" for name, mean in ahead]


def alarms_of(quests: QuestProgress) -> list[str]:
    """`NAME 0.21, critical: below 0.74`, of the quests that are below their targets, the surest first."""
    alarms = sorted(quests.alarms.items(), key=lambda item: -item[1].probability)
    told = [f"{name} {alarm.mean:.2f}, {alarm.level}: below {alarm.target:.2f}" for name, alarm in alarms]
    more = len(told) - _SHOWN_QUESTS
    return told[:_SHOWN_QUESTS] + ([f"{more} more alarms"] if more > 0 else [])


def _left_of_target(progress: Progress, before: str) -> str:
    """By the mean rate of the newest job; empty where nothing tells it."""
    if not progress.jobs:
        return ""
    job = progress.jobs[-1]
    played, left = progress.env_steps - job.env_steps_start, progress.target_total_steps - progress.env_steps
    if played <= 0 or left <= 0 or job.ended is not None:
        return ""
    return f"{before}about {duration_words(left * (progress.updated - job.started) / played)} left"


def doing(progress: Progress, problem: str = "") -> list[str]:
    """The `storage_problem`, what goes on, as the learner says, and whether it has long said nothing."""
    if not progress.jobs or progress.jobs[-1].ended is not None:
        return []
    silent_sec = time.time() - progress.updated
    told = [problem or progress.storage_problem, progress.activity]
    if silent_sec > _SILENT_SEC and not problem:
        told.append(
            f"the learner has written nothing for {duration_words(silent_sec)}: its node or its job may be dead"
        )
    return list(filter(None, told))


def storage_problem(progress: Progress, run_dir: RunDir, stale_sec: float = _STALE_SEC) -> str:
    """`disk full since 14:03 (PATH: words)`, empty while all is well.

    The learner cannot even say so where `progress.json` lies on the full disk: if its words are older than `stale_sec`,
    a small file is tried in the run's folder.
    """
    if not progress.jobs or progress.jobs[-1].ended is not None:
        return ""
    why = why_unwritable(run_dir.path) if time.time() - progress.updated > stale_sec else None
    if why is None:
        return progress.storage_problem
    return f"{why.state} since {time.strftime('%H:%M', time.localtime(progress.updated))} ({why.cause})"
