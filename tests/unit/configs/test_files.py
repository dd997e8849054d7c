"""Which config file is meant by a path that may not be there, and what a file holds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cluster_rl.config import Config, load_config
from cluster_rl.configs.files import PRESET_DIR, config_name, find_config, read_config_file
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


BOMB = "a: &a {k: x, l: x, m: x}\n" + "".join(
    f"{here}: &{here} {{k: *{before}, l: *{before}, m: *{before}}}\n" for before, here in pairwise("abcdefghijklmno")
)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b"{", "not valid json: "),
        ("a.yaml", b"a: [1", "not valid yaml: "),
        ("a.yaml", b"- 1", "must be a mapping of keys to values, not list"),
        ("a.json", b"[]", "must be a mapping of keys to values, not list"),
        ("a.json", b"[" * 99_999, "not valid json: nested too deep"),
        ("a.yaml", b"[" * 3_000, "not valid yaml: nested too deep"),
        ("a.json", b'{"gamma": ' + b"1" * 5_000 + b"}", "not valid json: a number of more than 4,300 digits"),
        ("a.yaml", b"gamma: " + b"1" * 5_000, "not valid yaml: a number of more than 4,300 digits"),
        ("a.yaml", b"gamma: 2001-99-99", "not valid yaml: month must be in 1..12"),
        ("a.yaml", b"a: &a [*a]", "a part of it holds itself"),
        ("a.yaml", b"a: &a {b: *a}", "a part of it holds itself"),
        ("a.yaml", BOMB.encode(), "or it holds more than 100000 values"),
        ("a.json", b'{"gamma": 1, "n_step": 3, "gamma": 2}', "key 'gamma' is written 2 times in one place; leave one"),
        ("a.json", b'{"rewards": {"step": 1, "step": 2}}', "key 'step' is written 2 times in one place; leave one"),
        ("a.yaml", b"gamma: 1\n'gamma': 1\n", "key 'gamma' is written 2 times in one place; leave one"),
        ("a.yml", b"rewards:\n  step: 1\n  step: 2\n", "key 'step' is written 2 times in one place; leave one"),
        ("a.json", '{"gamma": 1}'.encode("utf-16"), "is not UTF-8 text (byte 0); save it as UTF-8"),
        ("a.yaml", b"rom: caf\xe9", "is not UTF-8 text (byte 8); save it as UTF-8"),
    ],
)
def test_a_bad_file_is_one_line(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read_config_file(tmp_path / name)
    assert str(error.value).startswith(f"config {tmp_path / name}: ")
    assert words in str(error.value)


def test_a_mark_of_utf_8_and_what_yaml_repeats_are_read(tmp_path: Path) -> None:
    for name, text in (("a.json", '{"gamma": 1}'), ("a.yaml", "gamma: 1")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read_config_file(tmp_path / name) == {"gamma": 1}
    (tmp_path / "b.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, x: 2, y: 3}\nc: *a\n")
    assert read_config_file(tmp_path / "b.yaml") == {"a": {"x": 1}, "b": {"x": 2, "y": 3}, "c": {"x": 1}}
