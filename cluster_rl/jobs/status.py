"""How far a run is, for the person who started it: a live table on a terminal, else one line a minute.

Runs in the launcher. In: progress.json, as the learner writes it. Out: text.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console as Terminal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster_rl.config import Config
from cluster_rl.emulator.rom import game_warning
from cluster_rl.errors import UserError
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress

_LINE_INTERVAL_SEC = 60.0
_LIVE_INTERVAL_SEC = 1.0


class StatusView:
    """Shows one job. A context manager: the terminal is given back at its end."""

    def __init__(self, run_dir: RunDir, config: Config, job_token: str) -> None:
        self._run_dir = run_dir
        self._config = config
        self._token = job_token
        self._restored = ""
        identity = read_identity(run_dir.identity)
        self._warning = "" if identity is None else game_warning(identity.rom_sha1, identity.rom_title)
        self._terminal = Terminal(file=sys.stdout)
        self._live = Live(console=self._terminal, auto_refresh=False) if self._terminal.is_terminal else None
        self._started = time.monotonic()
        self._due = self._started + _LIVE_INTERVAL_SEC

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
        progress = self._read()
        if progress is None:
            self._due = now + _LIVE_INTERVAL_SEC
            return
        if self._live is not None:
            self._due = now + _LIVE_INTERVAL_SEC
            self._live.update(self._table(progress), refresh=True)
        else:
            self._due = now + _LINE_INTERVAL_SEC
            self.say(self._line(progress))

    def finish(self) -> None:
        """The last words: where the run stands and why the job stopped."""
        progress = self._read()
        if progress is None:
            self.say("stopped before the learner was up")
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
            self.say(f"learner: {self._restored}")
        return progress

    def _line(self, progress: Progress) -> str:
        minutes = (time.monotonic() - self._started) / 60
        mean_return = progress.mean_return_recent
        return (
            f"[{minutes:.0f} min] env_steps {progress.env_steps:,} of {progress.target_total_steps:,} "
            f"({progress.rates.env_steps_per_sec:.0f}/s), updates {progress.updates:,} "
            f"({progress.rates.updates_per_sec:.1f}/s), episodes {progress.episodes:,}, return "
            f"{'-' if mean_return is None else f'{mean_return:.2f}'}, milestones {len(progress.milestones)}"
            f"{'; WARNING: not Pokémon Red, see above' if self._warning else ''}"
        )

    def _table(self, progress: Progress) -> Table:
        table = Table(title=f"run {self._run_dir.run_name}", show_header=False)
        if self._warning:
            table.add_row("", Text(self._warning, style="bold"))
        rates, replay = progress.rates, progress.replay
        mean_return = progress.mean_return_recent
        newest = sorted(progress.milestones.items(), key=lambda item: item[1])[-3:]
        for name, value in (
            ("env steps", f"{progress.env_steps:,} of {progress.target_total_steps:,}"),
            ("env steps/s", f"{rates.env_steps_per_sec:.0f}"),
            ("updates", f"{progress.updates:,} ({rates.updates_per_sec:.1f}/s)"),
            ("samples per insert", f"{progress.samples_per_insert:.2f} of {self._config.samples_per_insert:g}"),
            ("replay", f"{replay.transitions:,} of {replay.capacity:,} transitions, {replay.bytes / 2**20:.0f} MiB"),
            ("episodes", f"{progress.episodes:,}"),
            ("recent return", "-" if mean_return is None else f"{mean_return:.3f}"),
            ("milestones", ", ".join(f"{milestone} at {step:,}" for milestone, step in newest) or "none yet"),
        ):
            table.add_row(name, value)
        return table
