"""Which episodes are chosen, and what the videos that are there leave to do."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from recorded_episodes import header_of

from cluster_rl.errors import UserError
from cluster_rl.game.world import World
from cluster_rl.rendering.plan import Entry, Plan, choose, find_milestone, make_plan
from cluster_rl.rendering.work import Look
from cluster_rl.report.overlay import Chance
from cluster_rl.report.video_record import (
    VideoRecord,
    name_tail,
    path_picture,
    read_records,
    record_path,
    remove,
    told_by,
    write_record,
)

WORLD = World.cartridge()
LOOK = Look(fps=30, speed=1, overlay=False, kind="mp4")


def entry(folder: Path, name: str, age_sec: int = 0, **changes: object) -> Entry:
    """An episode whose log was written so long ago."""
    path = folder / f"{name}.eplog"
    path.touch()
    os.utime(path, (1_700_000_000 - age_sec,) * 2)
    return Entry(path, header_of(**changes), f"sha of {name}")


@pytest.mark.parametrize("words", ["GOT_BALM", "got_balm", "got the villager's gift", "Got the Villager's Gift"])
def test_a_milestone_by_its_name_or_title(words: str) -> None:
    assert find_milestone(WORLD, words).name == "GOT_BALM"


@pytest.mark.parametrize("words", ["BALM", "", "GOT_BALM ", "x\ny"])
def test_an_unknown_milestone_is_answered_with_those_that_are_known(words: str) -> None:
    with pytest.raises(UserError, match=r"LEFT_HOME \(stepped out of the house\), READ_SIGN"):
        find_milestone(WORLD, words)


def test_the_best_are_those_with_the_highest_returns_that_are_known(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path, "a", 30, episode_return=2.0, milestones=[("LEFT_HOME", 3)]),
        entry(tmp_path, "b", 20, episode_return=7.0),
        entry(tmp_path, "c", 10, episode_return=7.0, milestones=[("LEFT_HOME", 9), ("GOT_BALM", 20)]),
        entry(tmp_path, "d", 40, episode_return=99.0, complete=False),
        entry(tmp_path, "e", 50, episode_return=-1.0, milestones=[("GOT_BALM", 4)]),
    ]
    left_home, balm = find_milestone(WORLD, "LEFT_HOME"), find_milestone(WORLD, "GOT_BALM")

    def names(best: int = 0, milestone: object = None) -> str:
        return "".join(found.path.stem for found in choose(entries, best, milestone))

    assert names() == "cbade"  # the newest first
    assert (names(best=2), names(best=3), names(best=9)) == ("cb", "cba", "cbae")
    assert (names(milestone=left_home), names(milestone=balm)) == ("ca", "ce")
    assert names(best=1, milestone=balm) == "c"
    assert names(milestone=find_milestone(WORLD, "FERN_BADGE")) == ""


def put(video: Path, found: Entry, look: Look = LOOK, old: bool = False) -> None:
    """A finished video of an episode, as this program or an older one leaves it."""
    video.parent.mkdir(exist_ok=True)
    if look.kind == "png":
        video.mkdir()
        (video / "frame-000001.png").write_bytes(b"video")
    else:
        video.write_bytes(b"video")
    path_picture(video).write_bytes(b"png")
    told = {} if old else told_by(found.header, look.speed)
    record = VideoRecord(
        log_sha256=found.log_sha256,
        fps=look.fps,
        steps=50,
        frames=600,
        complete=True,
        video_bytes=5,
        path_bytes=3,
        overlay=look.overlay,
        kind=look.kind,
        speed=look.speed,
        **told,
    )
    write_record(video, record)


def plan_of(out: Path, found: Entry, look: Look = LOOK) -> Plan:
    return make_plan(out, look, [found], read_records(out))


def test_a_name_tells_return_milestones_and_epsilon(tmp_path: Path) -> None:
    def name(speed: int = 1, **changes: object) -> str:
        return name_tail(header_of(**changes), speed)

    assert name(episode_return=12.46, milestones=[("LEFT_HOME", 1), ("GOT_BALM", 2)]) == "_r12.5_m2_eps0.02"
    assert name(episode_return=-0.04, epsilon=0.0) == "_r0.0_m0_eps0"
    assert name(episode_return=-3.0, epsilon=1.0, speed=8) == "_r-3.0_m0_eps1_x8"
    assert name(complete=False, episode_return=0.0) == "_unfinished_eps0.02"
    assert len(name(episode_return=-1.7e308, epsilon=1.234567e-300)) < 40
    [job] = plan_of(tmp_path / "out", entry(tmp_path, "a b%")).jobs
    assert job.video == tmp_path / "out" / "a b%_r1.0_m0_eps0.02.mp4"
    assert job.older == ()


@pytest.mark.parametrize("kind", ["mp4", "gif", "png"])
@pytest.mark.parametrize("speed", [1, 8])
def test_what_is_finished_stays(tmp_path: Path, kind: str, speed: int) -> None:
    """And each kind and speed is another video, which takes no other's place."""
    out, found = tmp_path / "out", entry(tmp_path, "a")
    look = msgspec.convert({"fps": 30, "speed": speed, "overlay": False, "kind": kind}, Look)
    [job] = plan_of(out, found, look).jobs
    assert job.video is not None
    put(job.video, found, look)
    assert plan_of(out, found, look) == Plan([], [], 1)
    others = [Look(30, other, False, of) for of in ("mp4", "gif", "png") for other in (1, 8)]
    for other in others:
        if other != look:
            [there] = plan_of(out, found, other).jobs
            assert (there.video != job.video, there.older) == (True, ())
    for changed in (Look(12, speed, False, look.kind), Look(30, speed, True, look.kind)):
        [again] = plan_of(out, found, changed).jobs
        assert (again.video, again.older) == (job.video, ())
    remove(job.video)
    assert list(out.iterdir()) == []


