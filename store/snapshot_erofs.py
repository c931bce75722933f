"""The `erofs` driver: a layer's files stay where they lie in its tar; a small index beside it makes them a file system.

    ROOT/indexes/CHAIN/1.erofs     the topmost layer of the chain
    ROOT/indexes/CHAIN/N.erofs     its topmost N layers, merged
    ROOT/indexes/CHAIN/N.checked   the boot id in which the index was made, or last found to be right
    ROOT/indexes/CHAIN/aside       content of the topmost layer that its tar does not have as the kernel wants it

A chain is a stack of indexes, each covering some layers, and of trees that build steps left (the overlay driver's). A stack that
grows too high is merged into two: its lowest layer, which other images often share, and all above it.

Indexes are never synced. Each carries its own digest, and is believed in another boot when that is right: a crash can cost the
time to make one again, never a wrong file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Self

from store.aside import AsideFile, digest_of
from store.digest import OCI_LAYER, Descriptor, Digest, digests_in
from store.drafts import write_all
from store.erofs_format import (
    ASIDE,
    BLOCK,
    DIGEST_SIZE,
    FIRST_BLOCK,
    TAR,
    Device,
)
from store.erofs_mount import missing_device, mount_index
from store.erofs_read import merge_indexes, read_devices
from store.erofs_tree import Below, LayerTree, Unknown
from store.erofs_write import build_index
from store.errors import StoreError
from store.faults import Attempt
from store.images import Layer
from store.layers import read_layer
from store.lowers import Found, Lowers
from store.overlay import mount_overlay
from store.prepared import boot_id, read_text
from store.same_index import index_difference
from store.snapshot_overlay import OverlayDriver
from store.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from store.tar_read import TarReader

if TYPE_CHECKING:
    from store.layout import Store

STACK_LIMIT = 8
"""More indexes and trees than this are merged: each costs a container's start some 0.2 ms, and each look-up that fails."""

_SUFFIX = ".erofs"
# Where the tar's content begins in the space of addresses; what lies aside has the upper half.
_TAR_AT = FIRST_BLOCK * BLOCK
_ASIDE_BLOCK = 1 << 31
_ASIDE_AT = _ASIDE_BLOCK * BLOCK


