"""Writing an EROFS index: a tree in memory becomes the metadata of a file system whose content lies elsewhere (erofs_format)."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from hashlib import sha256

from store.erofs_format import (
    BLOCK,
    BLOCK_BITS,
    DEVICE,
    DEVICE_TABLE,
    DEVICES_AT,
    DIRENT,
    DIRENT_SIZE,
    FILE_TYPES,
    FIRST_BLOCK,
    INLINE,
    INODE,
    INODE_SIZE,
    LAST_BLOCK,
    MAGIC,
    PLAIN,
    SLOT,
    SUPERBLOCK,
    SUPERBLOCK_AT,
    XATTR_ENTRY,
    XATTR_HEADER,
    XATTR_HEADER_SIZE,
    XATTR_PREFIXES,
    Device,
)
from store.erofs_tree import DELETED, Dir, Node
from store.errors import StoreError
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK, Entry, shown

_TYPES = {
    FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK,
    FIFO: stat.S_IFIFO,
}  # fmt: skip
_KINDS = {kind: FILE_TYPES[bits] for kind, bits in _TYPES.items()}
_DIR_TYPE = FILE_TYPES[stat.S_IFDIR]
_NANO = 1_000_000_000
_OPAQUE = (b"trusted.overlay.opaque", b"y")
_VALUE_LIMIT = 65535
_XATTR_LIMIT = 4 * 65535 - XATTR_HEADER_SIZE


def build_index(root: Dir, devices: Sequence[Device], *, lowest: bool, merged: bool = False) -> bytearray:
    """The index of the tree `root`, whose files' addresses lie on `devices`, its digest at its end.

    `lowest`: there is nothing below that could be hidden, so whiteouts and opaque marks are left out. `merged`: a file keeps the
    link count that its own layer gave it, as overlayfs would show it, though names of it may be hidden. StoreError when the
    content is more than one file system can address.
    """
    if devices and devices[-1].mapped + devices[-1].blocks > LAST_BLOCK:
        raise StoreError("the image is too large for one index", hint="use another driver: --driver overlay")
    writer = _Writer(devices, lowest, merged)
    return writer.write(root)


class _Writer:
    __slots__ = ("_devices", "_inodes", "_linked", "_long", "_lowest", "_merged", "_meta", "_size")

    def __init__(self, devices: Sequence[Device], lowest: bool, merged: bool) -> None:
        self._devices = devices
        self._merged = merged
        self._lowest = lowest
        self._inodes: list[bytes] = []  # one after another, from the first block of inodes on
        self._size = 0
        self._meta = -(-(DEVICES_AT + DEVICE.size * len(devices)) // BLOCK)  # that block
        self._linked: dict[int, list[int]] = {}  # of what has several names, by identity: nid, place in _inodes, link count
        self._long: list[tuple[int, Entry, bytes]] = []  # symlinks whose targets need blocks: place in _inodes

    def write(self, root: Dir) -> bytearray:
        nids, directories, links = self._place_directories(root)
        contents = [self._fill(each, nids, parent) for each, parent in directories]
        self._count_names()
        return self._assemble(directories, links, contents)

    def _place_directories(self, root: Dir) -> tuple[dict[int, int], list[tuple[Dir, int]], list[int]]:
        """Give each directory its place among the inodes, the root first: their nids by identity, the directories with their
        parents' nids, their link counts."""
        nids: dict[int, int] = {}
        directories: list[tuple[Dir, int]] = [(root, 0)]
        links: list[int] = []
        for here, _ in directories:
            # The rest follows when its content is known.
            nid = nids[id(here)] = self._add(bytes(INODE_SIZE) + self._directory_xattrs(here))
            below = [child for child in here.children.values() if type(child) is Dir]
            directories += [(child, nid) for child in below]
            links.append(2 + len(below))
        return nids, directories, links

    def _directory_xattrs(self, directory: Dir) -> bytes:
        xattrs = directory.entry.xattrs
        if directory.opaque and not self._lowest:
            xattrs = {**(xattrs or {}), _OPAQUE[0]: _OPAQUE[1]}
        return _pack_xattrs(xattrs, directory.path) if xattrs else b""

    def _add(self, inode: bytes) -> int:
        """Append an inode with what belongs to it; returns its nid."""
        at = self._size
        length = len(inode)
        padding = -length % SLOT
        if length <= BLOCK and at % BLOCK + length > BLOCK:  # neither it nor what is inline may reach over a block's end
            gap = -at % BLOCK
            self._inodes.append(bytes(gap))
            at += gap
        self._inodes.append(inode + bytes(padding) if padding else inode)
        self._size = at + length + padding
        return at // SLOT

    def _fill(self, directory: Dir, nids: dict[int, int], parent: int) -> bytes:
        """The content of a directory, what is in it getting its place: blocks of entries, sorted, each followed by its names."""
        nid = nids[id(directory)]
        children: dict[bytes, Node] = directory.children
        names = sorted([*children, b".", b".."])
        blocks: list[bytes] = []
        entries: list[tuple[int, int]] = []
        block: list[bytes] = []
        used = 0
        for name in names:
            child = children.get(name)
            if child is None:
                found = (nid, _DIR_TYPE) if name == b"." else (parent, _DIR_TYPE)
            elif isinstance(child, Dir):
                found = (nids[id(child)], _DIR_TYPE)
            elif child is DELETED and self._lowest:
                continue
            else:
                found = (self._leaf(child), _KINDS[child.kind])
            need = DIRENT_SIZE + len(name)
            if used + need > BLOCK:
                blocks.append(_pack_entries(entries, block).ljust(BLOCK, b"\0"))
                entries, block, used = [], [], 0
            entries.append(found)
            block.append(name)
            used += need
        blocks.append(_pack_entries(entries, block))
        return b"".join(blocks)

    def _leaf(self, entry: Entry) -> int:
        """The nid of what is no directory; made when it is met the first time."""
        if entry.links != 1:
            known = self._linked.get(id(entry))
            if known is not None:
                known[2] += not self._merged
                return known[0]
        at = self._size
        kind = entry.kind
        seconds, nanoseconds = divmod(entry.mtime, _NANO)
        if kind == FILE and entry.xattrs is None:
            if at % BLOCK + INODE_SIZE > BLOCK:
                self._inodes.append(bytes(-at % BLOCK))
                at += -at % BLOCK
            size = entry.size
            block = entry.address >> BLOCK_BITS if size else 0
            self._inodes.append(
                INODE.pack(
                    PLAIN, 0, 0o100000 | entry.mode, 0, size, block, at >> 5, entry.uid, entry.gid, seconds, nanoseconds, 1
                )
            )
            self._size = at + INODE_SIZE
            nid = at >> 5
        else:
            nid = self._other(entry, kind, seconds, nanoseconds)
        if entry.links != 1:
            self._linked[id(entry)] = [nid, len(self._inodes) - 1, entry.links if self._merged else 1]
        return nid

    def _other(self, entry: Entry, kind: bytes, seconds: int, nanoseconds: int) -> int:
        xattrs = _pack_xattrs(entry.xattrs, entry.name) if entry.xattrs else b""
        layout, size, word, tail = PLAIN, 0, 0, b""
        mode = _TYPES[kind] | entry.mode
        if kind == SYMLINK:
            mode = stat.S_IFLNK | 0o777
            size = len(entry.link)
            if INODE_SIZE + len(xattrs) + size <= BLOCK:
                layout, tail = INLINE, entry.link
        elif kind in (CHARACTER, BLOCK_DEVICE):
            word = _encode_device(*entry.device)
        elif kind == FILE and entry.size:
            size, word = entry.size, entry.address >> BLOCK_BITS
        inode = INODE.pack(
            layout, _xattr_count(xattrs), mode, 0, size, word, 0, entry.uid, entry.gid, seconds, nanoseconds, 1
        )  # fmt: skip
        nid = self._add(inode + xattrs + tail)
        if kind == SYMLINK and layout == PLAIN:
            self._long.append((len(self._inodes) - 1, entry, xattrs))
        return nid

    def _count_names(self) -> None:
        for _, place, names in self._linked.values():
            inode = self._inodes[place]
            fields = list(INODE.unpack_from(inode))
            fields[11] = names
            self._inodes[place] = INODE.pack(*fields) + inode[INODE_SIZE:]

    def _assemble(self, directories: list[tuple[Dir, int]], links: list[int], contents: list[bytes]) -> bytearray:
        block = self._meta + -(-self._size // BLOCK)
        for place, entry, _ in self._long:
            inode = self._inodes[place]
            fields = list(INODE.unpack_from(inode))
            fields[5] = block
            self._inodes[place] = INODE.pack(*fields) + inode[INODE_SIZE:]
            contents.append(entry.link)
            block += -(-len(entry.link) // BLOCK)
        self._long.clear()
        image = bytearray(self._meta * BLOCK)
        image += b"".join(self._inodes)
        inodes = len(self._inodes)
        self._inodes.clear()
        image += bytes(-len(image) % BLOCK)
        starts: list[int] = []
        # Long targets were given their blocks first, so they stand first.
        targets = contents[len(directories) :]
        for content in targets + contents[: len(directories)]:
            starts.append(len(image) // BLOCK)
            image += content
            image += bytes(-len(content) % BLOCK)
        at = self._meta * BLOCK
        for index, (directory, _) in enumerate(directories):
            entry = directory.entry
            xattrs = self._directory_xattrs(directory)
            length = INODE_SIZE + len(xattrs)
            if length <= BLOCK and at % BLOCK + length > BLOCK:
                at += -at % BLOCK
            seconds, nanoseconds = divmod(entry.mtime, _NANO)
            INODE.pack_into(
                image, at, PLAIN, _xattr_count(xattrs), stat.S_IFDIR | entry.mode, 0, len(contents[index]),
                starts[len(targets) + index], (at - self._meta * BLOCK) // SLOT, entry.uid, entry.gid, seconds, nanoseconds,
                links[index],
            )  # fmt: skip
            at += length + -length % SLOT
        self._head(image, inodes)
        image += sha256(image).digest()
        return image

    def _head(self, image: bytearray, inodes: int) -> None:
        blocks = len(image) // BLOCK
        if blocks >= FIRST_BLOCK:
            raise StoreError("the image has too many files for one index", hint="use another driver: --driver overlay")
        SUPERBLOCK.pack_into(
            image, SUPERBLOCK_AT, MAGIC, 0, 0, BLOCK_BITS, 0, 0, inodes, 0, 0, blocks, self._meta, 0, b"", b"",
            DEVICE_TABLE if self._devices else 0, 0, len(self._devices), DEVICES_AT // DEVICE.size, 0, 0, 0, 0, 0,
        )  # fmt: skip
        for number, device in enumerate(self._devices):
            DEVICE.pack_into(image, DEVICES_AT + number * DEVICE.size, device.tag, device.blocks, device.mapped)


def _pack_entries(entries: list[tuple[int, int]], names: list[bytes]) -> bytes:
    at = DIRENT_SIZE * len(entries)
    packed = []
    for (nid, kind), name in zip(entries, names, strict=True):
        packed.append(DIRENT.pack(nid, at, kind, 0))
        at += len(name)
    return b"".join(packed + names)


def _xattr_count(packed: bytes) -> int:
    return (len(packed) - XATTR_HEADER_SIZE) // 4 + 1 if packed else 0


def _pack_xattrs(xattrs: dict[bytes, bytes], what: bytes) -> bytes:
    """Extended attributes as they stand behind an inode."""
    packed = [XATTR_HEADER.pack(0, 0)]
    for name in sorted(xattrs):
        value = xattrs[name]
        if len(value) > _VALUE_LIMIT:
            raise _too_many_xattrs(what)
        prefix, index = next((prefix, index) for prefix, index in XATTR_PREFIXES if name.startswith(prefix))
        rest = name[len(prefix) :]
        packed.append(XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value)
        packed.append(bytes(-(XATTR_ENTRY.size + len(rest) + len(value)) % 4))
    data = b"".join(packed)
    if len(data) > _XATTR_LIMIT:
        raise _too_many_xattrs(what)
    return data


def _too_many_xattrs(what: bytes) -> StoreError:
    return StoreError(f"{shown(what)} has more extended attributes than an index can hold", hint="use --driver overlay")


def _encode_device(major: int, minor: int) -> int:
    """A device number as the kernel's new_encode_dev has it."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
