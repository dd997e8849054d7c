"""The environment: gymnasium's and Stable-Baselines3's checkers, determinism, ends of episodes, the recorder's hook."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cartridge_fixtures import TO_TOWN, A, meet_trainer, new_env, play, poke
from gymnasium.utils import env_checker as gymnasium_checker
from msgspec import structs
from stable_baselines3.common import env_checker as sb3_checker

from cluster_rl.cluster_map_features import CONTEXT_SIZE
from cluster_rl.config import Config
from cluster_rl.emulator.console import live_check
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.learning.sequences import EpisodeStart, EpisodeSummary
from cluster_rl.rewards import INTRINSIC_TERMS
from cluster_rl.runs.episode_log import EpisodeIdentity, EpisodeRecorder, read_log


@pytest.fixture(scope="module")
def env() -> Iterator[Env]:
    env = new_env(episode_max_steps=50)
    yield env
    env.close()


def random_steps(env: Env, seed: int, steps: int) -> list[bytes]:
    """The bytes of everything that comes out of an episode of random masked actions."""
    policy = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    out = [b"".join(value.tobytes() for value in observation.values())]
    for _ in range(steps):
        action = policy.choice(np.flatnonzero(env.observation.mask))
        observation, reward, terminated, truncated, _ = env.step(action)
        out.append(b"".join(v.tobytes() for v in observation.values()) + repr((reward, terminated, truncated)).encode())
    return out


def test_gymnasium_checker() -> None:
    env = new_env(episode_max_steps=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns where it does not fail
        warnings.filterwarnings("ignore", message=".*render_fps.*|.*render modes.*|.*spec.*")
        gymnasium_checker.check_env(env)
    env.close()


def test_sb3_checker() -> None:
    env = new_env(episode_max_steps=50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3_checker.check_env(env)
    # The crop has an image's axes and is none: only warnings about its own CNN policy may come.
    assert all("image" in str(w.message) or "CnnPolicy" in str(w.message) for w in caught), [
        str(w.message) for w in caught
    ]
    env.close()


def test_observation_shapes(env: Env) -> None:
    observation = env.start()
    assert (observation.screen.shape, observation.screen.dtype) == ((72, 80), np.uint8)
    assert (observation.context.shape, observation.context.dtype) == ((CONTEXT_SIZE,), np.uint8)
    assert (observation.crop.shape, observation.crop.dtype) == ((2, 9, 9), np.uint8)
    assert (observation.mask.shape, observation.mask.dtype) == ((7,), np.bool_)
    as_dict, _ = env.reset(seed=1)
    assert env.observation_space.contains(as_dict)
    # Nothing is lost between the bytes that are stored and the floats that are shown.
    np.testing.assert_array_equal(np.rint(as_dict["context"] * 255).astype(np.uint8), env.observation.context)


def test_equal_seeds_give_equal_bytes_and_others_do_not(env: Env) -> None:
    first = random_steps(env, 5, 45)
    assert random_steps(env, 5, 45) == first
    other = new_env(episode_max_steps=50, base_seed=99)
    assert random_steps(other, 5, 45) == first  # nothing but the seed given to reset decides
    assert random_steps(other, 6, 45) != first
    other.close()


def test_start_button_can_be_taken_away() -> None:
    def masks(start_button: bool) -> set[tuple[bool, ...]]:
        env = make_env(Config(start_button=start_button), 0)
        rng = np.random.default_rng(0)
        seen = {tuple(env.start().mask.tolist())}
        for _ in range(60):
            allowed = np.flatnonzero(env.observation.mask)
            seen.add(tuple(env.advance(int(rng.choice(allowed))).observation.mask.tolist()))
        env.close()
        return seen

    start = BUTTONS.index("start")
    assert any(mask[start] for mask in masks(True))
    without = masks(False)
    assert not any(mask[start] for mask in without)
    assert all(any(mask) for mask in without)


def test_actors_of_a_run_start_differently() -> None:
    """One pair in 96 waits equally long, by chance: with the default seed it is one pair of these."""
    envs = [make_env(Config(), index) for index in range(6)]
    hashes = set()
    for env in envs:
        env.start()
        hashes.add(env.console.ram_hash())
        env.close()
    assert len(hashes) == 5


def test_truncation(env: Env) -> None:
    env.start()
    steps = [env.advance(0) for _ in range(50)]
    assert [step.truncated for step in steps] == [False] * 49 + [True]
    assert not any(step.terminated for step in steps)
    summary = steps[-1].summary
    assert summary is not None
    assert (summary.reason, summary.episode_steps, summary.final_map) == ("truncated", 50, env.state.map_id)
    assert sum(summary.terms.values()) == pytest.approx(sum(step.reward for step in steps))
    intrinsic = sum(summary.terms[name] for name in INTRINSIC_TERMS)
    assert summary.episode_return == pytest.approx(sum(summary.terms.values()) - intrinsic)
    with pytest.raises(RuntimeError, match="no episode"):
        env.advance(0)


@pytest.mark.parametrize(
    "action",
    [99, 7, -1, np.int64(7), np.uint8(200), 3.0, np.float32(3), None, "a", [1], np.array([3]), np.array(3.0)],
    ids=repr,
)
def test_what_is_no_action_is_told_with_those_that_are(env: Env, action: Any) -> None:
    env.start()
    allowed = "must be one whole number: 0 down, 1 left, 2 right, 3 up, 4 a, 5 b, 6 start"
    for press in (env.step, env.advance):
        with pytest.raises(UserError, match=allowed):
            press(action)
    assert env.episode_steps == 0
    env.step(0)  # and the episode goes on


@pytest.mark.parametrize("action", [3, np.int64(3), np.uint8(3), np.array(3), np.int32(3)], ids=repr)
def test_whole_numbers_of_any_kind_are_actions(env: Env, action: Any) -> None:
    env.reset(seed=0)
    by_int, *_ = env.step(3)
    env.reset(seed=0)
    observation, *_ = env.step(action)
    np.testing.assert_array_equal(observation["screen"], by_int["screen"])


def test_calls_out_of_order_say_what_to_call_first() -> None:
    env = make_env("quickstart", 0)
    for call in (env.action_masks, lambda: env.step(0), lambda: env.advance(0)):
        with pytest.raises(RuntimeError, match=r"call start\(\) or reset\(\) first"):
            call()
    env.reset()
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="no episode is open"):
        env.step(0)
    for call in (env.reset, env.start):
        with pytest.raises(RuntimeError, match="closed: make another"):
            call()


def test_the_end_of_the_task_terminates_before_the_step_limit() -> None:
    env = new_env(episode_max_steps=1)
    env.start()
    end = env.world.task_end
    assert (end.kind, env.world.task_ended(env.state)) == ("badge", False)
    poke(env, ram.wObtainedBadges, 1 << end.arguments[0])
    step = env.advance(0)
    assert (step.terminated, step.truncated) == (True, False)
    assert step.summary is not None
    assert step.summary.reason == "terminated"
    assert step.summary.terms["badge"] == pytest.approx(5.0)
    env.close()


def test_milestones_come_once_with_their_step(env: Env) -> None:
    env.start()
    steps = play(env, "rAAAAAAA")
    new = [(name, number) for number, step in enumerate(steps, 1) for name in step.milestones]
    assert [name for name, _ in new] == ["TALKED_ELDER"]
    summary = env.stop()
    assert summary is not None
    assert summary.milestones == new
    assert summary.reason == "stopped"
    assert env.stop() is None


def test_an_episode_is_as_if_it_were_the_first() -> None:
    """But for the button memory, which lasts: the same buttons give the same again, to the summary."""
    env = new_env(start_idle_frames_max=0)
    episodes = []
    for _ in range(2):
        first = env.start()
        steps = play(env, "rAAAAAAABBBB" + TO_TOWN)  # talks to the elder, and goes out
        summary = env.stop()
        assert summary is not None
        assert [name for name, _ in summary.milestones] == ["TALKED_ELDER", "LEFT_HOME"]
        seen = [first, *(step.observation for step in steps)]
        told = [(step.reward, step.milestones) for step in steps]
        fields = [b"".join(part.tobytes() for part in (o.screen, o.context, o.crop)) for o in seen]
        episodes.append((fields, told, structs.replace(summary, seed=0)))
    env.close()
    assert episodes[0] == episodes[1]


def test_a_lost_battle_is_one_blackout() -> None:
    recorder = ListRecorder()
    env = make_env(Config(start_idle_frames_max=0), 0, recorder)
    meet_trainer(env)
    for address in (ram.wPartyMons + 1, 0xD015):  # HP of the first member, in the party and in the battle
        poke(env, address, 0, 1)
    for _ in range(40):
        env.advance(A)
        if env.state.map_id == 37:
            break
    assert env.state.map_id == 37  # awake at home
    assert env.state.party[0].hp == env.state.party[0].max_hp  # and healed
    summary = env.stop()
    assert summary is not None
    assert summary.terms["blackout"] == pytest.approx(-0.5)
    told = [call for call in recorder.calls if call[0] in ("step", "blackout")]
    assert [call[0] for call in told].count("blackout") == 1
    assert told[[call[0] for call in told].index("blackout") - 1][3][0] != 37  # where it happened, not at home
    env.close()


class ListRecorder:
    """Keeps every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, snapshot: bytes, state: Any, seed: int, start: EpisodeStart) -> None:
        self.calls.append(("start", snapshot, state.map_id, seed, start))

    def step(self, action: int, check: int, console: Any) -> None:
        self.calls.append(("step", action, check, console.position()))

    def blackout(self) -> None:
        self.calls.append(("blackout",))

    def finish(self, summary: EpisodeSummary) -> None:
        self.calls.append(("finish", summary))


