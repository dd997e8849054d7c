"""Every decoder of bytes that somebody else may have written, with valid bytes to start from.

`DECODERS` makes them; each takes any bytes and may raise what is documented and nothing else. Where a checksum guards
what is inside, there is a decoder of its own that puts the right checksum on wrong content: a program of ours with a
mistake, or somebody who means harm, would too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import run_golden
import torch
import wire_golden
from blank_rom import blank_rom
from mutate import Form
from sequence_fixtures import make_builder, play, small_spec, summary_of

from cluster_rl import cartridge
from cluster_rl.batch_system import chain, sbatch_options, settings
from cluster_rl.config import config_to_json, load_config
from cluster_rl.emulator import script, snapshot
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.exploration.bayes_quests import QuestRecord
from cluster_rl.exporting.policy_file import export_safetensors, read_policy
from cluster_rl.game import savestate
from cluster_rl.jobs import slurm
from cluster_rl.model import build_model, load_params
from cluster_rl.replay.log import ReplayLog
from cluster_rl.replay.segments import record_bytes
from cluster_rl.replay.totals import Totals
from cluster_rl.report import rivals, video_record
from cluster_rl.rom import load_rom
from cluster_rl.runs import checkpoint, episode_log, evaluation, identity, lock, progress, rendezvous
from cluster_rl.training.metrics import read_metrics
from cluster_rl.wire import codec, keys, messages

_DATA = Path(__file__).resolve().parents[1] / "data"
_SPEC = small_spec()
_OWNER = "run-1"
_MILESTONES = frozenset({"first_badge"})
_INCARNATION = 10**18 + 7  # of the made blocks, whose actor is 3


@dataclass(frozen=True)
class Decoder:
    """`decode` may raise `allowed` alone. `seeds` are valid; `form` is what they are inside, for the mutator."""

    name: str
    decode: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    form: Form = "plain"


def make_decoders(folder: Path) -> list[Decoder]:
    """All of them. Those of files write into `folder`, best on a file system in memory."""
    return [
        *_wire(),
        *_blocks(),
        *_replay(folder),
        *_run_files(folder),
        *_checkpoints(folder),
        *_policies(folder),
        *_episodes(),
        *_game(folder),
        *_slurm(folder),
    ]


# --- the wire ---


def _wire() -> list[Decoder]:
    golden = wire_golden.files()
    raw = {"sequence": golden["sequence-block.bin"], "params": golden["params-weights.bin"]}

    def seeds(names: tuple[str, ...]) -> tuple[bytes, ...]:
        return tuple(_joined([golden[f"{name}.bin"], *([raw[name]] if name in raw else [])]) for name in names)

    def framed(name: str, header: bytes) -> list[bytes]:
        """The raw frame, of a header that may be of the message that has one."""
        return [raw[name]] if b"_bytes" in header else []

    from_actor = ("hello", "sequence", "params_request", "actor_stats", "goodbye")
    from_learner = ("welcome", "ack", "params", "params_unchanged", "stop", "refused")
    version = bytes([messages.PROTOCOL_VERSION])
    network = torch.nn.Linear(2, 1)
    return [
        Decoder(
            "wire from actor",
            lambda d: messages.decode_from_actor(_parts(d)),
            (messages.MessageError,),
            seeds(from_actor),
        ),
        Decoder(
            "wire from learner",
            lambda d: messages.decode_from_learner(_parts(d)),
            (messages.MessageError,),
            seeds(from_learner),
        ),
        Decoder(
            "wire header from actor",
            lambda d: messages.decode_from_actor([version + d, *framed("sequence", d)]),
            (messages.MessageError,),
            tuple(golden[f"{name}.bin"][1:] for name in from_actor),
            "msgpack",
        ),
        Decoder(
            "wire header from learner",
            lambda d: messages.decode_from_learner([version + d, *framed("params", d)]),
            (messages.MessageError,),
            tuple(golden[f"{name}.bin"][1:] for name in from_learner),
            "msgpack",
        ),
        Decoder("wire parameters", lambda d: load_params(network, d), (UserError,), (raw["params"],)),
    ]


def _joined(parts: list[bytes]) -> bytes:
    return bytes([len(parts)]) + b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def _parts(data: bytes) -> list[bytes]:
    """The frames that `_joined` made into one."""
    parts, at = [], 1
    for _ in range(data[0] % 8 if data else 0):
        length = int.from_bytes(data[at : at + 4], "little")
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return parts


# --- sequence blocks and the replay log ---


def _made_blocks() -> tuple[bytes, ...]:
    summary = summary_of(11, episode_return=2.5, terms={"event": 2.5}, milestones=[("first_badge", 2)])
    sequences = play(make_builder(_SPEC), 5, 11, milestones={1: ["first_badge"]}, summary=summary)
    return tuple(codec.encode_block(sequence) for sequence in sequences)


def _sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def _blocks() -> list[Decoder]:
    made = _made_blocks()
    lengths = [int.from_bytes(block[4:8], "little") for block in made]
    last, last_length = made[-1], lengths[-1]

    def with_header(header: bytes) -> bytes:
        body = last[:4] + len(header).to_bytes(4, "little") + header + last[8 + last_length : -4]
        return _sealed(body)

    def with_payload(payload: bytes) -> bytes:
        compressor = codec.zstandard.ZstdCompressor(level=1)
        return _sealed(last[: 8 + last_length] + compressor.compress(payload))

    payload = codec.zstandard.ZstdDecompressor().decompress(last[8 + last_length : -4])
    # The last one's first, which fits its payload.
    headers = tuple(block[8 : 8 + length] for block, length in zip(made, lengths, strict=True))[::-1]
    refused = (codec.BlockError,)
    return [
        Decoder("block", lambda d: codec.decode_arrays(d, _SPEC), refused, made),
        Decoder(
            "block, CRC right", lambda d: codec.decode_arrays(_sealed(d), _SPEC), refused, tuple(b[:-4] for b in made)
        ),
        Decoder("block header", lambda d: codec.decode_arrays(with_header(d), _SPEC), refused, headers, "msgpack"),
        Decoder("block header, no spec", lambda d: codec.decode_header(with_header(d)), refused, headers, "msgpack"),
        Decoder("block payload", lambda d: codec.decode_arrays(with_payload(d), _SPEC), refused, (payload,)),
    ]


def _replay(folder: Path) -> list[Decoder]:
    home = folder / "replay"
    made = _made_blocks()

    def opened(content: bytes) -> object:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (home / "segment-00000000.log").write_bytes(content)
        log = ReplayLog(home, _SPEC, owner=_OWNER, milestones=_MILESTONES, segment_bytes=2**20, segment_transitions=40)
        log.close()
        return log.totals

    log = ReplayLog(
        folder / "made", _SPEC, owner=_OWNER, milestones=_MILESTONES, segment_bytes=2**20, segment_transitions=2
    )
    for seq, block in enumerate(made):
        log.append(3, _INCARNATION, seq, block, codec.decode_header(block))
    segments = tuple(segment.path.read_bytes() for segment in log.segments)
    log.close()
    shutil.rmtree(folder / "made")
    bodies = tuple(content[16 : 16 + int.from_bytes(content[8:12], "little")] for content in segments)

    def with_body(body: bytes) -> bytes:
        return (
            segments[0][:8]
            + struct.pack("<II", len(body), zlib.crc32(body))
            + body
            + segments[0][16 + len(bodies[0]) :]
        )

    def with_record(data: bytes) -> bytes:
        record_id, actor, incarnation, seq = struct.unpack("<QIQQ", data[:28].ljust(28, b"\0"))
        start = segments[0][: 16 + len(bodies[0])]
        return start + record_bytes(_sealed(data[28:]), record_id, actor, incarnation, seq)

    def with_block_header(header: bytes) -> bytes:
        last = made[-1]
        length = int.from_bytes(last[4:8], "little")
        block = _sealed(last[:4] + len(header).to_bytes(4, "little") + header + last[8 + length : -4])
        return segments[0][: 16 + len(bodies[0])] + record_bytes(block, 0, 3, _INCARNATION, 0)

    records = tuple(struct.pack("<QIQQ", seq, 3, _INCARNATION, seq) + block[:-4] for seq, block in enumerate(made))
    quest = QuestRecord(successes=1.5, failures=2.25, trials=5, reached=2, blocks=[(2, 5)])
    plain = {
        **Totals(env_steps=5, sequences=2, episodes=1, next_id=2, milestones={"a": 1}, quests={"a": quest}).to_plain(),
        "next_seq": [[3, 9, 2]],
        "frontiers": [[3, 9, 1, 5, 11]],
    }
    headers = tuple(block[8 : 8 + int.from_bytes(block[4:8], "little")] for block in made)
    return [
        Decoder("segment", opened, (UserError,), segments),
        Decoder("segment header, CRC right", lambda d: opened(with_body(d)), (UserError,), bodies, "msgpack"),
        Decoder("segment record, CRCs right", lambda d: opened(with_record(d)), (UserError,), records),
        Decoder(
            "segment block header, CRCs right", lambda d: opened(with_block_header(d)), (UserError,), headers, "msgpack"
        ),
        Decoder(
            "totals in a checkpoint",
            _of_mapping(Totals.from_plain),
            (UserError,),
            (json.dumps(plain).encode(),),
            "json",
        ),
    ]


def _of_mapping(decode: Callable[[dict[str, Any]], object]) -> Callable[[bytes], object]:
    """For what takes a mapping out of JSON that others have read; nothing else comes that far."""

    def of_bytes(data: bytes) -> object:
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return decode(plain) if isinstance(plain, dict) else None

    return of_bytes


# --- files of a run ---


def _reading(path: Path, read: Callable[[Path], object], mode: int = 0o644) -> Callable[[bytes], object]:
    """`read` of a file with these bytes."""

    def of_bytes(data: bytes) -> object:
        path.write_bytes(data)
        path.chmod(mode)
        return read(path)

    return of_bytes


def _run_files(folder: Path) -> list[Decoder]:
    a_progress = progress.Progress(run_name="tiny", target_total_steps=10, milestones={"a": 1}, mean_return_recent=0.5)
    a_progress.begin_job()
    made = identity.RunIdentity(run_id="0" * 32, rom_sha1="1" * 40, rom_title="LANTERNVALE", created=1.5)
    place = rendezvous.Rendezvous(protocol=5, run="tiny", endpoint="tcp://127.0.0.1:1", public_key=None, incarnation=5)
    keys.make_keys(folder / "keys")
    pair = (folder / "keys" / keys.LEARNER_FILE).read_bytes()
    video = folder / "v.mp4"
    record = video_record.VideoRecord(
        log_sha256="0" * 64, fps=30, steps=5, frames=60, complete=True, video_bytes=0, path_bytes=0
    )
    as_json = msgspec.json.encode
    config = config_to_json(load_config("quickstart"))
    refused = (UserError,)

    def file(name: str, read: Callable[[Path], object], seed: bytes, form: Form = "json", mode: int = 0o600) -> Decoder:
        return Decoder(name, _reading(folder / name.replace(" ", "-"), read, mode), refused, (seed,), form)

    return [
        file("progress.json", progress.read_progress, as_json(a_progress)),
        file("run.json", identity.read_identity, as_json(made)),
        file("rendezvous.json", rendezvous.read_rendezvous, as_json(place)),
        file("key", keys.load_pair, pair),
        file("evaluation.json", evaluation.read_evaluation, as_json(run_golden.EVALUATION)),
        file("chain.json", chain.read_chain, as_json(chain.ChainState(crashes=1, env_steps=5))),
        file("run.lock.holder", lock.read_holder, as_json(lock.Holder.this_process())),
        file("config.json", load_config, config),
        file(
            "config.yaml",
            load_config,
            (cartridge.rom_path().parents[1] / "configs" / "quickstart.yaml").read_bytes(),
            "plain",
        ),
        file("metrics.jsonl", read_metrics, b'{"time":1.5,"env_steps":3,"a":null}\n{"time":2.5}\n', "plain"),
        file("rival.jsonl", rivals.read_rival, _RIVAL, "plain"),
        file("online_params.pt", checkpoint.read_params, _params_file(folder), "plain"),
        file("settings.env", functools.partial(settings.read_settings, environment={}), _SETTINGS, "plain"),
        Decoder(
            "video record",
            _reading(video_record.record_path(video), lambda path: video_record.is_finished(video, "0" * 64, 30)),
            (),
            (as_json(record),),
            "json",
        ),
    ]


_RIVAL = b"".join(
    b'{"agent":"ppo","seed":1,' + rest + b"}\n"
    for rest in (
        b'"kind":"start","env_step":0,"settings":{"config":{"rewards":{"talk":0.2}}}',
        b'"kind":"milestone","env_step":40,"name":"LEFT_HOME"',
        b'"kind":"episode","env_step":90,"return":1.5,"length":90',
        b'"kind":"end","env_step":100',
    )
)
_SETTINGS = b"# a comment\nCLUSTER_RL_PYTHON=/usr/bin/python3\nCLUSTER_RL_MAX_JOBS=4\nCLUSTER_RL_ACCOUNT='some one'\n"


def _params_file(folder: Path) -> bytes:
    checkpoint.publish_params(folder / "made.pt", torch.nn.Linear(2, 1).state_dict())
    return (folder / "made.pt").read_bytes()


def _checkpoints(folder: Path) -> list[Decoder]:
    home = folder / "checkpoint"
    state = {"weights": torch.ones(2), "tuple": (1, 2.5, None), "by number": {3: b"bytes", (1, 2): [True]}, "$": 2**70}
    tensors, tree = checkpoint.flatten_state(state)
    saved = checkpoint.save_checkpoint(home, tensors, {"updates": 7, "state": tree})
    made = {name: (saved / name).read_bytes() for name in ("manifest.json", "state.json", "tensors.safetensors")}

    def loaded(changed: str, data: bytes) -> object:
        files = {**made, changed: data}
        if changed != "manifest.json":
            manifest = json.loads(made["manifest.json"])
            manifest["files"][changed] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
            files["manifest.json"] = json.dumps(manifest).encode()
        for name, content in files.items():
            (saved / name).write_bytes(content)
        found = checkpoint.load_checkpoint(home)
        return None if found is None else checkpoint.unflatten_state(found.tensors, found.meta)

    def decoder(name: str, form: Form) -> Decoder:
        return Decoder(f"checkpoint {name}", functools.partial(loaded, name), (UserError,), (made[name],), form)

    return [decoder("manifest.json", "json"), decoder("state.json", "json"), decoder("tensors.safetensors", "plain")]


def _policies(folder: Path) -> list[Decoder]:
    sizes = ["lstm_hidden_size=8", "num_quantiles=1", "model.context_width=8", "model.trunk_width=8"]
    config = load_config("slim_cpu", [*sizes, "model.conv_channels=[1,1]", "occupancy_crop_radius=1"])
    checkpoint.publish_params(folder / "p.pt", build_model(config, observation_spec(config)).state_dict())
    export_safetensors(config, folder / "p.pt", folder / "p.safetensors")
    whole = (folder / "p.safetensors").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    read = _reading(folder / "a.safetensors", read_policy)

    def with_header(data: bytes) -> bytes:
        return len(data).to_bytes(8, "little") + data + whole[8 + size :]

    def with_metadata(name: str, data: bytes) -> bytes:
        said = {**header["__metadata__"], name: data.decode(errors="replace")}
        return with_header(json.dumps({**header, "__metadata__": said}).encode())

    def inside(name: str) -> Decoder:
        seed = header["__metadata__"][name].encode()
        return Decoder(f"policy, {name}", lambda d: read(with_metadata(name, d)), (UserError,), (seed,), "json")

    return [
        Decoder("policy", read, (UserError,), (whole,)),
        Decoder("policy header", lambda d: read(with_header(d)), (UserError,), (whole[8 : 8 + size],), "json"),
        *(inside(name) for name in ("config", "observation", "buttons")),
    ]


def _episodes() -> list[Decoder]:
    header = {
        "rom_sha1": "1" * 40,
        "rom_kind": "cartridge",
        "pyboy_version": "2.8.1",
        "frame_skip": 24,
        "run": "tiny",
        "actor": 0,
        "incarnation": 5,
        "emulator": 0,
        "schema": 1,
        "episode": 0,
        "seed": 3,
        "params_version": 1,
        "epsilon": 0.5,
        "started": "2026-01-01T00:00:00+00:00",
        "steps": 4,
        "return": 1.5,
        "terms": {"event": 1.5},
        "milestones": [{"name": "a", "step": 2}],
        "reason": "terminated",
        "complete": True,
        "ram_hash_interval_steps": 2,
    }
    compress = codec.zstandard.ZstdCompressor(level=3).compress
    rest = [compress(part) for part in (b"state", bytes(4), bytes(8), bytes(12), bytes(16))]

    def log(header_bytes: bytes, parts: list[bytes] = rest) -> bytes:
        table = [number for part in (header_bytes, *parts) for number in (len(part), zlib.crc32(part))]
        prefix = struct.pack("<8sI" + "QI" * (len(table) // 2), b"\x89EPLOG\r\n", len(table) // 2 - 5, *table)
        return b"".join((_sealed(prefix), header_bytes, *parts))

    def resealed(data: bytes) -> bytes:
        """The right checksums of the parts that the prefix's lengths cut out, and of the prefix."""
        size = struct.calcsize("<8sI" + "QI" * 6)
        if len(data) < size + 4:
            return data
        magic, version, *table = struct.unpack_from("<8sI" + "QI" * 6, data)
        at, crcs = size + 4, []
        for length in table[::2]:
            crcs.append(zlib.crc32(data[at : at + length]))
            at += length
        numbers = [number for pair in zip(table[::2], crcs, strict=True) for number in pair]
        return _sealed(struct.pack("<8sI" + "QI" * 6, magic, version, *numbers)) + data[size + 4 :]

    def parsed(data: bytes) -> object:
        return episode_log.parse_log(data, "log")

    header_bytes = json.dumps(header).encode()
    whole = log(header_bytes)
    assert isinstance(parsed(whole), episode_log.EpisodeLog)
    step = script.pack_script(script.Script([script.Input(5, 0), script.Frames(24), script.Write(0xD000, b"ab")], 0.5))
    scripts = msgspec.msgpack.encode([step] * 4)

    def scripted(data: bytes) -> bytes:
        return log(header_bytes, [*rest, compress(data)])

    assert parsed(scripted(scripts)).scripts == (step,) * 4  # type: ignore[attr-defined]
    return [
        Decoder("episode log", parsed, (UserError,), (whole,)),
        Decoder("episode log, CRCs right", lambda d: parsed(resealed(d)), (UserError,), (whole,)),
        Decoder("episode log header, CRCs right", lambda d: parsed(log(d)), (UserError,), (header_bytes,), "json"),
        Decoder("episode log, scripted", parsed, (UserError,), (scripted(scripts),)),
        Decoder("scripts of an episode log", lambda d: parsed(scripted(d)), (UserError,), (scripts,)),
        Decoder("script of a step", lambda d: script.unpack_script(d, "script"), (UserError,), (step,)),
    ]


