"""The config schema: documented defaults, refusals, overrides, and that every key is read somewhere."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

import cluster_rl
from cluster_rl.config import (
    Config,
    config_keys,
    config_to_json,
    load_config,
    sequence_schema_hash,
    split_overrides,
)
from cluster_rl.configs.files import PRESET_DIR
from cluster_rl.errors import UserError

PACKAGE = Path(cluster_rl.__file__).parent
ROOT = PACKAGE.parent

DOCUMENTED_DEFAULTS = {
    "target_total_steps": 25_000_000,
    "replay_capacity_transitions": 5_000_000,
    "max_runtime_seconds": 13_500,
    "total_episodes": 0,
    "num_actors": 6,
    "unroll_length": 80,
    "burn_in": 40,
    "batch_size": 64,
    "n_step": 5,
    "gamma": 0.997,
    "prioritized_alpha": 0.9,
    "occupancy_crop_radius": 4,
    "affordance_fail_threshold": 2,
    "frame_skip": 24,
    "use_spatial_attention": True,
    "lstm_hidden_size": 512,
    "num_quantiles": 32,
    "log_episodes_for_replay": True,
    "base_seed": 1,
}


def _attributes_read(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_documented_defaults() -> None:
    config = Config()
    assert {name: getattr(config, name) for name in DOCUMENTED_DEFAULTS} == DOCUMENTED_DEFAULTS


def test_shipped_config_and_docs_are_the_schema() -> None:
    assert load_config(ROOT / "cluster_config.json") == Config()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/config_docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_documents_are_held_against_their_own_checkout(tmp_path: Path) -> None:
    """Another checkout's package is on the path, as it is where that one is installed."""
    for name in ("scripts/config_docs.py", "docs/config.md", "cluster_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(PACKAGE, tmp_path / "cluster_rl", ignore=shutil.ignore_patterns("__pycache__", "cartridge"))
    command = [sys.executable, str(tmp_path / "scripts/config_docs.py"), "--check"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    schema = tmp_path / "cluster_rl" / "config.py"
    changed = schema.read_text(encoding="utf-8").replace("badge: Annotated[", "medal: Annotated[")
    schema.write_text(changed, encoding="utf-8")
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "docs/config.md is stale; run python scripts/config_docs.py",
        "cluster_config.json is stale; run python scripts/config_docs.py",
    ]


def test_every_key_has_a_reader_a_help_line_and_a_unit() -> None:
    read: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name != "config.py":
            read |= _attributes_read(ast.parse(path.read_text(encoding="utf-8")))
    # A property is read through to what it is made of.
    made = ast.parse((PACKAGE / "config.py").read_text(encoding="utf-8"))
    functions = {node.name: _attributes_read(node) for node in ast.walk(made) if isinstance(node, ast.FunctionDef)}
    properties = {name: found for name, found in functions.items() if isinstance(getattr(Config, name, None), property)}
    for _ in properties:
        read |= {key for name, found in properties.items() if name in read for key in found}
    # Reward weights are read by iterating over the terms.
    terms = {f"rewards.{name}" for name in msgspec.structs.asdict(Config().rewards)}
    for key, meta in config_keys().items():
        assert key in terms or key.rsplit(".", 1)[-1] in read, f"nobody reads {key}"
        assert meta.description, f"{key} has no help line"
        assert "unit" in (meta.extra or {}), f"{key} has no unit"


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESET_DIR.glob("*.yaml")))
def test_presets_load(name: str) -> None:
    assert isinstance(load_config(name), Config)


def test_json_and_yaml_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"batch_size": 3, "rewards": {"badge": 7}}))
    (tmp_path / "a.yaml").write_text("batch_size: 3\nrewards:\n  badge: 7\n")
    from_json, from_yaml = load_config(tmp_path / "a.json"), load_config(tmp_path / "a.yaml")
    assert from_json == from_yaml
    assert (from_json.batch_size, from_json.rewards.badge, from_json.rewards.step) == (3, 7, Config().rewards.step)
    changed = load_config(tmp_path / "a.json", ["rewards.badge=1", "model.kind=slim", "batch_size=5"])
    assert (changed.rewards.badge, changed.model.kind, changed.batch_size) == (1, "slim", 5)


def test_texts_that_are_numbers_or_truth_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-4\nstart_button: 'no'\n")  # YAML 1.1 wants 1.0e-4
    with pytest.raises(UserError, match="start_button"):
        load_config(tmp_path / "a.yaml")
    config = load_config(tmp_path / "a.yaml", ["start_button=False", "rewards.novelty=2e-2"])
    assert (config.learning_rate, config.start_button, config.rewards.novelty) == (1e-4, False, 0.02)


def test_resolved_config_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config("quickstart", ["gamma=0.9"])
    (tmp_path / "config.json").write_bytes(config_to_json(config))
    assert load_config(tmp_path / "config.json") == config


def test_a_path_that_is_no_text_is_kept_as_it_is(tmp_path: Path) -> None:
    config = load_config(None, ["rom=" + os.fsdecode(b"caf\xe9/Pok\xc3\xa9mon.gb")])
    (tmp_path / "config.json").write_bytes(config_to_json(config))
    assert load_config(tmp_path / "config.json") == config


