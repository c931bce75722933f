"""The `copy` driver: each stack of layers is one directory that has all its files. Nothing needs to be mounted for that.

    ROOT/copies/CHAIN/tree       the files
    ROOT/copies/CHAIN/complete   the boot id of its making

A stack is made of a copy of the one below it (its blocks shared where the file system can do that) and the tree of its topmost
layer, moved into the copy. What is written by a container or a build step goes to an overlay on top where overlayfs works, else
to a copy of its own (store/private.py).
"""

import os
from collections.abc import Sequence

from store.clones import clone_tree
from store.copies import copy_tree, lay_over
from store.drafts import Drafts
from store.faults import Attempt
from store.images import Layer
from store.layers import read_layer
from store.lowers import Lowers
from store.snapshot_overlay import OpenLayer, OverlayDriver, TreeMaking
from store.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from store.tar_read import TarReader
from store.trees import delete_tree
from store.unpack import unpack_entries

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_VIEW = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID


class CopyDriver(OverlayDriver):
    """See the module."""

    name = "copy"

    __slots__ = ("_empty",)

    def __init__(self, directory: str, empty: str, drafts: Drafts, open_layer: OpenLayer) -> None:
        super().__init__(directory, drafts, open_layer)
        self._empty = empty

    def trees(self, chain: Sequence[Layer]) -> list[str]:
        """See Driver. One directory."""
        if not chain:
            return [self._empty]
        first = len(chain)
        while first and not self._believable(chain[first - 1].chain_id):
            first -= 1
        for end in range(first + 1, len(chain) + 1):
            layer = chain[end - 1]
            below = self._tree(chain[end - 2].chain_id) if end > 1 else ""
            with CopyMaking(self, below) as making, self._open_layer(layer) as source:
                size = read_layer(source, making, layer)
                making.publish(layer, size)
        return [self._tree(chain[-1].chain_id)]

    def begin(self, parents: Sequence[Layer]) -> "CopyMaking":
        """See Driver."""
        return CopyMaking(self, self.trees(parents)[0] if parents else "")

    def adopt(self, chain_id: str, directory: str) -> str:
        """See Driver. What a step changed is not the whole of a stack: its tree is made when it is asked for."""
        delete_tree(directory)
        return self._tree(chain_id)

    def view(self, chain: Sequence[Layer]) -> int:
        """See Driver."""
        tree = self.trees(chain)[0]
        try:
            return clone_tree(tree, _VIEW)
        except OSError:  # no right to mount; box itself writes to no view
            with Attempt("open the image's tree"):
                return os.open(tree, _DIRECTORY)

    def verify(self, layer: Layer, below: Sequence[Layer]) -> str | None:
        """See Driver."""
        from store.same_tree import difference

        kept = self.existing(layer.chain_id)
        if kept is None:
            return None
        parent = self.trees(below)[0] if below else ""
        with CopyMaking(self, parent) as making, self._open_layer(layer) as source:
            read_layer(source, making, layer)
            with Attempt("compare the tree"):
                made, there = os.open(making.whole(), _DIRECTORY), os.open(kept, _DIRECTORY)
                try:
                    return difference(made, there)
                finally:
                    os.close(made)
                    os.close(there)

    def keep(self, chain_id: str, directory: str) -> None:
        """See OverlayDriver."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        super().keep(chain_id, directory)


class CopyMaking(TreeMaking):
    """See `store.snapshots.Making`. `below` is the tree of the parents, empty where there are none."""

    __slots__ = ("_below", "_opaque")

    def __init__(self, driver: CopyDriver, below: str) -> None:
        super().__init__(driver, [below] if below else [])
        self._below = below
        self._opaque: set[bytes] = set()

    def take(self, reader: TarReader) -> int:
        """See Making."""
        with Attempt("unpack the layer"):
            return unpack_entries(reader, self._tree, Lowers(self._lowers), opaque=self._opaque)

    def whole(self) -> str:
        """The directory of the whole stack's files, of what was taken."""
        path = self._draft.path
        if self._below:
            os.rename(f"{path}/tree", f"{path}/layer")
            os.mkdir(f"{path}/tree", 0o700)
            parent, tree = os.open(self._below, _DIRECTORY), os.open(f"{path}/tree", _DIRECTORY)
            try:
                copy_tree(parent, tree)
                lay_over(self._tree, tree, self._opaque)
            finally:
                os.close(parent)
                os.close(tree)
            delete_tree(f"{path}/layer")
            self._below = ""
        return f"{path}/tree"

    def publish(self, layer: Layer, size: int) -> None:
        """See Making."""
        with Attempt(f"keep the tree of layer {layer.diff_id}"):
            self.whole()
            self._driver.keep(layer.chain_id, self._draft.path)
