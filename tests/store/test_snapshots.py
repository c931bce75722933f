"""The trees of the `overlay` driver: made once in a boot, by whoever comes first, from a tar that matches its digest.

What all drivers do alike is in test_drivers.py.
"""

import os
from pathlib import Path

import pytest

from store import snapshot_overlay
from store.digest import OCI_LAYER_GZIP, Descriptor, Digest
from store.errors import BlobCorrupt, BlobMissing
from store.images import Layer, stack
from store.layout import Store
from tests.store.samples import compressed, layer_tar, put_layers


@pytest.fixture
def store(root: str) -> Store:
    return Store.open(root, "overlay")


def test_trees_are_made_with_the_topmost_first(store: Store) -> None:
    layers = put_layers(store, {"a": b"below"}, {"b": b"above"})
    above, below = store.snapshots.trees(layers)
    assert (Path(above, "b").read_bytes(), Path(below, "a").read_bytes()) == (b"above", b"below")
    assert sorted(store.snapshots.all()) == sorted(layer.chain_id for layer in layers)
    assert os.listdir(store.drafts.path) == []


def test_an_empty_chain_is_one_empty_directory(store: Store) -> None:
    before = os.umask(0o077)
    try:
        (tree,) = Store.open(store.root, "overlay").snapshots.trees(())
    finally:
        os.umask(before)
    assert os.listdir(tree) == []
    assert os.stat(tree).st_mode & 0o7777 == 0o755


def test_a_tree_is_made_once(store: Store) -> None:
    layers = put_layers(store, {"a": b"1"})
    (tree,) = store.snapshots.trees(layers)
    inode = os.stat(tree).st_ino
    os.unlink(store.blobs.path(layers[0].diff_id))  # nothing is read any more
    assert Store.open(store.root, "overlay").snapshots.trees(layers) == [tree]
    assert os.stat(tree).st_ino == inode


def test_a_tree_of_another_boot_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = put_layers(store, {"a": b"whole"})
    (tree,) = store.snapshots.trees(layers)
    Path(tree, "a").write_bytes(b"")  # what a crash leaves of a file that was never synced
    monkeypatch.setattr(snapshot_overlay, "boot_id", lambda: "another boot")
    assert Store.open(store.root, "overlay").snapshots.trees(layers) == [tree]
    assert Path(tree, "a").read_bytes() == b"whole"
    assert os.listdir(store.drafts.path) == []


def test_a_synced_tree_is_believed_in_every_boot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = put_layers(store, {"a": b"whole"})
    (tree,) = store.snapshots.trees(layers)
    Path(tree, "..", "complete").write_text("synced\n")
    Path(tree, "a").write_bytes(b"kept")
    monkeypatch.setattr(snapshot_overlay, "boot_id", lambda: "another boot")
    Store.open(store.root, "overlay").snapshots.trees(layers)
    assert Path(tree, "a").read_bytes() == b"kept"


@pytest.mark.parametrize("content", [b"", b"\xff", b"x", None])
def test_a_tree_without_a_word_of_its_completion_is_made_again(store: Store, content: bytes | None) -> None:
    layers = put_layers(store, {"a": b"whole"})
    (tree,) = store.snapshots.trees(layers)
    Path(tree, "a").unlink()
    complete = Path(tree, "..", "complete").resolve()
    complete.unlink() if content is None else complete.write_bytes(content)
    store.snapshots.trees(layers)
    assert Path(tree, "a").read_bytes() == b"whole"


def test_a_damaged_tar_makes_no_tree(store: Store) -> None:
    layers = put_layers(store, {"a": b"whole"})
    path = Path(store.blobs.path(layers[0].diff_id))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"whole", b"wrong"))
    with pytest.raises(BlobCorrupt):
        store.snapshots.trees(layers)
    assert store.snapshots.all() == []
    assert os.listdir(store.drafts.path) == []


def test_a_missing_tar_is_said_to_be_missing(store: Store) -> None:
    layers = put_layers(store, {"a": b"whole"})
    os.unlink(store.blobs.path(layers[0].diff_id))
    with pytest.raises(BlobMissing):
        store.snapshots.trees(layers)