def test_recorder_can_play_the_episode_again() -> None:
    recorder = ListRecorder()
    env = make_env(Config(episode_max_steps=30), 0, recorder)
    env.start()
    for number in range(30):
        env.advance((number * 5) % 7)
    (_, snapshot, map_id, seed, start), *steps, (_, summary) = recorder.calls
    assert (map_id, seed, start) == (37, summary.seed, summary.start)
    assert len(steps) == 30
    env.console.load(snapshot)
    for _, action, check, position in steps:
        env.console.step(action)
        assert live_check(env.console.image()) == check
        assert env.console.position() == position
    env.start()
    env.advance(0)
    env.close()
    assert recorder.calls[-1][1].reason == "stopped"


def test_episode_log_takes_what_the_environment_gives(tmp_path: Path) -> None:
    identity = EpisodeIdentity(
        rom_sha1="0",
        rom_kind="cartridge",
        pyboy_version="0",
        frame_skip=24,
        run="r",
        actor=0,
        incarnation=1,
        emulator=0,
    )
    recorder = EpisodeRecorder(tmp_path, identity, ram_hash_interval_steps=4)
    env = make_env(Config(episode_max_steps=10), 0, recorder)
    env.start()
    steps = play(env, "rAAAAAAAdd")
    log = read_log(recorder.path)
    assert steps[-1].summary is not None
    assert log.header.complete
    assert log.header.episode_return == pytest.approx(steps[-1].summary.episode_return)
    assert [(m.name, m.step) for m in log.header.milestones] == steps[-1].summary.milestones != []
    assert len(log.ram_hashes) == 2
    env.close()


