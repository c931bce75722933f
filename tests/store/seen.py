"""What there is to see of a tree, as a value: everything a user could tell it by but inode numbers and access times."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from store.images import Layer
from store.layout import Store


@dataclass(frozen=True)
class Seen:
    """One name. `links` are all names of the same file in the tree, itself included."""

    mode: int
    uid: int
    gid: int
    mtime: int
    device: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]


def tree(root: Path | str) -> dict[bytes, Seen]:
    """Every name below `root` (which is b".")."""
    top = os.fsencode(root) + b"/."  # also where it is a link to a directory, such as /proc/self/fd has
    found: dict[bytes, os.stat_result] = {}
    for directory, directories, files in os.walk(top):
        for name in [b".", *files, *(each for each in directories if os.path.islink(os.path.join(directory, each)))]:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = os.lstat(path)
    links: dict[tuple[int, int], list[bytes]] = {}
    for name, status in sorted(found.items()):
        if not stat.S_ISDIR(status.st_mode):
            links.setdefault((status.st_dev, status.st_ino), []).append(name)
    return {
        name: one(os.path.join(top, name), tuple(links.get((status.st_dev, status.st_ino), [])))
        for name, status in sorted(found.items())
    }


def one(path: Path | str | bytes, links: tuple[bytes, ...] = ()) -> Seen:
    """What is at `path`, which is not followed."""
    status = os.lstat(path)
    content = b""
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsencode(os.readlink(path))
    xattrs = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(os.listxattr(path, follow_symlinks=False))
    )
    device = status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0
    return Seen(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, device, content, xattrs, links)


def kind(path: Path | str) -> str:
    """The type of what is at `path`."""
    mode = os.lstat(path).st_mode
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    return {**kinds, stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}[stat.S_IFMT(mode)]


@contextmanager
def shown(store: Store, chain: Sequence[Layer]) -> Iterator[Path]:
    """A directory that shows the image `chain` is, whatever the store's driver made of its layers."""
    view = store.snapshots.view(chain)
    try:
        yield Path(f"/proc/self/fd/{view}")
    finally:
        os.close(view)


def image(store: Store, chain: Sequence[Layer]) -> dict[bytes, Seen]:
    """Every name of the image that `chain` is."""
    with shown(store, chain) as top:
        return tree(top)