def test_a_compressed_layer_is_unpacked_from_its_tar_or_else_from_its_blob(store: Store) -> None:
    tar = layer_tar({"a": b"whole"})
    blob = store.blobs.put_bytes(compressed(tar), OCI_LAYER_GZIP)
    layers = stack([(blob, Digest.of(tar))])
    (tree,) = store.snapshots.trees(layers)
    assert Path(tree, "a").read_bytes() == b"whole"
    store.snapshots.delete(layers[0].chain_id)
    store.tars.put_bytes(tar, "")
    os.unlink(store.blobs.path(blob.digest))
    store.snapshots.trees(layers)
    assert Path(tree, "a").read_bytes() == b"whole"


def test_an_adopted_directory_is_the_tree(store: Store) -> None:
    layers = put_layers(store, {"a": b"whole"})
    with store.drafts.directory("build") as draft:
        upper = Path(draft.path, "upper")
        upper.mkdir()
        (upper / "a").write_bytes(b"whole")
        tree = store.snapshots.adopt(layers[0].chain_id, str(upper))
        assert not upper.exists()
        assert store.snapshots.trees(layers) == [tree]
        upper.mkdir()
        (upper / "a").write_bytes(b"late")
        assert store.snapshots.adopt(layers[0].chain_id, str(upper)) == tree
        assert not upper.exists()
    assert Path(tree, "a").read_bytes() == b"whole"
    assert os.listdir(store.drafts.path) == []


def test_of_two_makers_the_second_takes_nothing_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = put_layers(store, {"a": b"whole"})
    late = Store.open(store.root, "overlay")
    open_layer = late.open_layer
    early: list[int] = []

    def open_after_the_other(layer: Layer) -> object:
        early.append(os.stat(store.snapshots.trees(layers)[0]).st_ino)
        return open_layer(layer)

    monkeypatch.setattr(late, "open_layer", open_after_the_other)
    (tree,) = late.snapshots.trees(layers)
    assert [os.stat(tree).st_ino] == early
    assert os.listdir(store.drafts.path) == []


@pytest.mark.needs("root", "overlay")
def test_a_view_is_the_merged_tree_and_cannot_be_written(store: Store) -> None:
    layers = put_layers(store, {"a": b"1", "dir/x": b"x"}, {".wh.a": b"", "dir/y": b"y"})
    view = store.snapshots.view(layers)
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{view}")) == ["dir"]
        assert sorted(os.listdir(f"/proc/self/fd/{view}/dir")) == ["x", "y"]
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=view)
    finally:
        os.close(view)


@pytest.mark.needs("root", "overlay")
def test_what_is_written_goes_to_the_upper_directory(store: Store) -> None:
    layers = put_layers(store, {"a": b"1"})
    (tree,) = store.snapshots.trees(layers)
    with store.drafts.directory("build") as draft:
        upper, work = f"{draft.path}/upper", f"{draft.path}/work"
        os.mkdir(upper)
        os.mkdir(work)
        mount = store.snapshots.writable(layers, upper, work)
        try:
            os.unlink("a", dir_fd=mount)
            os.close(os.open("b", os.O_CREAT | os.O_WRONLY, dir_fd=mount))
        finally:
            os.close(mount)
        assert sorted(os.listdir(upper)) == ["a", "b"]
        assert os.stat(f"{upper}/a").st_rdev == 0
    assert Path(tree, "a").read_bytes() == b"1"


def test_a_chain_id_that_is_a_path_reaches_no_file(store: Store) -> None:
    bad = Layer(Descriptor("x", Digest.of(b""), 0), Digest.of(b""), "../../../etc")  # type: ignore[arg-type]  # the attack
    with pytest.raises(Exception, match="not a sha256 digest"):
        store.snapshots.trees([bad])
    with pytest.raises(Exception, match="not a sha256 digest"):
        store.snapshots.delete("sha256:../../drafts")
