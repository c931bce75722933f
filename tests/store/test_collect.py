"""Deleting: never what somebody uses, always what nobody does."""

import os
from collections.abc import Callable, Iterable

import pytest

from store.collect import delete_image, prune
from store.digest import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Digest
from store.documents import canonical
from store.errors import ReferenceMissing, StoreError
from store.images import stack
from store.layout import Store
from store.prepare import prepare
from tests.store.samples import CONFIG, compressed, layer_tar, put_image, reachable


def _blobs(store: Store) -> set[str]:
    return {str(digest) for digest, _ in store.blobs.all()}


def _using(chain: Iterable[str]) -> Callable[[], list[str]]:
    return lambda: list(chain)


def test_an_image_goes_with_all_that_only_it_used(store: Store) -> None:
    first = put_image(store, "first", {"a": b"shared"}, {"b": b"1"})
    second = put_image(store, "second", {"a": b"shared"}, {"b": b"2"})
    for name in ("first", "second"):
        prepare(store, name)
    lonely = reachable(store, [first]) - reachable(store, [second])
    sizes = {str(digest): size for digest, size in store.blobs.all()}
    done = delete_image(store, "first")
    assert (done.names, done.images, done.deferred) == (("first:latest",), (first.digest,), False)
    assert done.freed == sum(sizes[digest] for digest in lonely)
    assert _blobs(store) == reachable(store, [second])
    assert sorted(store.snapshots.all()) == sorted(layer.chain_id for layer in store.images.load(second).layers)
    assert store.prepared() == [second.digest]
    assert os.listdir(store.drafts.path) == []


def test_by_one_of_several_names_only_the_name_goes(store: Store) -> None:
    image = put_image(store, "one", {"a": b"1"})
    store.references.set("two", image)
    before = _blobs(store)
    assert delete_image(store, "one").images == ()
    assert _blobs(store) == before
    assert delete_image(store, "two").images == (image.digest,)
    assert _blobs(store) == set()


def test_by_an_id_with_several_names_it_goes_only_by_force(store: Store) -> None:
    image = put_image(store, "one", {"a": b"1"})
    store.references.set("two", image)
    with pytest.raises(StoreError, match="several names: one:latest, two:latest"):
        delete_image(store, image.digest)
    assert delete_image(store, image.digest, force=True).names == ("one:latest", "two:latest")
    assert _blobs(store) == set()


def test_what_is_not_there_cannot_be_deleted(store: Store) -> None:
    with pytest.raises(ReferenceMissing):
        delete_image(store, "nothing")


