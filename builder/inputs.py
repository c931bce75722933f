"""The files that a step takes in: which they are, and the digest of each.

What was read once is not read again while its size, times, inode and device stand: the digests are remembered in a file, as in
git's index. A file whose times are so fresh that a later write could leave them as they are is digested but not remembered.

Paths are bytes, relative to a root directory that stays open. Nothing here follows a symlink out of that root.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from hashlib import sha256

from builder.derived import write_derived
from store import syscalls
from store.drafts import Drafts
from store.errors import BuildError

CHUNK = 1 << 20
FRESH = 50_000_000  # ns: five times the coarsest tick by which Linux stamps files
FRESH_IN_SECONDS = 2_100_000_000  # ns: for file systems that keep whole seconds (FAT: two)

SPARE = 1000  # files that are remembered though nobody asked for them lately

FILE, DIRECTORY, SYMLINK = "file", "directory", "symlink"


class Input:
    """One entry that a step takes in. `digest` is of a file's content (hex) or of nothing; `target` is a symlink's."""

    __slots__ = ("digest", "executable", "kind", "path", "signature", "size", "target")

    def __init__(
        self,
        path: bytes,
        kind: str,
        *,
        executable: bool = False,
        size: int = 0,
        signature: bytes = b"",
        digest: bytes = b"",
        target: bytes = b"",
    ) -> None:
        self.path = path
        self.kind = kind
        self.executable = executable
        self.size = size
        self.signature = signature
        self.digest = digest
        self.target = target

    def fact(self, *, with_mode: bool) -> bytes:
        """What of this entry decides the result: never its times, its owner, or mode bits beyond "executable"."""
        if self.kind == FILE:
            return (b"file x " if with_mode and self.executable else b"file ") + self.digest
        return b"directory" if self.kind == DIRECTORY else b"symlink " + self.target


def shown(path: bytes) -> str:
    """A path as text for a message; what is no text, or would do something to a terminal, is shown as escapes."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def signature(status: os.stat_result) -> bytes:
    """What must stand for a file to count as unchanged."""
    return b"%d %d %d %d %d" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def digest_of(descriptor: int, size: int) -> bytes:
    """Hex sha256 of the open file, which is probably `size` bytes long, from its current position to its end."""
    wanted = min(size + 1, CHUNK)  # read(2) of a whole chunk costs 20 us for its fresh pages, whatever the file's size
    data = os.read(descriptor, wanted)
    state = sha256(data)
    if len(data) == wanted:
        buffer = memoryview(bytearray(CHUNK))
        while count := os.readv(descriptor, [buffer]):
            state.update(buffer[:count])
    return state.hexdigest().encode()


