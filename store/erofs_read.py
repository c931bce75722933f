"""Reading back what erofs_write wrote, and merging several indexes into one: no tar is looked at for that.

Only an index whose digest was found right is read, so what is in it is taken as it stands.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from store.attributes import OPAQUE
from store.erofs_format import (
    BLOCK,
    DEVICE,
    DEVICES_AT,
    DIRENT,
    FIRST_BLOCK,
    INLINE,
    INODE,
    INODE_SIZE,
    SLOT,
    SUPERBLOCK,
    SUPERBLOCK_AT,
    XATTR_ENTRY,
    XATTR_HEADER_SIZE,
    XATTR_PREFIXES,
    Device,
)
from store.erofs_tree import DELETED, Below, Dir, Node, walk
from store.erofs_write import build_index
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK, Entry

_KINDS = {
    stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}  # fmt: skip
_PREFIXES = {index: prefix for prefix, index in XATTR_PREFIXES}
_OPAQUE = os.fsencode(OPAQUE)
_NANO = 1_000_000_000
# While several indexes are in hand, an address is the number of the device among all of theirs, and a place on it.
_PLACE_BITS = 44
_PLACE = (1 << _PLACE_BITS) - 1


def read_devices(data: bytes) -> list[Device]:
    """The devices that the index `data` maps content from."""
    count = SUPERBLOCK.unpack_from(data, SUPERBLOCK_AT)[16]
    return [Device(*DEVICE.unpack_from(data, DEVICES_AT + number * DEVICE.size)) for number in range(count)]


def merge_indexes(paths: Sequence[str], below: Below) -> bytearray:
    """One index that shows, and hides of what is `below`, what those at `paths` do together; the topmost first."""
    devices: dict[bytes, int] = {}  # by tag, numbered as they come
    blocks: list[int] = []
    merged: Dir | None = None
    for path in reversed(paths):
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
        own = read_devices(data)
        for device in own:
            if devices.setdefault(device.tag, len(devices)) == len(blocks):
                blocks.append(device.blocks)
        tree = read_index(data, [(each.mapped * BLOCK, devices[each.tag]) for each in own])
        merged = tree if merged is None else _lay_over(merged, tree)
    if merged is None:
        raise ValueError("nothing to merge")
    _drop_idle_whiteouts(merged, below)
    return build_index(merged, _settle(merged, list(devices), blocks), lowest=False, merged=True)


def read_index(data: bytes, devices: Sequence[tuple[int, int]]) -> Dir:
    """The tree in the index `data`. A file's address is the number of its device and its place there; `devices` gives the
    address at which each begins in the index, and its number."""
    return _Reader(data, devices).read()


class _Reader:
    __slots__ = ("_data", "_devices", "_linked", "_meta")

    def __init__(self, data: bytes, devices: Sequence[tuple[int, int]]) -> None:
        self._data = data
        self._devices = sorted(devices, reverse=True)
        self._linked: dict[int, Entry] = {}
        self._meta = SUPERBLOCK.unpack_from(data, SUPERBLOCK_AT)[10] * BLOCK

    def read(self) -> Dir:
        root = self._directory(0, b"")
        todo = [(root, 0)]
        while todo:
            here, nid = todo.pop()
            for name, child, kind in self._names(nid):
                if kind == 2:
                    path = here.path + b"/" + name if here.path else name
                    below = self._directory(child, path)
                    here.children[name] = below
                    todo.append((below, child))
                else:
                    here.children[name] = self._leaf(child, name)
        return root

    def _directory(self, nid: int, path: bytes) -> Dir:
        entry, _ = self._entry(nid, path)
        opaque = False
        if entry.xattrs:
            opaque = entry.xattrs.pop(_OPAQUE, b"") == b"y"
            entry.xattrs = entry.xattrs or None
        return Dir(entry, path, opaque)

    def _names(self, nid: int) -> list[tuple[bytes, int, int]]:
        data = self._data
        fields = INODE.unpack_from(data, self._meta + nid * SLOT)
        at, size = fields[5] * BLOCK, fields[4]
        found = []
        for start in range(at, at + size, BLOCK):
            end = min(start + BLOCK, at + size)
            first = DIRENT.unpack_from(data, start)[1]
            entries = list(DIRENT.iter_unpack(data[start : start + first]))
            for position, (child, name_at, kind, _) in enumerate(entries):
                if position + 1 < len(entries):
                    name = data[start + name_at : start + entries[position + 1][1]]
                else:
                    name = data[start + name_at : end].rstrip(b"\0")
                if name not in (b".", b".."):
                    found.append((name, child, kind))
        return found

    def _leaf(self, nid: int, name: bytes) -> Node:
        known = self._linked.get(nid)
        if known is not None:
            return known
        entry, links = self._entry(nid, name)
        if entry.kind == CHARACTER and entry.device == (0, 0):
            return DELETED
        if links != 1:
            self._linked[nid] = entry
            entry.links = links
        return entry

    def _entry(self, nid: int, name: bytes) -> tuple[Entry, int]:
        """What stands at `nid`, and how many names it has."""
        data = self._data
        at = self._meta + nid * SLOT
        layout, count, mode, _, size, word, _, uid, gid, seconds, nanoseconds, links = INODE.unpack_from(data, at)
        kind = _KINDS[stat.S_IFMT(mode)]
        entry = Entry(kind, name, stat.S_IMODE(mode), uid, gid, seconds * _NANO + nanoseconds)
        behind = at + INODE_SIZE
        if count:
            length = XATTR_HEADER_SIZE + 4 * (count - 1)
            entry.xattrs = _read_xattrs(data[behind + XATTR_HEADER_SIZE : behind + length])
            behind += length
        if kind == FILE:
            entry.size = size
            if size:
                entry.address = self._place(word * BLOCK)
        elif kind == SYMLINK:
            start = behind if layout == INLINE else word * BLOCK
            entry.link = data[start : start + size]
        elif kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (word >> 8 & 0xFFF, word & 0xFF | word >> 12 & ~0xFF)
        return entry, links

    def _place(self, address: int) -> int:
        for start, number in self._devices:
            if address >= start:
                return number << _PLACE_BITS | address - start
        raise ValueError(f"no device has the address {address}")


def _read_xattrs(data: bytes) -> dict[bytes, bytes]:
    found = {}
    at = 0
    while at < len(data):
        length, index, size = XATTR_ENTRY.unpack_from(data, at)
        at += XATTR_ENTRY.size
        found[_PREFIXES[index] + data[at : at + length]] = data[at + length : at + length + size]
        at += length + size
        at += -at % 4
    return found


def _lay_over(lower: Dir, upper: Dir) -> Dir:
    """What `lower` and, above it, `upper` are together, made of both."""
    todo = [(lower, upper)]
    lower.opaque = lower.opaque or upper.opaque
    while todo:
        below, above = todo.pop()
        below.entry = above.entry
        for name, child in above.children.items():
            there = below.children.get(name)
            if isinstance(child, Dir) and isinstance(there, Dir) and not child.opaque:
                todo.append((there, child))
                continue
            if isinstance(child, Dir) and there is not None:
                child.opaque = True  # what was there has hidden what is further below
            below.children[name] = child
    return lower


def _drop_idle_whiteouts(root: Dir, below: Below) -> None:
    """Take away the whiteouts of what only the merged layers had: see LayerTree."""
    todo = [(root, False)]
    while todo:
        here, hidden = todo.pop()
        hidden = hidden or here.opaque
        prefix = here.path + b"/" if here.path else b""
        idle = []
        for name, child in here.children.items():
            if isinstance(child, Dir):
                todo.append((child, hidden))
            elif child is DELETED and (hidden or below.find(prefix + name) is None):
                idle.append(name)
        for name in idle:
            del here.children[name]


def _settle(root: Dir, tags: Sequence[bytes], blocks: Sequence[int]) -> list[Device]:
    """Give addresses and places to the devices that are still in use."""
    leaves: dict[int, Entry] = {}
    for directory in walk(root):
        for child in directory.children.values():
            if isinstance(child, Entry) and child is not DELETED:
                leaves[id(child)] = child
    used = sorted({entry.address >> _PLACE_BITS for entry in leaves.values() if entry.size})
    devices: list[Device] = []
    starts: dict[int, int] = {}
    mapped = FIRST_BLOCK
    for number in used:
        starts[number] = mapped * BLOCK
        devices.append(Device(tags[number], blocks[number], mapped))
        mapped += blocks[number]
    for entry in leaves.values():
        if entry.size:
            entry.address = starts[entry.address >> _PLACE_BITS] + (entry.address & _PLACE)
    return devices
