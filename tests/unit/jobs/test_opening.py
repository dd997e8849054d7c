"""What a job checks before it starts."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from fake_puffer import fake_checkout, forgotten, loop_rom, puffer_config
from small_disk import SmallDisk, mounted

from cluster_rl import actor, cartridge
from cluster_rl.config import Config, config_to_json, load_config
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, EXIT_UNFINISHED, StorageError, UserError
from cluster_rl.jobs import opening
from cluster_rl.jobs.devices import learner_device, why_no_cuda
from cluster_rl.jobs.grace import Grace
from cluster_rl.jobs.opening import begin_job, check_job, dry_run, load_run, open_job
from cluster_rl.jobs.signals import STOP_SIGNALS, StopFlag
from cluster_rl.jobs.supervise import ChildEvent, Supervisor
from cluster_rl.jobs.watchdog import Watchdog
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, read_progress, save_progress
from cluster_rl.train_cluster import launch


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs", "r")


def _config(*overrides: str) -> Config:
    return load_config("quickstart", overrides)


def _begin(run_dir: RunDir, config: Config, with_data: bool = True) -> None:
    rom = check_job(config, run_dir).rom
    run_dir.create()
    begin_job(config, run_dir, rom)
    if with_data:
        (run_dir.replay / "segment-00000001.log").touch()


def test_budgets_of_quests_that_the_game_has_not_are_refused_before_a_start(run_dir: RunDir) -> None:
    check_job(_config("quest_budgets.FERN_BADGE=500"), run_dir)
    with pytest.raises(UserError, match=r"quest_budgets: .* the name FERN_BADG; did you mean FERN_BADGE\?"):
        check_job(_config("quest_budgets.FERN_BADG=500"), run_dir)
    with pytest.raises(UserError, match=r"FERN_BADGE; there are: .*PASSWORD"):
        check_job(_config("quest_budgets.FERN_BADGE=500", "initial_state=school:password"), run_dir)


def test_rom_may_move_but_not_change(run_dir: RunDir, tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one.gb", "two.gb", "other.gb"))
    shutil.copy(cartridge.rom_path(), one)
    _begin(run_dir, _config(f"rom={one}"))
    one.rename(two)
    assert check_job(_config(f"rom={two}"), run_dir).rom.path == str(two)
    changed = bytearray(two.read_bytes())
    changed[0x1000] ^= 1
    other.write_bytes(changed)
    with pytest.raises(UserError, match="SHA-1"):
        check_job(_config(f"rom={other}"), run_dir)


def test_a_checkout_may_move_but_not_change(run_dir: RunDir, tmp_path: Path) -> None:
    rom = loop_rom(tmp_path)
    with forgotten():
        root = fake_checkout(tmp_path, rom)
        config = puffer_config(rom, root)
        _begin(run_dir, config)
        (note,) = check_job(config, run_dir).notes
        assert re.fullmatch(rf"environment: pokemonred_puffer \(SHA-1 [0-9a-f]{{40}}\), from {root}", note)
        with pytest.raises(UserError, match=r"'r' plays pokemonred_puffer \(SHA-1 .*\), not our own environment; give"):
            check_job(msgspec.structs.replace(config, puffer="", rewards=Config().rewards), run_dir)
        moved = root.rename(tmp_path / "moved")
        config = puffer_config(rom, moved)
    with forgotten():
        check_job(config, run_dir)
        settings = moved / "config.yaml"
        settings.write_text(settings.read_text().replace("seen: 0.25", "seen: 0.5"))
        with pytest.raises(UserError, match="give the same --puffer and --puffer_reward, or another --run-name"):
            check_job(config, run_dir)
        other = RunDir(tmp_path / "runs", "other")
        _begin(other, msgspec.structs.replace(config, puffer="", rewards=Config().rewards))
        with pytest.raises(UserError, match="'other' plays our own environment, not pokemonred_puffer"):
            check_job(config, other)


def test_an_actor_that_starts_late_takes_no_other_checkout(run_dir: RunDir, tmp_path: Path) -> None:
    rom = loop_rom(tmp_path)
    with forgotten():
        root = fake_checkout(tmp_path, rom)
        config = puffer_config(rom, root)
        _begin(run_dir, config)
        (root / "pokemonred_puffer" / "places.py").write_text("PLACES = 2\n")
        with (
            contextlib.closing(Watchdog(60)) as watchdog,
            pytest.raises(UserError, match=r"'r' plays pokemonred_puffer .*, not pokemonred_puffer"),
        ):
            actor._play(run_dir, config, 0, 0.0, StopFlag(), watchdog)


def test_a_checkout_is_tried_before_a_run_begins(run_dir: RunDir, tmp_path: Path) -> None:
    rom = loop_rom(tmp_path)
    with forgotten():
        root = fake_checkout(tmp_path, rom)
        (root / "pokemonred_puffer" / "places.py").unlink()
        with pytest.raises(UserError, match=r"has no pokemonred_puffer\.places; is it another version"):
            check_job(puffer_config(rom, root), run_dir)
    assert not run_dir.path.exists()


def test_a_reward_that_nothing_pays_is_refused(run_dir: RunDir) -> None:
    """The preset `puffer` has no other reward."""
    with pytest.raises(
        UserError, match=r"^rewards\.puffer is 1, which our own environment does not pay; give --puffer F"
    ):
        check_job(load_config("puffer"), run_dir)
    check_job(load_config("puffer", ["rewards.puffer=0", "rewards.novelty=1"]), run_dir)


def test_run_keeps_its_id(run_dir: RunDir) -> None:
    _begin(run_dir, _config())
    first = read_identity(run_dir.identity)
    _begin(run_dir, _config("gamma=0.5"))
    assert first is not None
    assert read_identity(run_dir.identity) == first


def test_shapes_may_change_until_there_is_data(run_dir: RunDir) -> None:
    _begin(run_dir, _config(), with_data=False)
    wider = _config("lstm_hidden_size=64")
    _begin(run_dir, wider)
    assert run_dir.config.read_bytes() == config_to_json(wider)
    with pytest.raises(UserError, match="lstm_hidden_size 64"):
        check_job(_config(), run_dir)


def test_value_rescaling_is_kept(run_dir: RunDir) -> None:
    _begin(run_dir, _config())
    with pytest.raises(UserError, match="value_rescaling"):
        check_job(_config("value_rescaling=false"), run_dir)


def test_a_value_of_curiositys_own_is_kept(run_dir: RunDir) -> None:
    """And what was paid for tiles: the learner takes it out of rewards that were stored as one number."""
    apart = ("intrinsic_gamma=0.9", "rewards.novelty=0.03", "w_rnd=0.02")
    _begin(run_dir, _config())
    with pytest.raises(UserError, match=r"made without a value of curiosity's own: give --intrinsic_gamma 0, or"):
        check_job(_config(*apart), run_dir)
    other = RunDir(run_dir.root, "apart")
    _begin(other, _config(*apart))
    assert check_job(_config(*apart, "w_rnd=0.05"), other) is not None
    with pytest.raises(UserError, match=r"with a value of .*give --intrinsic_gamma, and --rewards.novelty or --w_rnd"):
        check_job(_config("intrinsic_gamma=0"), other)
    with pytest.raises(UserError, match=r"made with rewards.novelty 0.03, not 0.1"):
        check_job(_config(*apart, "rewards.novelty=0.1"), other)


@pytest.mark.parametrize(
    "name", [".online_params.pt.1234.tmp", "jobs/.001.json.1234.tmp", "episode_logs/.a000-e01-1f-000004.eplog.12.tmp"]
)
def test_leftovers_of_a_killed_write_are_removed(run_dir: RunDir, name: str) -> None:
    _begin(run_dir, _config(), with_data=False)
    save_progress(run_dir.progress, Progress(run_name="r", target_total_steps=1))  # the learner's first file
    leftover = run_dir.path / name
    leftover.write_bytes(b"half")
    _begin(run_dir, _config())
    assert not leftover.exists()


@pytest.fixture
def signals_kept() -> Iterator[None]:
    """Gives the stop signals back to pytest afterwards."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_kept")
