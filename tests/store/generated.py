"""Trees and changes to them, as hypothesis makes them up."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from store.trees import delete_tree

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"d"]),
    st.binary(min_size=1, max_size=12).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name)),
    st.sampled_from([b"n" * 100, b"m" * 255, b"-", b" ", b"...", b"\xff\xfe", b"caf\xc3\xa9", b"wh.", b"x=%3D"]),
).filter(lambda name: not name.startswith(b".wh."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
MODES = st.integers(0, 0o7777)
IDS = st.one_of(st.integers(0, 5), st.sampled_from([1000, 2_097_151, 2_097_152, 4_294_967_294]))
TIMES = st.one_of(
    st.integers(0, 2_000_000_000_000_000_000), st.sampled_from([0, -1, -1_500_000_000, 1_000_000_000, 4_000_000_000_000_000_000])
)
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.b=%c", "user.caf\u00e9", "trusted.t", "user.overlaid"]), st.binary(max_size=40), max_size=2
)
CONTENTS = st.one_of(st.binary(max_size=30), st.integers(500, 70_000).map(lambda size: b"\0x" * (size // 2)))

Change = Callable[[Path], None]


def _at(top: Path, name: bytes) -> bytes | None:
    """The path of `name`, with its parents made; None where something else is in the way."""
    path = os.fsencode(top)
    *parents, last = name.split(b"/")
    for part in parents:
        path += b"/" + part
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                return None
    return path + b"/" + last


class Put:
    """Put something at `name`, instead of what is there; a directory stays a directory."""

    def __init__(self, name: bytes, kind: str, content: bytes, xattrs: dict[str, bytes]) -> None:
        self.name, self.kind, self.content, self.xattrs = name, kind, content, xattrs

    def __repr__(self) -> str:
        return f"Put({self.name!r}, {self.kind!r}, {self.content!r}, {self.xattrs!r})"

    def __call__(self, top: Path) -> None:
        path = _at(top, self.name)
        if path is None:
            return
        if self.kind == "directory" and os.path.isdir(path) and not os.path.islink(path):
            return
        delete_tree(path)
        if self.kind == "file":
            with open(path, "wb") as file:
                file.write(self.content)
        elif self.kind == "directory":
            os.mkdir(path)
        elif self.kind == "symlink":
            os.symlink(self.content.replace(b"\0", b"x")[:200] or b"x", path)
        elif self.kind == "fifo":
            os.mkfifo(path)
        else:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 1 + len(self.content) % 200))
        for name, value in self.xattrs.items():
            if name.startswith("trusted.") or self.kind in ("file", "directory"):
                os.setxattr(path, name, value, follow_symlinks=False)


class Dress:
    """Set mode, owner and time of what is at `name`."""

    def __init__(self, name: bytes, mode: int, uid: int, gid: int, mtime: int) -> None:
        self.name, self.mode, self.uid, self.gid, self.mtime = name, mode, uid, gid, mtime

    def __repr__(self) -> str:
        return f"Dress({self.name!r}, {self.mode:#o}, {self.uid}, {self.gid}, {self.mtime})"

    def __call__(self, top: Path) -> None:
        path = _at(top, self.name)
        if path is None or not os.path.lexists(path):
            return
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, self.mode)
        os.utime(path, ns=(0, self.mtime), follow_symlinks=False)


class Link:
    """Make `name` a hard link to `target`."""

    def __init__(self, name: bytes, target: bytes) -> None:
        self.name, self.target = name, target

    def __repr__(self) -> str:
        return f"Link({self.name!r}, {self.target!r})"

    def __call__(self, top: Path) -> None:
        path, target = _at(top, self.name), _at(top, self.target)
        if path is None or target is None or not os.path.lexists(target) or os.path.lexists(path):
            return
        if not stat.S_ISDIR(os.lstat(target).st_mode):
            os.link(target, path, follow_symlinks=False)


class Delete:
    """Delete what is at `name`."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Delete({self.name!r})"

    def __call__(self, top: Path) -> None:
        path = _at(top, self.name)
        if path is not None:
            delete_tree(path)


KINDS = st.sampled_from(["file", "file", "directory", "directory", "symlink", "fifo", "device"])
MAKING = st.one_of(
    st.builds(Put, PATHS, KINDS, CONTENTS, XATTRS), st.builds(Dress, PATHS, MODES, IDS, IDS, TIMES), st.builds(Link, PATHS, PATHS)
)
CHANGES = st.one_of(MAKING, st.builds(Delete, PATHS))
MADE = st.lists(MAKING, max_size=25)
CHANGED = st.lists(CHANGES, max_size=25)
