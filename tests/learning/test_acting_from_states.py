"""An actor whose episodes begin at archived states: each step is sent once, and sequences say where they began."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from acting_fixtures import CONFIGS, Block, Collector, network

from cluster_rl.acting.exploration import actor_epsilons
from cluster_rl.acting.loop import Actor
from cluster_rl.acting.rollout import Rollout
from cluster_rl.config import Config
from cluster_rl.emulator.env import Observation, make_env
from cluster_rl.emulator.playback import replay
from cluster_rl.emulator.spaces import NO_ACTION, block_spec, observation_spec
from cluster_rl.emulator.start_memory import unpack_memory
from cluster_rl.exploration.archive import Archive, read_state
from cluster_rl.model import build_model, params_to_bytes
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import log_paths, read_log
from cluster_rl.wire.codec import decode_arrays

CONFIG = msgspec.structs.replace(CONFIGS["town"], archive_entries=40, start_share=0.6)


def play_with_archive(folder: Path, config: Config) -> tuple[Actor, Archive, list[Block]]:
    """1,200 steps of an actor whose states are let in at once, and what it sent."""
    archive = Archive(folder / "archive", load_rom("").sha1, "frontier", 40, 10**8)
    archive.publish()
    link = Collector(params_to_bytes(network("town")))
    actor = Actor(config, 0, 1, link, folder / "logs", "run", folder / "archive")
    for slot in actor.slots:
        assert slot.env._starts is not None
        slot.env._starts._read_sec = 0.0
    for step in actor.run():
        if step % 50 == 0:
            archive.admit()
            archive.publish()
        if step >= 1200:
            break
    actor.stop()
    return actor, archive, [decode_arrays(block, block_spec(config)) for block in link.blocks]


def test_steps_are_the_positions_sent_wherever_episodes_begin(tmp_path: Path) -> None:
    actor, archive, blocks = play_with_archive(tmp_path, CONFIG)
    assert actor.env_steps == sum(header.train_length for header, _ in blocks) == 1200
    positions = {(h.emulator, h.episode, h.first_step + n) for h, _ in blocks for n in range(h.train_length)}
    assert len(positions) == 1200
    tags = [header.summary.start.tag for header, _ in blocks if header.summary is not None]
    assert 5 <= tags.count("archive") <= len(tags) - 5
    for header, arrays in blocks:
        if header.first_step == 0:  # what the cell remembers there was kept, and nothing was done before
            assert arrays.state_h.any() == arrays.state_c.any() == (header.start_tag == "archive")
            assert header.first_prev_action == NO_ACTION
        if header.summary is not None:
            assert header.start_tag == header.summary.start.tag
            assert header.summary.entropy is not None
            assert 0 <= header.summary.entropy <= np.log(NO_ACTION)
    logs = [read_log(path) for path in log_paths(tmp_path / "logs")]
    assert sum(log.header.steps for log in logs) == 1200
    assert sorted(log.header.start.tag for log in logs if log.header.start is not None) == sorted(tags)
    archived = [log for log in logs if log.header.start is not None and log.header.start.tag == "archive"]
    for log in archived[:3]:
        replay(log, load_rom(""), "x", lambda: False)
    known = {entry.key for entry in archive.entries}
    assert {log.header.start.id for log in archived if log.header.start is not None} <= known


def test_an_episode_from_a_state_begins_with_what_the_cell_remembered_there(tmp_path: Path) -> None:
    """To the bit, as sequences store it."""
    _, _, blocks = play_with_archive(tmp_path, CONFIG)
    begins = {}
    for header, arrays in blocks:
        if header.first_step == 0 and header.start_tag == "archive":
            begins[header.emulator, header.episode] = arrays.state_h.tobytes() + arrays.state_c.tobytes()
    starts = {
        (header.emulator, header.episode): header.summary.start.id for header, _ in blocks if header.summary is not None
    }
    kept = {}
    for path in (tmp_path / "archive" / "states").glob("*.start"):
        state = read_state(path)
        memory = unpack_memory(state.memory, path.name)
        assert memory is not None
        kept[state.header.key] = memory.recurrent
    known = [key for key in begins if starts.get(key) in kept]
    assert len(known) >= 5
    # A cell's state may have been replaced by a shorter way there meanwhile.
    assert sum(begins[key] == kept[starts[key]] for key in known) > len(known) / 2


@pytest.mark.parametrize(
    "kept", [b"", b"\x01" * 7, np.full(6, 1.0, np.float16).tobytes(), np.full(2 * 16, np.nan, np.float16).tobytes()]
)
def test_what_is_kept_of_another_network_or_damaged_begins_at_zero(kept: bytes) -> None:
    config = msgspec.structs.replace(CONFIGS["town"], lstm_hidden_size=16)
    env = make_env(config, 0)
    play = Rollout([env], build_model(config, observation_spec(config)).eval())
    play.start(0)
    for action in (0, 4, 4):
        play.act()
        for _ in play.play([action], [0]):
            carried = np.concatenate([part[0] for part in play.state]).astype(np.float16)
            assert env.recurrent_state() == carried.tobytes()
            assert carried.any()
    begun = env.start

    def start() -> Observation:
        observation = begun()
        env.start_recurrent = kept
        return observation

    env.start = start  # type: ignore[method-assign]
    play.start(0)
    assert not any(part.any() for part in play.state)
    env.close()


def test_a_share_of_the_episodes_from_states_is_random_actions_alone(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, start_explore_share=0.5)
    _, _, blocks = play_with_archive(tmp_path, config)
    ladder = actor_epsilons(config, 0)
    epsilons: dict[tuple[int, int], set[float]] = {}
    for header, _ in blocks:
        if header.params_version > 0 or header.start_tag == "archive":
            epsilons.setdefault((header.emulator, header.episode), set()).add(header.epsilon)
    tags = {(header.emulator, header.episode): header.start_tag for header, _ in blocks}
    assert all(len(found) == 1 for found in epsilons.values())  # the same to the end of an episode
    explored = {episode for episode, found in epsilons.items() if found == {1.0}}
    assert all(tags[episode] == "archive" for episode in explored)
    from_states = [episode for episode in epsilons if tags[episode] == "archive"]
    assert 3 <= len(explored) <= len(from_states) - 3
    assert all(found == {ladder[episode[0]]} for episode, found in epsilons.items() if episode not in explored)
    of = {True: [0, 0], False: [0, 0]}  # explored: steps, the policy's own choices among them
    for header, arrays in blocks:
        counts, first = of[(header.emulator, header.episode) in explored], header.burn_in_length
        counts[0] += header.train_length
        counts[1] += int(arrays.greedy[first : first + header.train_length].sum())
    assert of[True][1] / of[True][0] < 0.5 < of[False][1] / of[False][0]
    logs = [read_log(path).header for path in log_paths(tmp_path / "logs")]
    assert {(log.emulator, log.episode) for log in logs if log.epsilon == 1.0} == explored
