"""Overlays on kernels that want what is stacked to be mounted where the stacking is done (Linux before 6.15)."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import overlay
from store.layout import Store
from store.overlay import mount_overlay
from tests.store import seen
from tests.store.samples import put_layers

pytestmark = pytest.mark.needs("root", "overlay", "erofs")

CONTENTS = ({"a": b"1", "d/x": b"x"}, {".wh.a": b"", "d/y": b"y"}, {"d/x": b"again"})


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An older kernel; when it is over, nothing is mounted that was not before, and no descriptor is left open."""
    before = Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/proc/self/fd")), threading.active_count()
    monkeypatch.setattr(overlay, "attached", True)
    yield
    assert (Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_an_image_looks_the_same(root: str, monkeypatch: pytest.MonkeyPatch, older: None) -> None:
    store = Store.open(root, "erofs")
    chain = put_layers(store, *CONTENTS)
    found = seen.image(store, chain)
    monkeypatch.setattr(overlay, "attached", False)
    assert found == seen.image(store, chain)
    assert sorted(found) == [b".", b"d", b"d/x", b"d/y"]


def test_what_is_written_goes_to_the_upper_directory(root: str, older: None) -> None:
    store = Store.open(root, "erofs")
    chain = put_layers(store, *CONTENTS)
    with store.drafts.directory("build") as draft:
        upper, work = f"{draft.path}/upper", f"{draft.path}/work"
        os.mkdir(upper)
        os.mkdir(work)
        mount = store.snapshots.writable(chain, upper, work)
        try:
            os.unlink("d/x", dir_fd=mount)
            os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=mount))
            assert sorted(os.listdir(f"/proc/self/fd/{mount}")) == ["d", "new"]
        finally:
            os.close(mount)
        assert sorted(os.listdir(upper)) == ["d", "new"]
        assert os.stat(f"{upper}/d/x").st_rdev == 0


def test_a_build_step_s_tree_is_stacked_with_indexes(root: str, older: None) -> None:
    store = Store.open(root, "erofs")
    chain = put_layers(store, *CONTENTS)
    with store.drafts.directory("build") as draft:
        os.mkdir(f"{draft.path}/upper")
        Path(draft.path, "upper", "step").write_bytes(b"made")
        store.snapshots.adopt(chain[2].chain_id, f"{draft.path}/upper")
    trees = store.snapshots.trees(chain)
    assert [tree.endswith(".erofs") for tree in trees] == [False, True, True]
    with seen.shown(store, chain) as top:
        assert (top / "step").read_bytes() == b"made"
        assert (top / "d/x").read_bytes() == b"x"


def test_what_the_kernel_refuses_is_an_error_here(root: str, tmp_path: Path, older: None) -> None:
    store = Store.open(root, "erofs")
    chain = put_layers(store, *CONTENTS)
    trees = store.snapshots.trees(chain)
    (tmp_path / "upper").mkdir()
    with pytest.raises(OSError, match="fsconfig"):
        mount_overlay(trees, str(tmp_path / "upper"), str(tmp_path / "upper"))  # which has to be another
