"""Things that are not finished: invisible to every reader, and gone when their maker is gone.

A file is made without a name (O_TMPFILE), so that a killed maker leaves nothing. A directory has a name in ROOT/drafts and is
flocked by its maker; whoever opens the store next deletes those that nobody holds.
"""

import contextlib
import errno
import fcntl
import os
from types import TracebackType
from typing import Self

from store.faults import Attempt
from store.locks import Lock
from store.trees import delete_tree

_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR})


def sync_directory(path: str) -> None:
    """On return the entries of the directory `path` survive a crash."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, however little the kernel takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class FileDraft:
    """A file being written. Unless it is published, it vanishes when it is closed or its maker dies."""

    __slots__ = ("_directory", "_name", "descriptor")

    def __init__(self, directory: str, mode: int, purpose: str = "") -> None:
        self._directory = directory
        self._name: str | None = None
        if purpose:
            self._create(directory, mode, purpose)
            return
        try:
            self.descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        except OSError as err:
            if err.errno not in _NO_TMPFILE:
                raise
            # NFS, FUSE and older overlayfs make no nameless files: a named one, swept like a directory.
            self._create(directory, mode, "file")

    @property
    def path(self) -> str:
        """The name it has while it is a draft; empty when it has none."""
        return self._name or ""

    def _create(self, directory: str, mode: int, purpose: str) -> None:
        while True:
            self._name = _free_name(directory, purpose)
            self.descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            if os.fstat(self.descriptor).st_nlink:
                return
            os.close(self.descriptor)  # swept between open and flock

    def publish(self, path: str, *, replace: bool = True) -> bool:
        """Give the file its name, atomically; False when the name is taken and `replace` is false. Syncs nothing."""
        if self._name is None:
            try:
                self._link(path)
            except FileExistsError:
                if not replace:
                    return False
            else:
                return True
            # link(2) never replaces: the file takes a name among the drafts, locked before anyone can see it, and is renamed.
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            name = _free_name(self._directory, "file")
            self._link(name)
            self._name = name
        elif not replace and os.path.lexists(path):
            return False
        os.rename(self._name, path)
        self._name = None
        return True

    def _link(self, path: str) -> None:
        folder, name = os.path.split(path)
        # Given a directory, Python calls linkat(AT_SYMLINK_FOLLOW), which is what leads from /proc to the nameless file.
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{self.descriptor}", name, dst_dir_fd=descriptor, follow_symlinks=True)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Drop what was not published."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            if self._name is not None:
                with contextlib.suppress(OSError):  # the sweep will find it
                    os.unlink(self._name)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class DirectoryDraft:
    """A directory being filled, `path` its absolute name. What is still there when it is closed is deleted."""

    __slots__ = ("_lock", "path")

    def __init__(self, directory: str, purpose: str) -> None:
        while True:
            path = _free_name(directory, purpose)
            os.mkdir(path, 0o700)
            try:
                lock = Lock(path)
            except FileNotFoundError:
                continue  # swept between mkdir and flock
            if os.fstat(lock.descriptor).st_nlink:
                break
            lock.close()
        self.path = path
        self._lock = lock

    def publish(self, path: str) -> bool:
        """Rename the whole directory to `path`, atomically; False when there is something already. Syncs nothing."""
        try:
            os.rename(self.path, path)
        except OSError as err:
            if err.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        return True

    def close(self) -> None:
        """Delete what was not published."""
        if self._lock.descriptor >= 0:
            # The lock lies on the directory itself, so it may have moved with it: only what still lies here is deleted.
            with contextlib.suppress(OSError):  # the sweep will try again
                delete_tree(self.path)
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Drafts:
    """The directory ROOT/drafts."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def file(self, *, mode: int = 0o600) -> FileDraft:
        """A new empty file."""
        with Attempt("create a draft"):
            return FileDraft(self.path, mode)

    def named_file(self, purpose: str) -> FileDraft:
        """A new empty file that others can see while its maker lives, locked; `purpose` is the beginning of its name."""
        with Attempt("create a draft"):
            return FileDraft(self.path, 0o600, purpose)

    def directory(self, purpose: str) -> DirectoryDraft:
        """A new empty directory, locked; `purpose` is a word for whoever looks at the drafts."""
        with Attempt("create a draft"):
            return DirectoryDraft(self.path, purpose)

    def replace(self, path: str, data: bytes, *, durable: bool) -> None:
        """Make `path` a file of exactly `data`: a reader sees the old one or the new one. When `durable`, so does a crash."""
        with Attempt(f"write {path}"), FileDraft(self.path, 0o600) as draft:
            write_all(draft.descriptor, data)
            if durable:
                os.fsync(draft.descriptor)
            draft.publish(path)
            if durable:
                sync_directory(os.path.dirname(path))

    def discard(self, path: str) -> None:
        """Make the directory `path` disappear in one step, then delete it. A killed caller leaves it to the sweep."""
        name = _free_name(self.path, "gone")
        try:
            os.rename(path, name)
        except FileNotFoundError:
            return
        with contextlib.suppress(OSError):  # the sweep will try again
            delete_tree(name)

    def sweep(self) -> int:
        """Delete the drafts whose makers are gone, and say how many there were. What cannot be deleted now is left."""
        swept = 0
        with os.scandir(self.path) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            path = os.path.join(self.path, name)
            try:
                lock = Lock.attempt(path)
                if lock is not None:
                    with lock:
                        delete_tree(path)
                    swept += 1
            except OSError:
                continue  # a draft that went meanwhile, or that only its owner can delete: no reason to fail this command
        return swept


def _free_name(directory: str, purpose: str) -> str:
    return os.path.join(directory, f"{purpose}-{os.getpid()}-{os.urandom(6).hex()}")
