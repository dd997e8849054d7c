"""Evaluation: whole episodes, the same for a seed, with intervals that mean what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from cartridge_fixtures import new_env, play
from run_golden import EVALUATION
from sequence_fixtures import start_at
from terminals import on_terminal

from cluster_rl import evaluate
from cluster_rl.acting.rollout import Rollout, load_network
from cluster_rl.config import config_to_json, load_config
from cluster_rl.emulator.school import school_snapshot
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.evaluate import (
    Episode,
    count_distinct,
    main,
    milestones_ahead,
    play_episodes,
    print_report,
    report,
    wilson_interval,
)
from cluster_rl.exporting.policy_file import export_safetensors
from cluster_rl.jobs.watchdog import Watchdog
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.model import build_model
from cluster_rl.rewards import INTRINSIC_TERMS
from cluster_rl.rom import load_rom
from cluster_rl.runs.checkpoint import publish_params
from cluster_rl.runs.episode_log import read_log
from cluster_rl.runs.evaluation import ParamsPoint, read_evaluation, save_evaluation
from cluster_rl.runs.layout import RunDir

CONFIG = load_config("slim_cpu", ["episode_max_steps=30", "lstm_hidden_size=16", "num_quantiles=4"])


@pytest.fixture
def params(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    publish_params(tmp_path / "online_params.pt", build_model(CONFIG, observation_spec(CONFIG)).state_dict())
    return tmp_path / "online_params.pt"


def test_episodes_are_whole_and_repeatable(params: Path, tmp_path: Path) -> None:
    network = load_network(CONFIG, params)
    first = play_episodes(CONFIG, network, 10, seed=1, log_dir=tmp_path / "logs")
    assert len(first) == 10
    assert {episode.summary.episode_steps for episode in first} == {30}
    assert first == play_episodes(CONFIG, network, 10, seed=1)
    assert first != play_episodes(CONFIG, network, 10, seed=2)
    assert first != play_episodes(CONFIG, network, 10, seed=1, random=True)
    logs = [read_log(path) for path in (tmp_path / "logs").iterdir()]
    assert {(log.header.epsilon, log.header.complete) for log in logs} == {(0.0, True)}
    assert {log.header.seed: log.actions.tobytes() for log in logs} == {
        episode.summary.seed: episode.actions for episode in first
    }


def test_episodes_that_repeat_each_other_are_told(params: Path) -> None:
    """Without a wait all greedy episodes begin alike, and no masked button is ever tried again."""
    alike = ["start_idle_frames_max=0", "affordance_retry_probability=0.0", "episode_max_steps=12"]
    config = load_config("slim_cpu", [*alike, "lstm_hidden_size=16", "num_quantiles=4"])
    network = load_network(config, params)
    played = play_episodes(config, network, 8, seed=1)
    assert len({episode.summary.seed for episode in played}) == 8
    assert count_distinct(played) == 1
    assert count_distinct(play_episodes(config, network, 8, seed=1, random=True)) == 8


def test_distinct_are_those_that_differ_in_buttons_or_outcome() -> None:
    first, other = summary(1.0, [("LEFT_HOME", 4)]), summary(1.0, [("LEFT_HOME", 5)])
    again = msgspec.structs.replace(first, seed=9)
    assert count_distinct([Episode(first, b"ab"), Episode(again, b"ab")]) == 1
    assert count_distinct([Episode(first, b"ab"), Episode(again, b"ba"), Episode(other, b"ab")]) == 3


def test_the_network_plays_without_its_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = msgspec.structs.replace(CONFIG, model=msgspec.structs.replace(CONFIG.model, noisy_sigma=2.0))
    torch.manual_seed(0)
    network = build_model(config, observation_spec(config)).eval()

    def actions(name: str) -> list[list[int]]:
        play_episodes(config, network, 2, seed=1, log_dir=tmp_path / name)
        return sorted(read_log(path).actions.tolist() for path in (tmp_path / name).iterdir())

    network.resample_noise(torch.Generator().manual_seed(1))
    first = actions("first")
    network.resample_noise(torch.Generator().manual_seed(2))
    assert actions("second") == first
    act = Rollout.act
    monkeypatch.setattr(Rollout, "act", lambda rollout: act(rollout)[::-1])  # the noisy values in their place
    assert actions("noisy") != first


def summary(value: float, milestones: list[tuple[str, int]], reason: str = "truncated") -> EpisodeSummary:
    return EpisodeSummary(
        episode_steps=10,
        episode_return=value,
        terms={"event": value, "novelty": 0.5},
        milestones=milestones,
        final_map=0,
        reason=reason,
        seed=1,
        start=start_at("beginning"),
        cells=3,
        loop_share=0.0,
        entropy=None,
    )


def test_a_run_that_has_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunDir(tmp_path / "runs", "one").create()
    monkeypatch.setenv("CLUSTER_RL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--run-name", "one"])
    with pytest.raises(UserError, match=r"runs/one/config\.json: not there yet"):
        main()
    monkeypatch.setattr(sys, "argv", ["evaluate", "--run-name", "one", "--runs", str(tmp_path)])
    with pytest.raises(UserError, match="run 'one': not found in"):
        main()


def test_intervals_are_those_of_as_many_episodes_as_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of four episodes five times over tells no more than each once; all the same, no more than one."""
    four = [summary(value, [("LEFT_HOME", 4)] if value > 2 else []) for value in (1.0, 2.0, 4.0, 9.0)]
    once, often = (report(episodes, ["LEFT_HOME"], 4) for episodes in (four, 5 * four))
    for name in ("return", "length"):
        assert often[name] == pytest.approx(once[name])
    assert often["terms"]["event"]["half_interval"] == pytest.approx(once["terms"]["event"]["half_interval"])
    assert often["milestones"]["LEFT_HOME"] == once["milestones"]["LEFT_HOME"] | {"episodes": 10}
    assert (often["episodes"], often["distinct"]) == (20, 4)
    # The mean is of all: nineteen of one kind and one of another.
    uneven = report(19 * four[:1] + four[3:], ["LEFT_HOME"], 2)
    assert uneven["return"]["mean"] == pytest.approx((19 * 1.0 + 9.0) / 20)
    low, high = uneven["milestones"]["LEFT_HOME"]["interval"]
    assert low < 0.05 < 0.6 < high
    alone = report(20 * four[3:], ["LEFT_HOME"], 1)
    assert alone["return"] == {"mean": 9.0, "half_interval": None}
    assert alone["milestones"]["LEFT_HOME"]["interval"] == wilson_interval(1.0, 1)
    print_report({"policy": "greedy", "start": "from the beginning", "seed": 7, "seconds": 2.4, **alone})
    out = capsys.readouterr().out
    assert out.startswith("20 episodes, 1 distinct, from the beginning")
    assert "intervals (95 %) are those of 1, not of 20" in out
    assert "+-" not in out