def open_beneath(root: int, path: bytes, flags: int, *, follow: bool = False) -> int:
    """Open `path` below the directory `root`. With `follow`, symlinks count as long as they stay below it."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
    if not follow:
        resolve |= syscalls.RESOLVE_NO_SYMLINKS
    while True:
        try:
            return syscalls.openat2(root, path or b".", flags, resolve=resolve)
        except OSError as err:
            if err.errno != errno.EAGAIN:
                raise


def changed_meanwhile(path: bytes) -> BuildError:
    return BuildError(f"{shown(path)} changed while the build was reading it", hint="run the build again")


def _unreadable(path: bytes, err: OSError) -> BuildError:
    return BuildError(f"cannot read {shown(path)}: {os.strerror(err.errno or 0).lower()}")


class StatCache:
    """Digests of files under one root, remembered across builds at `path`.

    `digests` says what a file's bytes are, reading it only when its signature is unknown. `save` keeps what was learnt;
    failing to is no error, since the next build just reads again.
    """

    __slots__ = ("_changed", "_drafts", "_known", "_path", "_used", "clock")

    def __init__(self, path: str, drafts: Drafts, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._drafts = drafts
        self._changed = False
        self.clock = clock
        self._used: set[bytes] = set()
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        try:
            with open(path, "rb") as file:
                parts = file.read().split(b"\0")
        except OSError:
            return
        if parts[-1] == b"end" and len(parts) % 3 == 1:
            self._known = dict(zip(parts[:-1:3], zip(parts[1::3], parts[2::3], strict=False), strict=False))

    def known(self, path: bytes, current: bytes) -> bytes | None:
        """The value remembered for `path` if the file still has the signature `current`."""
        entry = self._known.get(path)
        if entry is None or entry[0] != current:
            return None
        self._used.add(path)
        return entry[1]

    def learn(self, path: bytes, status: os.stat_result, value: bytes) -> None:
        """Remember `value` of the file that had `status` before it was read, unless its times are too fresh to tell."""
        latest = max(status.st_mtime_ns, status.st_ctime_ns)
        whole_seconds = not (status.st_mtime_ns % 1_000_000_000 or status.st_ctime_ns % 1_000_000_000)
        if latest + (FRESH_IN_SECONDS if whole_seconds else FRESH) < self.clock():
            self._known[path] = signature(status), value
            self._used.add(path)
            self._changed = True
        elif self._known.pop(path, None):
            self._changed = True

    def digest(self, path: bytes, descriptor: int, status: os.stat_result) -> bytes:
        """The digest of the open file at `path`, which had `status` when it was listed and must have it still."""
        value = self.known(path, signature(status))
        if value is None:
            value = digest_of(descriptor, status.st_size)
            if signature(os.fstat(descriptor)) != signature(status):
                raise changed_meanwhile(path)
            self.learn(path, status, value)
        return value

    def __enter__(self) -> "StatCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def save(self) -> None:
        """Write what was learnt; whoever saves last wins."""
        if not self._changed:
            return
        parts: list[bytes] = []
        forget = len(self._known) > 2 * len(self._used) + SPARE
        for path, (current, value) in self._known.items():
            if not forget or path in self._used:
                parts += (path, current, value)
        parts.append(b"end")
        if write_derived(self._drafts, self._path, b"\0".join(parts)):
            self._changed = False


class Context:
    """A directory whose files steps may take, and nothing outside of it."""

    __slots__ = ("_folder", "_folder_name", "cache", "path", "root")

    def __init__(self, path: str, cache: StatCache) -> None:
        self.path = path
        self.cache = cache
        self._folder = -1  # the directory of the file that was opened last: its neighbours come next
        self._folder_name = b""
        try:
            self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise BuildError(f"cannot open the build's directory {path}: {os.strerror(err.errno or 0).lower()}") from err

    def close(self) -> None:
        """Let go of the directory, and keep what was learnt of its files."""
        self.cache.save()
        if self._folder >= 0:
            os.close(self._folder)
        os.close(self.root)

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, entry: Input) -> int:
        """Open a file of the list for reading. Whether it is still what was listed, `check` says when it was read."""
        folder, _, name = entry.path.rpartition(b"/")
        try:
            if self._folder < 0 or folder != self._folder_name:
                opened = open_beneath(self.root, folder, os.O_PATH | os.O_DIRECTORY)
                if self._folder >= 0:
                    os.close(self._folder)
                self._folder, self._folder_name = opened, folder
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(name, flags, dir_fd=self._folder)
        except OSError as err:
            raise _unreadable(entry.path, err) from err

    @staticmethod
    def check(entry: Input, descriptor: int) -> None:
        """Raise BuildError when the file, open and read to its end, is not the one that was listed."""
        if signature(os.fstat(descriptor)) != entry.signature:
            raise changed_meanwhile(entry.path)

    def listing(self, directory: bytes) -> list[tuple[bytes, bool]]:
        """Names in `directory`, each with "is a directory"."""
        descriptor = open_beneath(self.root, directory, os.O_RDONLY | os.O_DIRECTORY, follow=True)
        try:
            with os.scandir(descriptor) as entries:
                return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(descriptor)

    def real_path(self, path: bytes) -> bytes | None:
        """Where `path` leads within the context, symlinks followed; None when nothing is there."""
        try:
            descriptor = open_beneath(self.root, path, os.O_PATH, follow=True)
        except OSError as err:
            if err.errno == errno.EXDEV:
                raise BuildError(
                    f"{shown(path)} leads out of the build's directory",
                    hint="copy takes only what lies in the directory given to the build; put the file there",
                ) from err
            if err.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise _unreadable(path, err) from err
        try:
            real = os.readlink(b"/proc/self/fd/%d" % descriptor)
            top = os.readlink(b"/proc/self/fd/%d" % self.root)
        finally:
            os.close(descriptor)
        return os.path.relpath(real, top) if real != top else b""

    def is_dangling(self, path: bytes) -> bool:
        """Whether `path` is a symlink that leads to nothing."""
        try:
            os.close(open_beneath(self.root, path, os.O_PATH | os.O_NOFOLLOW, follow=True))
        except OSError:
            return False
        return True

    def read(self, path: bytes, excluded: Callable[[bytes, bytes], bool] | None = None) -> Iterator[Input]:
        """The entry at `path` (itself no symlink) and, for a directory, all below it in the order of their names."""
        try:
            descriptor = open_beneath(self.root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as err:
            raise _unreadable(path, err) from err
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                yield Input(path, DIRECTORY)
                yield from self._below(descriptor, path, excluded)
            elif stat.S_ISREG(status.st_mode):
                digest = self.cache.digest(path, descriptor, status)
                yield Input(
                    path,
                    FILE,
                    executable=bool(status.st_mode & 0o100),
                    size=status.st_size,
                    signature=signature(status),
                    digest=digest,
                )
            else:
                raise _not_a_file(path, status.st_mode)
        finally:
            os.close(descriptor)

    def _below(self, directory: int, path: bytes, excluded: Callable[[bytes, bytes], bool] | None) -> Iterator[Input]:
        with os.scandir(directory) as entries:
            found = sorted((os.fsencode(entry.name), entry) for entry in entries)
        prefix = path + b"/" if path else b""
        for name, entry in found:
            below = prefix + name
            if excluded is not None and excluded(below, name):
                continue
            try:
                yield from self._entry(directory, name, below, entry.stat(follow_symlinks=False), excluded)
            except OSError as err:
                raise _unreadable(below, err) from err

    def _entry(
        self,
        directory: int,
        name: bytes,
        path: bytes,
        status: os.stat_result,
        excluded: Callable[[bytes, bytes], bool] | None,
    ) -> Iterator[Input]:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            current = signature(status)
            digest = self.cache.known(path, current)
            if digest is None:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
                try:
                    digest = self.cache.digest(path, descriptor, status)
                finally:
                    os.close(descriptor)
            yield Input(path, FILE, executable=bool(mode & 0o100), size=status.st_size, signature=current, digest=digest)
        elif stat.S_ISDIR(mode):
            yield Input(path, DIRECTORY)
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                yield from self._below(descriptor, path, excluded)
            finally:
                os.close(descriptor)
        elif stat.S_ISLNK(mode):
            yield Input(path, SYMLINK, target=os.readlink(name, dir_fd=directory))
        else:
            raise _not_a_file(path, mode)


def _not_a_file(path: bytes, mode: int) -> BuildError:
    kinds = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return BuildError(
        f"{shown(path)} is {kinds.get(stat.S_IFMT(mode), 'no file')}, which cannot be copied into an image",
        hint="remove it or leave it out with exclude:",
    )
