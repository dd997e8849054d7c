"""Whatever another project's code does to its emulator is in the log and plays again to the byte, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_puffer import ENVIRONMENT, puffer_config, recorded, spoil

from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.playback import replay
from cluster_rl.emulator.script import MAX_FRAMES, Frames, Input, Write, unpack_script
from cluster_rl.errors import UserError
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import EpisodeLog, read_log

ODD_STEP = 4
_HERE = "        if self.steps == 5:"  # before its scripts, in the middle of a step
_HOOK = '        self.seen.add("hook")'


def does(root: Path, code: str, place: str = _HERE) -> None:
    """Has its step, or its hook, do something more in the step `ODD_STEP`."""
    lines = "".join(f"            {line}\n" for line in code.splitlines())
    spoil(root, ENVIRONMENT, place, f"        if getattr(self, 'steps', 0) == {ODD_STEP}:\n{lines}{place}")


def recorded_log(tmp_path: Path, rom: Path, root: Path) -> EpisodeLog:
    """Twelve steps, all RAM compared after each of them."""
    return read_log(recorded(tmp_path / "logs", puffer_config(rom, root), 12, hash_interval_steps=1))


_LOAD = "import io\nstate = io.BytesIO()\nself.pyboy.save_state(state)\nstate.seek(0)\n"

# What is done, and whether a snapshot stands in the log of that step.
RECORDED = {
    "a generator is written": ("memory[0xC100:0xC103] = (3 * i for i in range(3))", False),
    "what gives its values once": ("memory[0xC100:0xC102] = iter([7, 8])", False),
    "an array": ("import numpy as np\nmemory[0xC100:0xC103] = np.arange(3)", False),
    "a number of numpy": ("import numpy as np\nmemory[0xC100] = np.uint8(200)", False),
    "a fraction": ("memory[0xC100] = 5.7", False),
    "numpy's places": ("import numpy as np\nmemory[np.int64(0xC100):np.int64(0xC102)] = b'ab'", False),
    "one byte many times": ("memory[0xC100:0xC180] = 0xFF", False),
    "an address below 0": ("memory[-0x2F00] = 5", False),
    "the last address": ("memory[0xFFFE:0x10000] = [9, 0]", False),
    "a register of the timer": ("memory[0xFF05] = 77\nmemory[0xFF07] = 5", False),
    "every second byte": ("memory[0xC100:0xC108:2] = [1, 2, 3, 4]", True),
    "a bank of the cartridge": ("memory[0, 0xA010] = 5\nmemory[1, 0xA010:0xA012] = [5, 6]", True),
    "an empty slice of a bank": ("assert memory[0, 0xA010:0xA010] == []\nmemory[0, 0xA010:0xA010] = []", False),
    "too many values": ("try: memory[0xC100:0xC102] = [1, 2, 3]\nexcept Exception: pass", True),
    "a value too large half way": ("try: memory[0xC100:0xC102] = [1, 256]\nexcept Exception: pass", True),
    "a state is loaded": (_LOAD + "self.pyboy.tick(3)\nself.pyboy.load_state(state)", True),
    "a state is loaded while a button is held": (
        "self.pyboy.send_input(_PRESSES[4])\nself.pyboy.tick(2)\n" + _LOAD + "self.pyboy.load_state(state)",
        True,
    ),
    "a state is loaded before a release comes": (
        "self.pyboy.button('a', 40)\nself.pyboy.tick(2)\n" + _LOAD + "self.pyboy.load_state(state)",
        True,
    ),
    "a register of the processor": ("self.pyboy.register_file.A = self.pyboy.register_file.A ^ 1", True),
    "frames of numpy": ("import numpy as np\nself.pyboy.tick(np.int64(7), False)", False),
    "no frame": ("self.pyboy.tick(0)", False),
    "numpy's buttons": ("import numpy as np\nself.pyboy.send_input(np.int64(5), np.int64(3))", False),
    "events of no button": ("self.pyboy.send_input(WindowEvent.PASS)\nself.pyboy.send_input(18)", False),
    "a button that stays held": ("self.pyboy.button_press('b')", False),
    "two releases at once": ("self.pyboy.button('a', 5)\nself.pyboy.button('b', 5)\nself.pyboy.tick(9)", False),
    "reads alone": ("self.pyboy.game_area()\nself.pyboy.register_file.PC\nself.pyboy.screen.ndarray[0, 0]", False),
}


@pytest.mark.parametrize("name", RECORDED)
def test_it_is_recorded(tmp_path: Path, rom: Path, root: Path, name: str) -> None:
    code, has_snapshot = RECORDED[name]
    does(root, code)
    log = recorded_log(tmp_path, rom, root)
    hidden = [step for step, data in enumerate(log.scripts, 1) if unpack_script(data, name).snapshot]
    assert hidden == [ODD_STEP] * has_snapshot + [7]
    replay(log, load_rom(str(rom)), name, bool)


IN_A_HOOK = {
    "a write": "self.pyboy.memory[0xC100] = 5",
    "a register": "self.pyboy.register_file.B = 9",
    "a state": _LOAD + "self.pyboy.load_state(state)",
}


@pytest.mark.parametrize("name", IN_A_HOOK)
def test_in_the_middle_of_a_frame_it_is_recorded(tmp_path: Path, rom: Path, root: Path, name: str) -> None:
    does(root, "self.pyboy.send_input(_PRESSES[5])")  # held over the snapshot
    does(root, IN_A_HOOK[name], _HOOK)
    log = recorded_log(tmp_path, rom, root)
    assert unpack_script(log.scripts[ODD_STEP - 1], name).snapshot
    replay(log, load_rom(str(rom)), name, bool)


REFUSED = {
    "a cheat code": ("self.pyboy.gameshark.add('010138CD')", "uses PyBoy's gameshark"),
    "the ROM": ("memory[0, 0x150] = 0", "writes to the ROM"),
    "a slice of the ROM": ("memory[1, 0x4150:0x4152] = [0, 0]", "writes to the ROM"),
    "the boot ROM": ("memory[-1, 0x10] = 0", "writes to the ROM"),
    "the pause key": ("self.pyboy.send_input(WindowEvent.PAUSE)", "sends PyBoy the event 24, which is no button"),
    "the end": ("self.pyboy.send_input(WindowEvent.QUIT)", "sends PyBoy the event 0, which is no button"),
    "a stop": ("self.pyboy.stop()\nself.pyboy.tick = lambda *_, **__: None", "stops its emulator"),
    "a palette": ("self.pyboy.set_color_palette((0, 1, 2, 3))", "sets PyBoy's palette"),
    "a far release": (f"self.pyboy.button('a', {MAX_FRAMES + 1})", f"presses a button {MAX_FRAMES + 1} frames ahead"),
    "another emulator": (
        "import copy\nclass Other:\n    def __getattr__(_, name): return getattr(before, name)\n"
        "before, self.pyboy = self.pyboy, Other()",
        "plays on another emulator than its first",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_log_can_hold_is_a_line(rom: Path, root: Path, name: str) -> None:
    code, words = REFUSED[name]
    does(root, code)
    check_refused(rom, root, words)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("self.pyboy.button('a', 3)", "presses a button in the middle of a frame"),
        ("self.steps += 1\nself.pyboy.tick(1)\nself.steps -= 1", "runs the emulator in the middle of a frame"),
    ],
)
def test_in_the_middle_of_a_frame_it_is_a_line(rom: Path, root: Path, code: str, words: str) -> None:
    does(root, code, _HOOK)
    check_refused(rom, root, words)


def check_refused(rom: Path, root: Path, words: str) -> None:
    env = make_env(puffer_config(rom, root), 0)
    env.start()
    for _ in range(ODD_STEP - 1):
        env.advance(0)
    with pytest.raises(UserError) as raised:
        env.advance(0)
    assert str(raised.value) == (
        f"puffer {root}: its code {words}, so that its episodes could not be played again from logs; switch off in "
        "config.yaml what does it"
    )
    env.close()


@pytest.mark.parametrize(
    "code", ["self.pyboy.tick(-1)", "self.pyboy.tick(1.5)", "self.pyboy.button('a', 1.5)", "memory[0xC100] = 'x'"]
)
def test_what_pyboy_refuses_is_a_line(rom: Path, root: Path, code: str) -> None:
    does(root, code)
    env = make_env(puffer_config(rom, root), 0)
    env.start()
    for _ in range(ODD_STEP - 1):
        env.advance(0)
    with pytest.raises(UserError, match=r"its step failed in .*environment.py, line \d+: "):
        env.advance(0)
    env.close()


@pytest.mark.parametrize("code", ["self.pyboy.button('a', 30)", "self.pyboy.send_input(_PRESSES[4])"])
def test_a_press_does_not_reach_into_the_next_episode(tmp_path: Path, rom: Path, root: Path, code: str) -> None:
    """The first episode ends with a button that goes up, or down, in the second; there it is pressed too."""
    spoil(root, ENVIRONMENT, "        before, self.total =", f"        {code}\n        before, self.total =")
    replay(recorded_log(tmp_path, rom, root), load_rom(str(rom)), "log", bool)


def test_deeds_are_in_order(tmp_path: Path, rom: Path, root: Path) -> None:
    does(root, "memory[0xC100:0xC102] = iter([7, 8])\nself.pyboy.button('b', 5)\nself.pyboy.tick(6)")
    script = unpack_script(recorded_log(tmp_path, rom, root).scripts[ODD_STEP - 1], "script")
    at = script.deeds.index(Write(0xC100, bytes([7, 8])))
    assert script.deeds[at + 1 : at + 4] == [Input(6, 0), Input(14, 5), Frames(6)]
