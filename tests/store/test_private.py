"""Uppers that are whole: what overlayfs would have done, where it cannot be mounted."""

import errno
import os
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from store import overlay
from store.layers import import_layer
from store.layout import Store
from store.overlay import mount_overlay
from store.pack import pack_changeset
from store.private import is_whole, reduce
from tests.store import seen
from tests.store.generated import CHANGED, MADE, Change, Put

pytestmark = pytest.mark.needs("root", "overlay")

EXAMPLES = int(os.environ.get("BOX_EXAMPLES", "25"))
EPOCH = 1 << 32  # no time is clamped


@pytest.fixture
def without_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has no overlayfs."""
    new_filesystem = overlay.new_filesystem

    def refusing(kind: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
        if kind == "overlay":
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return new_filesystem(kind, options, attributes)

    monkeypatch.setattr(overlay, "new_filesystem", refusing)


def packed(directory: Path, gone: list[bytes] | None = None) -> bytes:
    """The layer of the directory."""
    pieces: list[bytes] = []
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        pack_changeset(descriptor, lambda piece: pieces.append(bytes(piece)), epoch=EPOCH, gone=gone or ())
    finally:
        os.close(descriptor)
    return b"".join(pieces)


class Case:
    """An image of one layer, made by `made`, in a store of the copy driver."""

    number = 0

    def __init__(self, top: Path, made: list[Change]) -> None:
        Case.number += 1
        self.top = top / str(Case.number)
        base = self.top / "base"
        base.mkdir(parents=True)
        for change in made:
            change(base)
        self.store = Store.open(str(self.top / "store"), "copy")
        self.chain = [import_layer(self.store, BytesIO(packed(base)))]
        self.trees = self.store.snapshots.trees(self.chain)
        self.upper = self.top / "upper"
        self.upper.mkdir()
        (self.top / "work").mkdir()

    def mounted(self) -> int:
        return mount_overlay(self.trees, str(self.upper), str(self.top / "work"), volatile=True)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(MADE, CHANGED)
def test_what_changed_in_a_whole_upper_is_the_layer_that_makes_it_again(
    without_overlay: None, tmp_path: Path, made: list[Change], changed: list[Change]
) -> None:
    case = Case(tmp_path, made)
    before = seen.tree(case.trees[0])
    mount = case.mounted()
    try:
        for change in changed:
            change(Path(f"/proc/self/fd/{mount}"))
        expected = seen.tree(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)
    assert is_whole(str(case.upper))
    assert seen.tree(case.trees[0]) == before  # no inode of the layer was written to
    view = case.store.snapshots.view(case.chain)
    try:
        gone = reduce(str(case.upper), view)
    finally:
        os.close(view)
    assert not is_whole(str(case.upper))
    case.chain.append(import_layer(case.store, BytesIO(packed(case.upper, gone)), parents=case.chain))
    found = seen.image(case.store, case.chain)
    assert {name: each for name, each in found.items() if name != b"."} == {
        name: each for name, each in expected.items() if name != b"."
    }


def test_a_whole_upper_is_copied_once_and_keeps_what_was_written(without_overlay: None, tmp_path: Path) -> None:
    case = Case(tmp_path, [Put(b"a", "file", b"1", {}), Put(b"b", "file", b"2", {})])
    for expected in (["a", "b"], ["b", "new"], ["b", "new"]):
        mount = case.mounted()
        try:
            assert sorted(os.listdir(f"/proc/self/fd/{mount}")) == expected
            if "a" in expected:
                os.unlink("a", dir_fd=mount)
                os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=mount))
        finally:
            os.close(mount)
    assert sorted(os.listdir(case.trees[0])) == ["a", "b"]


def test_names_that_the_image_lacks_are_added_and_those_it_has_stay(without_overlay: None, tmp_path: Path) -> None:
    case = Case(tmp_path, [Put(b"etc", "symlink", b"elsewhere", {}), Put(b"run", "file", b"", {})])
    skeleton = tmp_path / "skeleton"
    for name in ("proc", "etc/inner", "run/inner"):
        (skeleton / name).mkdir(parents=True)
    case.trees.append(str(skeleton))
    os.close(case.mounted())
    assert sorted(str(path.relative_to(case.upper)) for path in case.upper.rglob("*")) == ["etc", "proc", "run"]
    assert os.readlink(case.upper / "etc") == "elsewhere"
    assert not os.path.isdir(case.upper / "run")


def test_an_overlay_s_upper_is_not_mixed_with_a_copy(tmp_path: Path, without_overlay: None) -> None:
    case = Case(tmp_path, [Put(b"a", "file", b"1", {})])
    (case.upper / "changed").write_bytes(b"")
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        case.mounted()
    assert os.listdir(case.upper) == ["changed"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EIO])
def test_a_failure_that_says_nothing_of_overlayfs_makes_no_copy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, [])

    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(overlay, "new_filesystem", failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        case.mounted()
    assert not is_whole(str(case.upper))