# --- the game ---


def _game(folder: Path) -> list[Decoder]:
    rom = load_rom("")
    with Console(rom, 24) as console:
        console.boot()
        packed = console.save()
    state = snapshot.unpack(packed, rom)
    header_bytes = packed[12 : 12 + int.from_bytes(packed[8:12], "little")]
    stored = packed[12 + len(header_bytes) :]
    unpack = codec.zstandard.ZstdDecompressor().decompress
    old = tuple(unpack(path.read_bytes()) for path in sorted((_DATA / "savestates").glob("*.state.zst")))

    def with_header(data: bytes) -> bytes:
        return packed[:8] + len(data).to_bytes(4, "little") + data + stored

    def read_state(path: Path) -> object:
        return snapshot.load_savestate_file(str(path), rom)

    another = rom.data[:0x134] + blank_rom(folder, "SOMETHING").read_bytes()[0x134:0x150] + rom.data[0x150:]
    assert load_rom(str(folder / "game.gb"))
    return [
        Decoder("snapshot", lambda d: snapshot.unpack(d, rom), (UserError,), (packed,)),
        Decoder(
            "snapshot header", lambda d: snapshot.unpack(with_header(d), None), (UserError,), (header_bytes,), "json"
        ),
        Decoder("savestate file", _reading(folder / "a.state", read_state), (UserError,), (packed, state, *old)),
        Decoder("savestate's RAM", savestate.ram_image, (UserError,), (state, *old)),
        Decoder(
            "ROM file", _reading(folder / "a.gb", lambda path: load_rom(str(path))), (UserError,), (rom.data, another)
        ),
    ]


