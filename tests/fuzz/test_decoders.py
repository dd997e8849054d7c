"""Every decoder of bytes raises what it documents and no other, whatever the bytes. `scripts/fuzz.py` tries more."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import limits
import pytest
from decoders import Decoder, make_decoders
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from limits import try_input
from mutate import mutate

# Of one decoder: so many, or fewer of one that is slow.
_EXAMPLES, _LEAST_EXAMPLES, _SEC = 100, 15, 0.1
_MEMORY = Path("/dev/shm")

with tempfile.TemporaryDirectory() as _folder:
    _NAMES = [decoder.name for decoder in make_decoders(Path(_folder))]


@pytest.fixture(scope="module")
def decoders() -> Iterator[dict[str, Decoder]]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield {decoder.name: decoder for decoder in make_decoders(Path(folder))}


@pytest.mark.parametrize("name", _NAMES)
def test_any_bytes(decoders: dict[str, Decoder], name: str) -> None:
    decoder = decoders[name]
    valid = [try_input(decoder, seed) for seed in decoder.seeds]
    assert not any(done.problem for done in valid)
    assert not valid[0].refused
    slowest_sec = max(try_input(decoder, seed).seconds for seed in decoder.seeds)

    @settings(
        max_examples=max(_LEAST_EXAMPLES, min(_EXAMPLES, int(_SEC / max(slowest_sec, 1e-6)))),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(st.binary(max_size=400), *[st.integers(0, 2**32 - 1)] * 7))
    @example(b"")
    @example(b'{"next_seq": [], "\\ud800": "\\ud800"}')  # half a character, which JSON may hold
    def tried(source: bytes | int) -> None:
        if isinstance(source, int):
            chance = random.Random(source)
            source = mutate(chance.choice(decoder.seeds), chance, decoder.form, decoder.seeds)
        done = try_input(decoder, source)
        assert not done.problem, f"{done.problem}: {source[:200]!r}"

    tried()


def test_what_breaks_a_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SEC", 0.05)
    monkeypatch.setattr(limits, "MAX_BYTES", 2**20)

    def slow(_data: bytes) -> None:
        while time.thread_time() < began + 0.1:
            pass

    def refuse(data: bytes) -> None:
        raise ValueError(data.decode())

    def tried(decode: Callable[[bytes], object], data: bytes, *allowed: type[Exception]) -> str:
        return try_input(Decoder("x", decode, allowed, ()), data).problem

    began = time.thread_time()
    assert tried(slow, b"").endswith(" s")
    assert tried(refuse, b"no", ValueError) == ""
    assert tried(refuse, b"no", KeyError).startswith("ValueError: no (test_decoders.py, line ")
    assert tried(refuse, b"", ValueError) == "ValueError without a word"
    monkeypatch.setattr(limits, "MAX_SEC", 60.0)
    for _ in range(2):  # also where the process has had as much before
        assert tried(lambda _: b"x" * 2**24, b"").endswith(" MB")