def test_open_job_holds_the_lock(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with open_job(_config("device=cpu"), run_dir) as stop:
        assert not stop
        with pytest.raises(UserError, match="is being trained by process"):
            dry_run(_config("device=cpu"), run_dir)
        signal.raise_signal(signal.SIGUSR2)
        assert stop.reason == "signal SIGUSR2"
    game, device = capsys.readouterr().out.splitlines()
    assert str(run_dir.path) in game
    assert device == "device: CPU, as configured"
    with RunLock(run_dir):
        pass


@pytest.mark.usefixtures("signals_kept")
@pytest.mark.parametrize(
    ("number", "least_sec", "most_sec", "code"),
    [(signal.SIGUSR2, 120, 600, EXIT_UNFINISHED), (signal.SIGTERM, 20, 60, EXIT_OK)],
)
def test_after_a_warning_there_is_time_for_a_checkpoint(
    run_dir: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    least_sec: float,
    most_sec: float,
    code: int,
) -> None:
    graces = []

    def signal_comes(_: Supervisor) -> list[ChildEvent]:
        signal.raise_signal(number)
        return []

    def stop_all(_: Supervisor, number: signal.Signals, grace: Grace) -> list[ChildEvent]:
        graces.append((number, grace.left_sec(["learner"])))
        return []

    monkeypatch.setattr(Supervisor, "start", lambda *_: None)
    monkeypatch.setattr(Supervisor, "poll", signal_comes)
    monkeypatch.setattr(Supervisor, "stop_all", stop_all)
    assert launch(_config("device=cpu"), run_dir) == code
    [(sent, grace_sec)] = graces
    assert sent == number
    assert least_sec <= grace_sec <= most_sec


@pytest.mark.usefixtures("signals_kept")
@pytest.mark.parametrize(("began", "code"), [(False, EXIT_OK), (True, EXIT_FAILURE)])
def test_a_learner_killed_while_it_starts_has_lost_nothing(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, began: bool, code: int
) -> None:
    progress = Progress(run_name="r", target_total_steps=1)

    def start(_: Supervisor, name: str, argv: list[str], environment: object = None) -> None:
        if name == "learner" and began:
            progress.continue_job(argv[argv.index("--job-token") + 1], "new run")
            save_progress(run_dir.progress, progress)
        signal.raise_signal(signal.SIGTERM)

    killed = ChildEvent("learner", "stopped", "learner did not end and was killed", -signal.SIGKILL, run_dir.logs)
    monkeypatch.setattr(Supervisor, "start", start)
    monkeypatch.setattr(Supervisor, "stop_all", lambda *_: [killed])
    assert launch(_config("device=cpu"), run_dir) == code
    after = read_progress(run_dir.progress)
    reasons = [job.reason for job in after.jobs] if after is not None else []
    assert reasons == ["signal SIGTERM; the learner ended without a checkpoint; nothing was learned"] * began


def _cuda(monkeypatch: pytest.MonkeyPatch, available: bool, built: bool = True, visible: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("built", "visible", "words"),
    [
        (False, "0", "built without CUDA"),
        (True, "", "CUDA_VISIBLE_DEVICES is empty"),
        (True, "NoDevFiles", "CUDA_VISIBLE_DEVICES is NoDevFiles"),
        (True, None, "no device or driver was found"),
        (True, "3", "CUDA_VISIBLE_DEVICES is 3"),
    ],
)
def test_without_cuda_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, run_dir: RunDir, built: bool, visible: str | None, words: str
) -> None:
    _cuda(monkeypatch, False, built, visible)
    device = learner_device(_config("device=auto"))
    assert device.type == "cpu"
    assert words in device.line
    assert "\n" not in device.line
    refusal = pytest.raises(UserError, match=f"device cuda: .*{words}.*--device auto")
    with refusal, open_job(_config("device=cuda"), run_dir):
        pass
    assert not run_dir.exists()


