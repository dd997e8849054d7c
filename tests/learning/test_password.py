"""The learner, whole, learns the cartridge's password lesson from the game's own pictures, and not without recurrence.

The lesson: a word is told, 23 steps later one of four doors is chosen, and nothing in between shows the word. Data are
one episode for each word and door, played on the cartridge, in windows that span them. Judged by Q at the choice: the
right door's, less the best of the other three. Whether the agent as a whole gets there, exploring, with windows cut
anywhere, is what scripts/bench/password.py measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster_rl.buttons import BUTTONS, NUM_BUTTONS
from cluster_rl.config import load_config
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.emulator.rom import load_rom
from cluster_rl.emulator.school import school_snapshot
from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import pack_screen
from cluster_rl.spaces import observation_spec

DOORS = ("down", "left", "right", "up")
STEPS = 26  # of an episode; the last is the choice
EPISODES = len(DOORS) ** 2
ECHO_ROOM = 39
UPDATES = 500
OVERRIDES = (f"unroll_length={STEPS}", "burn_in=0", "target_update_interval=20", "start_idle_frames_max=0")


@dataclass(frozen=True)
class Lesson:
    """The episodes as a batch, and for each the index of the action that its word named [N]."""

    batch: Batch
    right: torch.Tensor


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    state = tmp_path_factory.mktemp("school") / "password.state"
    state.write_bytes(school_snapshot("password", load_rom("")))
    return play_all(state)


def play_all(state: Path) -> Lesson:
    """Every word with every door."""
    config = load_config("password", [*OVERRIDES, f"initial_state={state}"])
    env = make_env(config, 0)
    rows = STEPS + config.n_step
    crop = 2 * config.occupancy_crop_radius + 1
    arrays = {
        "screen_packed": np.zeros((rows, EPISODES, 72, 20), np.uint8),
        "context": np.zeros((rows, EPISODES, observation_spec(config).context_size), np.uint8),
        "crop": np.zeros((rows, EPISODES, 2, crop, crop), np.uint8),
        "mask": np.zeros((rows, EPISODES, NUM_BUTTONS), np.bool_),
        "action": np.zeros((rows, EPISODES), np.int64),
        "reward": np.zeros((rows, EPISODES), np.float32),
        "prev_action": np.full((rows, EPISODES), NUM_BUTTONS),
        "prev_reward": np.zeros((rows, EPISODES), np.float32),
        "burn_in_length": np.zeros(EPISODES, np.int64),
        "train_length": np.full(EPISODES, STEPS),
        "last": np.full(EPISODES, STEPS),
        "terminated": np.ones(EPISODES, np.bool_),
        "state_h": np.zeros((1, EPISODES, config.lstm_hidden_size), np.float32),
        "state_c": np.zeros((1, EPISODES, config.lstm_hidden_size), np.float32),
        "weights": np.ones(EPISODES, np.float32),
        "ids": np.arange(EPISODES),
    }
    told = [play(env, episode // 4, DOORS[episode % 4], episode, arrays) for episode in range(EPISODES)]
    env.close()
    assert sorted(told[::4]) == sorted(DOORS)
    assert arrays["reward"].sum(0).tolist() == [float(told[i] == DOORS[i % 4]) for i in range(EPISODES)]
    right = torch.tensor([BUTTONS.index(word) for word in told])
    return Lesson(Batch.from_numpy(arrays, torch.device("cpu")), right)


def play(env: Env, wait: int, door: str, item: int, arrays: dict[str, np.ndarray]) -> str:  # type: ignore[type-arg]
    """One episode into column `item`; returns the word that was told. The wait before the first press decides it."""
    seen = env.start()
    env.console.idle(wait)
    told = ""
    for row in range(STEPS + 1):
        arrays["screen_packed"][row, item] = pack_screen(seen.screen)
        arrays["context"][row, item] = seen.context
        arrays["crop"][row, item] = seen.crop
        arrays["mask"][row, item] = seen.mask
        if row == STEPS:
            break
        assert (env.state.map_id == ECHO_ROOM) == (row == STEPS - 1)
        if row == 1:
            told = env.state.text_lines[0].split()[0].lower()
        action = BUTTONS.index("a" if env.state.interface_up else door if row == STEPS - 1 else "right")
        step = env.advance(action)
        seen = step.observation
        arrays["action"][row, item] = arrays["prev_action"][row + 1, item] = action
        arrays["reward"][row, item] = arrays["prev_reward"][row + 1, item] = step.reward
    return told


def choice_gap(lesson: Lesson, cell: str) -> float:
    """Trains, then returns the mean over words of Q(right door) - the best Q of the other doors, at the choice."""
    config = load_config("password", [*OVERRIDES, f"model.recurrent_cell={cell}"])
    learner = R2D2(config, observation_spec(config), "cpu", seed=1)
    batch = lesson.batch
    for _ in range(UPDATES):
        learner.update(batch)
    with torch.no_grad():
        frames = (batch.screen_packed, batch.context, batch.crop, batch.prev_action, batch.prev_reward)
        features = learner.online.encode(*(x.flatten(0, 1) for x in frames)).unflatten(0, (-1, EPISODES))
        outputs, _ = learner.online.recur(features, (batch.state_h, batch.state_c))
        values = targets.expected_values(learner.online.head(outputs[STEPS - 1], noise=False), rescaling=True)
    doors = values[:, [BUTTONS.index(door) for door in DOORS]]
    right = values.gather(1, lesson.right.unsqueeze(1))
    others = doors.masked_fill(doors == right, -torch.inf)
    return (right.squeeze(1) - others.amax(1)).mean().item()


def test_the_word_is_remembered_to_the_choice(lesson: Lesson) -> None:
    """The true gap is 1.

    Not every seed gets there: after 500 updates seeds 1, 2 and 4 do (0.66, 0.77, 0.74), seed 3 is at 0.
    """
    assert choice_gap(lesson, "lstm") > 0.4


def test_without_recurrence_the_doors_are_all_the_same(lesson: Lesson) -> None:
    """The best that is possible is a quarter for each door: no gap, and none for the right one in the mean."""
    assert choice_gap(lesson, "none") < 0.1
