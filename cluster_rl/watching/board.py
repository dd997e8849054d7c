"""What browsers are shown now: the page, the videos, and notes of what cannot be shown.

All threads of `watch` share one. In: what the drawer and the projectionist have made. Out: bytes and paths for the
server, each whole, of one moment. The table of files is the only way from a request to a file.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

WATCHED_SEC: Final = 60.0
"""So long after a browser has asked, somebody looks. A page asks every two seconds while it is seen."""
FILMS_KEPT: Final = 3
"""A browser goes on with an older one until that has ended."""


class Film(NamedTuple):
    """A video that was rendered, the picture of its path where there is one, and what it shows."""

    number: int
    video: Path
    picture: Path | None
    words: str

    @property
    def video_name(self) -> str:
        """Its name in the address."""
        return f"film/{self.number}.mp4"

    @property
    def picture_name(self) -> str:
        """The picture's name in the address; empty without one."""
        return f"film/{self.number}.png" if self.picture is not None else ""

    @property
    def files(self) -> dict[str, Path]:
        """By their names in the address."""
        found = {self.video_name: self.video}
        return found | ({self.picture_name: self.picture} if self.picture is not None else {})


class Board:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page = b""
        self._has_page = threading.Event()
        self._pages = 0
        self._linked: dict[str, Path] = {}
        self._films: list[Film] = []
        self._notes: dict[str, str] = {}
        self._asked_at = -math.inf

    def ask(self) -> None:
        """A browser has asked: somebody looks."""
        self._asked_at = time.monotonic()

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks. Nothing is drawn or rendered for nobody."""
        return time.monotonic() - self._asked_at < WATCHED_SEC

    @property
    def page(self) -> bytes:
        """The newest page as HTML; empty before the first."""
        return self._page

    @property
    def next_page(self) -> int:
        """The number that the next page will have."""
        return self._pages + 1

    def put_page(self, page: bytes, linked: Mapping[str, Path]) -> None:
        """Shows a page, and the files that it links to, by their names in the address."""
        with self._lock:
            self._page, self._linked = page, dict(linked)
            self._pages += 1
        self._has_page.set()

    def wait_for_page(self, timeout_sec: float) -> bytes:
        """`page`, for which is waited until there is one, or the time is up."""
        self._has_page.wait(timeout_sec)
        return self._page

    @property
    def film(self) -> Film | None:
        """The newest."""
        films = self._films
        return films[-1] if films else None

    def put_film(self, film: Film) -> list[Film]:
        """Shows a video. Returns those that are no longer to be had."""
        with self._lock:
            films = [*self._films, film]
            self._films = films[-FILMS_KEPT:]
            return films[:-FILMS_KEPT]

    def note(self, about: str, line: str) -> None:
        """Tells something about `about`, in place of what was told before; an empty line tells nothing."""
        with self._lock:
            self._notes = self._notes | {about: " ".join(line.split())}

    @property
    def notes(self) -> list[str]:
        """All that there is to tell."""
        return [*filter(None, self._notes.values())]

    def state(self) -> bytes:
        """What a page asks for again and again, as JSON: the number of the newest page, the newest video, the notes."""
        with self._lock:
            film = self._films[-1] if self._films else None
            told: dict[str, Any] = {"page": self._pages, "film": None, "notes": self.notes}
        if film is not None:
            told["film"] = {
                "number": film.number,
                "video": film.video_name,
                "picture": film.picture_name,
                "words": film.words,
            }
        return msgspec.json.encode(told)

    def file(self, name: str) -> Path | None:
        """The file of that name in the address; None where there is none."""
        with self._lock:
            found = self._linked.get(name)
            for film in self._films:
                found = film.files.get(name, found)
            return found
