"""flock(2) on the directory whose entries it guards: nothing to create, and the kernel lets go when the holder dies.

    ROOT         exclusive while index.json is replaced
    ROOT/blobs   the gate: shared while something is looked up and written down, exclusive while things are moved away
    ROOT/drafts/X   exclusive by the maker of the draft X; of a lease, by its holder (leases.py)

ROOT/blobs is taken before ROOT. May be imported on the hot path of `box run`.
"""

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Lock:
    """A lock that is held until it is closed, or until the process ends."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str, *, shared: bool = False) -> None:
        """Wait for the lock on the directory or file `path`."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except BaseException:
            self.close()
            raise

    @classmethod
    def attempt(cls, path: str, *, patience: float = 0.0) -> "Self | None":
        """The exclusive lock on `path`, or None when others still held it after `patience` seconds."""
        lock = cls.__new__(cls)
        lock.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        until = time.monotonic() + patience
        try:
            while True:
                try:
                    fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= until:
                        lock.close()
                        return None
                    time.sleep(0.01)
                else:
                    return lock
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Let go."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None") -> None:
        self.close()
