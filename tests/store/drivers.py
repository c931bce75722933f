"""Stores that keep their layers in every way there is, to be compared with each other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from store import erofs_mount
from store.errors import BoxError
from store.images import Layer
from store.layers import import_layer
from store.layout import Store
from tests.store import seen

DRIVERS = ("overlay", "erofs", "loops", "copy")
"""The judge first. `loops` is erofs by loop devices."""


@contextmanager
def driver(name: str) -> Iterator[None]:
    """In this block stores are as on a machine where `name` is what works."""
    erofs_mount.loops = name == "loops"
    try:
        yield
    finally:
        erofs_mount.loops = False


def open_store(root: Path | str, name: str) -> Store:
    """The store at `root`, to be used in a block of `driver(name)`."""
    return Store.open(str(root), "erofs" if name == "loops" else name)


class Side:
    """One store, and a stack of layers in it that grows."""

    def __init__(self, top: Path, name: str) -> None:
        self.name = name
        self.store = open_store(top / name, name)
        self.chain: list[Layer] = []

    def take(self, data: bytes) -> BoxError | None:
        """Import the layer `data` on top of the stack, or say why not."""
        with driver(self.name):
            try:
                self.chain.append(import_layer(self.store, BytesIO(data), parents=self.chain))
            except BoxError as err:
                return err
        return None

    def tree(self) -> dict[bytes, seen.Seen]:
        """What the stack shows."""
        with driver(self.name):
            return seen.image(self.store, self.chain)


class Sides:
    """The same stack in a store of each kind."""

    def __init__(self, top: Path, names: Sequence[str] = DRIVERS) -> None:
        self.sides = [Side(top, name) for name in names]

    def clear(self) -> None:
        """Begin another stack."""
        for side in self.sides:
            side.chain = []

    def take(self, data: bytes) -> BoxError | None:
        """Import a layer everywhere: all take it, or all refuse it for the same reason, which is returned."""
        errors = [side.take(data) for side in self.sides]
        said = [f"{type(error).__name__}: {error.message}" if error is not None else "" for error in errors]
        assert said == said[:1] * len(said)
        return errors[0]

    def same_tree(self) -> dict[bytes, seen.Seen]:
        """What the stacks show, which is the same."""
        judge, *others = self.sides
        expected = judge.tree()
        for other in others:
            found = other.tree()
            differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            lines = [f"{name!r}\n  {expected.get(name)}\n  {found.get(name)}" for name in differing]
            assert not differing, "\n".join([f"{judge.name} and {other.name} differ in", *lines])
        return expected