def test_cuda_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda(monkeypatch, True)
    assert why_no_cuda() is None
    assert [learner_device(_config(f"device={name}")).type for name in ("auto", "cuda", "cpu")] == [
        "cuda",
        "cuda",
        "cpu",
    ]


def _contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_dry_run_of_a_run_that_goes_on(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    _begin(run_dir, _config("device=cpu"))
    progress = Progress(run_name="r", target_total_steps=1, env_steps=12_345, updates=67)
    progress.begin_job()
    save_progress(run_dir.progress, progress)
    with RunLock(run_dir):
        pass
    before = _contents(run_dir.root)
    dry_run(_config("device=cpu"), run_dir)
    assert "goes on at env step 12,345, update 67, after 1 job" in capsys.readouterr().out
    run_dir.progress.write_bytes(b"{")
    before[run_dir.progress] = b"{"
    dry_run(_config("device=cpu"), run_dir)
    assert "progress.json is damaged" in capsys.readouterr().out
    assert _contents(run_dir.root) == before


@pytest.mark.parametrize("name", ["runs", "runs/r", "runs/r/logs"])
def test_file_in_place_of_a_folder_is_refused(tmp_path: Path, run_dir: RunDir, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    before = _contents(tmp_path)
    with pytest.raises(UserError, match=f"{name}: a file lies where the run needs a folder"):
        dry_run(_config("device=cpu"), run_dir)
    assert _contents(tmp_path) == before


def test_folder_without_permission_is_refused(tmp_path: Path, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    # Faked, as whoever may do everything has every permission.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match="cannot be written to"):
        check_job(_config("device=cpu"), run_dir)


def _with_config(runs: Path, config: str, *overrides: str, fresh: bool = False) -> Config:
    known = argparse.Namespace(config=config, runs=str(runs), run_name="mine", fresh=fresh)
    return load_run(known, list(overrides))[0]


def test_a_shipped_config_stands_in_for_no_run_that_was_made_with_another(tmp_path: Path) -> None:
    path = tmp_path / "exp" / "slim_cpu.yaml"
    path.parent.mkdir()
    path.write_text("gamma: 0.5\n")
    mine = _with_config(tmp_path, str(path))
    run_dir = RunDir(tmp_path, "mine").create()
    run_dir.config.write_bytes(config_to_json(mine))
    run_dir.replay.mkdir(exist_ok=True)
    (run_dir.replay / "segment-00000000.log").write_bytes(b"")
    assert _with_config(tmp_path, str(path), "--gamma=0.6").gamma == 0.6
    path.unlink()
    for typed in (str(path), "configs/slim_cpu.yaml", "slim_cpu.yml"):
        with pytest.raises(UserError, match="no such file, and run 'mine' was not made with the shipped one") as error:
            _with_config(tmp_path, typed)
        assert "give --config slim_cpu if that is meant" in str(error.value)
        assert _with_config(tmp_path, typed, fresh=True).gamma == load_config("slim_cpu").gamma
    assert _with_config(tmp_path, "slim_cpu").gamma == load_config("slim_cpu").gamma
    run_dir.config.write_bytes(config_to_json(load_config("slim_cpu")))
    assert _with_config(tmp_path, "configs/slim_cpu.yaml", "--gamma=0.6").gamma == 0.6


def test_a_read_only_file_system_is_no_bad_input(disk: SmallDisk) -> None:
    """Another job of the chain may find it mended."""
    with disk.read_only(), pytest.raises(StorageError, match="the file system is mounted read-only"):
        check_job(load_config("quickstart"), RunDir(disk.folder, "run"))
    assert list(disk.folder.iterdir()) == []


# --- storage that refuses a start ---


@pytest.fixture
def full_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    with mounted(tmp_path / "home", "size=64m") as small:
        small.fill()
        yield small


SMALL = ("device=cpu", "replay_capacity_transitions=4000")


@pytest.mark.usefixtures("signals_kept")
def test_a_slurm_job_waits_for_its_disk(full_home: SmallDisk, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(full_home.folder / "runs", "r")
    freed = threading.Timer(2.0, full_home.free)
    freed.start()
    with open_job(_config(*SMALL), run_dir) as stop:
        assert not stop
        with pytest.raises(UserError, match="is being trained"):
            RunLock(run_dir).acquire()
    freed.join()
    with RunLock(run_dir):
        assert [path.name for path in run_dir.jobs.iterdir()] == ["001.json"]
    said = capsys.readouterr().out
    assert re.search(r"disk of .* is free.*; trying again in 0.5 s\n", said)
    assert "trying again in 1 s" in said


@pytest.mark.usefixtures("signals_kept")
def test_a_signal_ends_the_wait_for_a_disk(full_home: SmallDisk) -> None:
    run_dir = RunDir(full_home.folder / "runs", "r")
    told = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    told.start()
    try:
        with open_job(_config(*SMALL), run_dir) as stop:
            assert stop.reason == "signal SIGTERM"
    finally:
        told.cancel()
    assert not run_dir.exists()


@pytest.mark.usefixtures("signals_kept")
def test_a_full_disk_is_not_waited_for_without_end_nor_outside_of_slurm(
    full_home: SmallDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(full_home.folder / "runs", "r")
    clock = SimpleNamespace(monotonic=iter((0.0, 599.0, 601.0)).__next__)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "time", clock)
        with pytest.raises(StorageError), open_job(_config(*SMALL), run_dir):
            pass
    assert capsys.readouterr().out.count("trying again") == 1
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(StorageError), open_job(_config(*SMALL), run_dir):
        pass
    assert "trying again" not in capsys.readouterr().out


@pytest.mark.usefixtures("signals_kept")
@pytest.mark.parametrize("was_there", [True, False])
def test_what_fresh_moved_aside_is_not_moved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], was_there: bool
) -> None:
    """Storage refuses the config of the new run, whose first files are there by then."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    run_dir = RunDir(tmp_path / "runs", "r")
    if was_there:
        _begin(run_dir, _config())
    refusals = iter([errno.EDQUOT])
    write = opening.write_atomic

    def refuse_once(path: Path, data: bytes) -> None:
        for number in refusals:
            raise explain_os_error(OSError(number, os.strerror(number)), path)
        write(path, data)

    monkeypatch.setattr(opening, "write_atomic", refuse_once)
    with open_job(_config("device=cpu"), run_dir, fresh=True):
        pass
    assert len(list(run_dir.root.glob("r.before-*"))) == was_there
    assert "config.json: cannot be written: Disk quota exceeded" in capsys.readouterr().out