# --- SLURM ---

_SCRIPT = b"""#!/bin/bash
#SBATCH --job-name=one --time=4:00:00
#SBATCH -p gpu -n1 --gres "gpu:1"
# a comment
#SBATCH --signal=B:USR2@300
set -e
#SBATCH --late
"""
_QUEUE = (
    b"7\tgpu\tRUNNING\tNone\tgpu01\t3:59:00\tcluster_rl:/r/one\t/s/a.sbatch --x\n"
    b"8_3\tcpu\tPENDING\tPriority\t\tUNLIMITED\t(null)\t(null)\n"
)


def _slurm(folder: Path) -> list[Decoder]:
    def told(call: Callable[[], object]) -> Callable[[bytes], object]:
        """`call` where the programs of SLURM print these bytes."""

        def of_bytes(data: bytes) -> object:
            printed = data.decode(errors="replace")
            with mock.patch.object(slurm, "run_slurm", return_value=printed):
                return call()

        return of_bytes

    def read_script(data: bytes) -> object:
        words, _ = sbatch_options.script_words(data.decode(errors="replace"), "script")
        options, _ = sbatch_options.read_options(words, "script")
        sbatch_options.refuse(sbatch_options.with_one_memory(options))
        return options

    def read_typed(data: bytes) -> object:
        return sbatch_options.read_options(data.decode(errors="replace").split(), sbatch_options.TYPED)

    def ending() -> object:
        with mock.patch.object(slurm, "slurm_job_id", return_value="7"):
            return slurm.ending()

    failed = (slurm.SlurmError,)
    return [
        Decoder("sbatch script", read_script, (UserError,), (_SCRIPT,)),
        Decoder("sbatch options", read_typed, (UserError,), (b"--time=4:00:00 -p gpu --mem 4G -n1 --exclusive",)),
        Decoder("squeue", told(slurm.queued_jobs), failed, (_QUEUE,)),
        Decoder("squeue, time left", told(lambda: slurm.time_left_sec("7")), failed, (b"left:1-03:59:00\n",)),
        Decoder("sbatch, job number", told(lambda: slurm.submit_job(["sbatch"])), failed, (b"1234;cluster\n",)),
        Decoder("scontrol, ending", told(ending), failed, (b"JobId=7 JobState=COMPLETING Restarts=2 BatchFlag=1\n",)),
        Decoder(
            "duration",
            lambda d: slurm.duration_sec(d.decode(errors="replace")),
            (ValueError,),
            (b"1-12:30:05", b"4:00:00"),
        ),
    ]
