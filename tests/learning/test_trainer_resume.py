"""A run that was stopped and goes on is the run that was never stopped, to the bit, through the real files.

Each part of a checkpoint is also left out once: a run that goes on without it must then come out different, or nothing
would notice if it were not saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from trainer_fixtures import CONFIG, OBSERVATION, changed, episodes, ingest, open_trainer, train

from cluster_rl.config import Config
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.runs.checkpoint import flatten_state, load_checkpoint, save_checkpoint, unflatten_state
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.trainer import Trainer

BEFORE, AFTER = 4, 5  # updates; the target is copied after 3, 6 and 9, so once between checkpoint and end


def everything(trainer: Trainer) -> dict[str, bytes]:
    """All state that later updates depend on, as bytes by name."""
    state = {
        "r2d2": trainer.r2d2.state_dict(),
        "replay": trainer.replay.state_dict(),
        "limiter": vars(trainer.limiter),
        "sample_rng": trainer.sample_rng.bit_generator.state,
        "totals": trainer.replay.totals(),
        "leaves": trainer.replay._index.tree.leaves,
        "rnd": None if trainer.rnd is None else trainer.rnd.state_dict(),
    }
    tensors, tree = flatten_state(state)
    return {name: np.asarray(value).tobytes() for name, value in tensors.items()} | {"tree": repr(tree).encode()}


def start(folder: Path, config: Config = CONFIG) -> Trainer:
    """A new run up to where it is stopped, or not."""
    trainer = open_trainer(folder, config)
    ingest(trainer, episodes(0, 4))
    train(trainer, BEFORE)
    return trainer


def finish(trainer: Trainer) -> dict[str, bytes]:
    """The rest of the run, with more data coming in, and what it ends with."""
    ingest(trainer, episodes(4, 1))
    train(trainer, AFTER)
    found = everything(trainer)
    trainer.close("test")
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return finish(start(tmp_path_factory.mktemp("unbroken")))


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    trainer = start(tmp_path)
    before = everything(trainer)
    trainer.close("stopped")
    resumed = open_trainer(tmp_path)
    assert everything(resumed) == before
    after = finish(resumed)
    assert [name for name, value in unbroken.items() if after[name] != value] == []
    assert after.keys() == unbroken.keys()


@pytest.mark.parametrize("by_counts", [True, False])
def test_a_resumed_run_is_as_curious_as_an_unbroken_one(
    tmp_path: Path, unbroken: dict[str, bytes], by_counts: bool
) -> None:
    config = changed(w_rnd=0.5, rnd_by_counts=by_counts)
    expected = finish(start(tmp_path / "unbroken", config))
    start(tmp_path / "stopped", config).close("stopped")
    assert finish(open_trainer(tmp_path / "stopped", config)) == expected
    # And curiosity is what this run learned by.
    online = [name for name in unbroken if ".online." in name]
    assert online
    assert all(expected[name] != unbroken[name] for name in online if "noise" not in name)


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.5), (0.5, 0.0)])
def test_curiosity_can_be_turned_on_and_off_between_jobs(tmp_path: Path, before: float, after: float) -> None:
    start(tmp_path, changed(w_rnd=before)).close("stopped")
    resumed = open_trainer(tmp_path, changed(w_rnd=after))
    assert ("curiosity starts anew" in resumed.restored) == (after > 0)
    train(resumed, 2)
    resumed.close("stopped")
    found = load_checkpoint(RunDir(tmp_path, "run").checkpoint)
    assert found is not None
    assert ("rnd" in unflatten_state(found.tensors, found.meta["state"])) == (after > 0)
    again = open_trainer(tmp_path, changed(w_rnd=after))
    assert "curiosity" not in again.restored
    again.close("stopped")


def test_a_killed_learner_goes_on_from_its_last_checkpoint(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    trainer = start(tmp_path)
    trainer.checkpoint()
    train(trainer, 2)  # lost with the process
    trainer.replay.close()  # frees the lock, as the kernel does
    assert finish(open_trainer(tmp_path)) == unbroken


def test_people_get_the_averaged_weights_and_actors_the_newest(tmp_path: Path) -> None:
    trainer = start(tmp_path)
    r2d2 = trainer.r2d2
    _, newest = trainer.publish()
    assert all(torch.equal(x, r2d2.online.state_dict()[name]) for name, x in safetensors.torch.load(newest).items())
    trainer.close("test")
    written = torch.load(trainer.run_dir.online_params, weights_only=True)
    assert all(torch.equal(x, r2d2.averaged.state_dict()[name]) for name, x in written.items())
    assert not all(torch.equal(x, r2d2.online.state_dict()[name]) for name, x in written.items())


def test_another_seed_ends_elsewhere(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    trainer = start(tmp_path)
    trainer.sample_rng = np.random.default_rng(99)
    assert finish(trainer) != unbroken


def _without(prefix: str) -> Callable[[dict[str, Any]], None]:
    def drop(state: dict[str, Any]) -> None:
        tensors = state["r2d2"]["tensors"]
        names = [name for name in tensors if name.startswith(prefix)]
        assert names
        for name in names:
            del tensors[name]

    return drop


def _as_new(prefix: str) -> Callable[[dict[str, Any]], None]:
    """These tensors of the learner as they are in a new run."""

    def replace(state: dict[str, Any]) -> None:
        fresh = R2D2(CONFIG, OBSERVATION, "cpu", CONFIG.base_seed).state_dict()["tensors"]
        names = [name for name in fresh if name.startswith(prefix)]
        assert any(not torch.equal(state["r2d2"]["tensors"][name], fresh[name]) for name in names)
        state["r2d2"]["tensors"] |= {name: fresh[name] for name in names}

    return replace


def _target_from_online(state: dict[str, Any]) -> None:
    tensors = state["r2d2"]["tensors"]
    online = {name.removeprefix("online."): value for name, value in tensors.items() if name.startswith("online.")}
    assert any(not torch.equal(tensors[f"target.{name}"], value) for name, value in online.items())
    tensors |= {f"target.{name}": value for name, value in online.items()}


def _no_priorities(state: dict[str, Any]) -> None:
    state["replay"] = {name: values[:0] for name, values in state["replay"].items()}


def _new_sample_rng(state: dict[str, Any]) -> None:
    state["sample_rng"] = np.random.default_rng([CONFIG.base_seed, 1]).bit_generator.state


def _new_limiter(state: dict[str, Any]) -> None:
    state["limiter"] = {"sampled": 0}


def _no_updates(state: dict[str, Any]) -> None:
    state["r2d2"]["updates"] = 0


@pytest.mark.parametrize(
    "drop",
    [
        pytest.param(_as_new("online."), id="online"),
        pytest.param(_as_new("target."), id="target"),
        pytest.param(_as_new("averaged."), id="averaged"),
        pytest.param(_target_from_online, id="target taken from online"),
        pytest.param(_without("optimizer."), id="optimizer"),
        pytest.param(_as_new("rng.online_noise"), id="noise of online"),
        pytest.param(_as_new("rng.target_noise"), id="noise of target"),
        pytest.param(_no_updates, id="updates"),
        pytest.param(_no_priorities, id="priorities"),
        pytest.param(_new_sample_rng, id="sample_rng"),
        pytest.param(_new_limiter, id="limiter"),
    ],
)
def test_a_part_left_out_changes_the_run(
    tmp_path: Path, unbroken: dict[str, bytes], drop: Callable[[dict[str, Any]], None]
) -> None:
    start(tmp_path).close("stopped")
    folder = RunDir(tmp_path, "run").checkpoint
    found = load_checkpoint(folder)
    assert found is not None
    state: dict[str, Any] = unflatten_state(found.tensors, found.meta["state"])
    drop(state)
    tensors, tree = flatten_state(state)
    save_checkpoint(folder, tensors, {"updates": found.updates, "state": tree})
    assert finish(open_trainer(tmp_path)) != unbroken


def test_the_files_alone_make_no_difference(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    """The way of the test above, with nothing left out: what differs there is due to the part."""
    start(tmp_path).close("stopped")
    folder = RunDir(tmp_path, "run").checkpoint
    found = load_checkpoint(folder)
    assert found is not None
    tensors, tree = flatten_state(unflatten_state(found.tensors, found.meta["state"]))
    save_checkpoint(folder, tensors, {"updates": found.updates, "state": tree})
    assert finish(open_trainer(tmp_path)) == unbroken