def test_a_finished_video_of_an_older_program_gets_todays_name(tmp_path: Path) -> None:
    out, found = tmp_path / "out", entry(tmp_path, "a")
    put(out / "a.mp4", found, old=True)
    [(old, new, record)] = plan_of(out, found).renamed
    assert (old, new) == (out / "a.mp4", out / "a_r1.0_m0_eps0.02.mp4")
    assert (record.name_tail, record.episode_return, record.video_bytes) == ("_r1.0_m0_eps0.02", 1.0, 5)
    assert plan_of(out, found, Look(30, 1, True, "mp4")).jobs[0].older == (out / "a.mp4",)  # has no panel


def test_a_video_of_an_older_recording_gives_way(tmp_path: Path) -> None:
    out, unfinished = tmp_path / "out", entry(tmp_path, "a", complete=False)
    put(out / "a_unfinished_eps0.02.mp4", unfinished)
    put(out / "b_r1.0_m0_eps0.02.mp4", entry(tmp_path, "b"))
    [job] = plan_of(out, entry(tmp_path, "a")._replace(log_sha256="later")).jobs
    assert (job.video, job.older) == (out / "a_r1.0_m0_eps0.02.mp4", (out / "a_unfinished_eps0.02.mp4",))


def test_what_was_left_without_a_record_gives_way_and_what_is_anothers_does_not(tmp_path: Path) -> None:
    out, found = tmp_path / "out", entry(tmp_path, "a")
    out.mkdir()
    (out / "a.mp4").touch()
    (out / "ab.mp4").touch()
    assert plan_of(out, found).jobs[0].older == (out / "a.mp4",)
    # This log's name is that of a video of another log.
    other = entry(tmp_path, "a_r1.0_m0_eps0.02")
    put(out / "a_r1.0_m0_eps0.02.mp4", found)
    assert plan_of(out, other).jobs[0].older == ()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"log_sha256": 3}', b"\xff" * 9])
def test_a_damaged_record_is_no_record(tmp_path: Path, damage: bytes) -> None:
    out, found = tmp_path / "out", entry(tmp_path, "a")
    video = out / "a_r1.0_m0_eps0.02.mp4"
    put(video, found)
    record_path(video).write_bytes(damage)
    assert read_records(out) == {}
    assert [job.video for job in plan_of(out, found).jobs] == [video]


def test_chances_are_those_when_an_episode_began(tmp_path: Path) -> None:
    found = entry(tmp_path, "a")
    chance = {"LEFT_HOME": Chance("stepped out of the house", 0.5, 0.4, 0.6)}
    plan = make_plan(tmp_path / "out", LOOK, [found], {}, lambda header: chance if header == found.header else {})
    assert plan.jobs[0].chances == chance
