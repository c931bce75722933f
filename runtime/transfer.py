"""`cp`: from one end to the other, by docker's rules for names."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from runtime.ends import STREAM, End, Found, Tree, look, opened
from store.decompress import Source, open_stream
from store.errors import BoxError, UsageError
from store.export import write_members
from store.layout import Store
from store.place import Content, Placer
from store.record import Record
from store.tar_read import BLOCK_DEVICE, CHARACTER, FILE, HARDLINK, Entry, TarReader, shown
from store.tar_write import TarWriter, Write
from store.walk import Node, Owners, members, walk

_PIECE = 1 << 20
_DEVICES = (CHARACTER, BLOCK_DEVICE)

Told = Callable[[str, str], None]
"""Takes a path that was left out, and why."""


class Options(Record):
    """`archive`: keep owners, set-id bits, extended attributes and devices. `follow`: of a symlink as the source, its target."""

    archive: bool = False
    follow: bool = False


class _Taken(Record):
    """A source: its nodes, whose they are, what it is called, and whether it is a directory, or only what is in one."""

    owners: Owners | None
    nodes: Iterator[Node]
    name: bytes
    is_directory: bool
    contents: bool


def copy(store: Store, source: End, target: End, options: Options, left_out: Told, *, read: Source, write: Write) -> None:
    """Copy `source` to `target`; one of them may be a stream, a tar that is read from `read` or written to `write`.

    Of a file that cannot be copied as it is (a socket, a device without `archive`) `left_out` is told. BoxError when the names
    cannot be meant so, or something cannot be read or written; what was copied before stays.
    """
    if source.subject is None and target.subject is None:
        raise UsageError(
            "neither end is a container or an image"
            if STREAM not in (source.path, target.path)
            else "a stream needs a container",
            hint="name one as NAME:PATH; between two places of this machine use cp",
        )
    with _said(f"cannot copy {source} to {target}"), ExitStack() as stack:
        if source.path == STREAM and source.subject is None:
            tree = stack.enter_context(opened(store, target, write=True))
            _from_stream(read, tree, target, options, left_out)
            return
        origin = stack.enter_context(opened(store, source, write=False))
        taken = _take(origin, os.fsencode(source.path), options.follow, stack)
        if target.path == STREAM and target.subject is None:
            _to_stream(taken, write, left_out)
            return
        # Of a container that has ended there is one mount at a time.
        tree = origin if _same_container(source, target) else stack.enter_context(opened(store, target, write=True))
        _to_tree(taken, tree, target, options, left_out, stack)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """In this block an OSError becomes a BoxError; whoever changes the names meanwhile can make any call fail."""
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads the stream any more
    except OSError as err:
        raise BoxError(f"{what}: {os.strerror(err.errno or 0).lower()}") from err


def _take(tree: Tree, path: bytes, follow: bool, stack: ExitStack) -> _Taken:
    found = look(tree, path, follow=follow, source=True)
    stack.callback(found.close)
    status = found.status
    if status is None:
        raise BoxError(f"there is no {tree.shown(path)}")
    bare = path.rstrip(b"/")
    name = bare.rpartition(b"/")[2]
    if found.is_directory:
        if status.st_dev in tree.avoid:
            raise _kernels_own(tree, path)
        top = found.open_directory()
        stack.callback(os.close, top)
        contents = name in (b"", b".")
        if name == b"..":
            name = os.path.basename(os.path.normpath(os.path.join(b"/" if tree.root >= 0 else os.getcwdb(), path)))
        return _Taken(_inside(tree), walk(top, avoid=tree.avoid), name, True, contents or not name)
    if path.endswith((b"/", b"/.")):
        raise BoxError(f"{tree.shown(path)} is not a directory")
    if status.st_dev in tree.avoid:
        raise _kernels_own(tree, path)
    return _Taken(_inside(tree), iter([Node(found.parent, found.name, b"", status)]), name, False, False)


def _kernels_own(tree: Tree, path: bytes) -> BoxError:
    return BoxError(
        f"{tree.shown(path)} is the kernel's own, and no file to copy", hint="a program in the container can read it: box exec"
    )


def _to_stream(taken: _Taken, write: Write, left_out: Told) -> None:
    tar = TarWriter(write)
    write_members(
        members(taken.nodes, _renamer(taken, b"" if taken.contents else taken.name), _socket(left_out), taken.owners), tar
    )
    tar.finish()


def _to_tree(taken: _Taken, tree: Tree, target: End, options: Options, left_out: Told, stack: ExitStack) -> None:
    path = os.fsencode(target.path)
    found = look(tree, path, follow=True)
    stack.callback(found.close)
    top, name = _destination(taken, tree, path, found, stack)
    identity = _identity(os.fstat(top))
    placer = Placer(top, archive=options.archive, owners=_outside(tree))
    into = _Into(placer, tree, path if found.is_directory else os.path.dirname(path), options, left_out)
    try:
        for entry, node in members(taken.nodes, _renamer(taken, name), _socket(left_out), taken.owners):
            if taken.is_directory and stat.S_ISDIR(node.status.st_mode) and _identity(node.status) == identity:
                raise BoxError(f"cannot copy {shown(taken.name)} into itself")
            if entry.kind == FILE:
                into.place_file(entry, node)
            else:
                into.place(entry, _nothing)
        placer.finish()
    finally:
        placer.close()


def _destination(taken: _Taken, tree: Tree, path: bytes, found: Found, stack: ExitStack) -> tuple[int, bytes]:
    """The directory to put things into, and what the source is called there; nothing, when only its contents are to be put."""
    if found.is_directory:
        top = found.open_directory()
        stack.callback(os.close, top)
        return top, b"" if taken.contents else taken.name
    if found.status is None:
        if path.endswith(b"/") and not taken.is_directory:
            raise BoxError(f"there is no directory {tree.shown(path)}", hint="make it first, or leave out the slash at the end")
        return found.parent, found.name
    if taken.is_directory:
        raise BoxError(f"cannot copy a directory to {tree.shown(path)}, which is none")
    if path.endswith(b"/"):
        raise BoxError(f"{tree.shown(path)} is not a directory")
    if not stat.S_ISREG(found.status.st_mode):
        raise BoxError(
            f"{tree.shown(path)} is neither a file nor a directory", hint="to read a file, copy to - and pipe it to tar"
        )
    return found.parent, found.name


def _from_stream(source: Source, tree: Tree, target: End, options: Options, left_out: Told) -> None:
    path = os.fsencode(target.path)
    found = look(tree, path, follow=True)
    try:
        if not found.is_directory:
            raise BoxError(f"{tree.shown(path)} is not a directory that a tar could be unpacked into")
        top = found.open_directory()
    finally:
        found.close()
    try:
        placer = Placer(top, archive=options.archive, owners=_outside(tree))
    finally:
        os.close(top)
    try:
        into = _Into(placer, tree, path, options, left_out)
        reader = TarReader(_feed(source))
        while (entry := reader.next()) is not None:
            into.place(entry, reader.content)
        placer.finish()
    finally:
        placer.close()


def _feed(source: Source) -> Callable[[], memoryview | None]:
    stream = open_stream(source)
    buffer = memoryview(bytearray(_PIECE))

    def feed() -> memoryview | None:
        got = stream.readinto(buffer)
        return buffer[:got] if got else None

    return feed


class _Into:
    """Where members are put: `below` is the path of the placer's top, for messages."""

    __slots__ = ("_below", "_left_out", "_options", "_placer", "_skipped", "_tree")

    def __init__(self, placer: Placer, tree: Tree, below: bytes, options: Options, left_out: Told) -> None:
        self._placer = placer
        self._tree = tree
        self._below = below
        self._options = options
        self._left_out = left_out
        self._skipped: set[bytes] = set()

    def place(self, entry: Entry, content: Content) -> None:
        """Put one there, or leave it out: a device, and then its other names as well."""
        if not self._options.archive and (entry.kind in _DEVICES or (entry.kind == HARDLINK and entry.link in self._skipped)):
            self._skipped.add(entry.name)
            self._left_out(shown(entry.name), "a device, which only -a copies")
            return
        try:
            self._placer.place(entry, content)
        except OSError as err:
            where = self._tree.shown(os.path.join(self._below, entry.name))
            raise BoxError(f"cannot write {where}: {os.strerror(err.errno or 0).lower()}") from err

    def place_file(self, entry: Entry, node: Node) -> None:
        """The file as long as it is now: one that grows while it is read might never end. One that is gone is left out."""
        try:
            descriptor = node.open()
        except FileNotFoundError:
            return
        try:
            left = os.fstat(descriptor).st_size

            def content() -> bytes:
                nonlocal left
                piece = os.read(descriptor, min(left, _PIECE))
                left -= len(piece)
                return piece

            self.place(entry, content)
        finally:
            os.close(descriptor)


def _inside(tree: Tree) -> Owners | None:
    return tree.maps.inside if tree.maps is not None else None


def _outside(tree: Tree) -> Owners | None:
    return tree.maps.outside if tree.maps is not None else None


def _nothing() -> bytes:
    return b""


def _same_container(one: End, other: End) -> bool:
    containers = [end.subject.container for end in (one, other) if end.subject is not None]
    return len(containers) == 2 and None not in containers and len({each.id for each in containers if each is not None}) == 1


def _renamer(taken: _Taken, name: bytes) -> Callable[[bytes], bytes]:
    if not name:
        return lambda path: path
    return lambda path: name + b"/" + path if path else name


def _socket(left_out: Told) -> Callable[[Node], None]:
    return lambda node: left_out(shown(node.path or node.name), "a socket")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
