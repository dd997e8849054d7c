"""Fixtures that tests of every folder may ask for."""

from __future__ import annotations

from small_disk import disk

__all__ = ["disk"]