class ErofsDriver:
    """See the module. `trees` keeps what build steps leave."""

    name = "erofs"

    def __init__(self, store: Store, trees: OverlayDriver) -> None:
        self._store = store
        self._directory = f"{store.root}/indexes"
        self.drafts = store.drafts
        self._trees = trees

    @cached_property
    def _boot(self) -> str:
        return boot_id()

    def trees(self, chain: Sequence[Layer]) -> list[str]:
        """See Driver."""
        parts = self._cover(chain)
        for at, (end, path) in reversed(list(enumerate(parts))):  # from the lowest up: making one may need those below
            if path is None:
                self._make(chain[:end])
                parts[at] = (end, self._index(chain[end - 1], 1))
        if len(parts) > STACK_LIMIT:
            parts = self._merge(chain, parts)
        return [path for _, path in parts if path is not None] or self._trees.trees(())

    def begin(self, parents: Sequence[Layer]) -> IndexMaking:
        """See Driver."""
        return IndexMaking(self, parents)

    def anticipate(self) -> IndexMaking:
        """See Driver."""
        return IndexMaking(self, None)

    def adopt(self, chain_id: str, directory: str) -> str:
        """See Driver."""
        return self._trees.adopt(chain_id, directory)

    def view(self, chain: Sequence[Layer]) -> int:
        """See Driver."""
        if not chain:
            return self._trees.view(())
        trees = self.trees(chain)
        with Attempt("mount the image's tree"):
            if len(trees) == 1 and trees[0].endswith(_SUFFIX):
                return mount_index(trees[0])
            # overlayfs wants two lowers, or an upper
            return mount_overlay([*trees, *self._trees.trees(())][: max(len(trees), 2)], attributes=_VIEW)

    def writable(self, chain: Sequence[Layer], upper: str, work: str, *, attributes: int = MOUNT_ATTR_NODEV) -> int:
        """See Driver."""
        trees = self.trees(chain)
        with Attempt("mount the image's tree"):
            return mount_overlay(trees, upper, work, volatile=True, attributes=attributes)

    def verify(self, layer: Layer, below: Sequence[Layer]) -> str | None:
        """See Driver."""
        for layers, path in reversed(self._indexes(layer)):
            reason = self._damage(path)
            if reason is None and layers == 1:
                reason = self._difference(layer, below, path)
            elif reason is None:
                reason = self._merged_difference((*below, layer), layers, path)
            if reason is not None:
                return f"{path.removeprefix(self._store.root + '/')}: {reason}"
        return None

    def delete(self, chain_id: str) -> None:
        """See Driver."""
        self.drafts.discard(self.place(chain_id))

    def place(self, chain_id: str) -> str:
        """See Driver."""
        return f"{self._directory}/{Digest.parse(chain_id).hex}"

    def all(self) -> list[str]:
        """See Driver."""
        return [*digests_in(self._directory)]

    def _index(self, layer: Layer, layers: int) -> str:
        return f"{self._directory}/{layer.chain_id.hex}/{layers}{_SUFFIX}"

    def _indexes(self, layer: Layer) -> list[tuple[int, str]]:
        """The indexes that end with `layer`, those that cover most first."""
        try:
            names = os.listdir(f"{self._directory}/{layer.chain_id.hex}")
        except FileNotFoundError:
            return []
        counts = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        return [(count, self._index(layer, count)) for count in sorted(map(int, filter(str.isdigit, counts)), reverse=True)]

    def _cover(self, chain: Sequence[Layer]) -> list[tuple[int, str | None]]:
        """What covers the chain, the topmost first: the number of layers up to each part's own, and its path, None for a layer of
        which there is nothing yet."""
        parts: list[tuple[int, str | None]] = []
        end = len(chain)
        while end:
            layer = chain[end - 1]
            covered, path = 1, None
            for count, index in self._indexes(layer):
                if count <= end and self._believable(index):
                    covered, path = count, index
                    break
            else:
                path = self._trees.existing(layer.chain_id)
            parts.append((end, path))
            end -= covered
        return parts

    def _believable(self, path: str) -> bool:
        checked = path.removesuffix(_SUFFIX) + ".checked"
        try:
            if read_text(checked).rstrip() == self._boot:
                return not missing_device(path)
        except (FileNotFoundError, UnicodeDecodeError, StoreError):
            pass
        if self._damage(path) is not None:
            return False
        with Attempt("check an index"):
            self.drafts.replace(checked, f"{self._boot}\n".encode(), durable=False)
        return True

    def _damage(self, path: str) -> str | None:
        """What is wrong with the bytes of an index, or with what lies aside for it."""
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.readall()
            if len(data) <= DIGEST_SIZE or sha256(data[:-DIGEST_SIZE]).digest() != data[-DIGEST_SIZE:]:
                return "its bytes do not match its digest"
            for device in read_devices(data):
                if device.tag[:4] == ASIDE:
                    aside = f"{self._directory}/{device.tag[4:36].hex()}/aside"
                    with open(aside, "rb", buffering=0) as file:
                        if digest_of(file.fileno()) != device.tag[36:]:
                            return f"{aside} does not match its digest"
            return missing_device(path) or None
        except FileNotFoundError as err:
            return f"{err.filename} is missing"
        except OSError as err:
            return os.strerror(err.errno or 0).lower()

    def _difference(self, layer: Layer, below: Sequence[Layer], path: str) -> str | None:
        made = self._made(layer, below)
        with open(path, "rb", buffering=0) as file:
            return None if file.readall() == made else "it is not what the layer's tar makes"

    def _made(self, layer: Layer, below: Sequence[Layer]) -> bytearray:
        """The layer's own index as its tar makes it."""
        with IndexMaking(self, below) as making, self._store.open_layer(layer) as source:
            return making.build(layer, read_layer(source, making, layer))

    def _merged_difference(self, chain: Sequence[Layer], layers: int, path: str) -> str | None:
        """What an index of several layers does not show as those of each of them do, which were verified before."""
        with ExitStack() as stack:
            paths = []
            for end in range(len(chain), len(chain) - layers, -1):
                own = self._index(chain[end - 1], 1)
                if not os.path.exists(own):
                    draft = self.drafts.file()
                    stack.callback(draft.close)
                    write_all(draft.descriptor, self._made(chain[end - 1], chain[: end - 1]))
                    own = f"/proc/self/fd/{draft.descriptor}"
                paths.append(own)
            below = _View(self, chain[:-layers])
            stack.callback(below.close)
            with open(path, "rb", buffering=0) as file:
                place = index_difference(file.readall(), merge_indexes(paths, below), below)
        return None if place is None else f"at {place} it is not what the layers' indexes make together"

    def _make(self, chain: Sequence[Layer]) -> None:
        """Make the index of the topmost layer of `chain` from its tar."""
        layer = chain[-1]
        with self.begin(chain[:-1]) as making, self._store.open_layer(layer) as source:
            if not layer.compressed or self._store.has_tar(layer.diff_id):
                size = read_layer(source, making, layer)
            else:  # only its compressed blob is there, which no device can be
                with self._store.tars.draft() as draft:
                    size = read_layer(source, making, layer, keep=draft.fileno())
                    draft.publish(Descriptor(OCI_LAYER, layer.diff_id, size))
                self._store.tars.sync()
            making.publish(layer, size)

    def _merge(self, chain: Sequence[Layer], parts: list[tuple[int, str | None]]) -> list[tuple[int, str | None]]:
        """Merge all but the lowest part into one index."""
        paths = []
        for end, path in parts[:-1]:
            if path is None or not path.endswith(_SUFFIX):  # a build step's tree
                self._make(chain[:end])
                path = self._index(chain[end - 1], 1)
            paths.append(path)
        with Attempt("merge the image's indexes"):
            below = _View(self, chain[: parts[-1][0]])
            try:
                data = merge_indexes(paths, below)
            finally:
                below.close()
        layers = len(chain) - parts[-1][0]
        self.publish(chain[-1], layers, data)
        return [(len(chain), self._index(chain[-1], layers)), parts[-1]]

    def publish(self, layer: Layer, layers: int, data: bytes | bytearray, aside: AsideFile | None = None) -> None:
        """Keep the index of the topmost `layers` layers that end with `layer`, and what lies aside for it."""
        with Attempt(f"keep the index of layer {layer.diff_id}"):
            home = f"{self._directory}/{layer.chain_id.hex}"
            while True:
                os.makedirs(home, mode=0o700, exist_ok=True)
                try:
                    if aside is not None and aside.size:
                        aside.publish(f"{home}/aside")
                    path = self._index(layer, layers)
                    with self.drafts.file() as draft:
                        write_all(draft.descriptor, data)
                        draft.publish(path)
                    checked = path.removesuffix(_SUFFIX) + ".checked"
                    self.drafts.replace(checked, f"{self._boot}\n".encode(), durable=False)
                    return
                except (FileNotFoundError, StoreError):
                    if os.path.isdir(home):
                        raise
                    continue  # deleted between two steps: made again


