"""A changeset becomes a tree and the tar of a layer, in one pass over the files: each source is read once.

The tar is, byte by byte, what `store.pack` makes of the tree.
"""

import os
import stat

from builder.changeset import Changeset, Node, Source, parent
from builder.inputs import CHUNK, shown
from builder.layers import Write
from store.attributes import set_xattrs
from store.directories import WHITEOUT
from store.errors import BuildError, StoreError
from store.lowers import make_whiteout
from store.tar_read import DIRECTORY, FILE, SYMLINK, Entry
from store.tar_write import TarWriter

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_changes(changes: Changeset, upper: int, tar: Write, epoch: int) -> None:
    """Create the entries of `changes` in the empty directory `upper`, and write the layer with the same through `tar`.

    Modes and owners are as listed whatever the umask; every time is `epoch` (seconds). The root has the view's mode and owner.
    On error both are to be thrown away.
    """
    writer = _Writer(changes, upper, TarWriter(tar), epoch * 1_000_000_000)
    writer.write()


class _Writer:
    __slots__ = ("_below", "_nodes", "_root", "_tar", "_time", "_upper")

    def __init__(self, changes: Changeset, upper: int, tar: TarWriter, time: int) -> None:
        self._nodes = changes.nodes
        self._upper = upper
        self._tar = tar
        self._time = time
        root = changes.view.status(b"")
        self._root = Node("directory", stat.S_IMODE(root.st_mode), root.st_uid, root.st_gid) if root else Node("directory", 0o755)
        self._below: dict[bytes, list[bytes]] = {b"": []}
        for path in self._nodes:
            self._below.setdefault(parent(path), []).append(path)

    def write(self) -> None:
        """Each directory before what is in it, its other entries before its directories, all sorted by bytes, as `store.pack`."""
        written: list[bytes] = []
        todo = [b""]
        while todo:
            path = todo.pop()
            node = self._nodes[path] if path else self._root
            try:
                directory = self._make_directory(path, node)
            except OSError as err:
                raise _cannot_write(path, err) from err
            try:
                todo += reversed(self._fill(directory, path))
            finally:
                os.close(directory)
            written.append(path)
        self._tar.finish()
        for path in reversed(written):  # whose times each new entry changed
            os.utime(path or b".", ns=(self._time, self._time), dir_fd=self._upper, follow_symlinks=False)

    def _make_directory(self, path: bytes, node: Node) -> int:
        if path:
            os.mkdir(path, 0o700, dir_fd=self._upper)
        descriptor = os.open(path or b".", _DIRECTORY, dir_fd=self._upper)
        try:
            _own(descriptor, node)
            os.fchmod(descriptor, node.mode)
            if node.xattrs:
                set_xattrs(descriptor, node.xattrs, f"/{shown(path)}")
            entry = self._entry(DIRECTORY, path, node)
            entry.xattrs = node.xattrs
            self._tar.add(entry)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _fill(self, directory: int, path: bytes) -> list[bytes]:
        """Make what is in a directory, but for its directories: their paths, sorted."""
        prefix = len(path) + 1 if path else 0
        directories: list[bytes] = []
        others: list[tuple[bytes, bytes]] = []
        for below in self._below.get(path, ()):
            name = below[prefix:]
            if name.startswith(WHITEOUT):
                raise BuildError(
                    f"/{shown(below)} cannot be kept in a layer: a name that begins with .wh. means a deleted file there",
                    hint="give it another name",
                )
            kind = self._nodes[below].kind
            if kind == "directory":
                directories.append(below)
            else:
                others.append((WHITEOUT + name if kind == "whiteout" else name, name))
        for shape, name in sorted(others):
            whole = path + b"/" + name if path else name
            try:
                self._make(directory, name, whole, path + b"/" + shape if path else shape, self._nodes[whole])
            except OSError as err:
                raise _cannot_write(whole, err) from err
        return sorted(directories)

    def _make(self, directory: int, name: bytes, path: bytes, member: bytes, node: Node) -> None:
        if node.kind == "file":
            descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
            try:
                self._fill_file(descriptor, path, node)
                _own(descriptor, node)
                os.fchmod(descriptor, node.mode)  # after chown, which takes set-id bits away
                os.utime(descriptor, ns=(self._time, self._time))
            finally:
                os.close(descriptor)
            return
        if node.kind == "symlink":
            os.symlink(node.target, name, dir_fd=directory)
            if node.uid or node.gid:
                os.chown(name, node.uid, node.gid, dir_fd=directory, follow_symlinks=False)
            entry = self._entry(SYMLINK, member, node)
            entry.link = node.target
        else:
            make_whiteout(name, directory)
            entry = self._entry(FILE, member, Node("file"))
        os.utime(name, ns=(self._time, self._time), dir_fd=directory, follow_symlinks=False)
        self._tar.add(entry)

    def _fill_file(self, target: int, path: bytes, node: Node) -> None:
        entry = self._entry(FILE, path, node)
        if node.source is None:
            entry.size = len(node.content)
            _write_all(target, memoryview(node.content))
            self._tar.add(entry, node.content)
            return
        entry.size = node.source.size
        origin = node.source.open()
        try:
            if entry.size <= CHUNK:
                content = os.read(origin, entry.size + 1)
                node.source.check(origin)
                if len(content) != entry.size:
                    raise BuildError(f"/{shown(path)}: its source has {len(content)} bytes instead of {entry.size}")
                _write_all(target, memoryview(content))
                self._tar.add(entry, content)
            else:
                self._copy(entry, origin, target, node.source)
                node.source.check(origin)
        finally:
            os.close(origin)

    def _copy(self, entry: Entry, origin: int, target: int, source: Source) -> None:
        def read(buffer: memoryview) -> int:
            count = os.readv(origin, [buffer])
            _write_all(target, buffer[:count])
            return count

        try:
            self._tar.add_stream(entry, read)
        except StoreError:
            source.check(origin)  # shorter than it was: this says of which file
            raise

    def _entry(self, kind: bytes, path: bytes, node: Node) -> Entry:
        return Entry(kind, path, node.mode, node.uid, node.gid, self._time)


def _own(descriptor: int, node: Node) -> None:
    if node.uid or node.gid:
        os.fchown(descriptor, node.uid, node.gid)


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _cannot_write(path: bytes, err: OSError) -> BuildError:
    return BuildError(f"cannot write /{shown(path)}: {os.strerror(err.errno or 0).lower()}")
