"""What differs between two trees, and that looking only where something can differ finds all of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings

from store.compare import Change, always, compare, read_file
from store.errors import StoreError
from store.images import Layer
from store.layout import Store
from store.touched import Guide, mark, of_layers, of_upper
from tests.store import strata
from tests.store.strata import Note, put

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_bytes(b"same")
        (tmp_path / name / "file").write_bytes(b"1234")
    return tmp_path / "old", tmp_path / "new"


def changes(old: Path, new: Path, **how: object) -> list[Change]:
    with ExitStack() as stack:
        descriptors = []
        for path in (old, new):
            descriptors.append(os.open(path, os.O_PATH))
            stack.callback(os.close, descriptors[-1])
        return sorted(compare(*descriptors, **how), key=lambda change: change.path)  # type: ignore[arg-type]


def brief(found: list[Change]) -> list[tuple[str, bytes, tuple[str, ...]]]:
    return [(change.kind, change.path, change.what) for change in found]


def _retype(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o644)
    path.chmod(0o644)


ONE_CHANGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "mode": (lambda path: path.chmod(0o4755), ("mode",)),
    "owner": (lambda path: os.chown(path, 5, 0), ("owner",)),
    "group": (lambda path: os.chown(path, 0, 5), ("owner",)),
    "content": (lambda path: path.write_bytes(b"4321"), ("content",)),
    "size": (lambda path: path.write_bytes(b"12345"), ("size", "content")),
    "xattrs": (lambda path: os.setxattr(path, "user.a", b"b"), ("xattrs",)),
    "type": (_retype, ("type",)),
    "nothing": (lambda path: os.utime(path, (1, 1)), ()),
}


@pytest.mark.parametrize("name", ONE_CHANGE)
def test_each_respect_is_told(two: tuple[Path, Path], name: str) -> None:
    act, what = ONE_CHANGE[name]
    act(two[1] / "file")
    assert brief(changes(*two)) == ([("C", b"file", what)] if what else [])


def test_times_count_when_they_are_asked_for(two: tuple[Path, Path]) -> None:
    os.utime(two[0] / "file", (1, 1))
    os.utime(two[1] / "file", (2, 2))
    for path in two:
        os.utime(path / "same", (3, 3))
        os.utime(path, (3, 3))
    assert brief(changes(*two, times=always)) == [("C", b"file", ("time",))]


def test_links_and_devices_by_what_they_mean(two: tuple[Path, Path]) -> None:
    for path, target, minor in ((two[0], "a", 3), (two[1], "b", 5)):
        (path / "link").symlink_to(target)
        os.mknod(path / "device", 0o020600, os.makedev(1, minor))
        os.mkfifo(path / "fifo")
    found = changes(*two)
    assert brief(found) == [("C", b"device", ("device",)), ("C", b"link", ("link",))]
    assert [(change.old.device, change.new.device) for change in found[:1] if change.old and change.new] == [((1, 3), (1, 5))]


def test_all_of_a_directory_is_added_or_deleted(two: tuple[Path, Path]) -> None:
    (two[0] / "gone" / "below").mkdir(parents=True)
    (two[1] / "fresh").mkdir()
    (two[1] / "fresh" / "file").write_bytes(b"")
    (two[0] / "was").mkdir()
    (two[0] / "was" / "file").write_bytes(b"")
    (two[1] / "was").write_bytes(b"")
    assert brief(changes(*two)) == [
        ("A", b"fresh", ()),
        ("A", b"fresh/file", ()),
        ("D", b"gone", ()),
        ("D", b"gone/below", ()),
        ("C", b"was", ("type", "mode")),
        ("D", b"was/file", ()),
    ]


def test_what_is_hidden_does_not_count(two: tuple[Path, Path]) -> None:
    (two[1] / "box").mkdir()
    assert brief(changes(*two, hidden=((), {b"box"}))) == []


def test_only_what_the_guide_names_is_looked_at(two: tuple[Path, Path]) -> None:
    for name in ("one", "other"):
        (two[1] / name).mkdir()
        (two[1] / name / "file").write_bytes(b"")
    guide: Guide = {}
    mark(guide, b"one/file", whole=True)
    assert [change.path for change in changes(*two, guide=guide)] == [b"one", b"one/file"]
    assert changes(*two, guide={}) == []


def test_a_file_is_read_up_to_the_limit_and_through_no_link(two: tuple[Path, Path]) -> None:
    (two[0] / "link").symlink_to("file")
    os.mkfifo(two[0] / "fifo")
    descriptor = os.open(two[0], os.O_PATH)
    try:
        assert read_file(descriptor, b"file", 3) == b"123"
        assert [read_file(descriptor, name, 9) for name in (b"link", b"fifo", b"none")] == [b"", b"", b""]
    finally:
        os.close(descriptor)


def views(store: Store, stack: ExitStack, *chains: tuple[Layer, ...]) -> Iterator[int]:
    for chain in chains:
        descriptor = store.snapshots.view(chain)
        stack.callback(os.close, descriptor)
        yield descriptor


def guided(store: Store, base: tuple[Layer, ...], old: tuple[Layer, ...], new: tuple[Layer, ...]) -> tuple[Guide | None, bool]:
    """The guide of two stacks on one base, and whether it finds as much as a look at everything."""
    with ExitStack() as stack:
        below, before, after = views(store, stack, base, old, new)
        guide = of_layers(store, [*old[len(base) :], *new[len(base) :]], [below, before, after])
        everything = sorted(compare(before, after), key=lambda change: change.path)
        found = sorted(compare(before, after, guide=guide), key=lambda change: change.path)
        return guide, found == everything


def test_a_guide_names_what_the_layers_touch(store: Store) -> None:
    base = put(store, [("dir", "etc", ""), ("file", "etc/a", "1"), ("file", "etc/b", "1"), ("dir", "usr", "")])
    new = strata.on_top(base, put(store, [("file", "etc/a", "2"), ("gone", "etc/b", ""), ("dir", "usr/new", "")]))
    assert guided(store, base, base, new) == ({b"etc": {b"a": None, b"b": None}, b"usr": {b"new": {}}}, True)


@pytest.mark.parametrize(
    "above",
    [
        [[("file", "lib/new", "through a link of the base")]],
        [[("link", "own", "/usr"), ("file", "own/new", "through its own")]],
        [[("file", "lib/new", "x")], [("gone", "lib", ""), ("dir", "lib", "")]],
        [[("opaque", "", ""), ("file", "x", "")]],
    ],
)
def test_names_that_lead_elsewhere_make_it_look_at_everything(store: Store, above: list[list[Note]]) -> None:
    base = put(store, [("dir", "usr", ""), ("dir", "usr/lib", ""), ("link", "lib", "usr/lib")])
    new = strata.on_top(base, put(store, *above))
    assert guided(store, base, base, new) == (None, True)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=strata.STACK, old=strata.STACK, new=strata.STACK)
def test_a_guided_look_finds_all_that_a_look_at_everything_finds(
    tmp_path_factory: pytest.TempPathFactory, base: list[list[Note]], old: list[list[Note]], new: list[list[Note]]
) -> None:
    store = Store.open(str(tmp_path_factory.mktemp("store")), "overlay")
    below = put(store, *base)
    chains = (below, strata.on_top(below, put(store, *old)), strata.on_top(below, put(store, *new)))
    try:
        with ExitStack() as stack:
            list(views(store, stack, *chains))
    except StoreError:  # a layer that cannot be
        assume(False)
    assert guided(store, *chains)[1]


def test_an_upper_directory_is_a_guide_too(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "dir" / "below").mkdir(parents=True)
    (upper / "fresh").mkdir()
    os.setxattr(upper / "fresh", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "dir" / "gone", 0o020000, 0)
    (upper / "file").write_bytes(b"")
    assert of_upper(str(upper)) == {b"dir": {b"below": {}, b"gone": None}, b"fresh": None, b"file": None}
