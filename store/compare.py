"""What differs between two trees, name by name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator

from store.record import Record
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK
from store.touched import Guide
from store.walk import GONE, Node, Owners, listing, open_below

ADDED, CHANGED, DELETED = "A", "C", "D"
KINDS = {
    FILE: "file", DIRECTORY: "directory", SYMLINK: "symlink", CHARACTER: "character device", BLOCK_DEVICE: "block device",
    FIFO: "fifo", b"": "socket",
}  # fmt: skip
_PIECE = 1 << 20


class Seen(Record):
    """What lies at a path. `link` is a symlink's target, `device` what a device is, `time` nanoseconds since 1970."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    time: int
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class Change(Record):
    """One name that differs: `kind` is ADDED, CHANGED or DELETED, `path` has no leading slash (the top is b"").

    Of a changed one, `what` says in which respects: type, mode, owner, size, content, link, device, xattrs, time.
    """

    kind: str
    path: bytes
    what: tuple[str, ...]
    old: Seen | None
    new: Seen | None


Times = Callable[[Seen, Seen], bool]
Hidden = tuple[Collection[bytes], Collection[bytes]]


def never(_old: Seen, _new: Seen) -> bool:
    """Times do not count."""
    return False


def always(_old: Seen, _new: Seen) -> bool:
    """Times do count."""
    return True


def compare(
    old: int,
    new: int,
    *,
    guide: Guide | None = None,
    times: Times = never,
    hidden: Hidden = ((), ()),
    owners: tuple[Owners | None, Owners | None] = (None, None),
) -> Iterator[Change]:
    """What became of the tree open as `old` in the one open as `new`, in no particular order.

    `guide` says where to look (None: everywhere); `times` whether two times that differ are a change; `hidden` which paths of
    the one and of the other tree do not count, `owners` whose the files of the one and of the other are. Contents are
    compared byte by byte, wherever the sizes are the same.
    """
    todo: list[tuple[bytes, Guide | None]] = [(b"", guide)]
    top = _difference(b"", _top(old), _top(new), times, owners)
    if top is not None:
        yield top
    while todo:
        path, below = todo.pop()
        before_fd = after_fd = -1
        try:
            before_fd, after_fd = _open(old, path), _open(new, path)
            befores = _listed(before_fd, path, below, hidden[0])
            afters = _listed(after_fd, path, below, hidden[1])
            for name in befores.keys() | afters.keys():
                before, after = befores.get(name), afters.get(name)
                whole = path + b"/" + name if path else name
                difference = _difference(whole, before, after, times, owners)
                if difference is not None:
                    yield difference
                if _is_directory(before) or _is_directory(after):
                    both = _is_directory(before) and _is_directory(after)
                    todo.append((whole, below[name] if both and below is not None else None))
        finally:
            for descriptor in (before_fd, after_fd):
                if descriptor >= 0:
                    os.close(descriptor)


def _is_directory(node: Node | None) -> bool:
    return node is not None and stat.S_ISDIR(node.status.st_mode)


def _top(root: int) -> Node:
    return Node(root, b".", b"", os.fstat(root))


def _open(root: int, path: bytes) -> int:
    """The directory at `path`; -1 where there is none."""
    try:
        return open_below(root, path)
    except OSError as err:
        if err.errno not in GONE:
            raise
        return -1


def _listed(directory: int, path: bytes, only: Guide | None, hidden: Collection[bytes]) -> dict[bytes, Node]:
    if directory < 0:
        return {}
    return {node.name: node for node in listing(directory, path, only) if node.path not in hidden}


def _difference(
    path: bytes, before: Node | None, after: Node | None, times: Times, owners: tuple[Owners | None, Owners | None]
) -> Change | None:
    old, new = _seen(before, owners[0]), _seen(after, owners[1])
    if before is None or old is None:
        return Change(ADDED, path, (), None, new) if new is not None else None
    if after is None or new is None:
        return Change(DELETED, path, (), old, None)
    what = _respects(old, new, before, after, times)
    return Change(CHANGED, path, what, old, new) if what else None


def _respects(old: Seen, new: Seen, before: Node, after: Node, times: Times) -> tuple[str, ...]:
    found = []
    if old.kind != new.kind:
        found.append("type")
    if old.mode != new.mode:
        found.append("mode")
    if (old.uid, old.gid) != (new.uid, new.gid):
        found.append("owner")
    if old.kind == new.kind:
        if old.kind == "file":
            if old.size != new.size:
                found += ["size", "content"]
            elif old.size and not _same_content(before, after):
                found.append("content")
        if old.link != new.link:
            found.append("link")
        if old.device != new.device:
            found.append("device")
    if old.xattrs != new.xattrs:
        found.append("xattrs")
    if old.time != new.time and times(old, new):
        found.append("time")
    return tuple(found)


def _seen(node: Node | None, owners: Owners | None) -> Seen | None:
    if node is None:
        return None
    status = node.status
    kind = node.kind
    link, device = b"", (0, 0)
    try:
        xattrs = node.xattrs() or {}
        if kind == SYMLINK:
            link = node.readlink()
    except OSError as err:
        if err.errno not in GONE:
            raise
        return None
    if kind in (CHARACTER, BLOCK_DEVICE):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    owner = (status.st_uid, status.st_gid)
    uid, gid = owners(*owner) if owners is not None else owner
    return Seen(
        KINDS[kind], stat.S_IMODE(status.st_mode), uid, gid, status.st_size if kind == FILE else 0,
        status.st_mtime_ns, link, device, tuple(sorted(xattrs.items())),
    )  # fmt: skip


def _same_content(before: Node, after: Node) -> bool:
    try:
        one = before.open()
    except FileNotFoundError:
        return False
    try:
        try:
            other = after.open()
        except FileNotFoundError:
            return False
        try:
            while True:
                piece = os.read(one, _PIECE)
                if piece != os.read(other, _PIECE):
                    return False
                if not piece:
                    return True
        finally:
            os.close(other)
    finally:
        os.close(one)


def read_file(root: int, path: bytes, limit: int) -> bytes:
    """The file at `path` below `root`, at most `limit` bytes of it; nothing when it is gone, or no file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = openat2(root, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as err:
        if err.errno not in GONE:
            raise
        return b""
    try:
        data = b""
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            while len(data) < limit and (piece := os.read(descriptor, min(limit - len(data), _PIECE))):
                data += piece
        return data
    finally:
        os.close(descriptor)