def test_report() -> None:
    first, second, *others = ahead = ["TALKED_ELDER", "LEFT_HOME", "READ_SIGN", "FERN_BADGE"]
    played = [
        summary(1.0, [(first, 4), (second, 9)], "terminated"),
        summary(3.0, [(first, 7)]),
        summary(5.0, [(first, 40)]),
    ]
    found = report(played, ahead, 3)
    # Standard deviation 2, and t = 4.3027 for two degrees of freedom.
    interval = pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)
    assert found["return"] == {"mean": 3.0, "half_interval": interval}
    assert found["length"] == {"mean": 10.0, "half_interval": 0.0}
    assert found["terms"] == {
        "event": {**found["return"], "intrinsic": False},
        "novelty": {"mean": 0.5, "half_interval": 0.0, "intrinsic": True},
    }
    reached = {"episodes": 3, "share": 1.0, "interval": wilson_interval(1.0, 3), "median_step": 7.0}
    assert found["milestones"][first] == reached
    once = {"episodes": 1, "share": 1 / 3, "interval": wilson_interval(1 / 3, 3)}
    assert found["milestones"][second] == {**once, "median_step": 9.0}
    never = {"episodes": 0, "share": 0.0, "interval": wilson_interval(0.0, 3), "median_step": None}
    assert [found["milestones"][name] for name in others] == [never] * len(others)
    assert found["finished"] == once
    assert msgspec.convert(found["played"], list[EpisodeSummary]) == played


