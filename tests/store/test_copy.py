"""The `copy` driver: whole trees, which share what the file system lets them share, and nothing else."""

import os
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from store import snapshot_overlay
from store.copies import copy_tree
from store.errors import BlobMissing
from store.images import Layer
from store.layers import import_layer
from store.layout import Store
from tests.store import seen
from tests.store.archives import archive, directory, file, hardlink
from tests.store.samples import put_layers

pytestmark = pytest.mark.needs("root")

BIG = os.urandom(4 << 20)
LAYERS = [
    archive(directory(b"d/"), file(b"d/big", BIG), file(b"d/gone", b"x"), hardlink(b"d/linked", b"d/big"), file(b"kept", b"1")),
    archive(directory(b"d/", mode=0o700, mtime=7), file(b"d/.wh.gone"), file(b"new", b"2")),
    archive(file(b"kept", b"3")),
]


def stacked(store: Store) -> list[Layer]:
    chain: list[Layer] = []
    for data in LAYERS:
        chain.append(import_layer(store, BytesIO(data), parents=chain))
    return chain


@pytest.fixture
def store(root: str) -> Store:
    return Store.open(root, "copy")


def test_a_stack_is_one_directory_and_the_stacks_below_it_stay_as_they_are(store: Store) -> None:
    chain = stacked(store)
    (tree,) = store.snapshots.trees(chain)
    assert sorted(seen.tree(tree)) == [b".", b"d", b"d/big", b"d/linked", b"kept", b"new"]
    assert Path(tree, "kept").read_bytes() == b"3"
    assert os.stat(f"{tree}/d").st_mode & 0o7777 == 0o700
    assert os.stat(f"{tree}/d").st_mtime == 7
    assert os.stat(f"{tree}/d/big").st_ino == os.stat(f"{tree}/d/linked").st_ino
    (below,) = store.snapshots.trees(chain[:1])
    assert sorted(os.listdir(f"{below}/d")) == ["big", "gone", "linked"]
    inodes = [{os.lstat(path).st_ino for path in Path(each).rglob("*")} for each in (tree, below)]
    assert inodes[0].isdisjoint(inodes[1])  # nothing that is written to the one is seen in the other
    assert os.listdir(store.drafts.path) == []


def test_stale_trees_are_made_again_from_their_tars(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = stacked(store)
    expected = seen.image(store, chain)
    (tree,) = store.snapshots.trees(chain)
    Path(tree, "kept").write_bytes(b"")
    monkeypatch.setattr(snapshot_overlay, "boot_id", lambda: "another boot")
    store = Store.open(store.root, "copy")
    assert seen.image(store, chain) == expected
    os.unlink(store.blobs.path(chain[0].diff_id))
    store.snapshots.trees(chain)
    for layer in chain:
        store.snapshots.delete(layer.chain_id)
    assert store.snapshots.all() == []
    with pytest.raises(BlobMissing) as caught:
        store.snapshots.trees(chain)
    assert caught.value.hint


def test_a_damaged_tree_is_found(store: Store) -> None:
    chain = stacked(store)
    assert [store.snapshots.verify(layer, chain[:below]) for below, layer in enumerate(chain)] == [None] * 3
    Path(store.snapshots.trees(chain)[0], "d/big").write_bytes(BIG[:-1] + b"?")
    assert store.snapshots.verify(chain[1], chain[:1]) is None
    assert "d/big" in (store.snapshots.verify(chain[2], chain[:2]) or "")


def test_what_a_step_leaves_is_not_taken_for_the_whole(store: Store) -> None:
    layers = put_layers(store, {"a": b"1"}, {"b": b"2"})
    with store.drafts.directory("build") as draft:
        upper = Path(draft.path, "upper")
        upper.mkdir()
        (upper / "b").write_bytes(b"2")
        store.snapshots.adopt(layers[1].chain_id, str(upper))
        assert not upper.exists()
    (tree,) = store.snapshots.trees(layers)
    assert sorted(os.listdir(tree)) == ["a", "b"]


def test_holes_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with open(source / "sparse", "wb") as made:
        made.truncate(5 << 30)
        made.seek(1 << 30)
        made.write(b"in the middle")
    descriptors = [os.open(each, os.O_RDONLY) for each in (source, target)]
    try:
        copy_tree(*descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    status = os.stat(target / "sparse")
    assert (status.st_size, status.st_blocks <= 64) == (5 << 30, True)
    with open(target / "sparse", "rb") as copied:
        copied.seek(1 << 30)
        assert copied.read(13) == b"in the middle"


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that shares blocks between files."""
    image, place = tmp_path / "xfs.img", tmp_path / "xfs"
    with open(image, "wb") as made:
        made.truncate(512 << 20)
    place.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-t", "xfs", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.needs("xfs")
def test_copies_share_their_blocks_where_the_file_system_can_do_that(xfs: Path) -> None:
    from store.probe import probe

    store = Store.open(str(xfs / "store"), "copy")
    assert {each.name: each.how for each in probe(store.drafts)}["copy"] == "reflinks"
    chain = stacked(store)
    expected = seen.image(store, chain)
    store.snapshots.delete(chain[-1].chain_id)
    os.sync()
    before = os.statvfs(xfs)
    (tree,) = store.snapshots.trees(chain)
    os.sync()
    after = os.statvfs(xfs)
    assert (before.f_bfree - after.f_bfree) * before.f_frsize < len(BIG) / 4
    assert seen.image(store, chain) == expected
    Path(tree, "d/big").write_bytes(b"written")
    assert Path(store.snapshots.trees(chain[:1])[0], "d/big").read_bytes() == BIG
