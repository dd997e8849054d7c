"""The actor process: an `Actor` on the wire, for one learner or for one after another.

    python -m cluster_rl.actor --run-dir DIR [--job J] --slot N

Started by the launcher, in the learner's job, and by actor jobs. In: parameters. Out: sequences, exactly once each.
In the learner's job (0) an actor ends when the learner does. In a job of its own it outlives it: what is open is sent,
and the same process plays on for the next learner of the run, wherever that is.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

import argparse
import functools
import time
from pathlib import Path

import torch

from cluster_rl.acting.loop import Actor
from cluster_rl.config import Config, load_config, sequence_schema_hash
from cluster_rl.emulator.puffer_env import environment_of
from cluster_rl.emulator.spaces import block_spec
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.jobs.process_log import logged
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.jobs.watchdog import Watchdog
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.identity import check_environment, read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import target_reached
from cluster_rl.runs.rendezvous import read_rendezvous, wait_for_learner
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.codec import max_block_bytes
from cluster_rl.wire.keys import load_actor_keys

_CREDIT_WAIT_SEC = 1.0
_PARAMS_WAIT_MS = 200
_FIRST_WORD_SEC, _WORD_INTERVAL_SEC = 15.0, 300.0  # of a wait for the learner
_STATS_INTERVAL_SEC = 5.0
_FLUSH_SEC = 30.0  # longer than a learner is away that was started again
_STUCK_SEC = 120.0  # a step takes milliseconds, the start of many emulators seconds


class WireLink:
    """The link of an actor process: an `ActorChannel`, looked after between steps.

    `patience_sec` is how long a learner may be silent before the actor ends; None waits for ever.
    """

    def __init__(
        self, channel: ActorChannel, config: Config, stop: StopFlag, watchdog: Watchdog, patience_sec: float | None
    ) -> None:
        self._channel = channel
        self._watchdog = watchdog
        self._config = config
        self._stop = stop
        self._patience_sec = patience_sec
        self._taken: bytes | None = None
        self._asked_at = self._told_at = time.monotonic()
        self._told_steps = 0
        self._told_to_wait = False

    def send(self, block: bytes) -> None:
        while not self._channel.can_send() and not self.stop_reason:
            self._watchdog.alive()
            self._tell_wait()
            # The learner may be slower than the actors: what comes meanwhile is what the next steps are acted with.
            self._channel.request_params()
            self._channel.wait_for_credit(_CREDIT_WAIT_SEC, self._stop.is_set)
        self._channel.send(block)

    def take_params(self) -> tuple[int, bytes] | None:
        latest = self._channel.latest_params
        if latest is None or latest.data is self._taken:
            return None
        self._taken = latest.data
        return latest.version, latest.data

    def wait_for_params(self) -> bool:
        """Waits for the first parameters, and says so now and then; False if a stop came first."""
        word_at = time.monotonic() + _FIRST_WORD_SEC
        while self._channel.latest_params is None and not self.stop_reason:
            if time.monotonic() >= word_at:
                print(self._channel.state, flush=True)
                word_at += _WORD_INTERVAL_SEC
            self._watchdog.alive()
            self._tell_wait()
            self._channel.request_params()
            self._channel.poll(_PARAMS_WAIT_MS)
        return not self.stop_reason

    def _tell_wait(self) -> None:
        """Says once that the learner lets this actor wait, as another process has its number."""
        if self._channel.told_to_wait and not self._told_to_wait:
            print(self._channel.state, flush=True)
        self._told_to_wait = bool(self._channel.told_to_wait)

    def tick(self, env_steps: int, params_version: int) -> None:
        """Handles what has come, asks for parameters and sends figures when it is time."""
        self._watchdog.alive()
        now = time.monotonic()
        if now - self._asked_at >= self._config.params_poll_seconds:
            self._asked_at = now
            self._channel.request_params()
        if now - self._told_at >= _STATS_INTERVAL_SEC:
            rate = (env_steps - self._told_steps) / (now - self._told_at)
            self._channel.send_stats(rate, params_version, {})
            self._told_at, self._told_steps = now, env_steps
        self._channel.poll(0)

    @property
    def stop_reason(self) -> str:
        """Why the play with this learner should end; empty if it should go on."""
        if self._stop:
            return self._stop.reason
        if self._channel.stop_reason is not None:
            return f"the learner stops: {self._channel.stop_reason}"
        if self._patience_sec is not None and self._channel.silent_sec > self._patience_sec:
            return f"no learner for {self._patience_sec:.0f} s"
        return ""


def run_actor(run_dir: RunDir, job: int, slot: int) -> int:
    """Plays until a signal comes or no learner wants it; every finished step is with the learner then. The exit code.

    Raises `UserError` if the run has no such actor, or the learner refuses it.
    """
    torch.set_num_threads(1)
    stop = StopFlag().install()
    watchdog = Watchdog(_STUCK_SEC)
    previous = 0  # incarnation of the learner it has played for

    def not_wanted() -> bool:
        return stop.is_set() or (previous != 0 and target_reached(run_dir.progress))

    while True:
        if job:
            wait_sec = load_config(run_dir.config).learner_wait_seconds
            if wait_for_learner(run_dir.rendezvous, previous, wait_sec, not_wanted, watchdog.alive) is None:
                break
        config = load_config(run_dir.config)  # anew: the learner's next job may have changed it
        try:
            index = actor_number(config, job, slot)
        except UserError as error:
            if not previous:
                raise
            print(f"{error}; this actor ends", flush=True)
            break
        patience_sec = config.learner_wait_seconds if job else None
        channel = _play(run_dir, config, index, patience_sec, stop, watchdog)
        previous = channel.learner_incarnation
        if stop or channel.run_complete or channel.stop_reason is None or not job:
            break
    watchdog.close()
    return EXIT_OK


def actor_number(config: Config, job: int, slot: int) -> int:
    """The number in the run of the actor in this slot of this job. Raises `UserError` if the run has no such actor."""
    if not (0 <= job <= config.actor_jobs and 0 <= slot < config.num_actors):
        raise UserError(
            f"job {job}, slot {slot}: the run has {config.actor_jobs} actor jobs with {config.num_actors} each; "
            "start the learner with other --actor_jobs or --num_actors"
        )
    return config.num_actors * job + slot


def _play(
    run_dir: RunDir, config: Config, index: int, patience_sec: float | None, stop: StopFlag, watchdog: Watchdog
) -> ActorChannel:
    """Plays for one learner, its restarts included, as actor `index` of the run; returns the channel, closed.

    Raises `UserError` where the environment is no longer the run's: a checkout may change while a job lasts.
    """
    check_environment(read_identity(run_dir.identity), run_dir.run_name, environment_of(config))
    channel = ActorChannel(
        functools.partial(read_rendezvous, run_dir.rendezvous),
        index,
        run_dir.run_name,
        sequence_schema_hash(config),
        load_keys=functools.partial(load_actor_keys, run_dir.keys),
        max_block_bytes=max_block_bytes(block_spec(config)),
    )
    link = WireLink(channel, config, stop, watchdog, patience_sec)
    if link.wait_for_params():
        print(f"playing as actor {index}, {channel.state}", flush=True)
        logs = run_dir.episode_logs if config.log_episodes_for_replay else None
        actor = Actor(config, index, channel.incarnation, link, logs, run_dir.run_name, run_dir.archive)
        for env_steps in actor.run():
            link.tick(env_steps, actor.params_version)
            if link.stop_reason:
                break
        reason = link.stop_reason
        crash_point("actor.stopping")
        actor.stop()
        if not channel.flush(_FLUSH_SEC, lambda: stop.hurried):
            print(f"actor {index}: {channel.unacknowledged} sequences lost, not acknowledged in time", flush=True)
        crash_point("actor.flushed")
    else:
        reason = link.stop_reason
    print(reason, flush=True)
    channel.goodbye(reason)
    return channel


def main() -> int:
    """`python -m cluster_rl.actor --run-dir DIR [--job J] --slot N`."""
    parser = argparse.ArgumentParser(prog="python -m cluster_rl.actor", description="One actor process of a run.")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run, with its config.json")
    parser.add_argument("--job", type=int, default=0, help="number of the actor job; 0 is the learner's own job")
    parser.add_argument("--slot", type=int, required=True, help="which actor of the job, from 0")
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.run_dir.parent, arguments.run_dir.name).require()
    # As which it begins to speak; the config may be another one when a learner comes.
    index = actor_number(load_config(run_dir.config), arguments.job, arguments.slot)
    with logged(f"actor-{index}"):
        return run_actor(run_dir, arguments.job, arguments.slot)


if __name__ == "__main__":
    run_command(main, only_logs=True)
