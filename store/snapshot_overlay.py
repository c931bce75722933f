"""The `overlay` driver: each layer unpacked once into a tree of files with overlayfs's own whiteouts, overlayfs on top.

    ROOT/snapshots/CHAIN/tree       the layer's files
    ROOT/snapshots/CHAIN/complete   the boot id of its making, or "synced"
    ROOT/snapshots/empty            the tree of the empty chain

Trees are never synced: after a crash files in them may be empty or short. So a tree is believed only in the boot that made it,
and made again from the layer's tar in the next. A tree appears by one rename, with all that is in it.
"""

import os
from collections.abc import Callable, Sequence
from io import FileIO
from types import TracebackType
from typing import Self

from store.clones import clone_tree
from store.digest import Digest, digests_in
from store.drafts import Drafts, write_all
from store.faults import Attempt
from store.images import Layer
from store.layers import read_layer
from store.locks import Lock
from store.lowers import Lowers
from store.overlay import mount_overlay
from store.prepared import boot_id, read_text
from store.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from store.tar_read import TarReader
from store.trees import delete_tree
from store.unpack import unpack_entries

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SYNCED = "synced"
_VIEW = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID

OpenLayer = Callable[[Layer], FileIO]


class OverlayDriver:
    """See the module. `open_layer` gives a layer's uncompressed tar."""

    name = "overlay"

    __slots__ = ("_boot", "_directory", "_open_layer", "drafts")

    def __init__(self, directory: str, drafts: Drafts, open_layer: OpenLayer) -> None:
        self._directory = directory
        self.drafts = drafts
        self._open_layer = open_layer
        self._boot = boot_id()

    def trees(self, chain: Sequence[Layer]) -> list[str]:
        """See Driver."""
        trees: list[str] = []
        for layer in chain:
            if not self._believable(layer.chain_id):
                self._make(layer, trees)
            trees.insert(0, self._tree(layer.chain_id))
        return trees or [f"{self._directory}/empty"]

    def begin(self, parents: Sequence[Layer]) -> "TreeMaking":
        """See Driver."""
        return TreeMaking(self, self.trees(parents) if parents else ())

    def anticipate(self) -> None:
        """See Driver. What an entry becomes on disk depends on what is below."""

    def existing(self, chain_id: str) -> str | None:
        """The tree of `chain_id`, None when there is none, or none to be believed."""
        return self._tree(chain_id) if self._believable(chain_id) else None

    def adopt(self, chain_id: str, directory: str) -> str:
        """See Driver."""
        with Attempt(f"keep the tree of {chain_id}"):
            if self._believable(chain_id):
                delete_tree(directory)
            else:
                with self.drafts.directory("tree") as draft:
                    os.rename(directory, f"{draft.path}/tree")
                    self.keep(chain_id, draft.path)
        return self._tree(chain_id)

    def view(self, chain: Sequence[Layer]) -> int:
        """See Driver."""
        trees = self.trees(chain)
        with Attempt("mount the image's tree"):
            if not chain:
                return clone_tree(trees[0], _VIEW)
            if len(trees) == 1:  # overlayfs wants two lowers, or an upper
                trees.append(f"{self._directory}/empty")
            return mount_overlay(trees, attributes=_VIEW)

    def writable(self, chain: Sequence[Layer], upper: str, work: str, *, attributes: int = MOUNT_ATTR_NODEV) -> int:
        """See Driver."""
        trees = self.trees(chain)
        with Attempt("mount the image's tree"):
            # What lies in `upper` is derived data: it is read back through the page cache and packed into a durable layer.
            return mount_overlay(trees, upper, work, volatile=True, attributes=attributes)

    def verify(self, layer: Layer, below: Sequence[Layer]) -> str | None:
        """See Driver."""
        tree = self.existing(layer.chain_id)
        if tree is None:
            return None
        lowers = [self._tree(lower.chain_id) for lower in reversed(below) if self._believable(lower.chain_id)]
        if len(lowers) == len(below):
            return self._difference(layer, tree, lowers)
        # The tree of a build step, on layers of which another driver keeps something else: it says of all its directories what
        # they are, so that what lies below it hardly ever matters.
        return self._difference(layer, tree, ()) and self._difference(layer, tree, self.trees(below))

    def _difference(self, layer: Layer, tree: str, lowers: Sequence[str]) -> str | None:
        from store.same_tree import difference

        with TreeMaking(self, lowers) as making, self._open_layer(layer) as source:
            read_layer(source, making, layer)
            with Attempt("compare the tree"):
                kept = os.open(tree, _DIRECTORY)
                try:
                    return difference(making.tree, kept)
                finally:
                    os.close(kept)

    def delete(self, chain_id: str) -> None:
        """See Driver."""
        self.drafts.discard(self.place(chain_id))

    def place(self, chain_id: str) -> str:
        """See Driver."""
        return f"{self._directory}/{Digest.parse(chain_id).hex}"

    def all(self) -> list[str]:
        """See Driver."""
        return [*digests_in(self._directory)]

    def _tree(self, chain_id: str) -> str:
        return f"{self._directory}/{Digest.parse(chain_id).hex}/tree"

    def _believable(self, chain_id: str) -> bool:
        try:
            made = read_text(f"{self._directory}/{Digest.parse(chain_id).hex}/complete")
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        return made.rstrip() in (self._boot, _SYNCED)

    def _make(self, layer: Layer, lowers: Sequence[str]) -> None:
        with TreeMaking(self, lowers) as making, self._open_layer(layer) as source:
            size = read_layer(source, making, layer)
            making.publish(layer, size)

    def keep(self, chain_id: str, directory: str) -> None:
        """Make `directory`, which holds a whole `tree`, the snapshot of `chain_id`; it is left where it is when there is one."""
        self._complete(directory)
        self._publish(chain_id, directory)

    def _complete(self, directory: str) -> None:
        descriptor = os.open(f"{directory}/complete", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, f"{self._boot}\n".encode())
        finally:
            os.close(descriptor)

    def _publish(self, chain_id: str, directory: str) -> None:
        """Rename `directory` to the chain's place, or leave it where it is when another maker was first."""
        place = os.path.dirname(self._tree(chain_id))
        # The lock lasts for a rename or two: it keeps a maker from taking away, as stale, the tree that another made meanwhile.
        with Lock(self._directory):
            if self._believable(chain_id):
                return
            self.drafts.discard(place)
            os.rename(directory, place)


class TreeMaking:
    """See `store.snapshots.Making`."""

    __slots__ = ("_draft", "_driver", "_lowers", "_tree")

    def __init__(self, driver: OverlayDriver, lowers: Sequence[str]) -> None:
        self._driver = driver
        self._lowers = lowers
        self._draft = driver.drafts.directory("tree")
        try:
            with Attempt("create a tree"):
                os.mkdir(f"{self._draft.path}/tree", 0o755)
                self._tree = os.open(f"{self._draft.path}/tree", _DIRECTORY)
        except BaseException:
            self._draft.close()
            raise

    def take(self, reader: TarReader) -> int:
        """See Making."""
        with Attempt("unpack the layer"):
            return unpack_entries(reader, self._tree, Lowers(self._lowers))

    @property
    def tree(self) -> int:
        """A descriptor of what is being made."""
        return self._tree

    def publish(self, layer: Layer, size: int) -> None:
        """See Making."""
        with Attempt(f"keep the tree of layer {layer.diff_id}"):
            self._driver.keep(layer.chain_id, self._draft.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._tree)
        self._draft.close()
