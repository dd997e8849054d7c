"""The run's quests, from the replay log's counts to whoever wants them.

The learner owns one. In: the replay, which counts episodes as they are logged. Out: `quests.jsonl`, what
`progress.json` and metrics tell, shaped batches, and how curious to be.
"""

from __future__ import annotations

import torch

from cluster_rl.config import Config
from cluster_rl.exploration.bayes_quests import (
    QuestRules,
    assess_all,
    curiosity_scale,
    frontier,
    mean_of,
    start_weights,
)
from cluster_rl.exploration.shaping import potential_weights, shaped
from cluster_rl.learning.batch import Batch
from cluster_rl.replay_buffer import Replay
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import QuestAlarm, QuestProgress
from cluster_rl.training.quest_rows import QuestRows


class QuestMonitor:
    """`notes` says what was damaged in the files on opening, one line each. `shape` may be called by another thread."""

    def __init__(
        self, config: Config, run_dir: RunDir, replay: Replay, rules: QuestRules, device: torch.device
    ) -> None:
        """Raises `UserError` if `quests.jsonl` cannot be written."""
        self._config = config
        self._replay = replay
        self._rules = rules
        self._slots = torch.tensor([quest.slot for quest in rules.quests], dtype=torch.int64, device=device)
        self._rows = QuestRows(run_dir)
        self.notes = self._rows.notes

    def progress(self) -> QuestProgress:
        """For `progress.json`."""
        records = self._replay.quests()
        states = assess_all(records, self._rules)
        ahead = frontier(records, self._rules)
        return QuestProgress(
            frontier={name: mean_of(records, name) for name in ahead},
            stagnant=[name for name in ahead if name in states and states[name].stagnant],
            alarms={
                name: QuestAlarm(level=state.level, probability=state.alarm, mean=state.mean, target=state.target)
                for name, state in states.items()
                if state.level != "ok"
            },
        )

    def metrics(self) -> dict[str, float]:
        """For a row of metrics: of the quests that were ever reached, and the scale of curiosity where it moves."""
        row = {"curiosity_scale": self.curiosity_scale()} if self._config.curiosity_scale_max > 1 else {}
        for name, state in assess_all(self._replay.quests(), self._rules).items():
            if state.reached:
                row |= {f"quest/{name}": state.mean, f"quest_alarm/{name}": state.alarm}
                row |= {f"quest_low/{name}": state.low, f"quest_high/{name}": state.high}
        return row

    def start_weights(self) -> dict[str, float]:
        """How much practice each required quest is worth, in the order of play; none where the run has no quests."""
        return start_weights(self._replay.quests(), self._rules)

    def write_due(self) -> None:
        """Writes a row of `quests.jsonl` if it is time to. Raises `StorageError` for a full disk."""
        episodes = self._replay.episodes
        if self._rows.is_due(episodes):
            self._rows.write(episodes, self._replay.env_steps, self._replay.quests(), self._rules)

    def shape(self, batch: Batch) -> Batch:
        """The batch with its rewards shaped by what is known now; as it is where `w_bayes` is 0."""
        config = self._config
        if config.w_bayes == 0:
            return batch
        weights = potential_weights(self._replay.quests(), self._rules, config.w_bayes).to(self._slots.device)
        return shaped(batch, self._slots, weights, config.burn_in, config.gamma)

    def curiosity_scale(self) -> float:
        """What the weight of curiosity is multiplied with now."""
        largest = self._config.curiosity_scale_max
        return 1.0 if largest == 1 else curiosity_scale(self._replay.quests(), self._rules, largest)

    def close(self) -> None:
        """Closes the file; every row is already with the kernel."""
        self._rows.close()
