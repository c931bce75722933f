"""Times and sizes as people read them, in docker's words."""

from __future__ import annotations

import time

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def age(seconds: float) -> str:
    """A length of time in one word: "5 minutes", "About an hour", "3 weeks"."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < _MINUTE:
        return f"{int(seconds)} seconds"
    if seconds < 2 * _MINUTE:
        return "About a minute"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} minutes"
    if seconds < 1.5 * _HOUR:
        return "About an hour"
    if seconds < 2 * _DAY:
        return f"{round(seconds / _HOUR)} hours"
    for limit, length, name in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if seconds < limit * _DAY:
            return f"{int(seconds // (length * _DAY))} {name}"
    return f"{int(seconds // (365 * _DAY))} years"


def ago(when: float) -> str:
    """How long ago `when` (unix time) was."""
    return f"{age(max(0.0, time.time() - when))} ago"


def size(count: int) -> str:
    """Bytes in units of 1000, three digits: 12.3MB."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            return f"{amount:.3g}{unit}"
        amount /= 1000
    raise AssertionError


def binary_size(count: int) -> str:
    """Bytes in units of 1024, four digits: 12.34MiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1023.95 or unit == "TiB":
            return f"{amount:.4g}{unit}"
        amount /= 1024
    raise AssertionError


def stamp(when: float) -> str:
    """Unix time as RFC 3339 in UTC, to the nanosecond that a float holds; the zero time of Go for 0."""
    if not when:
        return "0001-01-01T00:00:00Z"
    whole, part = divmod(when, 1)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(part * 1e6):06d}Z"


def local(when: float) -> str:
    """Unix time in this machine's zone, as docker's CreatedAt."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(when))
