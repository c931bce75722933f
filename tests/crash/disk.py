"""A disk that keeps only what POSIX promises: what a file was when it was synced, and the names that a directory had then.
Everything else is lost when the power goes, which real file systems mostly spare us: ext4's journal takes names along.

It is seen from inside the process, by its calls of fsync, and made up anew afterwards in another directory.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

DURABLE = (".", "blobs", "blobs/sha256", "layers")
"""The directories whose files are promised. All else is derived, and empty after a power cut."""


class Disk:
    """In this block, what is synced below `root` is remembered; `without` names a place in the code whose syncs are left out.

    `sites` are those places: FILE:FUNCTION:KIND, KIND what is synced there.
    """

    def __init__(self, root: str, without: str = "") -> None:
        self.root = root
        self.without = without
        self.sites: set[str] = set()
        self._names: dict[str, dict[str, int]] = {}
        self._contents: dict[int, bytes] = {}
        self._fsync: Callable[[int], None] = os.fsync

    def __enter__(self) -> Disk:
        for folder in DURABLE:  # the store as it was before is on the disk
            self._keep_names(os.path.normpath(f"{self.root}/{folder}"))
            for entry in os.scandir(f"{self.root}/{folder}"):
                if entry.is_file(follow_symlinks=False):
                    self._contents[entry.inode()] = Path(entry.path).read_bytes()
        os.fsync = self._sync
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.fsync = self._fsync

    def _sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        directory = stat.S_ISDIR(status.st_mode)
        frame = sys._getframe(1)
        while frame.f_code.co_name == "sync_directory" and frame.f_back is not None:
            frame = frame.f_back
        what = "directory" if directory else "file"
        site = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_code.co_name}:{what}"
        self.sites.add(site)
        if site == self.without:
            return
        if directory:
            self._keep_names(os.readlink(f"/proc/self/fd/{descriptor}"))
        else:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._contents[status.st_ino] = file.read()

    def _keep_names(self, path: str) -> None:
        self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path) if entry.is_file(follow_symlinks=False)}

    def forget(self, name: str, before: bytes) -> None:
        """The file `name` of the root has not reached the disk: there is still the one with the content `before`."""
        self._names[self.root][name] = -1
        self._contents[-1] = before

    def after_power_cut(self, place: str) -> None:
        """Make the store at `place` as it would be found."""
        for name in os.listdir(self.root):
            if os.path.isdir(f"{self.root}/{name}"):
                os.makedirs(f"{place}/{name}", mode=0o700)
        for folder in ("blobs/sha256", "snapshots/empty"):
            os.makedirs(f"{place}/{folder}", exist_ok=True)
        os.chmod(place, 0o700)
        for folder in DURABLE:
            for name, inode in self._names[os.path.normpath(f"{self.root}/{folder}")].items():
                Path(f"{place}/{folder}/{name}").write_bytes(self._contents.get(inode, b""))
