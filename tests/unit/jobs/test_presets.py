"""The game decides which preset a trainer takes that was given none; what is not Red is warned of where all look."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from blank_rom import blank_rom
from rich.console import Console as Terminal

from cluster_rl import rom as rom_module
from cluster_rl.config import Config, config_values, load_config, split_overrides
from cluster_rl.errors import UserError
from cluster_rl.jobs import devices
from cluster_rl.jobs.opening import dry_run, open_job
from cluster_rl.jobs.presets import choose_config, warnings_of_game
from cluster_rl.jobs.status import StatusView
from cluster_rl.rom import RED_SHA1, game_warning, load_rom
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress

GAME_KEYS = {"start_button", "episode_max_steps", "gamma", "wander_every_steps", "rewards.talk"}
PARTS = {"archive_entries", "start_share", "start_explore_share", "frontier_weight", "epsilon_hold_steps_max"} | {
    "w_rnd",
    "rewards.novelty",
    "intrinsic_gamma",
}
"""Of the slim agent, beside `advantage_alpha`."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def differences(one: str, other: str) -> set[str]:
    first, second = config_values(load_config(one)), config_values(load_config(other))
    return {key for key in first if first[key] != second[key]}


def test_reds_presets_are_those_of_the_same_machine_with_reds_game() -> None:
    assert differences("red", "gpu") - {"advantage_alpha"} <= GAME_KEYS | PARTS
    assert differences("red_cpu", "cpu") == GAME_KEYS | PARTS - {"start_share"}
    for name in ("red", "red_cpu"):
        config = load_config(name)
        assert config.start_button
        assert config.episode_max_steps >= 20_000
    assert not differences("red", "red_cpu") & (GAME_KEYS | PARTS | {"advantage_alpha"})


@pytest.mark.parametrize("name", ["slim", "lanternvale", "red", "red_cpu"])
def test_the_slim_agents_presets_have_all_its_parts(name: str) -> None:
    config = load_config(name)
    assert config.archive_entries >= 1000
    assert min(config.start_share, config.start_explore_share, config.w_rnd, config.rewards.novelty) > 0
    assert config.start_weighting == "frontier"
    assert config.advantage_alpha > 0
    assert config.intrinsic_stream


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize(
    ("default", "on_gpu", "on_cpu"),
    [
        ("quickstart", "red_cpu", "red_cpu"),
        ("cpu", "red_cpu", "red_cpu"),
        ("slim_cpu", "red_cpu", "red_cpu"),
        ("gpu", "red", "red"),
        ("slim", "slim", "slim"),
        ("cluster_config", "red", "red_cpu"),
    ],
)
def test_red_without_a_config(
    default: str,
    on_gpu: str,
    on_cpu: str,
    cuda: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(devices, "why_no_cuda", lambda: None if cuda else "none here")
    rom = blank_rom(tmp_path, "POKEMON RED")
    wanted = on_gpu if cuda else on_cpu
    assert choose_config(default, ["--rom", str(rom), "--gamma=0.9"]) == wanted
    out = capsys.readouterr().out
    assert out.startswith(f"config: {wanted}, as this is " if wanted != default else "")
    assert ("no --config was given" in out) == (wanted != default)
    # The last word holds, as for the trainer: here, the cartridge.
    assert choose_config(default, ["--rom", str(rom), "rom="]) == default
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("title", ["POKEMON BLUE", "POKEMON YELLOW", "TETRIS", ""])
def test_other_games_get_what_red_gets(title: str, tmp_path: Path) -> None:
    assert choose_config("quickstart", [f"--rom={blank_rom(tmp_path, title)}"]) == "red_cpu"


def test_the_cpu_is_asked_for_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "why_no_cuda", lambda: None)
    rom = blank_rom(tmp_path, "POKEMON RED")
    assert choose_config("cluster_config", [f"--rom={rom}", "--device", "cpu"]) == "red_cpu"


def test_overrides_are_held_against_the_config_that_is_taken(tmp_path: Path) -> None:
    """Not against the default: `quickstart` has a smaller replay than this."""
    arguments = [f"--rom={blank_rom(tmp_path, 'POKEMON RED')}", "--min_replay_transitions", "600000"]
    assert choose_config("quickstart", arguments) == "red_cpu"
    assert load_config("red_cpu", split_overrides(arguments)).min_replay_transitions == 600_000


def test_what_is_wrong_is_left_to_the_trainer() -> None:
    """It says in one answer what is wrong with the other arguments too."""
    assert choose_config("quickstart", ["--device", "gpu"]) == "quickstart"
    with pytest.raises(UserError, match=r"device: .*; lr: "):
        load_config("quickstart", split_overrides(["--device", "gpu", "--lr", "3"]))


