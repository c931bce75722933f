"""Layers as file systems: a driver turns a chain of layers into directories or mounts."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from store.images import Layer
from store.tar_read import TarReader


class Making(Protocol):
    """A layer being taken in. What was not published is gone when the block ends."""

    def take(self, reader: TarReader) -> int:
        """Take all of the layer's entries; says how many there were. ArchiveError for what the archive does wrong."""

    def publish(self, layer: Layer, size: int) -> None:
        """Make it the snapshot of `layer.chain_id`; its tar, of `size` bytes, is in the store. When there is one already, that
        stays."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None: ...


class Anticipation(Protocol):
    """A layer being taken in before anybody knows what it lies on. What was not settled is gone when it is closed."""

    def take(self, reader: TarReader) -> int:
        """As Making does; `store.erofs_tree.Undecided` when that cannot be done without its parents."""

    def settle(self, parents: Sequence[Layer], layer: Layer, size: int) -> None:
        """Make it the snapshot of `layer`, which lies on `parents`; its tar, of `size` bytes, is in the store."""

    def close(self) -> None: ...


class Driver(Protocol):
    """What every way of keeping snapshots does. Chains are given lowest layer first.

    All drivers show the same for the same chain: content, modes, owners, links, extended attributes, times, devices. A time that
    not every file system can hold is the nearest that all can (store/tar_fields.py).
    """

    name: str

    def trees(self, chain: Sequence[Layer]) -> list[str]:
        """Absolute paths of what overlayfs stacks for `chain`, the topmost first; made where they are missing or stale.

        Each is a directory, or an index that `store.overlay` mounts. Never empty: an empty chain is one empty directory. They are
        never written to.
        """

    def begin(self, parents: Sequence[Layer]) -> Making:
        """Begin to take in a layer on top of `parents`."""

    def anticipate(self) -> Anticipation | None:
        """Begin to take in a layer whose parents are not known yet; None when this driver cannot."""

    def adopt(self, chain_id: str, directory: str) -> str:
        """Make `directory` (on the store's file system, an overlay upper whose changeset was packed) the tree of `chain_id`, or
        drop it where the driver keeps something else, which is then made when it is asked for.

        The directory is gone afterwards, also when there was such a tree already. Returns where the tree is, or would be.
        """

    def view(self, chain: Sequence[Layer]) -> int:
        """A directory descriptor of the chain's merged tree, to look things up in (open `.` in it to list it); what is mounted
        for it goes when it is closed."""

    def writable(self, chain: Sequence[Layer], upper: str, work: str, *, attributes: int = 0) -> int:
        """The same to be written to: changes go to the directory `upper`; `work` is an empty one beside it. Nothing is synced."""

    def verify(self, layer: Layer, below: Sequence[Layer]) -> str | None:
        """What is wrong with the snapshot of `layer`, on top of `below`, compared with its tar; None when nothing is, or there is
        no snapshot."""

    def delete(self, chain_id: str) -> None:
        """Drop the snapshot of `chain_id`, in one step. The caller holds the store's exclusive lock."""

    def place(self, chain_id: str) -> str:
        """The file or directory that is all there is, or would be, of `chain_id`: whoever deletes moves it away (grave.py)."""

    def all(self) -> list[str]:
        """The chain ids of which there are snapshots, stale ones too."""
