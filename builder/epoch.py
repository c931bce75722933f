"""The one time that an image has: SOURCE_DATE_EPOCH, or the first of January 1980.

Source: reproducible-builds.org/specs/source-date-epoch. The default is the earliest time that a zip file can name.
"""

import time
from collections.abc import Callable, Mapping

from store.errors import UsageError

DEFAULT = 315532800


def epoch_of(environment: Mapping[str, str], *, now: Callable[[], float] = time.time) -> int:
    """Seconds since 1970. UsageError for what is no such number, or lies in the future: new files would keep their own times."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text!r}", hint="seconds since 1970, such as the output of: git log -1 --format=%ct"
        )
    if int(text) > now():
        raise UsageError(
            f"SOURCE_DATE_EPOCH lies in the future: {text}", hint="take a time that has passed, such as the last commit's"
        )
    return int(text)


def written(epoch: int) -> str:
    """The time as RFC 3339 has it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
