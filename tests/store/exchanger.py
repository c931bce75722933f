"""Somebody who changes a tree while box goes through it, at the very moment that hurts: no race has to be won."""

import hashlib
import os
from pathlib import Path

from store.syscalls import AT_FDCWD, syscall

_RENAMEAT2, _EXCHANGE = 316, 2


def exchange(one: Path, other: Path) -> None:
    """The two names swap what they name, in one step."""
    syscall("renameat2", _RENAMEAT2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), _EXCHANGE)


class Canary:
    """A directory outside, with a file in it, that nobody may read from or write to."""

    SECRET = b"the host's own"

    def __init__(self, top: Path) -> None:
        self.path = top / "outside"
        self.path.mkdir()
        (self.path / "file").write_bytes(self.SECRET)
        self.before = self.state()

    def state(self) -> list[object]:
        found: list[object] = []
        for path in (self.path, *sorted(self.path.iterdir())):
            status = os.lstat(path)
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else sorted(os.listdir(path))
            xattrs = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
            found.append(
                (path.name, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, content, xattrs)
            )
        return found

    @property
    def is_hurt(self) -> bool:
        return self.state() != self.before