def test_the_report_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    played = [summary(1.0, [("LEFT_HOME", 4)], "terminated"), summary(3.0, [("LEFT_HOME", 8)]), summary(5.0, [])]
    found = {
        "policy": "greedy",
        "start": "from the beginning",
        "seed": 7,
        "seconds": 2.4,
        **report(played, ["LEFT_HOME", "READ_SIGN", "FERN_BADGE"], 3),
    }
    print_report(found)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "3 episodes, 3 distinct, from the beginning, greedy, seed 7, in 2 s"
    words = [" ".join(line.split()) for line in lines]
    assert words[:6] == [
        "return 3.000 +- 4.968",
        "length 10.000 +- 0.000",
        "event 3.000 +- 4.968",
        "novelty 0.500 +- 0.000 (intrinsic: not in the return)",
        "LEFT_HOME 2 of 3 (21% to 94%), median step 6",
        "task finished 1 of 3 (6% to 79%)",
    ]
    assert words[6:] == ["never reached (0% to 56%): READ_SIGN, FERN_BADGE"]


def test_what_was_reached_is_reported_in_any_case() -> None:
    found = report([summary(1.0, [("LEFT_HOME", 4)])], ["FERN_BADGE"], 1)
    assert list(found["milestones"]) == ["FERN_BADGE", "LEFT_HOME"]


def test_milestones_ahead_follow_from_where_episodes_start(tmp_path: Path) -> None:
    story = ["LEFT_HOME", "READ_SIGN", "GOT_BALM", "REACHED_ROUTE"]
    story += ["FIRST_BATTLE", "FIRST_EXPERIENCE", "BEAT_ROOK", "FERN_BADGE"]
    assert milestones_ahead(CONFIG) == ["TALKED_ELDER", *story]

    def starting_at(initial_state: str) -> list[str]:
        return milestones_ahead(msgspec.structs.replace(CONFIG, initial_state=initial_state))

    assert starting_at("school:password") == ["PASSWORD_RIGHT"]
    path = tmp_path / "here.snap"
    path.write_bytes(school_snapshot("password", load_rom("")))
    assert starting_at(str(path)) == ["PASSWORD_RIGHT"]
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "r" + 20 * "A")
    assert env.latch.reached == ("TALKED_ELDER",)
    path.write_bytes(env.console.save())
    env.close()
    assert starting_at(str(path)) == story


def test_one_episode_has_no_interval() -> None:
    found = report([summary(1.0, [])], ["FERN_BADGE"], 1)
    assert found["return"] == {"mean": 1.0, "half_interval": None}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.7062), (3, 4.3027), (4, 3.1824), (5, 2.7764), (10, 2.2622), (20, 2.0930)]
)
def test_the_interval_of_a_mean_has_the_quantile_of_the_tables(count: int, quantile: float) -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, count)
    half = report([summary(value, []) for value in values.tolist()], [], count)["return"]["half_interval"]
    assert half == pytest.approx(quantile * values.std(ddof=1) / count**0.5, rel=1e-4)


def test_wilson_interval() -> None:
    # Worked by hand: 9 of 10, z = 1.96.
    low, high = wilson_interval(0.9, 10)
    assert (low, high) == (pytest.approx(0.5958, abs=1e-3), pytest.approx(0.9821, abs=1e-3))
    for trials in range(1, 30):
        low, high = wilson_interval(0.0, trials)
        assert low == 0.0
        assert wilson_interval(1.0, trials) == (pytest.approx(1 - high), 1.0)