def test_a_default_that_somebody_has_edited_is_theirs(tmp_path: Path) -> None:
    rom = blank_rom(tmp_path, "POKEMON RED")
    own = tmp_path / "cluster_config.json"
    own.write_text(f'{{"gamma": 0.98, "rom": "{rom}"}}')
    assert choose_config("cluster_config.json", []) == "cluster_config.json"
    own.write_text("{}")
    assert choose_config("cluster_config.json", [f"--rom={rom}", "--device=cpu"]) == "red_cpu"


def test_a_default_with_a_reason_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_config("slim_cpu", [], "there is no GPU") == "slim_cpu"
    assert capsys.readouterr().out == "config: slim_cpu, as there is no GPU\n"


def test_a_rom_that_is_none_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"none\.gb: no such file"):
        choose_config("quickstart", ["--rom", "none.gb"])


def test_only_red_itself_and_the_cartridge_need_no_word(tmp_path: Path) -> None:
    assert game_warning(RED_SHA1, "POKEMON RED") == ""
    assert warnings_of_game(load_config("cpu"), load_rom("")) == []
    words = {
        "POKEMON RED": "another language, a revision or a hack",
        "POKEMON BLUE": "nobody has tried Blue here",
        "POKEMON YELLOW": "Yellow keeps nearly all of it elsewhere",
        "TETRIS": "may be elsewhere",
        "": "a game without a title",
    }
    for title, doubt in words.items():
        lines = warnings_of_game(load_config("red_cpu"), load_rom(str(blank_rom(tmp_path, title))))
        assert len(lines) == 1
        assert lines[0].startswith("WARNING: ")
        assert doubt in lines[0]


@pytest.mark.parametrize("world", ["lanternvale", "world_b"])
def test_a_whole_world_wants_start_and_long_episodes(world: str) -> None:
    rom = load_rom(world)
    (line,) = warnings_of_game(load_config("cpu"), rom)
    assert line.startswith("WARNING: START is off: nothing in the bag can be used")
    assert line.endswith("the preset for it is lanternvale (--config)")
    assert warnings_of_game(load_config("lanternvale"), rom) == []


@pytest.mark.parametrize("world", ["lanternvale", "world_b"])
@pytest.mark.parametrize(
    ("default", "wanted"),
    [
        ("quickstart", "lanternvale"),
        ("cpu", "lanternvale"),
        ("slim_cpu", "lanternvale"),
        ("slim", "slim"),
        ("gpu", "gpu"),
        ("password", "password"),
    ],
)
def test_a_whole_world_without_a_config(
    world: str, default: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_config(default, ["--rom", world]) == wanted
    assert capsys.readouterr().out.startswith("config: lanternvale, as this is " if wanted != default else "")


def test_the_default_config_on_a_whole_world(tmp_path: Path) -> None:
    assert choose_config("cluster_config.json", ["--rom=world_b", "--device=cpu"]) == "lanternvale"
    (tmp_path / "cluster_config.json").write_text('{"gamma": 0.98, "rom": "lanternvale"}')
    assert choose_config("cluster_config.json", ["--device=cpu"]) == "cluster_config.json"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cpu", "START is off and episodes end after 800 steps"),
        ("quickstart", "START is off and episodes end after 800 steps"),
        ("gpu", ""),
        ("slim", ""),
        ("red", ""),
    ],
)
def test_the_cartridges_settings_by_hand(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = blank_rom(tmp_path, "POKEMON RED")
    monkeypatch.setattr(rom_module, "RED_SHA1", load_rom(str(path)).sha1)
    rom = load_rom(str(path))
    assert rom.kind == "red"
    lines = warnings_of_game(load_config(name), rom)
    assert len(lines) == bool(words)
    assert all(words in line and "red and red_cpu" in line for line in lines)
    one = warnings_of_game(load_config("cpu", ["start_button=true"]), rom)
    assert "WARNING: episodes end after 800 steps: settings for" in one[0]


def test_a_job_of_another_game_says_so_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("red_cpu", [f"rom={blank_rom(tmp_path, 'POKEMON YELLOW')}"])
    warning = warnings_of_game(config, load_rom(config.rom))[0]
    run_dir = RunDir(tmp_path / "runs", "yellow")
    dry_run(config, run_dir)
    assert warning in capsys.readouterr().out.splitlines()
    with open_job(config, run_dir):
        assert warning in capsys.readouterr().out.splitlines()
        with StatusView(run_dir, config, "token") as view:
            progress = Progress(run_name="yellow", target_total_steps=1)
            progress.begin_job()
            assert view._line(progress).endswith("; WARNING: not Pokémon Red, see above")
            shown = io.StringIO()
            Terminal(file=shown, width=80, force_terminal=True).print(view._table(progress))
    assert "WARNING" in shown.getvalue()
    assert "\x1b[1m" in shown.getvalue()


def test_the_cartridge_is_trained_without_such_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "runs", "own")
    with open_job(load_config("cpu"), run_dir):
        view = StatusView(run_dir, Config(), "token")
        progress = Progress(run_name="own", target_total_steps=1)
        progress.begin_job()
        assert "WARNING" not in capsys.readouterr().out + view._line(progress)
