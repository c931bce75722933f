"""What the kernel's refusals mean to the user of a store."""

import errno
import os
from types import TracebackType

from store.errors import StoreError

_HINTS = {
    errno.ENOSPC: "free some space on the file system of the store: `box gc` deletes what nothing uses, `box rmi` images",
    errno.EDQUOT: "the user's disk quota is used up: `box gc` deletes what nothing uses, `box rmi` images",
    errno.EIO: "the disk failed to read or write; see the kernel log (dmesg)",
    errno.EROFS: "the store lies on a read-only file system; choose another with --root",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the system has no more open files to give",
    errno.ENOMEM: "the system is out of memory",
    errno.EACCES: "the store belongs to another user; choose another with --root",
    errno.EPERM: "the store belongs to another user, or a file in it is immutable; choose another with --root",
}


class Attempt:
    """In this block an OSError becomes a StoreError: `cannot ACTION: reason`, with what to do about it. A reader that has gone is
    no fault of the store's, and stays a BrokenPipeError."""

    __slots__ = ("action",)

    def __init__(self, action: str) -> None:
        self.action = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise StoreError(f"cannot {self.action}: {reason.lower()}", hint=_HINTS.get(error.errno or 0, "")) from error
