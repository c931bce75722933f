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

from store.digest import Digest, digest_of_name
from store.drafts import Drafts, write_all
from store.faults import Attempt
from store.images import Layer
from store.locks import Lock
from store.overlay import mount_overlay
from store.prepared import boot_id, read_text
from store.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from store.trees import delete_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SYNCED = "synced"

OpenLayer = Callable[[Layer], FileIO]


class OverlayDriver:
    """See the module. `open_layer` gives a layer's uncompressed tar."""

    name = "overlay"

    __slots__ = ("_boot", "_directory", "_drafts", "_open_layer")

    def __init__(self, directory: str, drafts: Drafts, open_layer: OpenLayer) -> None:
        self._directory = directory
        self._drafts = drafts
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

    def adopt(self, chain_id: str, directory: str) -> str:
        """See Driver."""
        with Attempt(f"keep the tree of {chain_id}"):
            if self._believable(chain_id):
                delete_tree(directory)
            else:
                with self._drafts.directory("tree") as draft:
                    os.rename(directory, f"{draft.path}/tree")
                    self._complete(draft.path)
                    self._publish(chain_id, draft.path)
        return self._tree(chain_id)

    def view(self, chain: Sequence[Layer]) -> int:
        """See Driver."""
        trees = self.trees(chain)
        with Attempt("open the image's tree"):
            if len(trees) == 1:  # overlayfs wants two lowers, or an upper
                return os.open(trees[0], _DIRECTORY)
            return mount_overlay(trees, attributes=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID)

    def writable(self, chain: Sequence[Layer], upper: str, work: str, *, attributes: int = MOUNT_ATTR_NODEV) -> int:
        """See Driver."""
        trees = self.trees(chain)
        with Attempt("mount the image's tree"):
            # What lies in `upper` is derived data: it is read back through the page cache and packed into a durable layer.
            return mount_overlay(trees, upper, work, volatile=True, attributes=attributes)

    def delete(self, chain_id: str) -> None:
        """See Driver."""
        self._drafts.discard(self.place(chain_id))

    def place(self, chain_id: str) -> str:
        """See Driver."""
        return f"{self._directory}/{Digest.parse(chain_id).hex}"

    def all(self) -> list[str]:
        """See Driver."""
        return [digest for name in os.listdir(self._directory) if (digest := digest_of_name(name)) is not None]

    def _tree(self, chain_id: str) -> str:
        return f"{self._directory}/{Digest.parse(chain_id).hex}/tree"

    def _believable(self, chain_id: str) -> bool:
        try:
            made = read_text(f"{self._directory}/{Digest.parse(chain_id).hex}/complete")
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        return made.rstrip() in (self._boot, _SYNCED)

    def _make(self, layer: Layer, lowers: Sequence[str]) -> None:
        from store.unpack import unpack

        with self._drafts.directory("tree") as draft:
            with Attempt(f"make the tree of layer {layer.diff_id}"):
                os.mkdir(f"{draft.path}/tree", 0o755)
                tree = os.open(f"{draft.path}/tree", _DIRECTORY)
            try:
                with self._open_layer(layer) as source:
                    unpack(source, tree, lowers=lowers, expected=layer.diff_id)
            finally:
                os.close(tree)
            with Attempt(f"make the tree of layer {layer.diff_id}"):
                self._complete(draft.path)
                self._publish(layer.chain_id, draft.path)

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
            self._drafts.discard(place)
            os.rename(directory, place)
