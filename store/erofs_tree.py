"""A layer's tree in memory, made of its tar's entries as `store.unpack` makes one on disk: the same names, the same errors.

Only the entries are kept, not their content. What hides something below is here what overlayfs takes for it: a whiteout instead
of an entry, an opaque directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Protocol

from store.acl import settled_xattrs
from store.directories import LINK_DEPTH, WHITEOUT, entry_of, plain_directory
from store.errors import ArchiveError
from store.faults import Attempt
from store.lowers import Found
from store.tar_read import CHARACTER, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, TarReader, shown
from store.unpack import hidden_by, refuse_whiteout_device

DELETED = Entry(CHARACTER, b"", 0, 0, 0, 0)
"""A whiteout: the kernel shows it as a character device 0:0."""

NAME_MAX = 255  # of EROFS, as of every other file system


class Below(Protocol):
    """What a layer's parents show: `store.lowers.Lowers`."""

    def find(self, path: bytes) -> Found | None: ...
    def names(self) -> set[bytes]: ...


class Aside(Protocol):
    """Takes content that no device can give as it lies there."""

    def take(self, size: int, readinto: Callable[[memoryview], int]) -> int:
        """Keep `size` bytes; returns their address in bytes."""

    def take_pieces(self, size: int, pieces: list[tuple[int, int]], readinto: Callable[[memoryview], int]) -> int:
        """The same for a file of `size` bytes of which only `pieces` come, holes between them."""


class Dir:
    """A directory: what it is, what it has, and whether it hides what the layers below have in it."""

    __slots__ = ("children", "entry", "opaque", "path")

    def __init__(self, entry: Entry, path: bytes, opaque: bool = False) -> None:
        self.entry = entry
        self.path = path
        self.opaque = opaque
        self.children: dict[bytes, Node] = {}


Node = Dir | Entry


class Undecided(Exception):
    """A layer asks what its parents have before anybody knows which they are."""


class Unknown:
    """Parents that are not known yet."""

    def find(self, path: bytes) -> Found | None:
        raise Undecided

    def names(self) -> set[bytes]:
        raise Undecided


