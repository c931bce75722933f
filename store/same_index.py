"""Whether two indexes, each of several layers merged, show the same, whatever they were merged from and in which order."""

from __future__ import annotations

import os

from store.erofs_format import BLOCK
from store.erofs_read import read_devices, read_index
from store.erofs_tree import DELETED, Below, Dir, Node
from store.tar_read import Entry


def index_difference(one: bytes | bytearray, other: bytes | bytearray, below: Below) -> str | None:
    """The first path at which they differ, None when there is none. Both lie on what is `below`: marks that hide nothing of that
    count for nothing."""
    numbers: dict[bytes, int] = {}
    trees = []
    for data in map(bytes, (one, other)):
        devices = [(each.mapped * BLOCK, numbers.setdefault(each.tag, len(numbers))) for each in read_devices(data)]
        trees.append(read_index(data, devices))
    links: dict[int, int] = {}
    todo = [(trees[0], trees[1], False)]
    while todo:
        left, right, hidden = todo.pop()
        if left.children.keys() != right.children.keys() or not _alike(left.entry, right.entry):
            return _path(left.path)
        if left.opaque != right.opaque and not hidden and below.find(left.path) is not None:
            return _path(left.path)
        hidden = hidden or left.opaque
        for name, child in left.children.items():
            twin = right.children[name]
            if isinstance(child, Dir) and isinstance(twin, Dir):
                todo.append((child, twin, hidden))
            elif not _same_leaf(child, twin, links):
                return _path(left.path + b"/" + name)
    return None


def _same_leaf(one: Node, other: Node, links: dict[int, int]) -> bool:
    if not isinstance(one, Entry) or not isinstance(other, Entry) or DELETED in (one, other):
        return one is other
    same_file = links.setdefault(id(one), id(other)) == id(other)
    return same_file and _alike(one, other)


def _alike(one: Entry, other: Entry) -> bool:
    return all(
        getattr(one, field) == getattr(other, field)
        for field in ("kind", "mode", "uid", "gid", "mtime", "size", "link", "device", "xattrs", "links", "address")
    )


def _path(path: bytes) -> str:
    return os.fsdecode(path) or "/"
