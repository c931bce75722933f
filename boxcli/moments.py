"""Moments as a user says them: RFC 3339 or a part of it, seconds since 1970, or how long ago."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AGO = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_FRACTION = re.compile(r"(\.\d{6})\d+")


def seconds(text: str) -> float:
    """A duration such as 90s, 1m30s or 500ms. ValueError for another text."""
    if not _AGO.fullmatch(text):
        raise ValueError(f"{text!r} is no duration such as 90s or 1m30s")
    return sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text))


def moment(text: str) -> float:
    """Seconds since 1970; a time without a zone is this machine's. ValueError for a text that is no moment."""
    try:
        return float(text)
    except ValueError:
        pass
    if _AGO.fullmatch(text):
        return time.time() - seconds(text)
    try:
        when = datetime.fromisoformat(_FRACTION.sub(r"\1", text.replace("Z", "+00:00")))
    except ValueError:
        raise ValueError(f"{text!r} is no time such as 2026-01-31T12:00:00, 10m (ago) or 1769860800") from None
    return when.timestamp()


def stamp(when: float) -> str:
    """RFC 3339 in UTC, with nanoseconds, as logs have it."""
    whole = datetime.fromtimestamp(when, UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
