"""The scale model: its limits by hand, what binds when, records that are not measured again, and a small real run."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster_rl.config import load_config
from cluster_rl.errors import UserError
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.runs.progress import Progress
from cluster_rl.training.rate_limiter import RateLimiter
from cluster_rl.wire.codec import decode_arrays, decode_header

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.bench.replay import synthetic_blocks  # noqa: E402
from scripts.bench.scaling import measure, record, report  # noqa: E402
from scripts.bench.scaling.model import Job, Parts, Prediction, Setup, limits, predict  # noqa: E402
from scripts.bench.scaling.processes import MAIN, Times, children, process_cpu_sec, threads  # noqa: E402

PARTS = Parts(
    step_cpu_sec=0.002,
    step_wait_sec=0.0005,
    steps_per_sequence=40.0,
    positions_per_update=320.0,
    batch_cpu_sec=0.002,
    sequence_cpu_sec=0.0002,
    sequence_io_cpu_sec=0.00005,
    sync_sec=0.01,
    params_bytes=1e6,
    params_io_sec_per_byte=2e-9,
    sequence_wire_bytes=4000.0,
    sequence_disk_bytes=3600.0,
    log_bytes_per_step=10.0,
    idle_cpus=0.1,
    update_cpu_sec=0.038,
    update_wait_sec=0.002,
)
SETUP = Setup(
    jobs=(Job(2, 2.0),),
    samples_per_insert=16.0,
    credit_sequences=10,
    limiter_buffer=32_000.0,
    params_poll_sec=2.0,
    publish_interval=10,
    network_bytes_per_sec=1e8,
    network_rtt_sec=0.001,
    disk_bytes_per_sec=1e7,
)
PLENTY = dataclasses.replace(SETUP, jobs=(Job(1, 1000.0), Job(999, 1000.0)), updates_per_sec=1e6, limiter_buffer=1e9)
PLENTY_ON_A_CPU = dataclasses.replace(PLENTY, updates_per_sec=None)


def test_every_limit_by_hand() -> None:
    """16 samples per insert are 0.05 updates a step; a step costs the learner 0.05 (38 + 2) + 0.25 / 40 ms of CPU."""
    learner_sec = 0.05 * 0.040 + 0.00025 / 40
    # Limiter: 2 x 32,000 / 16 = 4,000 steps or 100 sequences, more than 2 x 10 of credit, which are together at once.
    round_trip_sec = 0.001 + 0.01 + 20 * 0.0002 + 2 * 1e6 / 1e8
    assert limits(PARTS, SETUP) == pytest.approx(
        {
            "actors": min(2 / 0.0025, 1.9 / (0.002 + learner_sec)),
            "credit": 2 * 10 * 40 / round_trip_sec,
            "learner": 1 / 0.040 / 0.05,
            "learner_cpus": 1.9 / learner_sec,
            "sampler": 1 / (0.05 * 0.002),
            "wire": 20 * 40 / (20 * 0.0002 + 0.01),
            "io": 40 / 0.00005,
            "network": 1e8 * 40 / 4000,
            "disk": 1e7 / (3600 / 40 + 10),
        }
    )
    found = predict(PARTS, SETUP)
    assert (found.binds, found.env_steps_per_sec) == ("cores", pytest.approx(1.9 / (0.002 + learner_sec)))
    assert found.updates_per_sec == pytest.approx(0.05 * found.env_steps_per_sec)
    assert found.network_in_bytes_per_sec == pytest.approx(found.env_steps_per_sec * 100)
    assert found.disk_bytes_per_sec == pytest.approx(found.env_steps_per_sec * 100)
    assert found.syncs_per_sec == pytest.approx(found.env_steps_per_sec / 40)
    assert found.params_every_sec == 2.0
    assert found.network_out_bytes_per_sec == pytest.approx(2 * 1e6 / 2)


def test_actors_of_other_jobs_leave_the_learners_less() -> None:
    """The learner works for the steps of all jobs, in its own job."""
    setup = dataclasses.replace(SETUP, jobs=(Job(4, 3.0), Job(4, 4.0)))
    learner_sec = 0.05 * 0.040 + 0.00025 / 40
    others = 4 / 0.0025  # 1,600, on 3.9 cores that could do 1,950
    expected = others + max(0.0, 3.0 - 0.1 - learner_sec * others) / (0.002 + learner_sec)
    assert limits(PARTS, setup)["actors"] == pytest.approx(max(others, expected))
    crowded = dataclasses.replace(SETUP, jobs=(Job(1, 100.0), Job(8, 4.0)))
    assert limits(PARTS, crowded)["actors"] == pytest.approx(3.9 / 0.002 + 1 / 0.0025)


def test_a_gpu_takes_a_core_and_its_rate_is_given() -> None:
    setup = dataclasses.replace(SETUP, jobs=(Job(2, 2.0),), updates_per_sec=3.0)
    learner_sec = 0.05 * 0.002 + 0.00025 / 40
    found = limits(PARTS, setup)
    assert found["learner"] == pytest.approx(60)
    assert found["actors"] == pytest.approx(0.9 / (0.002 + learner_sec))
    unknown = dataclasses.replace(PARTS, update_cpu_sec=math.nan)
    assert limits(unknown, setup) == pytest.approx(found)


# What makes each limit the least of all, where there is plenty of everything else.
BINDING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "actors": ({}, {"jobs": (Job(1, 1000.0), Job(3, 1000.0))}),
    "cores": ({}, {"jobs": (Job(1, 1000.0), Job(300, 8.0))}),
    "credit": ({}, {"network_rtt_sec": 100.0}),
    "learner": ({}, {"updates_per_sec": 1.0}),
    "learner_cpus": ({"batch_cpu_sec": 0.0, "sequence_cpu_sec": 0.0, "sequence_io_cpu_sec": 1e-5}, {}),
    "sampler": ({"batch_cpu_sec": 0.5}, {}),
    "wire": ({"sequence_cpu_sec": 0.01}, {}),
    "io": ({"sequence_io_cpu_sec": 0.01}, {}),
    "network": ({"params_bytes": 0.0}, {"network_bytes_per_sec": 1e5}),
    "disk": ({}, {"disk_bytes_per_sec": 1e5}),
}


@pytest.mark.parametrize("limit", BINDING)
def test_each_limit_binds_when_it_should(limit: str) -> None:
    parts, setup = BINDING[limit]
    if limit == "learner_cpus":  # its job has little, and the actors are elsewhere
        setup = {"jobs": (Job(1, 1.101), Job(999, 1000.0))}
    found = predict(dataclasses.replace(PARTS, **parts), dataclasses.replace(PLENTY, **setup))
    assert found.binds == limit
    assert found.env_steps_per_sec == min(found.limits.values())


def test_the_learner_takes_no_more_together_than_its_socket_hands_over() -> None:
    parts = dataclasses.replace(PARTS, params_bytes=0.0, batch_cpu_sec=0.0)
    found = predict(parts, dataclasses.replace(PLENTY, disk_bytes_per_sec=math.inf))
    assert (found.binds, found.env_steps_per_sec) == ("wire", pytest.approx(512 * 40 / (512 * 0.0002 + 0.01)))
    assert found.syncs_per_sec == pytest.approx(1 / (512 * 0.0002 + 0.01))


def test_an_actor_may_always_send_one() -> None:
    setup = dataclasses.replace(PLENTY, limiter_buffer=1.0, network_rtt_sec=10.0)
    round_trip_sec = 10 + 0.01 + 512 * 0.0002 + 1000 * 1e6 / 1e8
    assert limits(PARTS, setup)["credit"] == pytest.approx(1000 * 40 / round_trip_sec)


def test_parameters_come_as_often_as_they_can_be_sent() -> None:
    """256 actors that ask every 2 s for 15 MB each: 2 GB a second."""
    parts = dataclasses.replace(PARTS, params_bytes=15e6)
    setup = dataclasses.replace(PLENTY, jobs=(Job(8, 8.0), *[Job(8, 8.0)] * 31), updates_per_sec=1000.0)
    assert predict(parts, setup).params_every_sec == pytest.approx(256 * 15e6 / 1e8)
    assert predict(parts, setup).network_out_bytes_per_sec == pytest.approx(1e8)
    quick = dataclasses.replace(setup, network_bytes_per_sec=1e12)
    found = predict(parts, quick)
    busy = found.env_steps_per_sec / 40 * 0.00005
    assert found.params_every_sec == pytest.approx(256 * 15e6 * 2e-9 / (1 - busy))
    slow = dataclasses.replace(quick, updates_per_sec=0.5)
    assert predict(parts, slow).params_every_sec == pytest.approx(20.0)


def test_the_limiters_room_is_a_limit_of_credit_too() -> None:
    """2 x 3,200 / 16 = 400 steps, 10 sequences, for 5 actors: two each."""
    setup = dataclasses.replace(PLENTY, jobs=(Job(5, 1000.0),), limiter_buffer=3200.0, network_rtt_sec=10.0)
    assert limits(PARTS, setup)["credit"] == pytest.approx(10 * 40 / (10 + 0.01 + 10 * 0.0002 + 5 * 1e6 / 1e8))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Parts) if field.name != "update_cpu_sec"])
def test_a_part_that_was_not_measured_is_no_part(name: str) -> None:
    """Of a sync that is not a number the sampler would bind where credit does."""
    with pytest.raises(UserError, match=f"^not measured: {name}$"):
        dataclasses.replace(PARTS, **{name: math.nan})


def test_a_learner_of_unknown_speed_is_refused() -> None:
    unknown = dataclasses.replace(PARTS, update_cpu_sec=math.nan)
    with pytest.raises(UserError, match="update_cpu_sec"):
        predict(unknown, PLENTY_ON_A_CPU)


@pytest.mark.parametrize("name", ["network_rtt_sec", "disk_bytes_per_sec", "updates_per_sec", "limiter_buffer"])
def test_a_setting_that_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^not a number: {name}$"):
        dataclasses.replace(PLENTY, **{name: math.nan})
    with pytest.raises(UserError, match=r"^not a number: cores$"):
        Job(1, math.nan)


# ---- records and report ----

ORIGIN = {"settings": "hash", "keys": [], "asked_seconds": 60.0, "commit": "abc"}


def recorded(folder: Path, rate: float = 470.0, origin: dict[str, Any] = ORIGIN) -> record.Records:
    """Records whose parts are `PARTS`, and of one whole run, which two cores limit at 474 steps a second."""
    records = record.Records(folder)
    for kind in record.PARTS:
        records.add(kind, "cpu", origin, dataclasses.asdict(PARTS))
    figures = {"actors": 2, "samples_per_insert": 16.0, "env_steps_per_sec": rate, "others_cpus": 0.0, "load": 1.0}
    used = {"cpus": {"actor": 1.0}, "queued": {"actor": 0.4}, "learner_threads": {"main": 0.9}}
    records.add(record.POINT, "cpu", origin, {**figures, **used, "cores": 2})
    return records


def test_records_are_found_again_and_the_newest_counts(tmp_path: Path) -> None:
    recorded(tmp_path)
    records = record.Records(tmp_path)
    assert record.parts_of(records, "cpu") == PARTS
    assert records.find(record.POINT, "cpu", actors=1, samples_per_insert=16.0) is None
    found = records.find(record.POINT, "cpu", actors=2, samples_per_insert=16.0)
    assert found is not None
    records.add("actors", "cpu", ORIGIN, {**dataclasses.asdict(PARTS), "step_cpu_sec": 1.0})
    again = record.parts_of(record.Records(tmp_path), "cpu")
    assert again is not None
    assert (again.step_cpu_sec, again.sync_sec) == (0.002, 0.01)  # the later records of other kinds have it too
    assert record.parts_of(records, "gpu") is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"settings": "other", "keys": ["batch_size=16"]}, r"settings hash, not other \(batch_size=16\)"),
        ({"asked_seconds": 4.0}, "--seconds 60.0, not 4.0"),
        ({"commit": "def"}, "commit abc, not def"),
    ],
)
def test_what_was_measured_otherwise_does_not_mix(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    records = recorded(tmp_path)
    assert records.origin("cpu") == ORIGIN
    records.check("cpu", ORIGIN)
    records.check("gpu", {**ORIGIN, **changed})  # nothing is there
    with pytest.raises(UserError, match=f"measured otherwise: {told}; take another --out"):
        records.check("cpu", {**ORIGIN, **changed})
    records.add(record.POINT, "cpu", {**ORIGIN, **changed}, {"actors": 1, "samples_per_insert": 16.0})
    with pytest.raises(UserError, match=f"not of one measurement: {told}"):
        record.parts_of(records, "cpu")


def test_a_command_with_other_seconds_measures_nothing(tmp_path: Path) -> None:
    """The commit is another as well; both are told, at once."""
    recorded(tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    command = [sys.executable, "-m", "scripts.bench.scaling", "--seconds", "4", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--seconds 60.0, not 4.0; commit abc, not " in done.stderr
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_an_unmeasured_part_is_not_recorded(tmp_path: Path) -> None:
    records = record.Records(tmp_path)
    with pytest.raises(UserError, match="ingest of cpu: not measured: sync_sec; try again"):
        records.add("ingest", "cpu", ORIGIN, {"sync_sec": math.nan})
    assert not (tmp_path / "records.jsonl").exists()
    records.add(record.POINT, "cpu", ORIGIN, {"actors": 1, "sync_sec": math.nan})  # the model takes no such of points


def test_recorded_parts_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    records = recorded(tmp_path)
    lines = (tmp_path / "records.jsonl").read_text().replace('"sync_sec": 0.01', '"sync_sec": NaN')
    (tmp_path / "records.jsonl").write_text(lines)
    with pytest.raises(UserError, match=r"records\.jsonl: parts of cpu: not measured: sync_sec"):
        record.parts_of(record.Records(tmp_path), "cpu")
    assert record.parts_of(records, "cpu") == PARTS


def test_the_commit_is_that_of_the_code_and_its_changes(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert record.code_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "cluster_rl").mkdir()
    (tmp_path / "cluster_rl" / "a.py").write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "code")
    first = git("rev-parse", "HEAD")
    (tmp_path / "words.md").write_text("x\n")
    git("add", ".")
    git("commit", "-q", "-m", "words")
    (tmp_path / "words.md").write_text("y\n")
    assert record.code_commit(tmp_path) == first
    (tmp_path / "cluster_rl" / "a.py").write_text("2\n")
    changed = record.code_commit(tmp_path)
    assert changed is not None
    assert changed.startswith(f"{first} with changes ")
    (tmp_path / "cluster_rl" / "a.py").write_text("3\n")
    assert record.code_commit(tmp_path) not in (first, changed)
    git("commit", "-q", "-a", "-m", "other code")
    assert record.code_commit(tmp_path) == git("rev-parse", "HEAD")


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        record.Records(tmp_path)


def test_settings_are_those_that_points_share() -> None:
    config = load_config("cpu")
    other_point = load_config("cpu", ["num_actors=7", "samples_per_insert=3"])
    assert record.settings_hash(config) == record.settings_hash(other_point)
    assert record.settings_hash(config) != record.settings_hash(load_config("cpu", ["batch_size=16"]))


@pytest.mark.parametrize(("rate", "is_off"), [(470.0, False), (590.0, False), (600.0, True), (390.0, True)])
def test_a_point_misses_the_goal_by_a_fifth(tmp_path: Path, rate: float, is_off: bool) -> None:
    """474 predicted."""
    pairs = report.compared(recorded(tmp_path, rate), "cpu", load_config("cpu"))
    assert [found.binds for _, found in pairs] == ["cores"]
    assert bool(report.missed(pairs)) == is_off


def test_other_programs_cores_are_not_the_runs(tmp_path: Path) -> None:
    point = {"actors": 2, "samples_per_insert": 16.0, "cores": 2, "others_cpus": 0.5}
    setup = record.point_setup(load_config("cpu"), point)
    assert (setup.jobs, setup.samples_per_insert) == ((Job(2, 1.5),), 16.0)
    assert setup.limiter_buffer == 0.2 * 16 * 4000


def test_tables_and_plot_come_from_records_alone(tmp_path: Path) -> None:
    recorded(tmp_path)
    command = [sys.executable, "-m", "scripts.bench.scaling", "--plot-only", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "| 16 | 2 | 470 | 474 | 1.01 | cores | 50; 20; 30 % | 90 % | 0.00; 1.0 |" in done.stdout
    assert "Measured with `--seconds 60`, commit abc." in done.stdout
    assert (tmp_path / "table.md").read_text() == done.stdout.rstrip("\n") + "\n"
    assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"


def test_records_that_do_not_say_their_origin_make_tables_too(tmp_path: Path) -> None:
    """Those of results/, which are older."""
    recorded(tmp_path, origin={"settings": "older"})
    records = record.Records(tmp_path)
    text = report.tables(records, {"cpu": load_config("cpu")}, {}, None)
    assert "| 16 | 2 | 470 | 474 |" in text
    assert "Measured with" not in text
    with pytest.raises(UserError, match="commit unknown, not abc"):
        records.check("cpu", ORIGIN)


def test_plots_take_the_keys_of_the_records(tmp_path: Path) -> None:
    recorded(tmp_path, origin={**ORIGIN, "keys": ["params_poll_seconds=77"]})
    command = [sys.executable, "-m", "scripts.bench.scaling", "--plot-only", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert " 77.0 s |" in done.stdout
    assert "Measured with `params_poll_seconds=77`, `--seconds 60`, commit abc." in done.stdout
    command += ["--lstm_hidden_size", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "leave out lstm_hidden_size=64" in done.stderr


@pytest.mark.parametrize("option", ["--network-gbit", "--disk-mb", "--seconds", "--rtt-ms", "--sync-ms"])
def test_options_are_numbers(tmp_path: Path, option: str) -> None:
    recorded(tmp_path)
    command = [sys.executable, "-m", "scripts.bench.scaling", "--plot-only", "--out", str(tmp_path), option, "nan"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_where_it_saturates() -> None:
    """A learner for 1 / 0.04 / 0.1 = 250 steps a second, and actors of 400 each; for 4,000 ten are just enough."""
    config = load_config("cpu")
    many = dataclasses.replace(PARTS, batch_cpu_sec=0.0)
    found = report.saturation(many, config, {}, {"samples_per_insert": 32.0})
    assert found is not None
    assert (found[0], found[1].binds) == (1, "learner")
    found = report.saturation(many, config, {}, {"samples_per_insert": 2.0})
    assert found is not None
    assert (found[0], found[1].binds) == (11, "learner")
    assert found[1].env_steps_per_sec == pytest.approx(4000)
    assert report.saturation(many, config, {}, {"samples_per_insert": 2.0, "updates_per_sec": 1e6}) is None


def test_actors_fill_one_job_after_another() -> None:
    assert [job.actors for job in report.spread(20)] == [8, 8, 4]
    assert [job.actors for job in report.spread(8)] == [8]


def test_without_records_there_is_nothing_to_plot(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.bench.scaling", "--plot-only", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run without --plot-only first" in done.stderr


# ---- measurements ----


def progress_at(ahead: float, limiter: RateLimiter, env_steps: int = 100_000) -> Progress:
    """So far ahead, as a share of the limiter's buffer."""
    sampled = limiter.owed(env_steps) + ahead * limiter.buffer
    return Progress(run_name="x", target_total_steps=1, env_steps=env_steps, samples_per_insert=sampled / env_steps)


