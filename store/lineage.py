"""Which layer wrote which file of a stack: its whole life, replayed from the layers' tars as unpacking would have gone.

Nothing is mounted or unpacked. A layer's whiteouts take effect before its files, in whatever order they come; a name that leads
through a symlink means what it meant to the layers below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from store.directories import LINK_DEPTH, WHITEOUT
from store.errors import StoreError
from store.images import Layer
from store.members import members
from store.record import Record
from store.tar_read import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, shown
from store.unpack import AUFS, OPAQUE_MARK

if TYPE_CHECKING:
    from store.layout import Store

ADDED, CHANGED, DELETED = "A", "C", "D"


class Event(Record):
    """One layer's doing at one path: `layer` is its index from the bottom, `kind` ADDED, CHANGED or DELETED.

    Of a change, `what` says in which respects (type, size, content, link, device, mode, owner, xattrs; nothing: only its time).
    `link` is the other name of a file that came as a hard link.
    """

    layer: int
    kind: str
    what: tuple[str, ...] = ()
    link: bytes = b""

    @property
    def is_content(self) -> bool:
        """Whether what a reader of the file sees is from here."""
        return self.kind != CHANGED or bool({"type", "size", "content", "link", "device"}.intersection(self.what))


class _File:
    """What lies at a path after some layers. `member` is the layer that has its bytes, and the number of the member there."""

    __slots__ = ("entry", "member")

    def __init__(self, entry: Entry, member: tuple[int, int]) -> None:
        self.entry = entry
        self.member = member


class Lineage:
    """The life of every path of a stack of layers, the lowest first. Paths have no leading slash; b"" is the root."""

    __slots__ = ("_children", "_events", "_files", "_layers", "_members", "_store")

    def __init__(self, store: Store, layers: Sequence[Layer]) -> None:
        """Read all layers. ArchiveError, BlobMissing or BlobCorrupt for one that cannot be read."""
        self._store = store
        self._layers = layers
        self._files: dict[bytes, _File] = {}
        self._children: dict[bytes, set[bytes]] = {}
        self._events: dict[bytes, list[Event]] = {}
        # Of each change of a file to one of the same size: the members to compare, once somebody asks.
        self._members: dict[tuple[bytes, int], tuple[tuple[int, int], tuple[int, int]]] = {}
        for index, layer in enumerate(layers):
            self._replay(index, layer)

    def resolve(self, path: bytes, *, last: bool = False) -> bytes:
        """`path` with the symlinks on its way followed, as in a container; the final one only with `last`.

        StoreError when they go round in circles.
        """
        todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        done: list[bytes] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del done[-1:]
                continue
            found = self._files.get(b"/".join([*done, part]))
            if found is None or found.entry.kind != SYMLINK or not (todo or last):
                done.append(part)
                continue
            links += 1
            if links > LINK_DEPTH:
                raise StoreError(f"too many symbolic links: /{shown(path)}")
            target = found.entry.link
            if target.startswith(b"/"):
                done = []
            todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
        return b"/".join(done)

    def exists(self, path: bytes) -> bool:
        """Whether the image has something at this real path."""
        return not path or path in self._files

    def link(self, path: bytes) -> bytes:
        """The target of the symlink at this real path; empty for anything else."""
        found = self._files.get(path)
        return found.entry.link if found is not None and found.entry.kind == SYMLINK else b""

    def below(self, path: bytes, *, gone: bool = False) -> list[bytes]:
        """The real paths that begin with `path`, itself included, sorted; with `gone` also those that were deleted."""
        prefix = path + b"/" if path else b""
        return sorted(each for each in self._events if (each == path or each.startswith(prefix)) and (gone or self.exists(each)))

    def events(self, paths: Iterable[bytes]) -> dict[bytes, list[Event]]:
        """The life of each path, the latest first; nothing for one that no layer ever had. Contents are compared where needed."""
        wanted = {path: list(self._events.get(path, ())) for path in paths}
        open_questions = {key: self._members.pop(key) for key in list(self._members) if key[0] in wanted}
        digests = self._digests({member for pair in open_questions.values() for member in pair})
        for (path, at), (old, new) in open_questions.items():
            if digests[old] != digests[new]:
                event = self._events[path][at]
                self._events[path][at] = Event(event.layer, event.kind, ("content", *event.what), event.link)
        return {path: self._events.get(path, [])[::-1] for path in wanted}

    def _digests(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        found: dict[tuple[int, int], bytes] = {}
        for index in sorted({index for index, _ in wanted}):
            for number, (_, reader) in enumerate(members(self._store, self._layers[index])):
                if (index, number) in wanted:
                    digest = hashlib.sha256()
                    while piece := reader.content():
                        digest.update(piece)
                    found[index, number] = digest.digest()
        return found

    def _replay(self, index: int, layer: Layer) -> None:
        """Apply one layer: what it takes away, then what it has."""
        entries: list[tuple[int, bytes, bytes, Entry | None]] = []
        removed: list[bytes] = []
        hidden: list[bytes] = []
        for number, (entry, _) in enumerate(members(self._store, layer)):
            above, _, name = entry.name.rpartition(b"/")
            if name == OPAQUE_MARK:
                hidden.append(self.resolve(above, last=True))
            elif name.startswith(AUFS):
                pass
            elif name.startswith(WHITEOUT):
                removed.append(_join(self.resolve(above, last=True), name[len(WHITEOUT) :]))
            else:
                entries.append((number, above, name, entry))
                continue
            entries.append((number, above, name, None))
        for path in removed:
            self._remove(index, path)
        for path in hidden:
            for name in sorted(self._children.get(path, ())):
                self._remove(index, _join(path, name))
        for number, above, name, written in entries:
            place = self.resolve(above, last=True)
            if written is None:
                self._make_parents(index, place)  # unpacking makes the directory of a whiteout, too
            else:
                self._write(index, number, place, name, written)

    def _write(self, index: int, number: int, above: bytes, name: bytes, entry: Entry) -> None:
        self._make_parents(index, above)
        path = _join(above, name)
        link = b""
        member = (index, number)
        if entry.kind == HARDLINK:
            link = self._real(entry.link)
            target = self._files.get(link)
            if target is None or link == path:
                return
            entry, member = target.entry, target.member
        before = self._files.get(path)
        if before is not None and (before.entry.kind == DIRECTORY) != (entry.kind == DIRECTORY):
            self._remove_below(index, path)
        self._place(path, _File(entry, member))
        self._note(index, path, before, entry, member, link)

    def _note(self, index: int, path: bytes, before: _File | None, entry: Entry, member: tuple[int, int], link: bytes) -> None:
        events = self._events.setdefault(path, [])
        if before is None:
            events.append(Event(index, ADDED, (), link))
            return
        what = _respects(before.entry, entry)
        if events and events[-1].layer == index and before.member[0] == index:  # twice in one layer: the last one counts
            if entry.kind == FILE and events[-1].kind == CHANGED:
                what = ("content", *what)
            events[-1] = Event(index, events[-1].kind, tuple(dict.fromkeys((*events[-1].what, *what))), link)
            self._members.pop((path, len(events) - 1), None)
            return
        if entry.kind == DIRECTORY and not what:
            return  # an archive names the directories above what it has, changed or not
        if before.entry.kind == entry.kind == FILE and before.entry.size == entry.size and entry.size and before.member != member:
            self._members[path, len(events)] = (before.member, member)
        events.append(Event(index, CHANGED, what, link))

    def _real(self, path: bytes) -> bytes:
        above, _, name = path.rpartition(b"/")
        return _join(self.resolve(above, last=True), name)

    def _make_parents(self, index: int, path: bytes) -> None:
        """The directories above an entry that no layer names."""
        missing = []
        while path and path not in self._files:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        for each in reversed(missing):
            self._place(each, _File(Entry(DIRECTORY, each, 0o755, 0, 0, 0), (index, -1)))
            self._events.setdefault(each, []).append(Event(index, ADDED))

    def _place(self, path: bytes, file: _File) -> None:
        self._files[path] = file
        if path:
            above, _, name = path.rpartition(b"/")
            self._children.setdefault(above, set()).add(name)

    def _remove(self, index: int, path: bytes) -> None:
        if path in self._files:
            self._remove_below(index, path)
            self._forget(index, path)

    def _remove_below(self, index: int, path: bytes) -> None:
        for each in list(self._all_below(path)):
            self._forget(index, each)

    def _all_below(self, path: bytes) -> Iterator[bytes]:
        todo = [_join(path, name) for name in self._children.get(path, ())]
        while todo:
            each = todo.pop()
            yield each
            todo += [_join(each, name) for name in self._children.get(each, ())]

    def _forget(self, index: int, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        self._children.get(above, set()).discard(name)
        self._children.pop(path, None)
        del self._files[path]
        self._events.setdefault(path, []).append(Event(index, DELETED))


def _respects(old: Entry, new: Entry) -> tuple[str, ...]:
    found = []
    if old.kind != new.kind:
        found.append("type")
    elif old.size != new.size:
        found += ["size", "content"]
    elif old.link != new.link:
        found.append("link")
    elif old.device != new.device:
        found.append("device")
    if old.mode != new.mode and new.kind != SYMLINK:
        found.append("mode")
    if (old.uid, old.gid) != (new.uid, new.gid):
        found.append("owner")
    if (old.xattrs or {}) != (new.xattrs or {}):
        found.append("xattrs")
    return tuple(found)


def _join(above: bytes, name: bytes) -> bytes:
    return above + b"/" + name if above else name
