"""The one boundary where an error becomes text on standard error and an exit status.

0 done   1 failed   2 wrong usage or a wrong Boxfile   130 interrupted   141 nobody reads the output any more
run and exec: the command's own, 125 box failed, 126 cannot be executed, 127 not found, 128+N killed by signal N
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS

from boxcli import escapes
from store.errors import BoxError, BoxfileError, BuildError, StepFailed, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

INTERRUPTED = 130
READER_GONE = 141
MOST_MISTAKES = 10  # of a Boxfile, that are shown at once

# What the machine may answer to any call, and is nobody's bug.
CIRCUMSTANCES = (EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS)


def report(error: BaseException, failure_status: int = 0) -> int:
    """Say what went wrong; the exit status. `failure_status` replaces 1 and 2 where those are the command's own (run, exec)."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, KeyboardInterrupt):
        with suppress(BrokenPipeError):
            say("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    status = failure_status or 1
    try:
        if isinstance(error.__cause__ or error, FileNotFoundError) and _nowhere():
            say("this directory is gone", "go to another: cd")
            return _status(UsageError.exit_status, failure_status)
        if isinstance(error, BoxfileError):
            _say_place(error)
            return failure_status or error.exit_status
        if isinstance(error, BuildError):
            _say_step(error)
            return error.exit_status
        if isinstance(error, BoxError):
            say(error.message, error.hint)
            return _status(error.exit_status, failure_status)
        if isinstance(error, OSError) and error.errno in CIRCUMSTANCES:
            reason = (error.strerror or str(error)).lower()
            say(reason if error.filename is None else f"{reason}: {error.filename}")
            return status
        import traceback

        traceback.print_exception(error)
        say("this is a bug in box", "please report it with the lines above")
    except BrokenPipeError:
        return READER_GONE
    return status


def _nowhere() -> bool:
    """Whether the directory that this command was started in has been deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _status(own: int, failure_status: int) -> int:
    if failure_status:
        return failure_status if own in (1, 2) else own
    return own if own == 2 else 1


def _say_step(error: BuildError) -> None:
    """A build that stopped: the last lines of the command's output, the step with its place, what happened, what to do."""
    if isinstance(error, StepFailed) and error.tail:
        clean = escapes.cleaner(sys.stderr)
        for line in error.tail.split("\n"):
            print(f"  | {clean(line)}", file=sys.stderr)
    if error.place is not None:
        _say_place(error.place)
        return
    if error.step:
        print(f"box: {escapes.one_line(error.step)}", file=sys.stderr)
    say(error.message, error.hint)


def _say_place(error: BoxfileError) -> None:
    from boxfile.diagnostics import render

    for one in (error, *error.others[: MOST_MISTAKES - 1]):
        print(render(one, color=escapes.colors(sys.stderr)), file=sys.stderr)
    more = len(error.others) + 1 - MOST_MISTAKES
    if more > 0:
        print(f"and {more} more mistake{'s' if more > 1 else ''}", file=sys.stderr)


def say(message: str, hint: str = "") -> None:
    """One error, and what to do next, on standard error."""
    print(f"box: {escapes.lines(escapes.of_repr(message))}", file=sys.stderr)
    if hint:
        print(f"hint: {escapes.lines(escapes.of_repr(hint))}", file=sys.stderr)