def test_a_run_is_steady_once_one_side_waits_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter.from_config(load_config("cpu"))
    assert measure.limiter_ahead(limiter, progress_at(0.5, limiter)) == pytest.approx(0.5 * limiter.buffer)
    now = 1000.0
    monkeypatch.setattr(measure.time, "monotonic", lambda: now)
    is_steady = measure.Steadiness(limiter)

    def after(seconds: float, ahead: float) -> bool:
        nonlocal now
        now += seconds
        return is_steady(progress_at(ahead, limiter))

    assert not after(0.0, -3.0)  # the first transitions are owed their samples
    assert not after(100.0, -2.0)
    assert not after(1.0, -1.0)
    assert not after(4.0, -0.9)
    assert not after(4.0, 0.2)  # the learner is on its way to the other end
    assert not after(1.0, 0.9)
    assert after(6.0, 0.9)
    assert is_steady.reached
    assert not after(1.0, 0.0)
    assert after(10.0, 0.0)  # both are as fast as each other
    assert not is_steady.reached
    assert not after(1.0, -2.0)


def reading(at_sec: float, cpu_sec: float, machine_sec: float) -> measure.Reading:
    progress = Progress(run_name="x", target_total_steps=1, env_steps=int(100 * at_sec), sequences=int(at_sec))
    used = {"learner": {"main": Times(cpu_sec, 0.5 * at_sec)}}
    return measure.Reading(at_sec, progress, used, {"learner": cpu_sec}, machine_sec, log_bytes=0)


