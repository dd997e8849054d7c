"""One real run to do harm to: it starts launchers, finds the run's processes, and takes account afterwards."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Literal

from accounting import Account, leftovers, take_account, wait_until_all_ended
from run_fixtures import Launcher, overrides

from cluster_rl.errors import EXIT_OK
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress

_RECORDER = Path(__file__).resolve().parent / "recorder"
_NO_TARGET = 100_000_000
_LIMIT_SEC = 600.0  # on a machine that has much else to do
Kind = Literal["launcher", "learner", "actor"]


class ChaosRun:
    """The run "tiny" in `folder`. Its actors note what was acknowledged; none of its processes outlives `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = RunDir(folder / "cluster_runs", "tiny")
        self.acks = folder / "acks"
        self.launchers: list[Launcher] = []

    @property
    def variables(self) -> dict[str, str]:
        """Of the environment of whatever starts actors: they note acknowledgements."""
        path = os.pathsep.join(filter(None, (str(_RECORDER), os.environ.get("PYTHONPATH"))))
        return {"PYTHONPATH": path, "CHAOS_ACKS": str(self.acks)}

    def start(self, module: str = "train_cluster", **changes: object) -> Launcher:
        """A launcher of the run; `changes` as `run_fixtures.overrides` takes them."""
        launcher = Launcher(
            self.folder,
            *overrides(**{"target_total_steps": _NO_TARGET, "max_runtime_seconds": 7200, **changes}),
            module=module,
            variables=self.variables,
            own_group=True,
            limit_sec=_LIMIT_SEC,
        )
        self.launchers.append(launcher)
        return launcher

    def training(self, env_steps: int = 200, updates: int = 1, **changes: object) -> Launcher:
        """A launcher whose learner has come so far in this job."""
        before = read_progress(self.run_dir.progress) if self.run_dir.progress.exists() else None
        steps, made = (before.env_steps, before.updates) if before is not None else (0, 0)
        launcher = self.start(**changes)
        launcher.wait_for(lambda p: p.env_steps >= steps + env_steps and p.updates >= made + updates)
        return launcher

    def pids(self, launcher: Launcher, kind: Kind) -> list[int]:
        """Process ids, the launcher's own or those of its children; waits for one to be there."""
        if kind == "launcher":
            return [launcher.process.pid]
        deadline = time.monotonic() + 60
        while not (found := sorted(launcher.children(kind))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found, f"no {kind} of the launcher runs; it said:\n{launcher.output}"
        return found

    def send(self, launcher: Launcher, kind: Kind, number: int = signal.SIGKILL, which: int = 0) -> int:
        """Sends a signal to one process of a kind; returns its id."""
        found = self.pids(launcher, kind)
        pid = found[which % len(found)]
        os.kill(pid, number)
        return pid

    def account(self, **options: bool | int | None) -> Account:
        """Of the run as it is, once all its processes have ended; see `take_account`."""
        return take_account(self.run_dir, acks=self.acks, **options)  # type: ignore[arg-type]

    def next_start(self, account: Account, **changes: object) -> str:
        """The same command, with the run's own `changes`, goes on with the run: it has lost nothing, leaves nothing
        half-written behind, and says what it brought back. Returns its output."""
        launcher = self.start(**{**changes, "target_total_steps": 1})
        assert launcher.wait() == EXIT_OK, launcher.output
        wait_until_all_ended(self.run_dir)
        restored = re.search(r"env_steps (\d+)", launcher.output)
        if account.env_steps:
            assert restored is not None, launcher.output
            assert int(restored[1]) == account.env_steps
        if account.updates:
            for word in ("weights", "target", "optimiser", "counters", "replay", "priorities", "RNG", "limiter"):
                assert word in launcher.output
            assert f"updates {account.updates})" in launcher.output
        assert leftovers(self.run_dir) == []
        assert "Traceback" not in launcher.output
        return launcher.output

    def close(self) -> None:
        """Kills what still runs."""
        for launcher in self.launchers:
            if launcher.process.poll() is None:
                for kind in ("learner", "actor"):
                    for pid in launcher.children(kind):
                        os.kill(pid, signal.SIGCONT)
                        os.kill(pid, signal.SIGKILL)
                launcher.process.send_signal(signal.SIGCONT)
                launcher.process.kill()
                launcher.process.wait()
        wait_until_all_ended(self.run_dir)
