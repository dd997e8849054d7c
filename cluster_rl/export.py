"""A run in the forms of other programs: CSV tables, walked coordinates, Weights & Biases; its policy as a file.

    python -m cluster_rl.export --run-name NAME --to csv|coords|wandb|safetensors|onnx [--out PATH] [--episodes N]
    python -m cluster_rl.export --params FILE --to safetensors|onnx [--config FILE] [--out FILE]

In: the files of a run, which may be training meanwhile. Out: `exports/` in the run's folder, or `--out`, and lines that
say what was written and what was damaged. docs/export.md describes each form.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cluster_rl.config import load_config
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.exporting.output import cannot_write, require_onnx
from cluster_rl.report.bars import say
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.layout import RunDir

RunForm = Literal["csv", "coords", "wandb"]
PolicyForm = Literal["safetensors", "onnx"]
MOST_EPISODES = 1000


@dataclass(frozen=True)
class RunExport:
    """What a run has, into the folder `out`, which need not be there. `episodes` is for coordinates."""

    run_dir: RunDir
    form: RunForm
    out: Path
    episodes: int


@dataclass(frozen=True)
class PolicyExport:
    """Published parameters of the network that `config` describes, a file or a preset, into the file `out`."""

    params: Path
    config: str
    form: PolicyForm
    out: Path


def run(options: RunExport | PolicyExport) -> int:
    """Exports and returns the exit code. Raises `UserError`."""
    for line in export_run(options) if isinstance(options, RunExport) else export_policy(options):
        say(line)
    return EXIT_OK


# Imports are where they are used, so that a wrong command line is answered at once and no form needs another one's.


def export_run(options: RunExport) -> list[str]:
    """Lines that say what was written. Raises `UserError`."""
    if options.form == "csv":
        from cluster_rl.exporting.tables import export_tables

        return export_tables(options.run_dir, options.out)
    if options.form == "coords":
        from cluster_rl.exporting.coords import export_coords

        return export_coords(options.run_dir, options.out, options.episodes)
    from cluster_rl.exporting.wandb_run import export_wandb

    return export_wandb(options.run_dir, options.out)


def export_policy(options: PolicyExport) -> list[str]:
    """Lines that say what was written. Raises `UserError`."""
    config = load_config(options.config)
    if options.form == "safetensors":
        from cluster_rl.exporting.policy_file import export_safetensors

        return export_safetensors(config, options.params, options.out)
    require_onnx()  # before torch, which takes long to load
    from cluster_rl.exporting.policy_onnx import export_onnx

    return export_onnx(config, options.params, options.out)


def parse_arguments(arguments: Sequence[str] | None = None) -> RunExport | PolicyExport:
    """The command line. Raises `UserError`, for a run that does not exist too."""
    parser = Arguments(prog="python -m cluster_rl.export", description="A run in the forms of other programs.")
    add_run_name(parser, otherwise="the policy of --params")
    forms = (*get_args(RunForm), *get_args(PolicyForm))
    parser.add_argument("--to", required=True, choices=forms, help="the form; docs/export.md describes each")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="a folder, of a policy a file (default: in exports/ of the run, or beside --params)",
    )
    parser.add_argument(
        "--episodes",
        type=whole_number(1),
        metavar="N",
        help=f"coords of at most so many episodes, spread evenly over the run (default: {MOST_EPISODES})",
    )
    parser.add_argument(
        "--params", type=Path, metavar="FILE", help="the policy of this online_params.pt, without a run"
    )
    parser.add_argument("--config", help="of --params: a config's file or a preset (default: config.json beside it)")
    given = parser.parse_args(arguments)
    if given.episodes is not None and given.to != "coords":
        parser.error("--episodes: only for --to coords")
    if given.config is not None and given.params is None:
        parser.error("--config: only with --params; a run has its own")
    if (given.run_name is None) == (given.params is None):
        parser.error("give either --run-name or --params")
    of_policy = given.to in get_args(PolicyForm)
    if given.params is not None:
        if not of_policy:
            parser.error(f"--to {given.to}: needs --run-name; of --params there is only the policy")
        if not given.params.is_file():
            raise UserError(f"--params {given.params}: no such file; give the online_params.pt of a run")
        config = given.config or str(given.params.with_name("config.json"))
        out = given.out or given.params.with_suffix(f".{given.to}")
        return PolicyExport(given.params, config, given.to, _file(out, given.params, Path(config)))
    run_dir = RunDir(given.runs, given.run_name).require()
    if of_policy:
        out = given.out or run_dir.exports / f"policy.{given.to}"
        config_path = run_dir.require_config()
        if given.out is not None:
            _file(out, run_dir.online_params, config_path)
        return PolicyExport(run_dir.online_params, str(config_path), given.to, out)
    out = given.out or run_dir.exports / given.to
    return RunExport(run_dir, given.to, _of_no_run(out), given.episodes or MOST_EPISODES)


def _file(out: Path, *reads: Path) -> Path:
    """Raises `UserError` where no file can be written, or one is there that is needed: what the export `reads`, or
    what a run keeps."""
    try:
        if out.is_dir():
            raise UserError(f"--out {out}: is a folder; give the name of a file in it")
        if not out.parent.is_dir():
            raise UserError(f"--out {out}: its folder is not there; make it first")
        if out.exists() and any(path.exists() and out.samefile(path) for path in reads):
            raise UserError(f"--out {out}: is what the policy is read from; give --out another name")
    except OSError as error:
        raise cannot_write(error, out) from None
    return _of_no_run(out)


def _of_no_run(out: Path) -> Path:
    """Raises `UserError` where a run keeps something of its own."""
    try:
        owner = RunDir.owner_of(out)
    except OSError as error:
        raise cannot_write(error, out) from None
    if owner is not None:
        raise UserError(
            f"--out {out}: the run {owner} keeps files of its own there; give another place, or its exports/"
        )
    return out


def main() -> int:
    """The command."""
    return run(parse_arguments())


def command() -> None:
    """`cluster-rl-export`."""
    run_command(main)


if __name__ == "__main__":
    command()
