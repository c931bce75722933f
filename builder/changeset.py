"""What a file step changes, decided as a value before anything is written (`writing` does that).

A `Changeset` maps paths (bytes, no leading slash) to nodes. It is built against the `View` below the step, which it only reads:
a directory that exists keeps its mode and owner, a symlink to a directory is followed, missing parents come into being as root's
0755.
"""

import stat
from typing import Protocol

from builder.inputs import shown
from builder.view import View
from store.errors import BuildError


class Source(Protocol):
    """Where a file's bytes come from."""

    size: int

    def open(self) -> int:
        """A descriptor at the beginning of the file, which is `size` bytes long."""

    def check(self, descriptor: int) -> None:
        """Raise BuildError when the file changed since it was listed; called when all of it was read."""


class Node:
    """One changed entry. `kind` is directory, file, symlink or whiteout; a file's bytes are `content` or come from `source`."""

    __slots__ = ("content", "gid", "kind", "mode", "source", "target", "uid", "xattrs")

    def __init__(
        self,
        kind: str,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        *,
        content: bytes = b"",
        source: Source | None = None,
        target: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.content = content
        self.source = source
        self.target = target
        self.xattrs = xattrs


def parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


class Changeset:
    """The entries that differ from `view`, by path. A later `put` of a path replaces the earlier one."""

    __slots__ = ("nodes", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.nodes: dict[bytes, Node] = {}

    def is_directory(self, path: bytes) -> bool:
        """Whether a directory is at `path` (which holds no symlinks) once this changeset is applied."""
        node = self.nodes.get(path)
        if node is not None:
            return node.kind == "directory"
        return not path or self.view.is_directory(path)

    def put(self, path: bytes, node: Node) -> None:
        """Place a file or symlink at `path`, where no name but the last is a symlink; that is replaced, a directory is not."""
        if self.is_directory(path):
            raise BuildError(
                f"/{shown(path)} is a directory in the image and would be replaced by a {node.kind}",
                hint=f"to put it inside, write the destination as /{shown(path)}/; to replace it, remove it in an earlier step",
            )
        self.make_parents(path)
        self.nodes[path] = node

    def directory(self, path: bytes, mode: int = 0o755, uid: int = 0, gid: int = 0) -> bytes:
        """See that `path` is a directory; only a new one gets this mode and owner. Returns where it really lies.

        `path` may end in a symlink to a directory, which is followed.
        """
        if path in self.nodes:
            if self.nodes[path].kind == "directory":
                return path
            raise _in_the_way(path, self.nodes[path].kind)
        status = self.view.status(path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            path = self.view.resolve(path)
            status = self.view.status(path)
        if status is None:
            self.make_parents(path)
            self.nodes[path] = Node("directory", mode, uid, gid)
        elif not stat.S_ISDIR(status.st_mode):
            raise _in_the_way(path, "file")
        return path

    def own_directory(self, path: bytes, mode: int | None, owner: tuple[int, int] | None) -> None:
        """Like `directory`, and what is given of mode and owner holds for one that exists already, too."""
        real = self.directory(path, 0o755 if mode is None else mode, *(owner or (0, 0)))
        if real not in self.nodes:
            self._carry(real)
        node = self.nodes[real]
        node.mode = node.mode if mode is None else mode
        node.uid, node.gid = owner or (node.uid, node.gid)

    def make_parents(self, path: bytes) -> None:
        """See that the directories above `path` are there, as root's 0755 where they are missing."""
        above = parent(path)
        if not above or (above in self.nodes and self.nodes[above].kind == "directory"):
            return
        if above in self.nodes:
            raise _in_the_way(above, self.nodes[above].kind)
        status = self.view.status(above)
        self.make_parents(above)
        if status is None:
            self.nodes[above] = Node("directory", 0o755)
        elif stat.S_ISDIR(status.st_mode):
            self._carry(above)
        else:
            raise _in_the_way(above, "file")

    def _carry(self, path: bytes) -> None:
        """List a directory of the view as it is: an overlay shows the metadata of the topmost."""
        status = self.view.status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise _in_the_way(path, "file")
        self.make_parents(path)
        mode = stat.S_IMODE(status.st_mode)
        self.nodes[path] = Node("directory", mode, status.st_uid, status.st_gid, xattrs=self.view.xattrs(path))

    def remove(self, path: bytes) -> None:
        """Take away what the view has at `path`, and all below it."""
        above = parent(path)
        while above:
            if above in self.nodes and self.nodes[above].kind == "whiteout":
                return
            above = parent(above)
        self.make_parents(path)
        for below in [other for other in self.nodes if other.startswith(path + b"/")]:
            del self.nodes[below]
        self.nodes[path] = Node("whiteout")


def _in_the_way(path: bytes, kind: str) -> BuildError:
    return BuildError(
        f"/{shown(path)} is a {kind} in the image, where a directory is needed",
        hint="choose another destination, or remove it in an earlier step",
    )
