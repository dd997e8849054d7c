"""Records of a world: numbers of species, moves, trainers, items, secrets and schools, and all names and texts.

The build runs it. In: a world file. Out: resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cluster_rl.cartridge.ids import FACINGS, Ids
from cluster_rl.cartridge.resources import Resources
from cluster_rl.cartridge.scripts import Scripts, money_bytes
from cluster_rl.cartridge.text import message, name_bytes
from cluster_rl.errors import UserError

START_MENU: Final = ("TEAM", "BAG", "", "SAVE", "OPTION", "EXIT")
MAX_TEAM: Final = 3
MAX_POWER: Final = 170
"""Level and attack at their highest, the engine's product of all three just fits 16 bits."""
NO_SCRIPT: Final = 0xFFFF
_KEY, _AT_ONCE = 1, 2

ENGINE_TEXTS: Final = {
    "wild": "A wild {a} appeared!",
    "trainer": "{a} wants a match!",
    "go": "Go! {a}!",
    "uses": "{a} used {b}!",
    "miss": "But it missed!",
    "foe_down": "{a} dropped out!",
    "own_down": "{a} can't go on!",
    "exp": "{a} gained {b} EXP!",
    "level": "{a} grew to level {b}!",
    "ran": "Got away safely!",
    "stuck": "Can't get away!",
    "norun": "No running from a match!",
    "prize": "You won {b} coins.",
    "sends": "{a} is next!",
    "tired": "{a} is too tired.",
    "fighting": "{a} is out there already.",
    "blackout": "{player} blacked out and woke up at the last place of rest.",
    "healed": "{a} recovered.",
    "noeffect": "It won't have any effect.",
    "notnow": "This is not the time for it.",
    "tossed": "Threw away {a}.",
    "notoss": "{a} is too important to throw away.",
    "bagfull": "The bag is full.",
    "teamfull": "The team is full.",
    "nofriend": "You have no friend who could fight.",
    "nomoney": "Too few coins.",
    "noteam": "Nobody is with you yet.",
    "buy": "{a}? Do you want it?",
    "bought": "Here you are!",
    "saved": "{player} saved the game.",
    "options": "There is nothing to change.",
    "card": "{player} of the vale.",
}
"""What the engine itself says, where a world does not say it in its own words."""

# Engine constants that are words on the screen.
_LABELS: Final = {
    "TXT_CANCEL": ("CANCEL",),
    "TXT_BATTLE_MENU": ("FIGHT PAL", "BAG   RUN"),
    "TXT_YES_NO": ("YES", "NO"),
    "TXT_USE_TOSS": ("USE", "TOSS"),
    "TXT_LEAD_BACK": ("LEAD", "BACK"),
}


def add_records(resources: Resources, world: Mapping[str, Any], ids: Ids, scripts: Scripts) -> None:
    """Numbers of species, moves, trainers, items and schools; what items and schools run is added to the scripts."""
    species = bytearray()
    for entry in world["species"]:
        moves = [ids.moves[move] for move in entry["moves"]]
        species += bytes([*entry["base"], *[*moves, 0][:2], entry["catch"], entry["exp"]])
    resources.add("RES_SPECIES", species)
    resources.add("RES_MOVES", b"".join(_move(entry) for entry in world["move"]))
    resources.add("RES_TRAINERS", b"".join(_trainer(entry, ids) for entry in world.get("trainer", [])))
    resources.add("RES_ITEMS", b"".join(_item(entry, scripts) for entry in world["item"]))
    resources.add("RES_SECRETS", b"".join(_secrets(ids)))
    resources.add("RES_SCHOOLS", b"".join(_school(entry, ids, scripts) for entry in world.get("school", [])))


def _move(entry: Mapping[str, Any]) -> bytes:
    """Power, accuracy, points."""
    if entry["power"] > MAX_POWER:
        raise UserError(f"move {entry['name']}: more power than {MAX_POWER}")
    return bytes([entry["power"], entry["accuracy"], entry["pp"]])


def _trainer(entry: Mapping[str, Any], ids: Ids) -> bytes:
    """Class, prize in binary-coded decimal, how many are in the team, species and level of three."""
    team = [value for name, level in entry["team"] for value in (ids.species[name], level)]
    if not 1 <= len(entry["team"]) <= MAX_TEAM:
        raise UserError(f"trainer {entry['name']}: a team has 1 to {MAX_TEAM} members")
    return bytes([entry["class"], *money_bytes(entry["prize"]), len(entry["team"]), *(team + [0] * 6)[:6]])


def _item(entry: Mapping[str, Any], scripts: Scripts) -> bytes:
    """Price, hit points that it gives back, kind, script."""
    kind = _KEY * bool(entry.get("key")) | _AT_ONCE * (not entry.get("toss", True))
    use = scripts.compile(entry["use"]) if "use" in entry else NO_SCRIPT
    return bytes([*money_bytes(entry.get("price", 0)), entry.get("heal", 0), kind]) + use.to_bytes(2, "little")


def _secrets(ids: Ids) -> list[bytes]:
    """(number, how many values, whether it is an order) of each, those of most values first: they are drawn so."""
    orders = {name: secret.kind == "order" for name, secret in ids.secrets.items()}
    by_count = sorted(
        ids.secrets.items(), key=lambda item: -_COUNTS[item[1].count] if orders[item[0]] else -item[1].count
    )
    return [bytes([s.index, s.count, _COUNTS[s.count] if orders[n] else 0]) for n, s in by_count]


_COUNTS: Final = [1, 1, 2, 6, 24] + [0] * 252
"""How many orders of so many things there are."""


def _school(entry: Mapping[str, Any], ids: Ids, scripts: Scripts) -> bytes:
    """Map, y, x, facing, script, whether who stands before the player speaks at once."""
    place = bytes([ids.maps[entry["map"]], entry["at"][1], entry["at"][0], FACINGS[entry.get("facing", "down")]])
    script = scripts.compile(entry["script"], silent=True) if "script" in entry else NO_SCRIPT
    return place + script.to_bytes(2, "little") + bytes([entry.get("speak", False)])


def add_names(resources: Resources, world: Mapping[str, Any], ids: Ids) -> None:
    """Names, menu entries and the engine's own texts."""
    resources.add("TXT_SPECIES_NAMES", *map(name_bytes, ids.species))
    resources.add("TXT_MOVE_NAMES", *map(name_bytes, ids.moves))
    resources.add("TXT_ITEM_NAMES", *map(name_bytes, ids.items))
    resources.add("TXT_TRAINER_NAMES", *map(name_bytes, ids.trainers))
    resources.add("TXT_SECRET_WORDS", *(name_bytes(word) for secret in ids.secrets.values() for word in secret.words))
    resources.add("TXT_START_ITEMS", *map(name_bytes, START_MENU))
    for name, labels in _LABELS.items():
        resources.add(name, *map(name_bytes, labels))
    unknown = sorted(world.get("texts", {}).keys() - ENGINE_TEXTS.keys())
    if unknown:
        raise UserError(f"texts: the engine never says {unknown[0]}")
    for key, text in (ENGINE_TEXTS | world.get("texts", {})).items():
        resources.add(f"TXT_{key.upper()}", message(text))
