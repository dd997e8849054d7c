"""Which config file is meant by a path that may not be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.config import Config, load_config
from cluster_rl.configs.files import PRESET_DIR, config_name, find_config
from cluster_rl.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("typed", "file"),
    [
        ("cluster_rl/cluster_config.json", "cluster_config.json"),
        ("cluster_config.json", "cluster_config.json"),
        ("configs/slim.yaml", "slim.yaml"),
        ("slim_cpu.yml", "slim_cpu.yaml"),
        ("/home/somebody/cluster_rl/configs/slim_cpu.json", "slim_cpu.yaml"),
        ("configs/gpu", "gpu.yaml"),
    ],
)
def test_a_shipped_name_is_enough_and_said(typed: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_config(typed)
    assert found == PRESET_DIR / file
    assert capsys.readouterr() == ("", f"{typed} is not there; using {found.resolve()}\n")


def test_a_preset_by_its_name_needs_no_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slim").mkdir()
    assert find_config("slim") == PRESET_DIR / "slim.yaml"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("typed", ["configs/slim.yaml", "cluster_config.json", "slim"])
def test_a_file_that_is_there_always_wins(tmp_path: Path, typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / typed
    path.parent.mkdir(exist_ok=True)
    path.write_text("gamma: 0.5" if path.suffix != ".json" else '{"gamma": 0.5}')
    assert load_config(typed).gamma == 0.5
    assert capsys.readouterr() == ("", "")


def test_the_file_is_named_as_one_would_type_it_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    find_config("cluster_rl/cluster_config.json")
    assert capsys.readouterr().err == "cluster_rl/cluster_config.json is not there; using cluster_config.json\n"


def test_the_default_config_lies_with_the_presets_too() -> None:
    shipped = PRESET_DIR / "cluster_config.json"
    assert shipped.resolve() == ROOT / "cluster_config.json"
    assert load_config(shipped) == Config()


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UserError, match=r"configs/slim_gpu\.yaml: no such file; did you mean slim_cpu\? those"
    ) as found:
        find_config("configs/slim_gpu.yaml")
    assert all(path.stem in str(found.value) for path in PRESET_DIR.glob("*.yaml"))
    with pytest.raises(UserError, match=r"config mine\.yaml: no such file; those shipped are"):
        find_config("mine.yaml")


def test_an_empty_path_is_no_default() -> None:
    with pytest.raises(UserError, match="its path is empty"):
        find_config("")


def test_name_of_a_config() -> None:
    names = ["gpu", "a/slim.yml", "v1.5.json", "v1.5"]
    assert [config_name(name) for name in names] == ["gpu", "slim", "v1.5", "v1.5"]
