"""An actor whose episodes begin at archived states: each step is sent once, and sequences say where they began."""

from __future__ import annotations

import msgspec
import numpy as np
from acting_fixtures import CONFIGS, Collector, network

from cluster_rl.acting.loop import Actor
from cluster_rl.emulator.playback import replay
from cluster_rl.emulator.spaces import NO_ACTION, block_spec
from cluster_rl.exploration.archive import Archive
from cluster_rl.model import params_to_bytes
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import log_paths, read_log
from cluster_rl.wire.codec import decode_arrays

CONFIG = msgspec.structs.replace(CONFIGS["town"], archive_entries=40, start_share=0.6)


def test_steps_are_the_positions_sent_wherever_episodes_begin(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rom = load_rom("")
    archive = Archive(tmp_path / "archive", rom.sha1, "frontier", 40, 10**8)
    archive.publish()
    link = Collector(params_to_bytes(network("town")))
    actor = Actor(CONFIG, 0, 1, link, tmp_path / "logs", "run", tmp_path / "archive")
    for slot in actor.slots:
        assert slot.env._starts is not None
        slot.env._starts._read_sec = 0.0  # type: ignore[attr-defined]
    for step in actor.run():
        if step % 50 == 0:
            archive.admit()
            archive.publish()
        if step >= 1200:
            break
    actor.stop()
    blocks = [decode_arrays(block, block_spec(CONFIG)) for block in link.blocks]
    assert actor.env_steps == sum(header.train_length for header, _ in blocks) == 1200
    positions = {(h.emulator, h.episode, h.first_step + n) for h, _ in blocks for n in range(h.train_length)}
    assert len(positions) == 1200
    tags = [header.summary.start.tag for header, _ in blocks if header.summary is not None]
    assert 5 <= tags.count("archive") <= len(tags) - 5
    for header, arrays in blocks:
        if header.first_step == 0:  # nothing was remembered by the cell, and nothing done before
            assert not arrays.state_h.any()
            assert not arrays.state_c.any()
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
        replay(log, rom, "x", lambda: False)
    known = {entry.key for entry in archive.entries}
    assert {log.header.start.id for log in archived if log.header.start is not None} <= known