_VIEW = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID


class IndexMaking:
    """See `store.snapshots.Making`; and, begun with parents None, `store.snapshots.Anticipation`."""

    __slots__ = ("_aside", "_driver", "_parents", "_tree", "_view")

    def __init__(self, driver: ErofsDriver, parents: Sequence[Layer] | None) -> None:
        self._driver = driver
        self._parents = parents
        self._view = _View(driver, parents) if parents else None
        self._aside = AsideFile(driver.drafts, _ASIDE_AT)
        self._tree: LayerTree | None = None

    def take(self, reader: TarReader) -> int:
        """See Making."""
        below: Below | None = Unknown() if self._parents is None else self._view
        tree = LayerTree(below, self._aside, base=_TAR_AT)
        count = tree.take(reader)
        self._tree = tree
        return count

    def build(self, layer: Layer, size: int) -> bytearray:
        """The index of what was taken."""
        if self._tree is None:
            raise ValueError("nothing was taken")
        devices = []
        if size:
            devices.append(Device(TAR + bytes.fromhex(layer.diff_id.hex), size // BLOCK, FIRST_BLOCK))
        if self._aside.size:
            tag = ASIDE + bytes.fromhex(layer.chain_id.hex) + self._aside.digest()
            devices.append(Device(tag, self._aside.size // BLOCK, _ASIDE_BLOCK))
        return build_index(self._tree.finish(self._view), devices, lowest=not self._parents)

    def publish(self, layer: Layer, size: int) -> None:
        """See Making."""
        self._driver.publish(layer, 1, self.build(layer, size), self._aside)

    def settle(self, parents: Sequence[Layer], layer: Layer, size: int) -> None:
        """See Anticipation."""
        self._parents = parents
        if parents:
            self._view = _View(self._driver, parents)
        self.publish(layer, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was not published."""
        self._aside.close()
        if self._view is not None:
            self._view.close()


class _View:
    """What the parents show, mounted when it is first asked for: few layers ask."""

    __slots__ = ("_descriptor", "_driver", "_lowers", "_parents")

    def __init__(self, driver: ErofsDriver, parents: Sequence[Layer]) -> None:
        self._driver = driver
        self._parents = parents
        self._descriptor = -1
        self._lowers: Lowers | None = None

    def _open(self) -> Lowers:
        if self._lowers is None:
            self._descriptor = self._driver.view(self._parents)
            self._lowers = Lowers([f"/proc/self/fd/{self._descriptor}"])
        return self._lowers

    def find(self, path: bytes) -> Found | None:
        return self._open().find(path)

    def names(self) -> set[bytes]:
        return self._open().names()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
