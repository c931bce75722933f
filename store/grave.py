"""Where things go to be deleted: out of everybody's sight in one rename, off the disk once nobody has to wait for it."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from store.drafts import DirectoryDraft, Drafts
from store.errors import StoreError
from store.faults import Attempt
from store.trees import delete_tree

MARKS = ("complete", ".checked")  # see the drivers: files that say that what lies beside them is to be believed


class Grave:
    """A draft's directory; what was moved there is deleted when it is closed, by the next command if that is killed."""

    __slots__ = ("_count", "_draft")

    def __init__(self, drafts: Drafts) -> None:
        self._count = 0
        self._draft: DirectoryDraft | None = None
        try:
            self._draft = drafts.directory("gone")
        except StoreError:
            pass  # no space even for that: things are deleted in their places, which gives some back

    def take(self, path: str) -> str | None:
        """Move away the file or directory `path`, in one step; its name now, empty where it could only be deleted. None when
        there is no such thing."""
        if self._draft is not None:
            self._count += 1
            name = f"{self._draft.path}/{self._count}"
            try:
                os.rename(path, name)
            except FileNotFoundError:
                return None
            except OSError:
                pass
            else:
                return name
        if not os.path.lexists(path):
            return None
        with Attempt("delete what nothing uses"):
            _disown(path)
            delete_tree(path)
        return ""

    def close(self) -> None:
        """Delete all of it; what cannot be deleted now is left to the next command."""
        if self._draft is not None:
            self._draft.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _disown(path: str) -> None:
    """Take the marks away that say of a snapshot that it is whole, before it is taken to pieces where it lies."""
    try:
        names = os.listdir(path)
    except NotADirectoryError:
        return
    for name in names:
        if name.endswith(MARKS):
            os.unlink(f"{path}/{name}")


def space(path: str) -> int:
    """Bytes that the file or tree at `path` has on the disk; a file with several names counts once. What goes meanwhile, or
    cannot be looked into, counts for nothing."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    total = status.st_blocks * 512
    if not stat.S_ISDIR(status.st_mode):
        return total
    seen: set[int] = set()
    todo = [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    total += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        todo.append(entry.path)
        except OSError:
            continue
    return total