def test_command_line_forms() -> None:
    assert split_overrides(["--a.b", "1", "--c=2", "d=3", "--e-f", "x"]) == ["a.b=1", "c=2", "d=3", "e_f=x"]
    for bad in (["--gamma"], ["--start-button", "--gamma=1"], ["word"]):
        with pytest.raises(UserError):
            split_overrides(bad)
    # Not our keys: the config's check answers all of them.
    assert split_overrides(["--headless", "--lr", "1", "--no-render"]) == ["headless=", "lr=1", "no_render="]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batchsize=3", ["batchsize", "batch_size"]),
        ("rewards.bagde=3", ["rewards.bagde", "rewards.badge"]),
        ("badge=3", ["badge", "rewards.badge"]),
        ("batch_size=x", ["batch_size", "whole number", "x"]),
        ("batch_size=0", ["batch_size", ">= 1"]),
        ("gamma=1.01", ["gamma", "<= 1"]),
        ("model.conv_channels=[]", ["model.conv_channels"]),
        ("model.kind=large", ["model.kind", "large"]),
        ("rewards=3", ["rewards"]),
        ("min_replay_transitions=9000000", ["min_replay_transitions", "replay_capacity_transitions"]),
        ("lstm_hidden_size=100", ["lstm_hidden_size", "8"]),
    ],
)
def test_bad_values_are_named(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def _lines(path: Path | None, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return list(caught.value.lines)


def test_everything_that_is_wrong_comes_in_one_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    wrong = {"rom_path": "red.gb", "frame_skip": 4, "gamma": 0.9, "rewards": {"badges": 1, "xyz": 2, "step": "x"}}
    path.write_text(json.dumps({**wrong, "model": {"conv_channels": [8, 0]}, "notes": {}}))
    assert _lines(path, ["lr=1", "headless="]) == [
        f"{path} and overrides: 9 keys are wrong",
        "rom_path: unknown key; did you mean rom?",
        "frame_skip: Expected `int` >= 9",
        "rewards.badges: unknown key; did you mean rewards.badge?",
        "rewards.step: must be a number, not 'x'",
        "model.conv_channels: Expected `int` >= 1, at `[1]`",
        "lr: unknown key; did you mean learning_rate?",
        "unknown, with nothing like it here: rewards.xyz, notes, headless",
    ]


def test_a_wrong_choice_is_answered_with_the_choices() -> None:
    assert _lines(None, ["model.kind=big"]) == [
        "defaults and overrides: model.kind: Invalid enum value 'big'; it is one of unified, slim"
    ]


def test_of_very_many_unknown_keys_the_first_are_named() -> None:
    lines = _lines(None, [f"gamma{number}=1" for number in range(3000)])
    assert (lines[0], len(lines)) == ("defaults and overrides: 3000 keys are wrong", 32)
    assert lines[-2:] == ["gamma29: unknown key; did you mean gamma?", "and 2970 more such keys"]
    lines = _lines(None, [f"xyz{number}=1" for number in range(1000)])
    assert lines[-1].endswith("xyz28, xyz29 and 970 more")


def test_sections_of_other_projects_are_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("env: {init_state: x}\ntraining: {optimizer: {lr: 1.0e-4}}\n3: {}\n")
    assert _lines(path)[1:] == [
        "env.init_state: unknown key; did you mean initial_state?",
        "training.optimizer.lr: unknown key; did you mean learning_rate?",
        "unknown, with nothing like it here: 3",
    ]


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000, '"' + "1" * 5000 + '"'])
def test_a_number_that_python_does_not_read_is_a_wrong_value(value: str) -> None:
    for key in ("gamma", "batch_size"):
        with pytest.raises(UserError, match=key):
            load_config(None, [f"{key}={value}"])


def test_schema_hash_covers_shapes_and_nothing_else() -> None:
    base = sequence_schema_hash(Config())
    assert sequence_schema_hash(load_config(None, ["gamma=0.5", "num_actors=1", "target_total_steps=5"])) == base
    for shape in ("burn_in=1", "lstm_hidden_size=8", "model.trunk_width=64", "frame_skip=30"):
        assert sequence_schema_hash(load_config(None, [shape])) != base


@pytest.mark.parametrize("seconds", ["0.1", "1", "9.9"])
def test_evaluations_are_not_due_before_one_can_have_begun(seconds: str) -> None:
    words = rf"evaluate_interval_seconds: must be 0 \(never\) or at least 10, not {seconds}$"
    with pytest.raises(UserError, match=words):
        load_config(None, [f"evaluate_interval_seconds={seconds}"])
    for right in (0.0, 10.0):
        assert load_config(None, [f"evaluate_interval_seconds={right}"]).evaluate_interval_seconds == right


def test_what_new_ground_costs_has_no_value_of_its_own() -> None:
    with pytest.raises(
        UserError, match=r"rewards.novelty: -0.3 is less than 0, .* give 0 or more, or intrinsic_gamma 0$"
    ):
        load_config(None, ["intrinsic_gamma=0.9", "rewards.novelty=-0.3", "w_rnd=0.4"])
    assert load_config(None, ["rewards.novelty=-0.3", "w_rnd=0.4"]).stream_weights == (1.0,)
