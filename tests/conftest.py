"""Fixtures that tests of every folder may ask for."""

from __future__ import annotations

import signal

from small_disk import disk

__all__ = ["disk"]

# In the background of a script, and under nohup, these two are ignored, and every process that a test starts would
# ignore them too: it is a handler that they do not inherit.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
