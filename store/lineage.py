"""Which layer wrote which file of a stack: its whole life, replayed from the layers' tars as unpacking would have gone.

Nothing is mounted or unpacked. A layer's whiteouts hide what is below it and nothing of its own, in whatever order they come; a
name that leads through a symlink means what it meant when it was unpacked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        return resolve(self._files.get, path, last=last)

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
        """Unpack one layer, in thought, and lay it over what there is."""
        sheet = _Sheet(self._files)
        for number, (entry, _) in enumerate(members(self._store, layer)):
            sheet.place(entry, (index, number))
        for path in sorted(sheet.gone):
            now = sheet.own.get(path)
            if now is None or now.entry.kind != DIRECTORY or path in sheet.opaque:
                self._remove(index, path)
        for path in sorted(sheet.opaque):
            if not path or path in sheet.own:
                self._remove_below(index, path)
        for path in sorted(sheet.own):
            file = sheet.own[path]
            if file is not None:
                self._write(index, path, file, sheet.links.get(path, b""))

    def _write(self, index: int, path: bytes, file: _File, link: bytes) -> None:
        before = self._files.get(path)
        if before is not None and (before.entry.kind == DIRECTORY) != (file.entry.kind == DIRECTORY):
            self._remove_below(index, path)
        self._files[path] = file
        if path:
            above, _, name = path.rpartition(b"/")
            self._children.setdefault(above, set()).add(name)
        events = self._events.setdefault(path, [])
        if before is None:
            events.append(Event(index, ADDED, (), link))
            return
        old, new = before.entry, file.entry
        what = _respects(old, new)
        if new.kind == DIRECTORY and not what:
            return  # an archive names the directories above what it has, changed or not
        if old.kind == new.kind == FILE and old.size == new.size and new.size and before.member != file.member:
            self._members[path, len(events)] = (before.member, file.member)
        events.append(Event(index, CHANGED, what, link))

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


class _Sheet:
    """One layer while it is unpacked onto `lower`, as `store.unpack` and `store.directories` would.

    `own` is what it has, None for a whiteout; `opaque` the directories that hide what is below them; `gone` what it deletes, come
    back or not; `links` the first names of its hard links.
    """

    __slots__ = ("gone", "links", "lower", "opaque", "own")

    def __init__(self, lower: Mapping[bytes, _File]) -> None:
        self.lower = lower
        self.own: dict[bytes, _File | None] = {}
        self.opaque: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.links: dict[bytes, bytes] = {}

    def place(self, entry: Entry, member: tuple[int, int]) -> None:
        """Take in one member."""
        above, _, name = entry.name.rpartition(b"/")
        parent = resolve(self._find, above, last=True)
        self._enter(parent, member)
        path = _join(parent, name)
        if name == OPAQUE_MARK:
            self.opaque.add(parent)
        elif name.startswith(AUFS):
            return
        elif name.startswith(WHITEOUT):
            self._delete(_join(parent, name[len(WHITEOUT) :]))
        elif entry.kind == HARDLINK:
            self._link(path, entry)
        else:
            self._put(path, _File(entry, member))

    def _find(self, path: bytes) -> _File | None:
        if path in self.own:
            return self.own[path]
        above = path
        while above:
            if above in self.opaque:
                return None
            above = above.rpartition(b"/")[0]
        return None if b"" in self.opaque else self.lower.get(path)

    def _put(self, path: bytes, file: _File) -> None:
        before = self.own.get(path)
        if file.entry.kind == DIRECTORY:
            if path in self.own and before is None:
                self.opaque.add(path)
        elif before is not None and before.entry.kind == DIRECTORY:
            self._clear(path)
        self.own[path] = file
        self.links.pop(path, None)

    def _clear(self, path: bytes) -> None:
        for each in [each for each in self.own if each.startswith(path + b"/")]:
            del self.own[each]

    def _link(self, path: bytes, entry: Entry) -> None:
        above, _, name = entry.link.rpartition(b"/")
        target = _join(resolve(self._find, above, last=True), name)
        found = self._find(target)
        if found is not None and target != path:
            self._put(path, found)
            self.links[path] = target

    def _delete(self, path: bytes) -> None:
        self.gone.add(path)
        found = self.own.get(path)
        if found is None:
            self.own[path] = None
        elif found.entry.kind == DIRECTORY:
            self.opaque.add(path)

    def _enter(self, path: bytes, member: tuple[int, int]) -> None:
        """The directories on the way to a member are this layer's, too: as they are below, or made."""
        parts = path.split(b"/") if path else []
        for count in range(len(parts)):
            here = b"/".join(parts[: count + 1])
            if self.own.get(here) is None:
                found = self._find(here)
                known = found is not None and found.entry.kind == DIRECTORY
                self._put(here, found if found is not None and known else _File(_plain(here), member))


Find = Callable[[bytes], _File | None]


def resolve(find: Find, path: bytes, *, last: bool) -> bytes:
    """`path` with the symlinks on its way followed, the final one only with `last`. StoreError for a circle."""
    todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    done: list[bytes] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == b"..":
            del done[-1:]
            continue
        found = find(b"/".join([*done, part]))
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


def _plain(path: bytes) -> Entry:
    """A directory that no member names."""
    return Entry(DIRECTORY, path, 0o755, 0, 0, 0)


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
