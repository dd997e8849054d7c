"""All bytes from outside pass through `runs/small_file.py`, or somebody says why not."""

from __future__ import annotations

import ast
from pathlib import Path

import cluster_rl

PACKAGE = Path(cluster_rl.__file__).parent
READS = {"read_bytes", "read_text", "loads", "decode", "load"}
OWN_READERS = {
    "runs/small_file.py": "it is the reader",
    "batch_system/job_files.py": "the package's own files",
    "cartridge/__init__.py": "the package's own files",
    "cartridge/build.py": "the package's own files, in a checkout",
    "cartridge/compile_content.py": "the package's own files, in a checkout",
    "cartridge/pictures.py": "the package's own files, in a checkout",
    "game/world.py": "the package's own files",
    "batch_system/job_script.py": "a job script, as text with any bytes",
    "jobs/machine.py": "the kernel's files",
    "config.py": "a word of the command line, which is a text if it is no JSON",
    "configs/files.py": "a config, in JSON or YAML, maybe from a pipe: a reader of its own for texts of people",
    "replay/log.py": "a segment of the log, whose size is bounded by its writer",
    "training/metrics.py": "all rows of a run, of any number; each line is decoded by the reader",
    "runs/checkpoint.py": "state.json has numbers of any size, and is held against its SHA-256 before",
    "runs/job_record.py": "a config that was held against its SHA-256 before",
    "wire/codec.py": "a prebuilt decoder, for speed; tests/fuzz tries it",
    "wire/messages.py": "a prebuilt decoder, for speed; tests/fuzz tries it",
}


def _reads(path: Path) -> bool:
    """Whether a module calls something that reads a whole file or decodes one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READS:
            owner = ast.unparse(node.func.value)
            of_files = node.func.attr in ("read_bytes", "read_text")
            if of_files or owner in ("json", "yaml", "tomllib", "msgspec.json", "msgspec.msgpack", "decoder"):
                return True
    return False


def test_who_reads_without_the_reader_has_a_reason() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if _reads(path)}
    assert found == OWN_READERS.keys()
