"""Writes the event names into cluster_rl/game/tables/red.json, from the table in the installed PyBoy.

usage: python scripts/event_names.py

PyBoy's wrapper for the game has the 507 names of the public disassembly, in lower case and without `EVENT_`. A test
holds ours against them bit by bit, so this runs again only where a new PyBoy has others.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from pyboy.plugins.game_wrapper_pokemon_gen1_constants import EVENT_FLAGS

TABLE = Path(__file__).resolve().parent.parent / "cluster_rl/game/tables/red.json"
_EVENTS = re.compile(r'"events": \{[^}]*\}')


def main() -> int:
    lines = (f'  "{event}": "EVENT_{name.upper()}"' for name, event in sorted(EVENT_FLAGS.items(), key=lambda i: i[1]))
    events = '"events": {\n' + ",\n".join(lines) + "\n }"
    text, places = _EVENTS.subn(events, TABLE.read_text(encoding="utf-8"))
    if places != 1 or len(json.loads(text)["events"]) != len(EVENT_FLAGS):
        sys.exit(f"{TABLE}: no place for the names, or two names of one bit")
    TABLE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
