"""A PyBoy that keeps in order what is done to it from outside: inputs, frames and writes, as the deeds of a `Script`.

`PufferConsole` gives one to another project's environment in PyBoy's place. In: that project's calls. Out: `deeds`
since they were last cleared; whether a snapshot must stand beside them (`is_hidden`); and what no log can hold
(`refused`). It also cures what that project stumbles over in the PyBoy of today: a slice of memory without a byte in
it, as of an empty bag, is an empty list and no error, as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any

from cluster_rl.emulator.console import PyBoy
from cluster_rl.emulator.script import MAX_FRAMES, Frames, Input, Write

_BUTTON_EVENTS = range(1, 17)  # PyBoy's numbers of the eight presses and their releases
_IDLE_EVENTS = (18, 19, 22)  # of its speed key, and of no key: the emulated game does not notice
_ROM_STOP = 0x8000


class WatchedPyBoy(PyBoy):
    """Arguments are PyBoy's. `on_frame` is called after every frame, which is then drawn, if there is one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.deeds: list[Frames | Input | Write] = []
        self.is_hidden = False
        """Whether something was done that `deeds` cannot tell, and a savestate can: in the middle of a frame, or by
        other ways."""
        self.refused = ""
        """What was done first, ever, that neither can tell; empty for nothing."""
        self.on_frame: Callable[[], None] | None = None
        self._runs = False
        self._last_due = -1  # before the frame of this number the last of the inputs comes
        super().__init__(*arguments, **options)
        self._memory = _WatchedMemory(self, super().memory)
        self._register_file = _WatchedRegisters(self, super().register_file)

    @property
    def memory(self) -> _WatchedMemory:
        """PyBoy's view of the memory, watched."""
        return self._memory

    @property
    def register_file(self) -> _WatchedRegisters:
        """PyBoy's view of the registers, watched."""
        return self._register_file

    @property
    def gameshark(self) -> Any:
        """PyBoy's; its codes write in every frame, and no savestate has them."""
        self.refuse("uses PyBoy's gameshark")
        return super().gameshark

    def clear(self) -> None:
        """Forgets what was done so far."""
        self.deeds, self.is_hidden = [], False

    def note(self, deed: Frames | Input | Write | None) -> None:
        """Something was done; None for what is no deed."""
        if deed is None or self._runs:
            self.is_hidden = True
        else:
            self.deeds.append(deed)

    def refuse(self, what: str) -> None:
        """Something was done that no log can hold: what `refused` says, unless it says something already."""
        self.refused = self.refused or what

    def settle(self) -> None:
        """Runs until all inputs have come that were given, with a delay or without: PyBoy keeps them over a load."""
        frames = self._last_due - self.frame_count
        if frames >= 0:
            self.tick(frames + 1, False)

    def tick(self, count: int = 1, render: bool = True, sound: bool = True) -> bool:
        """PyBoy's; `sound` is never sampled."""
        count = index(count)
        if self._runs or count > MAX_FRAMES:
            self.refuse("runs the emulator in the middle of a frame" if self._runs else f"runs {count} frames at once")
        before, self._runs = self._runs, True
        try:
            goes_on = True
            if self.on_frame is None:
                goes_on = bool(super().tick(count, render, False))
            else:
                for _ in range(count):
                    goes_on = bool(super().tick(1, True, False))
                    self.on_frame()
        finally:
            self._runs = before
        self.note(Frames(count))
        return goes_on

    def send_input(self, event: int, delay: int = 0) -> None:
        """PyBoy's; `button` and its like come by here too."""
        number, delay = int(event), index(delay)
        super().send_input(event, delay)
        if number in _IDLE_EVENTS:
            return
        if number not in _BUTTON_EVENTS:
            self.refuse(f"sends PyBoy the event {number}, which is no button")
        elif self._runs:
            self.refuse("presses a button in the middle of a frame")
        elif delay > MAX_FRAMES:
            self.refuse(f"presses a button {delay} frames ahead")
        else:
            self._last_due = max(self._last_due, self.frame_count + delay)
            self.note(Input(number, delay))

    def load_state(self, file_like_object: Any) -> None:
        """PyBoy's."""
        self.note(None)
        super().load_state(file_like_object)

    def set_color_palette(self, palette: Any) -> None:
        """PyBoy's; shades are told by the colours that it begins with."""
        self.refuse("sets PyBoy's palette")
        super().set_color_palette(palette)

    def stop(self, save: bool = True, ram_file: Any = None, rtc_file: Any = None) -> None:
        """PyBoy's, but nothing is written."""
        self.refuse("stops its emulator")
        super().stop(save=False)


class _WatchedMemory:
    """PyBoy's memory view for one `WatchedPyBoy`."""

    def __init__(self, pyboy: WatchedPyBoy, view: Any) -> None:
        self._pyboy = pyboy
        self._view = view

    def __getitem__(self, address: Any) -> Any:
        return [] if _is_empty(address) else self._view[address]

    def __setitem__(self, address: Any, value: Any) -> None:
        if _is_empty(address):
            return
        if hasattr(value, "__iter__"):
            value = list(value)  # what gives its values once, gives the same to PyBoy and to the log
        try:
            self._view[address] = value
        except BaseException:
            self._pyboy.note(None)  # the first of its bytes may be written
            raise
        if isinstance(address, tuple) and _first(address[1]) < _ROM_STOP:
            self._pyboy.refuse("writes to the ROM")
        self._pyboy.note(_write(address, value))

    def __len__(self) -> int:
        return len(self._view)


class _WatchedRegisters:
    """PyBoy's register file for one `WatchedPyBoy`."""

    def __init__(self, pyboy: WatchedPyBoy, view: Any) -> None:
        vars(self).update(_pyboy=pyboy, _view=view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view, name, value)
        self._pyboy.note(None)


def _is_empty(address: Any) -> bool:
    place = address[1] if isinstance(address, tuple) and len(address) == 2 else address
    return isinstance(place, slice) and place.start is not None and place.start == place.stop


def _first(place: Any) -> int:
    return index(place.start if isinstance(place, slice) else place)


def _write(address: Any, value: Any) -> Write | None:
    """The deed of what PyBoy has written; None for what has no one place: a bank, or every so many-th byte."""
    if isinstance(address, int):
        return Write(address & 0xFFFF, bytes([int(value)]))  # PyBoy cuts addresses too
    if not isinstance(address, slice) or address.step not in (None, 1):
        return None
    values = value if isinstance(value, list) else [value] * (address.stop - address.start)
    return Write(index(address.start), bytes(int(each) for each in values))
