#!/usr/bin/env python3
"""Tries wrong bytes on every decoder of bytes that somebody else may have written (tests/fuzz/decoders.py).

    scripts/fuzz.py [--inputs 1000000] [--seed 0] [--only NAME ...] [--engine auto|atheris|own] [--out FOLDER]

The inputs are shared out among the decoders by what they cost, each decoder in a process of its own. With atheris
(`pip install .[fuzz]`) inputs follow what code they reach; the other engine mutates valid bytes blindly. Prints for
each decoder how many inputs it took, the slowest, and the most memory that one took; a failure's input is kept in the
output folder. Exits with 1 if an input raised what is not documented, took more than 2 s or more than 500 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_REPORT_INPUTS = 500
_KEPT_FAILURES = 5
# Slow ones get fewer inputs, so that none takes the time of all others.
_LEAST_SHARE = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description="Tries wrong bytes on every decoder.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all decoders together (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these decoders alone")
    parser.add_argument("--engine", choices=("auto", "atheris", "own"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failing inputs are kept")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    engine = _engine() if given.engine == "auto" else given.engine
    if given.worker:
        _work(given.worker, given.inputs, given.seed, engine, given.out)
        return 0
    started = time.monotonic()
    names = _measured(given.only)
    print(f"engine {engine}, {given.inputs:,} inputs for {len(names)} decoders", flush=True)
    rows = [
        _run_worker(name, max(1, round(given.inputs * share)), given.seed, engine, given.out)
        for name, share in names.items()
    ]
    total, bad = sum(row["inputs"] for row in rows), sum(row["failures"] for row in rows)
    print(f"all: {total:,} inputs in {time.monotonic() - started:.0f} s, {bad} failures, engine {engine}", flush=True)
    return 1 if bad else 0


def _engine() -> str:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return "own"
    return "atheris"


def _measured(only: list[str] | None) -> dict[str, float]:
    """Name -> share of the inputs: between a tenth of the mean and what is cheap."""
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for decoder in _decoders(folder):
            if only and decoder.name not in only:
                continue
            started, count = time.thread_time(), 0
            while count < 5 or (time.thread_time() - started < 0.05 and count < 200):
                decoder.decode(decoder.seeds[0])
                count += 1
            rates[decoder.name] = count / max(1e-6, time.thread_time() - started)
    if not rates:
        sys.exit(f"error: --only {' '.join(only or [])}: no such decoder")
    weights = {name: rate**0.5 for name, rate in rates.items()}
    mean = sum(weights.values()) / len(weights)
    weights = {name: max(weight, _LEAST_SHARE * mean) for name, weight in weights.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _run_worker(name: str, inputs: int, seed: int, engine: str, out: Path) -> dict[str, Any]:
    """Fuzzes one decoder in a process of its own and prints its row."""
    command = [sys.executable, __file__, "--worker", name, "--inputs", str(inputs), "--seed", str(seed)]
    command += ["--engine", engine, "--out", str(out.absolute())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_paths())}
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        row_file = Path(folder) / "row.json"
        done = subprocess.run(
            command,
            env={**environment, "FUZZ_ROW": str(row_file), "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        row: dict[str, Any] = json.loads(row_file.read_bytes()) if row_file.exists() else _new_row()
    if done.returncode != 0 or row["inputs"] == 0:
        row["failures"] += 1
        print(
            f"{name}: the process ended with code {done.returncode}: {' '.join(done.stderr.split())[-500:]}", flush=True
        )
    print(
        f"{name}: {row['inputs']:,} inputs, {row['refused']:,} refused, slowest {1000 * row['slowest_sec']:.0f} ms, "
        f"most memory {row['grown_bytes'] / 2**20:.0f} MB, {row['failures']} failures",
        flush=True,
    )
    for problem, path in row["problems"].items():
        print(f"  {problem}\n    {path}", flush=True)
    return row


def _new_row() -> dict[str, Any]:
    return {"inputs": 0, "refused": 0, "failures": 0, "slowest_sec": 0.0, "grown_bytes": 0, "problems": {}}


def _work(name: str, inputs: int, seed: int, engine: str, out: Path) -> None:
    """One decoder, in this process. Its row goes to the file that FUZZ_ROW names, again and again: libFuzzer ends the
    process without Python's own end."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["cluster_rl"]):
            decoder, mutate, try_input = _loaded(name)
    else:
        decoder, mutate, try_input = _loaded(name)
    row, row_file = _new_row(), Path(os.environ["FUZZ_ROW"])
    problems: dict[str, str] = row["problems"]

    def one_input(data: bytes) -> None:
        tried = try_input(decoder, data)
        row["inputs"] += 1
        row["slowest_sec"] = max(row["slowest_sec"], tried.seconds)
        row["grown_bytes"] = max(row["grown_bytes"], tried.grown_bytes)
        row["refused"] += tried.refused
        if tried.problem:
            row["failures"] += 1
            if tried.problem not in problems and len(problems) < _KEPT_FAILURES:
                out.mkdir(parents=True, exist_ok=True)
                path = out / f"{name.replace(' ', '-').replace(',', '')}-{hashlib.sha256(data).hexdigest()[:12]}"
                path.write_bytes(data)
                problems[tried.problem] = str(path)
        if row["inputs"] % _REPORT_INPUTS == 0 or row["inputs"] >= inputs or tried.problem:
            row_file.write_text(json.dumps(row), encoding="utf-8")

    chance = random.Random(f"{seed} {name}")
    for valid in decoder.seeds:
        one_input(valid)
    if engine == "own":
        while row["inputs"] < inputs:
            one_input(mutate(chance.choice(decoder.seeds), chance, decoder.form, decoder.seeds))
        return

    def mutated(data: bytes, max_bytes: int, seed: int) -> bytes:
        """Half of them ours, which know JSON and msgpack, half libFuzzer's, which follow the code."""
        ours = random.Random(seed)
        changed = (
            mutate(data, ours, decoder.form, decoder.seeds) if ours.random() < 0.5 else atheris.Mutate(data, max_bytes)
        )
        return bytes(changed)[:max_bytes]

    with tempfile.TemporaryDirectory() as corpus:
        for number, valid in enumerate(decoder.seeds):
            (Path(corpus) / str(number)).write_bytes(valid)
        largest = max(4096, 2 * max(map(len, decoder.seeds)))
        options = [f"-runs={max(1, inputs - row['inputs'])}", f"-seed={seed + 1}", f"-max_len={largest}"]
        options += ["-rss_limit_mb=0", "-timeout=60", f"-artifact_prefix={corpus}-", "-verbosity=0", corpus]
        atheris.Setup([sys.argv[0], *options], one_input, custom_mutator=mutated)
        atheris.Fuzz()


def _loaded(name: str) -> tuple[Any, Any, Any]:
    from limits import try_input
    from mutate import mutate

    (decoder,) = (one for one in _decoders(tempfile.mkdtemp()) if one.name == name)
    return decoder, mutate, try_input


def _decoders(folder: str) -> list[Any]:
    sys.path[:0] = [path for path in _paths() if path not in sys.path]
    from decoders import make_decoders

    decoders: list[Any] = make_decoders(Path(folder))
    return decoders


def _paths() -> list[str]:
    return [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]


def _memory() -> str | None:
    """Where files cost no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