def test_episodes_start_in_a_given_savestate(tmp_path: Path) -> None:
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "rddd")
    path = tmp_path / "here.snap"
    path.write_bytes(env.console.save())
    here = env.console.position()
    env.close()
    other = new_env(initial_state=str(path), start_idle_frames_max=3)
    other.start()
    assert other.console.position() == here
    other.close()
    path.write_bytes(b"no state")
    with pytest.raises(UserError, match=r"here\.snap"):
        new_env(initial_state=str(path))


def test_what_was_reached_where_an_episode_began_is_not_its_own(tmp_path: Path) -> None:
    env = new_env(start_idle_frames_max=0)
    env.start()
    assert env.episode_start == EpisodeStart(id="boot", tag="beginning", milestones=[])
    reached = [name for step in play(env, "rAAAAAAAA") for name in step.milestones]
    assert reached
    path = tmp_path / "later.state"
    path.write_bytes(env.console.save())
    env.close()
    later = new_env(initial_state=str(path))
    later.start()
    play(later, "dd")
    summary = later.stop()
    later.close()
    assert summary is not None
    assert summary.start == EpisodeStart(id="later.state", tag="beginning", milestones=reached)
    assert summary.milestones == []
    school = new_env(initial_state="school:password")
    school.start()
    assert (school.episode_start.id, school.episode_start.tag) == ("password", "school")
    school.close()


def test_a_summary_tells_cells_and_circles() -> None:
    env = new_env(start_idle_frames_max=0)
    env.start()
    x, y = env.state.x, env.state.y
    places = {(x, y)}
    for step in range(40):
        play(env, "dduu"[step % 4])
        places.add((env.state.x, env.state.y))
    summary = env.stop()
    env.close()
    assert summary is not None
    assert summary.cells == len(places) > 1
    assert 0.2 < summary.loop_share < 0.8  # to and fro in ten rounds: each cell was new in the first ones


def test_render() -> None:
    env = make_env(Config(), 0, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.shape == (144, 160, 3)
    env.close()


def test_a_lesson_ends_at_either_kind_of_door() -> None:
    way = ["a"] * 3 + ["right"] * 22
    env = new_env(initial_state="school:password", episode_max_steps=60, start_idle_frames_max=60)
    ends = []
    for door in ("up", "down", "left", "right"):
        env.reset(seed=7)
        steps = [env.advance(BUTTONS.index(button)) for button in (*way, door)]
        assert not any(step.terminated for step in steps[:-1])
        assert steps[-1].terminated
        ends.append(steps[-1].milestones)
    env.close()
    assert sorted(ends) == [[], [], [], ["PASSWORD_RIGHT"]]
