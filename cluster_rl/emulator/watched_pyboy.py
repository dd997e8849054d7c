"""A PyBoy that keeps in order what is done to it from outside: inputs, frames and writes, as the deeds of a `Script`.

`PufferConsole` gives one to another project's environment in PyBoy's place. In: that project's calls. Out: `deeds`
since they were last cleared. It also cures what that project stumbles over in the PyBoy of today: a slice of memory
without a byte in it, as of an empty bag, is an empty list and no error, as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_rl.emulator.console import PyBoy
from cluster_rl.emulator.script import Frames, Input, Write

_BUTTON_EVENTS = range(1, 17)  # PyBoy's numbers of the eight presses and their releases


class WatchedPyBoy(PyBoy):
    """Arguments are PyBoy's. `on_frame` is called after every frame, which is then drawn, if there is one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.deeds: list[Frames | Input | Write] = []
        self.is_hidden = False
        """Whether something was done that `deeds` cannot tell: in the middle of a frame, or by other ways."""
        self.on_frame: Callable[[], None] | None = None
        self._runs = False
        super().__init__(*arguments, **options)
        self._memory = _WatchedMemory(self, super().memory)

    @property
    def memory(self) -> _WatchedMemory:
        """PyBoy's view of the memory, watched."""
        return self._memory

    def clear(self) -> None:
        """Forgets what was done so far."""
        self.deeds, self.is_hidden = [], False

    def note(self, deed: Frames | Input | Write | None) -> None:
        """Something is done now; None for what is no deed."""
        if deed is None or self._runs:
            self.is_hidden = True
        else:
            self.deeds.append(deed)

    def tick(self, count: int = 1, render: bool = True, sound: bool = True) -> bool:
        """PyBoy's; `sound` is never sampled."""
        self.note(Frames(count))
        self._runs = True
        try:
            if self.on_frame is None:
                return bool(super().tick(count, render, False))
            goes_on = True
            for _ in range(count):
                goes_on = bool(super().tick(1, True, False))
                self.on_frame()
            return goes_on
        finally:
            self._runs = False

    def send_input(self, event: int, delay: int = 0) -> None:
        """PyBoy's; `button` and its like come by here too."""
        self.note(Input(int(event), delay) if event in _BUTTON_EVENTS else None)
        super().send_input(event, delay)


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
        self._pyboy.note(_write(address, value))
        self._view[address] = value

    def __len__(self) -> int:
        return len(self._view)


def _is_empty(address: Any) -> bool:
    return isinstance(address, slice) and address.start is not None and address.start == address.stop


def _write(address: Any, value: Any) -> Write | None:
    """None for what has no one place: a bank, or every so many-th byte."""
    if isinstance(address, int):
        return Write(address, bytes([int(value) & 0xFF]))
    if not isinstance(address, slice) or address.step not in (None, 1) or None in (address.start, address.stop):
        return None
    values = value if hasattr(value, "__iter__") else [value] * (address.stop - address.start)
    return Write(int(address.start), bytes([int(each) & 0xFF for each in values]))