def test_a_window_is_what_came_between_two_readings() -> None:
    window = measure.Window(reading(10.0, 3.0, 50.0), reading(20.0, 8.0, 65.0))
    assert (window.seconds, window.env_steps, window.sequences) == (10.0, 1000, 10)
    assert window.thread("learner", "main") == Times(5.0, 5.0)
    assert window.thread("learner", "wire") == Times()
    assert (window.cpu_sec("learner"), window.cpu_sec("actor")) == (5.0, 0.0)
    assert window.others_cpus == 1.0
    rows = [{"time": at, "wire/syncs": 10 * at, "wire/sync_sec": 0.1 * at} for at in (5.0, 12.0, 16.0, 18.0, 25.0)]
    assert window.syncs(rows) == (pytest.approx(10.0), pytest.approx(0.01))
    assert all(math.isnan(one) for one in window.syncs(rows[:2]))
    without = [{**row, "wire/syncs": 0.0} for row in rows]
    assert math.isnan(window.syncs(without)[1])
    gone = dataclasses.replace(reading(20.0, 8.0, 65.0), threads={})
    with pytest.raises(UserError, match="ended meanwhile"):
        measure.Window(reading(10.0, 3.0, 50.0), gone)


@pytest.mark.parametrize("seconds", [1.0, 4.0, 60.0, 120.0, 240.0, 3600.0])
def test_rows_of_metrics_fall_into_the_shortest_window(seconds: float) -> None:
    """Whatever --seconds is; by a margin, for a row may be late."""
    shortest_sec = measure.ingest_seconds(seconds)
    assert shortest_sec == min(20.0, seconds)
    assert load_config("cpu", measure.common(seconds)).metrics_interval_seconds <= shortest_sec / 6


