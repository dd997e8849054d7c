"""The agents that are shipped: found by name, what the documents say they are, and they play what they should."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import msgspec
import pytest
from safetensors import safe_open

from cluster_rl.agents import find_agent
from cluster_rl.config import config_values
from cluster_rl.errors import UserError
from cluster_rl.evaluate import main
from cluster_rl.exporting.policy_file import read_policy

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "cluster_rl" / "agents").glob("*.safetensors"))
MOST_BYTES = 4 << 20


def test_a_shipped_agent_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (agent,) = (path for path in SHIPPED if path.stem == "firefly_wood")
    assert find_agent("firefly_wood") == find_agent("firefly_wood.safetensors") == agent
    (tmp_path / "firefly_wood").mkdir()  # for logs, say
    assert find_agent("firefly_wood") == agent
    own = tmp_path / "firefly_wood.safetensors"
    own.write_bytes(b"")
    assert find_agent("firefly_wood.safetensors") == Path(own.name)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("firefly", "--params firefly: no such file; agents that are shipped: firefly_wood"),
        ("elsewhere/firefly_wood", "--params elsewhere/firefly_wood: no such file"),
        ("/", "--params /: is no file"),
        ("", "--params : is no file"),
    ],
)
def test_what_is_neither_a_file_nor_shipped_is_told(given: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(words)}"):
        find_agent(given)


def test_the_documented_hashes_are_those_of_the_files() -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \|.*`([0-9a-f]{64})`", page, re.M))
    assert told == {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_agent_is_small_and_tells_of_no_machine(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    config, _ = read_policy(path)
    texts = {key: value for key, value in config_values(config).items() if isinstance(value, str)}
    paths = {key for key in texts if key in ("puffer", "start_states", "replay_dir", "bind_host")}
    assert len(paths) == 4
    assert {texts[key] for key in paths} == {""}
    with safe_open(path, "pt") as file:
        assert "/" not in "".join(file.metadata().values())


def test_the_agent_crosses_firefly_wood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--params", "firefly_wood", "--episodes", "2", "--seed", "606", "--json", "--logs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    assert main() == 0
    found = msgspec.json.decode(capsys.readouterr().out)
    assert (found["run"], found["params"], found["start"]) == (None, "firefly_wood", "from the lesson forest")
    assert found["milestones"]["FOREST"]["episodes"] == 2
    assert len(list(tmp_path.glob("*.eplog"))) == 2
    monkeypatch.setattr(sys, "argv", ["evaluate", *words[:7], "--random"])
    assert main() == 0
    assert json.loads(capsys.readouterr().out)["milestones"]["FOREST"]["episodes"] == 0
