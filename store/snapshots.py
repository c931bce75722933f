"""Layers as file systems: a driver turns a chain of layers into directories or mounts."""

from collections.abc import Sequence
from typing import Protocol

from store.images import Layer


class Driver(Protocol):
    """What `overlay` does, and what other ways of keeping trees will have to do. Chains are given lowest layer first."""

    name: str

    def trees(self, chain: Sequence[Layer]) -> list[str]:
        """Absolute paths of directories to be stacked by overlayfs, the topmost first; made where they are missing or stale.

        Never empty: an empty chain is one empty directory. The trees are never written to.
        """

    def adopt(self, chain_id: str, directory: str) -> str:
        """Make `directory` (on the store's file system, an overlay upper whose changeset was packed) the tree of `chain_id`.

        The directory is gone afterwards, also when there was such a tree already. Returns the tree's path.
        """

    def view(self, chain: Sequence[Layer]) -> int:
        """A directory descriptor of the chain's merged tree, to be read; what is mounted for it goes when it is closed."""

    def writable(self, chain: Sequence[Layer], upper: str, work: str, *, attributes: int = 0) -> int:
        """The same to be written to: changes go to the directory `upper`; `work` is an empty one beside it. Nothing is synced."""

    def delete(self, chain_id: str) -> None:
        """Drop the tree of `chain_id`, in one step. The caller holds the store's exclusive lock."""

    def place(self, chain_id: str) -> str:
        """The file or directory that is all there is, or would be, of `chain_id`: whoever deletes moves it away (store/grave.py)."""

    def all(self) -> list[str]:
        """The chain ids of which there are trees, stale ones too."""