def test_proc_tells_what_threads_used() -> None:
    began, cpu_sec = threads(os.getpid())[MAIN].cpu_sec, process_cpu_sec(os.getpid())
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    assert 0.25 < threads(os.getpid())[MAIN].cpu_sec - began < 5.0
    assert 0.2 < process_cpu_sec(os.getpid()) - cpu_sec < 5.0
    with subprocess.Popen(["sleep", "30"]) as child:
        found = dict(children(os.getpid()))
        child.kill()
    assert child.pid in found


def test_a_recording_is_sent_again_as_later_episodes() -> None:
    config = load_config("cpu")
    spec = BlockSpec.from_config(config, 30, 7)
    blocks = synthetic_blocks(spec, 200)
    recording = measure.Recording(blocks)
    sent = [recording.block(number, actor=3, incarnation=77) for number in range(2 * len(blocks))]
    headers = [decode_header(block) for block in sent]
    assert {(header.actor, header.incarnation) for header in headers} == {(3, 77)}
    assert [header.episode for header in headers] == [0] * len(blocks) + [1] * len(blocks)
    assert decode_arrays(sent[-1], spec)[1].action.tolist() == decode_arrays(blocks[-1], spec)[1].action.tolist()


def test_children_are_known_by_their_commands() -> None:
    assert measure.name_of(["python", "-m", "cluster_rl.learner", "--run-dir", "x"]) == "learner"
    assert measure.name_of(["python", "-m", "cluster_rl.actor", "--run-dir", "x", "--slot", "3"]) == "actor-3"
    assert measure.name_of(["sleep", "1"]) == ""


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_measures_parts_and_a_run_and_does_none_of_it_again(tmp_path: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # pytest's, which ends the process after 360 s
    command = [sys.executable, "-m", "scripts.bench.scaling", "--seconds", "4", "--actors", "1", "--gpu-config", ""]
    command += ["--samples-per-insert", "4", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1100, cwd=ROOT)
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == [*record.PARTS, record.POINT], done.stderr
    records = record.Records(tmp_path)
    parts = record.parts_of(records, "cpu")
    assert parts is not None
    assert all(value >= 0 for value in dataclasses.asdict(parts).values())
    ((point, found),) = report.compared(records, "cpu", load_config("cpu"))
    assert isinstance(found, Prediction)
    assert done.returncode == int(bool(report.missed([(point, found)])))
    assert 0.3 < report.ratio(point, found) < 3  # of some seconds, whatever else runs
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert again.stderr.count("recorded") == 5
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 5
