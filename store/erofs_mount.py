"""Mounting an EROFS index with the tars that it maps, as a detached mount that goes when its descriptor is closed. Hot.

Neither the index nor a tar is named outside the kernel: file-backed mounts take both by descriptor (Linux 6.12 and later). Where
they are missing, or the store itself lies on overlayfs, loop devices stand between, which go with the mount.
"""

import posix as os

from store.errors import BlobMissing, StoreError
from store.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, new_filesystem

_SUPERBLOCK_AT = 1024
_INODES_AT = 1024 + 40  # where the superblock says which block the inodes begin in, the root's first
_DEVICES_AT = 1152
_DEVICE_SIZE = 128
_DEVICE_COUNT_AT = 1024 + 86
_MAGIC = b"\xe2\xe1\xf5\xe0"
_ENOTBLK = 15
_ATTRIBUTES = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID

loops = False  # whether loop devices are to be used even where the kernel takes files: for tests


def mount_index(path: str, how: "list[str] | None" = None) -> int:
    """The descriptor of a detached, read-only mount of the index at `path`, `ROOT/indexes/CHAIN/N.erofs`.

    `how` is told what it stands on: "files" or "loop devices".

    Nothing is set-uid or a device through this mount itself; what is stacked on it says so for itself. BlobMissing when a tar is
    gone, StoreError when the file is no index, OSError when the kernel refuses.
    """
    root = path[: path.index("/indexes/")]
    descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]
    try:
        for slot in device_slots(descriptors[0], path):
            descriptor = open_device(root, slot[:36])  # one by one, so that those before a failure are closed
            descriptors.append(descriptor)
        names = [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
        if not loops:
            try:
                mount = _mount(names)
            except OSError as err:
                if err.errno != _ENOTBLK:
                    raise
            else:
                if how is not None:
                    how.append("files")
                return mount
        from store.loops import attach

        names = []
        for position, descriptor in enumerate(descriptors):
            descriptors[position] = attach(descriptor)
            os.close(descriptor)
            names.append(f"/proc/self/fd/{descriptors[position]}")
        if how is not None:
            how.append("loop devices")
        return _mount(names)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def device_slots(descriptor: int, path: str) -> "list[bytes]":
    """The slots of the devices of the index open as `descriptor`; StoreError, which calls it `path`, when it is none."""
    head = os.pread(descriptor, 8192, 0)
    count = int.from_bytes(head[_DEVICE_COUNT_AT : _DEVICE_COUNT_AT + 2], "little")
    end = _DEVICES_AT + _DEVICE_SIZE * count
    if len(head) < end:
        head = os.pread(descriptor, end, 0)
    if head[_SUPERBLOCK_AT : _SUPERBLOCK_AT + 4] != _MAGIC or len(head) < end:
        raise StoreError(f"{path} is damaged", hint="box fsck --repair")
    return [head[at : at + _DEVICE_SIZE] for at in range(_DEVICES_AT, end, _DEVICE_SIZE)]


def missing_device(path: str) -> str:
    """What is missing, or too short, of the files that the index at `path` maps; empty when all are there."""
    root = path[: path.index("/indexes/")]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        slots = device_slots(descriptor, path)
    finally:
        os.close(descriptor)
    for slot in slots:
        name = slot[4:36].hex()
        try:
            device = open_device(root, slot[:36])
        except BlobMissing:
            return f"{name} is missing, which it maps"
        try:
            if os.fstat(device).st_size < int.from_bytes(slot[64:68], "little") * 512:
                return f"{name} is too short, which it maps"
        finally:
            os.close(device)
    return ""


def root_of(lower: str) -> "tuple[int, int, int]":
    """Mode, uid and gid of the root directory of `lower`: of a tree, or of the index of one."""
    if not lower.endswith(".erofs"):
        status = os.stat(lower)
        return status.st_mode & 0o7777, status.st_uid, status.st_gid
    descriptor = os.open(lower, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = int.from_bytes(os.pread(descriptor, 4, _INODES_AT), "little")
        inode = os.pread(descriptor, 32, block * 512)
    finally:
        os.close(descriptor)
    mode, uid, gid = (int.from_bytes(inode[at:end], "little") for at, end in ((4, 6), (24, 28), (28, 32)))
    return mode & 0o7777, uid, gid


def _mount(names: "list[str]") -> int:
    options: list[tuple[str, str | None]] = [("source", names[0]), ("ro", None)]  # else loop devices would be opened for writing
    options += [("device", name) for name in names[1:]]
    return new_filesystem("erofs", options, _ATTRIBUTES)


def open_device(root: str, tag: bytes) -> int:
    """The file that a device's `tag` means (erofs_format), open for reading."""
    name = tag[4:36].hex()
    places = [f"{root}/layers/{name}", f"{root}/blobs/sha256/{name}"]
    if tag[:4] == b"box:":
        places = [f"{root}/indexes/{name}/aside"]
    for place in places:
        try:
            return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    raise BlobMissing("sha256:" + name, hint="box fsck --repair makes it again, if it can be made")