def test_an_image_that_a_container_stands_on_stays(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"}, {"b": b"2"})
    chain = [layer.chain_id for layer in store.images.load(image).layers]
    prepare(store, "app")
    before = _blobs(store)
    with pytest.raises(StoreError, match="used by a container"):
        delete_image(store, "app", used=_using(chain))
    assert [entry.name for entry in store.references.all()] == ["app:latest"]
    done = delete_image(store, "app", used=_using(chain), force=True)
    assert (done.names, done.images, done.deferred) == (("app:latest",), (), False)
    prune(store, used=_using(chain))
    prune(store, used=_using(chain), unused=True)
    assert _blobs(store) == before
    assert sorted(store.snapshots.all()) == sorted(chain)
    prune(store)
    assert (_blobs(store), store.snapshots.all(), store.prepared()) == (set(), [], [])


def test_an_image_may_go_when_another_keeps_the_trees_of_the_container(store: Store) -> None:
    below = put_image(store, "below", {"a": b"1"})
    above = put_image(store, "above", {"a": b"1"}, {"b": b"2"})
    chain = [layer.chain_id for layer in store.images.load(above).layers]
    assert delete_image(store, "below", used=_using(chain)).images == (below.digest,)
    assert _blobs(store) == reachable(store, [above])


def test_layers_of_the_build_cache_stay(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    (layer,) = store.images.load(image).layers
    prepare(store, "app")
    keep = _using([layer.diff_id, layer.chain_id])
    delete_image(store, "app", keep=keep)
    prune(store, keep=keep)
    assert _blobs(store) == {layer.diff_id}
    assert store.snapshots.all() == [layer.chain_id]
    prune(store)
    assert (_blobs(store), store.snapshots.all()) == (set(), [])


def test_nothing_is_deleted_while_somebody_builds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.collect.PATIENCE", 0.0)
    put_image(store, "app", {"a": b"1"})
    half = store.blobs.put_bytes(b"a layer that no image names yet", "x")
    before = _blobs(store)
    other = Store.open(store.root)
    with other.shared():
        assert delete_image(store, "app").deferred
        assert prune(store).deferred
        assert _blobs(store) == before
        with pytest.raises(ReferenceMissing):
            store.references.get("app")
    prune(store, keep=_using([half.digest]))
    assert _blobs(store) == {half.digest}


def test_prune_takes_images_without_a_name_and_what_killed_builds_left(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    kept = put_image(store, "app", {"a": b"2"})
    store.blobs.put_bytes(b"left over", "x")
    store.tars.put_bytes(b"left over", "x")
    done = prune(store)
    assert (done.names, len(done.images)) == ((), 1)
    assert _blobs(store) == reachable(store, [kept])
    assert list(store.tars.all()) == []
    assert prune(store, unused=True).names == ("app:latest",)
    assert _blobs(store) == set()


def test_the_tar_of_a_compressed_layer_goes_with_it(store: Store) -> None:
    tar = layer_tar({"a": b"1"})
    blob = store.blobs.put_bytes(compressed(tar), OCI_LAYER_GZIP)
    store.tars.put_bytes(tar, "")
    image = store.images.create(CONFIG, stack([(blob, Digest.of(tar))]))
    store.references.set("app", image)
    prune(store)
    assert [digest for digest, _ in store.tars.all()] == [Digest.of(tar)]
    delete_image(store, "app")
    assert (_blobs(store), list(store.tars.all())) == (set(), [])


def test_a_damaged_image_stops_the_deletion_of_others_but_can_be_deleted(store: Store) -> None:
    broken = put_image(store, "broken", {"a": b"shared"}, {"b": b"1"})
    whole = put_image(store, "whole", {"a": b"shared"}, {"b": b"2"})
    os.unlink(store.blobs.path(store.images.load(broken).id))
    before = _blobs(store)
    for act in (lambda: delete_image(store, "whole"), lambda: prune(store)):
        with pytest.raises(StoreError, match="nothing was deleted") as caught:
            act()
        assert caught.value.hint.endswith(f"box rmi {broken.digest.hex[:12]}")
    assert _blobs(store) == before
    delete_image(store, broken.digest.hex[:12])
    prune(store)
    assert _blobs(store) == reachable(store, [whole])


def test_an_index_that_another_tool_put_into_the_store_keeps_all_its_parts(store: Store) -> None:
    mine = put_image(store, "mine", {"a": b"1"})
    statement = store.blobs.put_bytes(b"{}", "application/vnd.in-toto+json")
    attestation = store.blobs.put_bytes(
        canonical({"schemaVersion": 2, "config": statement.to_json(), "layers": [statement.to_json()]}), OCI_MANIFEST
    )
    marked = {**attestation.to_json(), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    index = store.blobs.put_bytes(canonical({"schemaVersion": 2, "manifests": [mine.to_json(), marked]}), OCI_INDEX)
    store.references.set("index", index)
    before = _blobs(store)
    delete_image(store, "mine")
    prune(store)
    assert _blobs(store) == before
    delete_image(store, "index")
    assert _blobs(store) == set()


def test_files_that_others_put_beside_the_blobs_are_left_alone(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    strangers = [
        f"{store.root}/{folder}/{name}" for folder in ("blobs/sha256", "prepared", "snapshots") for name in ("x", "g" * 64)
    ]
    for path in strangers:
        with open(path, "w"):
            pass
    prune(store)
    assert all(os.path.exists(path) for path in strangers)
    assert _blobs(store) == reachable(store, [image])