class LayerTree:
    """The tree of one layer, complete after `finish`. `base` is what to add to an entry's address.

    `below` is None for the lowest. Where it is `Unknown`, most layers can be taken all the same; `take` raises Undecided for the
    others, and `finish` gets to know the parents.
    """

    __slots__ = ("_aliases", "_aside", "_base", "_below", "_last", "_last_name", "_rooted", "_whiteouts", "root")

    def __init__(self, below: Below | None, aside: Aside, *, base: int) -> None:
        self._below = below
        self._aside = aside
        self._base = base
        self._rooted = False  # an entry says what the root is
        self.root = Dir(plain_directory(b""), b"")
        self._last_name = b""
        self._last = self.root
        self._aliases: dict[bytes, Dir] = {}
        self._whiteouts: list[tuple[Dir, bytes]] = []

    def take(self, reader: TarReader) -> int:
        """Take every entry of `reader`; returns how many there were."""
        count = 0
        base = self._base
        last = self._last_name
        children = self._last.children
        while (entry := reader.next()) is not None:
            count += 1
            parent_name, _, name = entry.name.rpartition(b"/")
            kind = entry.kind
            plain = kind == FILE and entry.xattrs is None and entry.pieces is None
            if plain and parent_name == last and name and name[:4] != WHITEOUT and name not in children and len(name) <= NAME_MAX:
                entry.name = name
                entry.address += base
                children[name] = entry
                continue
            try:
                self._place(entry, parent_name, name, reader)
            except OSError:
                with Attempt(f"unpack {shown(entry.name)}"):
                    raise
            last = self._last_name
            children = self._last.children
        return count

    def finish(self, below: Below | None) -> Dir:
        """The root, once all was taken, on top of these parents."""
        if below is not None and not self._rooted:
            found = below.find(b"")
            if found is not None:
                self.root.entry = entry_of(found, b"")
        self._below = below
        self._drop_idle_whiteouts()
        if below is not None and self.root.opaque:
            self._hide_root(below)
        return self.root

    def _place(self, entry: Entry, parent_name: bytes, name: bytes, reader: TarReader) -> None:
        parent = self._parent(parent_name)
        kind = entry.kind
        if not name and kind != DIRECTORY:
            raise ArchiveError("the root of the archive is not a directory")
        if name.startswith(WHITEOUT):
            self._whiteout(parent, name)
            return
        if entry.xattrs and kind != HARDLINK:
            entry.mode, xattrs = settled_xattrs(entry)
            entry.xattrs = xattrs or None
        _check_length(name)
        if kind == DIRECTORY:
            self._make(parent, name, entry)
        elif kind == HARDLINK:
            self._hardlink(parent, name, entry)
        else:
            if kind == CHARACTER:
                refuse_whiteout_device(entry)
            if entry.pieces is not None:
                entry.address = self._aside.take_pieces(entry.size, entry.pieces, reader.readinto)
            elif entry.size:
                entry.address += self._base
            entry.name = name
            self._put(parent, name, entry)

    def _put(self, parent: Dir, name: bytes, node: Entry) -> None:
        there = parent.children.get(name)
        if there is not None and there is not DELETED:
            if isinstance(there, Dir) or there.kind == SYMLINK:
                self._forget()
            if isinstance(there, Entry):
                there.links -= 1
        parent.children[name] = node

    def _forget(self) -> None:
        self._aliases.clear()
        self._last_name, self._last = b"", self.root

    def _make(self, parent: Dir, name: bytes, entry: Entry) -> None:
        if not name:
            self.root.entry = entry
            self._rooted = True
            return
        there = parent.children.get(name)
        if isinstance(there, Dir):
            there.entry = entry
            return
        if there is not None:
            self._forget()
            if there is not DELETED:
                there.links -= 1
        # What was there before, a whiteout or a file, has hidden what the layers below have.
        parent.children[name] = Dir(entry, _join(parent.path, name), opaque=there is not None)

    def _hardlink(self, parent: Dir, name: bytes, entry: Entry) -> None:
        above, _, target = entry.link.rpartition(b"/")
        origin = self._parent(above)
        _check_length(target)
        node = origin.children.get(target)
        if node is None:
            self._copy_up(parent, name, _join(origin.path, target), entry)
            return
        if isinstance(node, Dir) or node is DELETED:
            raise ArchiveError(f"a hard link to what is not a file: {shown(entry.name)} -> {shown(entry.link)}")
        if parent.children.get(name) is not node:  # GNU tar writes a file that it meets twice as a link to itself
            self._put(parent, name, node)
            node.links += 1

    def _copy_up(self, parent: Dir, name: bytes, path: bytes, entry: Entry) -> None:
        found = self._lower(path)
        if found is None or stat.S_ISDIR(found.status.st_mode):
            raise ArchiveError(f"a hard link to what is not there: {shown(entry.name)} -> {shown(entry.link)}")
        copy = entry_of(found, name)
        if copy.kind == FILE:
            copy.size = found.status.st_size
            descriptor = found.open(os.O_RDONLY)
            try:
                copy.address = self._aside.take(copy.size, lambda buffer: os.readv(descriptor, [buffer]))
            finally:
                os.close(descriptor)
        self._put(parent, name, copy)

    def _whiteout(self, parent: Dir, name: bytes) -> None:
        name = hidden_by(name)
        if name == b".":
            parent.opaque = True
            return
        if not name:
            return
        _check_length(name)
        there = parent.children.get(name)
        if there is None:
            parent.children[name] = DELETED
            self._whiteouts.append((parent, name))
        elif isinstance(there, Dir):
            there.opaque = True

    def _parent(self, name: bytes) -> Dir:
        """The directory that an archive's `name` means; made where it is missing."""
        if name == self._last_name:
            return self._last
        found = self._aliases.get(name)
        if found is None:
            found = self._aliases[name] = self._walk(name)
        self._last_name, self._last = name, found
        return found

    def _walk(self, name: bytes) -> Dir:
        stack = [self.root]
        todo = name.split(b"/")[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            here = stack[-1]
            if part == b"..":  # of a symlink's target
                if len(stack) > 1:
                    stack.pop()
                continue
            below = self._step(here, part)
            if isinstance(below, Dir):
                stack.append(below)
                continue
            links += 1
            if links > LINK_DEPTH:
                raise ArchiveError(f"too many symbolic links: {shown(name)}")
            if below.startswith(b"/"):
                del stack[1:]
            todo.extend(below.split(b"/")[::-1])
        return stack[-1]

    def _step(self, here: Dir, name: bytes) -> Dir | bytes:
        """The directory `name` in `here`, made where it is missing; or the target where `name` is a symlink."""
        there = here.children.get(name)
        if isinstance(there, Dir):
            return there
        path = _join(here.path, name)
        if name.startswith(WHITEOUT):
            raise ArchiveError(f"a directory whose name means a deleted file: {shown(path)}")
        _check_length(name)
        entry = plain_directory(path)
        if there is None:
            lower = self._lower(path)
            if lower is not None:
                if stat.S_ISLNK(lower.status.st_mode):
                    return lower.readlink()
                if not stat.S_ISDIR(lower.status.st_mode):
                    raise ArchiveError(f"a file has entries below it: {shown(path)}")
                entry = entry_of(lower, path)
        elif there.kind == SYMLINK:
            return there.link
        elif there is not DELETED:
            raise ArchiveError(f"a file has entries below it: {shown(path)}")
        made = here.children[name] = Dir(entry, path, opaque=there is not None)
        return made

    def _lower(self, path: bytes) -> Found | None:
        """What the layers below have at `path` that this one does not hide."""
        if self._below is None:
            return None
        here: Node | None = self.root
        for part in path.split(b"/"):
            if not isinstance(here, Dir):
                break
            if here.opaque:
                return None
            here = here.children.get(part)
        return None if isinstance(here, Dir) and here.opaque else self._below.find(path)

    def _drop_idle_whiteouts(self) -> None:
        """overlayfs lists a whiteout that hides nothing, in a directory that only one layer has, as a name without a file."""
        for parent, name in self._whiteouts:
            if parent.children.get(name) is DELETED and self._lower(_join(parent.path, name)) is None:
                del parent.children[name]

    def _hide_root(self, below: Below) -> None:
        """overlayfs merges the roots of all layers, opaque or not: each name below is deleted instead."""
        for name in below.names():
            there = self.root.children.setdefault(name, DELETED)
            if isinstance(there, Dir):
                there.opaque = True
        self.root.opaque = False


def walk(root: Dir) -> Iterator[Dir]:
    """Each directory of the tree, parents before what is in them."""
    todo = [root]
    while todo:
        here = todo.pop()
        yield here
        todo += [child for child in here.children.values() if isinstance(child, Dir)]


def _check_length(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _join(above: bytes, name: bytes) -> bytes:
    return above + b"/" + name if above else name
