"""Which config and run a trainer takes that was given none, and what is said of a config that does not suit the game.

The trainers ask, and `cluster`, before anything is created; `train.sh` and `after-job` afterwards. In: the default of
the command or job script, and the arguments. Out: the name of a config: the default where the small world is played,
else the preset of that game for the same machine; and a run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.configs.files import config_name
from cluster_rl.errors import UserError
from cluster_rl.game.world import World
from cluster_rl.rom import Rom, describe_rom, game_warning, load_rom
from cluster_rl.runs.arguments import Arguments, add_run_name, run_name_of_config
from cluster_rl.runs.layout import RunDir

_GENERAL = "cluster_config"
_FOR_RED = {"gpu": "red", "cpu": "red_cpu", "slim_cpu": "red_cpu", "quickstart": "red_cpu"}
_FOR_WHOLE_WORLDS = {"cpu": "lanternvale", "slim_cpu": "lanternvale", "quickstart": "lanternvale"}
"""Without `slim`, which suits all games, and `gpu`."""
_SHORT_EPISODE_STEPS = 1000


def choose_config(default: str, arguments: Sequence[str], why_default: str = "") -> str:
    """The config for a trainer with these arguments and no `--config`; says which, but for a default without a why.

    Raises `UserError` for a ROM that the trainer would refuse; all other arguments are held against the config that is
    taken, by the trainer.
    """
    overrides = [each for each in split_overrides(arguments) if each.partition("=")[0] in ("rom", "device")]
    try:
        config = load_config(default, overrides)
    except UserError:
        return default  # the trainer refuses it, and says in the same answer what is wrong with the other arguments
    rom = load_rom(config.rom)
    preset = _preset_for(rom, default, config)
    if preset:
        print(f"config: {preset}, as this is {describe_rom(rom)}, and no --config was given", flush=True)
    elif why_default:
        print(f"config: {default}, as {why_default}", flush=True)
    return preset or default


def run_of(arguments: Sequence[str]) -> RunDir | None:
    """The run of a trainer, or of a job of actors, with these arguments; None where they name neither run nor config.

    Raises `UserError` for what the trainer would refuse.
    """
    parser = Arguments(add_help=False)
    add_run_name(parser, "the config's name")
    for option in ("--config", "--default-config"):
        parser.add_argument(option)
    parser.add_argument("--rom", default="")
    named, _ = parser.parse_known_args(arguments)
    if named.run_name is None:
        if named.config is None and named.default_config is not None:
            named.config = choose_config(named.default_config, [f"--rom={named.rom}"])
        if named.config is None:
            return None
        named.run_name = run_name_of_config(named.config)
    return RunDir(named.runs, named.run_name)


def warnings_of_game(config: Config, rom: Rom) -> list[str]:
    """What must not be missed of this game with this config, a line each."""
    lines = [game_warning(rom.sha1, rom.title)]
    if rom.kind == "cartridge":
        if not _is_small_world(rom) and not config.start_button:
            lines.append(
                f"WARNING: START is off: nothing in the bag can be used, so {rom.title} cannot be played to its end; "
                "the preset for it is lanternvale (--config)"
            )
    else:
        short = config.episode_max_steps <= _SHORT_EPISODE_STEPS
        unlike = ["START is off"] if not config.start_button else []
        unlike += [f"episodes end after {config.episode_max_steps:,} steps"] if short else []
        if unlike:
            lines.append(
                f"WARNING: {' and '.join(unlike)}: settings for the small world, not for this game; "
                "the presets for Pokémon Red are red and red_cpu (--config)"
            )
    return [line for line in lines if line]


def _is_small_world(rom: Rom) -> bool:
    return rom.sha1 in World.cartridge().rom_sha1s


def _preset_for(rom: Rom, default: str, config: Config) -> str:
    """Empty where the default is to be kept."""
    if _is_small_world(rom):
        return ""
    name = config_name(default)
    if name == _GENERAL:
        if load_config(default) != Config():
            return ""  # somebody has written it for a game of theirs
        from cluster_rl.jobs.devices import why_no_cuda  # torch takes seconds

        name = "cpu" if config.device == "cpu" or why_no_cuda() is not None else "gpu"
    return (_FOR_WHOLE_WORLDS if rom.kind == "cartridge" else _FOR_RED).get(name, "")