def test_wilson_interval_is_that_of_scipy_where_successes_are_whole() -> None:
    from scipy.stats import binomtest  # here: a second of imports

    for trials in (1, 2, 7, 20, 100):
        for successes in range(trials + 1):
            expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
            assert wilson_interval(successes / trials, trials) == pytest.approx(
                (expected.low, expected.high), abs=1e-12
            )


def test_bad_parameters_are_named(params: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there yet"):
        load_network(CONFIG, tmp_path / "missing.pt")
    (tmp_path / "bad.pt").write_bytes(params.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"bad\.pt"):
        load_network(CONFIG, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="online_params"):
        load_network(load_config("slim_cpu"), params)


@pytest.fixture
def run(params: Path) -> Path:
    """A run's folder with what evaluation reads."""
    folder = params.parent / "one"
    folder.mkdir()
    (folder / "config.json").write_bytes(config_to_json(CONFIG))
    params.rename(folder / "online_params.pt")
    return folder


def command(monkeypatch: pytest.MonkeyPatch, run: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--runs", str(run.parent), "--run-name", run.name, *arguments])
    return main()


def test_command_prints_one_json_object(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, run, "--episodes", "3", "--max-steps", "12", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["policy"], found["episodes"], found["max_steps"]) == ("one", "greedy", 3, 12)
    assert found["start"] == "from the beginning"
    assert [played["episode_steps"] for played in found["played"]] == [12, 12, 12]
    assert found["length"] == {"mean": 12.0, "half_interval": 0.0 if found["distinct"] > 1 else None}
    assert 1 <= found["distinct"] <= 3
    assert list(found["milestones"]) == milestones_ahead(CONFIG)
    assert {name for name, term in found["terms"].items() if term["intrinsic"]} == set(INTRINSIC_TERMS)
    paid = sum(term["mean"] for name, term in found["terms"].items() if name not in INTRINSIC_TERMS)
    assert paid == pytest.approx(found["return"]["mean"], abs=1e-6)
    # The same seed plays the same, a config key may be given too, and another seed plays something else.
    assert command(monkeypatch, run, "--episodes", "3", "--episode_max_steps", "12", "--json") == 0
    assert json.loads(capsys.readouterr().out)["played"] == found["played"]
    assert command(monkeypatch, run, "--episodes", "3", "--max-steps", "12", "--seed", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["played"] != found["played"]


def test_on_a_terminal_a_bar_moves_and_stdout_is_json_alone(run: Path) -> None:
    words = ["--runs", str(run.parent), "--run-name", run.name, "--episodes", "80", "--json"]
    shown, out = on_terminal([sys.executable, "-m", "cluster_rl.evaluate", *words])
    assert json.loads(out)["episodes"] == 80
    assert re.search(r"playing: (?!0 |2,400 )[\d,]+ of 2,400 steps, \d+ of 80 episodes, \d+ s", shown)


def test_command_writes_words_and_logs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = run / "logs"
    arguments = ("--episodes", "1", "--max-steps", "5", "--random", "--logs", str(logs))
    assert command(monkeypatch, run, *arguments) == 0
    out = capsys.readouterr().out
    assert "1 episodes, 1 distinct, from the beginning, random, seed 1" in out
    assert "+-" not in out  # one episode has no interval
    for word in ("return", "length", "novelty", "task finished"):
        assert word in out
    (log,) = (read_log(path) for path in logs.iterdir())
    assert (log.header.steps, log.header.epsilon, log.header.complete) == (5, 1.0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--episodes", "0"), "--episodes: must be at least 1, not 0"),
        (("--seed", "-1"), "--seed: must be at least 0, not -1"),
        (("--max_steps", "0"), "--max-steps: must be at least 1, not 0"),
        (("--logs", __file__), "cannot be made a folder"),
        (("--run-name", "two"), "two"),
        (("--nonsense", "1"), "nonsense"),
    ],
)
def test_bad_arguments_are_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        command(monkeypatch, run, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either --run-name or --params"),
        (["--params", "x", "--run-name", "one"], "--run-name: not with --params"),
        (["--params", "x", "--runs", "elsewhere"], "--runs: not with --params"),
        (["--params", "x", "--publish"], "--publish: not with --params"),
        (["--params", "x"], "--params x: no such file; agents that are shipped: firefly_wood"),
    ],
)
def test_what_is_played_is_a_run_or_a_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(UserError, match=f"^{words}"):
        main()


def test_an_exported_policy_plays_as_its_run_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played = []
    export_safetensors(CONFIG, run / "online_params.pt", tmp_path / "policy.safetensors")
    for words in (["--runs", str(run.parent), "--run-name", "one"], ["--params", str(tmp_path / "policy.safetensors")]):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words, "--episodes", "3", "--max-steps", "20", "--json"])
        assert main() == 0
        played.append(json.loads(capsys.readouterr().out))
    assert played[0]["played"] == played[1]["played"]
    assert [found["params"] for found in played] == [None, str(tmp_path / "policy.safetensors")]


