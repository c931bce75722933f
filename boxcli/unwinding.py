"""Leaving nothing behind: SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, before they end the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def unwound() -> Iterator[None]:
    """In this block these signals raise, so that whatever cleans up does; the process ends of them all the same. One that is
    ignored, as under nohup, stays ignored."""
    before = {number: signal.getsignal(number) for number in _ENDING}
    ended = 0
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, _raise)
    try:
        yield
    except _Ended as end:
        ended = end.number
    finally:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
    if ended:
        os.kill(os.getpid(), ended)


def _raise(number: int, _: FrameType | None) -> None:
    raise _Ended(number)
