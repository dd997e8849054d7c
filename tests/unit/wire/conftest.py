"""A learner, and an actor that knows where it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from channel_fixtures import Desk, make_actor

from cluster_rl.wire.actor_channel import ActorChannel


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.channel.close()


@pytest.fixture
def actor(desk: Desk) -> Iterator[ActorChannel]:
    with contextlib.closing(make_actor(desk.rendezvous)) as channel:
        yield channel