def test_a_policy_whose_rom_is_elsewhere_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = msgspec.structs.replace(CONFIG, rom="/home/them/red.gb")
    export_safetensors(theirs, run / "online_params.pt", tmp_path / "policy.safetensors")
    words = ["evaluate", "--params", str(tmp_path / "policy.safetensors"), "--episodes", "1", "--max-steps", "5"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=r"^ROM /home/them/red\.gb: no such file; give --rom the path of yours"):
        main()
    monkeypatch.setattr(sys, "argv", [*words, "--rom", "small"])
    assert main() == 0
    assert "1 episodes" in capsys.readouterr().out


def test_a_reader_that_leaves_ends_nothing(run: Path, tmp_path: Path) -> None:
    words = ["--runs", str(run.parent), "--run-name", run.name, "--episodes", "2", "--logs", str(tmp_path / "logs")]
    command = shlex.join([sys.executable, "-m", "cluster_rl.evaluate", *words, "--json"])
    line = f"{command} 2>&1 | head -c 1; exit $PIPESTATUS"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")
    assert len(list((tmp_path / "logs").glob("*.eplog"))) == 2


def test_what_is_published_is_what_is_reported_and_once_for_the_same_parameters(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    params = run / "online_params.pt"
    assert command(monkeypatch, run, "--publish") == 0
    assert f"{params} does not say when it was made" in capfd.readouterr().out
    assert not (run / "evaluation.json").exists()
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 20))
    (run / "config.json").write_bytes(config_to_json(msgspec.structs.replace(CONFIG, evaluate_episodes=3)))
    before = time.time()
    assert command(monkeypatch, run, "--publish") == 0
    assert re.search(r" evaluate\[\d+\] greedy return .*, 3 episodes, .*; parameters of update 20; it took \d+ s\n$",
                     capfd.readouterr().out)  # fmt: skip
    found = read_evaluation(run / "evaluation.json")
    assert found is not None
    assert (found.point, found.episodes) == ((640, 20), 3)
    assert before <= found.began <= time.time()
    assert command(monkeypatch, run, "--episodes", "3", "--json") == 0
    by_hand = json.loads(capfd.readouterr().out)
    assert by_hand["return"] == {"mean": found.episode_return, "half_interval": found.half_interval}
    assert (by_hand["length"]["mean"], by_hand["distinct"]) == (found.steps, found.distinct)
    assert by_hand["finished"]["share"] == found.finished
    assert {name: share["share"] for name, share in by_hand["milestones"].items()} == found.milestones
    assert command(monkeypatch, run, "--publish") == 0
    assert "no parameters since those of update 20, which were evaluated" in capfd.readouterr().out
    assert read_evaluation(run / "evaluation.json") == found
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 19))  # after a crash
    assert command(monkeypatch, run, "--publish") == 0
    again = read_evaluation(run / "evaluation.json")
    assert again is not None
    assert (again.updates, again.episode_return) == (19, found.episode_return)
    capfd.readouterr()
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(600, 18))  # an older copy of the run
    assert command(monkeypatch, run, "--publish") == 0
    assert "no parameters since those of update 19, which were evaluated" in capfd.readouterr().out


