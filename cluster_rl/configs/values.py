"""Values of config keys in words: what is wrong with one and how it would be written, defaults, and bounds.

`config.py` asks about values as they were read, with the key's type, bounds and unit; `--help` and docs/config.md show
what every key may be.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, get_args, get_origin

import msgspec

_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_SHOWN_CHARS = 60  # of a wrong value: a whole file may have been put in its place
_SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# 90s, 2 min, 1h30m, 3 days; and SLURM's 04:00:00 and 1-12:00:00.
_TIME = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)\s*)+")
_TIME_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_AMOUNT = re.compile(r"(\d{1,3}(?:[_,']\d{3})+|\d+(?:\.\d+)?)\s*([kmg]?)")
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def problem_of_value(value: Any, hint: Any) -> str:
    """Why `value` cannot be that of a key of this type (`Annotated` with a `msgspec.Meta`); empty where it can be."""
    try:
        converted = msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        kind, *metas = get_args(hint) or (None,)  # a section has none
        if get_origin(kind) is Literal:
            return f"{error}; it is one of {', '.join(map(str, get_args(kind)))}"
        if kind is bool:
            return f"must be true or false, not {_shown(value)}"
        if kind in (int, float):
            unit = next(meta.extra["unit"] for meta in metas if isinstance(meta, msgspec.Meta) and meta.extra)
            # What is of the right kind is out of bounds, which msgspec tells best.
            return _not_a_number(value, kind, unit) or str(error)
        return str(error).replace(" - at `$", ", at `")
    # NaN passes every bound, and no key means anything when infinite.
    if isinstance(converted, float) and not math.isfinite(converted):
        return f"must be a finite number, not {converted}"
    return ""


def default_words(value: Any) -> str:
    """A default as it would be typed."""
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else f"{value}"


def bounds_words(meta: msgspec.Meta) -> str:
    """`>= 1 <= 256`; empty for a key without bounds."""
    bounds = ((sign, getattr(meta, name)) for name, sign in _BOUNDS)
    return " ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


def _not_a_number(value: Any, kind: type, unit: str) -> str:
    """What to write in place of a value that is no number, or no whole one; empty for one that is."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number.is_integer() or (kind is float and not math.isnan(number)):
        return ""
    words = "a whole number" if kind is int else "a number"
    of_unit = f" of {unit}" if unit and (kind is int or unit == "seconds") else ""
    meant = _meant_number(value.strip().lower(), unit) if isinstance(value, str) else None
    write = f"; write {meant:g}" if meant is not None and kind is float else ""
    if meant is not None and kind is int and meant.is_integer():
        write = f"; write {meant:.0f}"
    return f"must be {words}{of_unit}, not {_shown(value)}{write}"


def _meant_number(text: str, unit: str) -> float | None:
    """Times for a key in seconds, and 1_000_000 or 25M for any other."""
    if unit == "seconds":
        if _TIME.fullmatch(text):
            return sum(float(count) * _SECONDS_OF[name] for count, name in _TIME_PART.findall(text))
        clock = _CLOCK.fullmatch(text)
        if clock:
            days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
            return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    amount = _AMOUNT.fullmatch(text)
    return float(re.sub("[_,']", "", amount[1])) * _FACTORS[amount[2]] if amount else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