@pytest.mark.parametrize(
    "other", [["--episodes", "20"], ["--seed", "1"], ["--max-steps", "9"], ["--random"], ["--gamma", "0.5"]]
)
def test_what_is_published_is_all_of_the_same(run: Path, other: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"^{other[0]}: --publish plays what the run's config says; give it alone"):
        command(monkeypatch, run, "--publish", *other)


def test_figures_of_older_parameters_do_not_replace_those_of_newer_ones(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another process has finished meanwhile."""
    params = run / "online_params.pt"
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 20))
    newer = msgspec.structs.replace(EVALUATION, env_steps=650, updates=21)
    whole = evaluate.play_episodes

    def play(*given: Any, **more: Any) -> Any:
        save_evaluation(run / "evaluation.json", newer)
        return whole(*given, **more)

    monkeypatch.setattr(evaluate, "play_episodes", play)
    assert command(monkeypatch, run, "--publish") == 0
    assert "parameters of update 21 were evaluated meanwhile" in capfd.readouterr().out
    assert read_evaluation(run / "evaluation.json") == newer


@pytest.mark.parametrize(
    ("errno_", "words"),
    [(13, "cannot be written: Permission denied"), (28, "No space left"), (21, "a folder lies where a file was expe")],
)
def test_nothing_is_played_where_it_cannot_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, errno_: int, words: str
) -> None:
    params = run / "online_params.pt"
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 20))

    def refuse(*_: object) -> None:
        raise OSError(errno_, os.strerror(errno_))

    if errno_ == 21:
        (run / "evaluation.json").mkdir()
    else:
        monkeypatch.setattr("cluster_rl.runs.atomic.write_synced", refuse)
    monkeypatch.setattr(evaluate, "play_episodes", lambda *_, **__: pytest.fail("it was played"))
    with pytest.raises(UserError, match=words):
        command(monkeypatch, run, "--publish")


def test_the_watchdog_is_armed_from_the_first_to_the_last(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a server keeps waiting are read and written too."""
    params = run / "online_params.pt"
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 20))
    did = []

    def noting(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            if not did or did[-1] != name:
                did.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    for name in ("read_params", "play_episodes", "save_evaluation"):
        noting(evaluate, name)
    for name in ("alive", "close"):
        noting(Watchdog, name)
    assert command(monkeypatch, run, "--publish") == 0
    assert did == ["alive", "read_params", "play_episodes", "alive", "save_evaluation", "close"]


def test_logs_tell_the_version_of_the_parameters(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = run / "online_params.pt"
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 20))
    assert command(monkeypatch, run, "--episodes", "1", "--max-steps", "5", "--logs", str(run / "logs")) == 0
    (path,) = (run / "logs").iterdir()
    assert read_log(path).header.params_version == 20


def test_an_evaluation_that_gets_nowhere_ends(run: Path) -> None:
    """The emulator never comes back from compiled code: no handler of Python runs then."""
    params = run / "online_params.pt"
    publish_params(params, torch.load(params, weights_only=True), ParamsPoint(640, 20))
    hang = "import ctypes; from cluster_rl import evaluate; from cluster_rl.emulator.env import Env; "
    hang += "evaluate.STUCK_SEC = 5.0; Env.look = lambda env: ctypes.CDLL(None).pause(); evaluate.command()"
    words = ["--runs", str(run.parent), "--run-name", run.name, "--publish"]
    done = subprocess.run([sys.executable, "-c", hang, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Timeout (0:00:05)!")
    assert not (run / "evaluation.json").exists()
