"""Manifests and configs that do not fit, and those that do."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from store.digest import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Digest
from store.documents import canonical
from store.errors import BlobMissing, StoreError
from store.images import LAYER_LIMIT, Layer, host_architecture
from store.layout import Store
from tests.store.samples import CONFIG, put_image, put_layers

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def test_an_image_is_read_back_as_it_was_made(store: Store) -> None:
    layers = put_layers(store, {"a": b"1"}, {"b": b"2"})
    config = {**CONFIG, "config": {"Cmd": ["sh"]}}
    descriptor = store.images.create(config, layers, annotations={"k": "v"})
    image = store.images.load(descriptor)
    assert image.layers == layers
    assert image.config == {**config, "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}}
    assert image.manifest["annotations"] == {"k": "v"}
    assert image.size == sum(size for _, size in store.blobs.all())


def test_the_same_image_has_the_same_digest_whatever_the_order_of_its_config(store: Store) -> None:
    layers = put_layers(store, {"a": b"1"})
    one = store.images.create(CONFIG, layers)
    other = store.images.create(dict(reversed(list(CONFIG.items()))), layers)
    assert one == other


def test_an_image_of_a_missing_layer_is_not_made(store: Store) -> None:
    digest = Digest.of(b"missing")
    with pytest.raises(BlobMissing):
        store.images.create(CONFIG, [Layer(Descriptor(OCI_LAYER, digest, 7), digest, digest)])


def test_an_image_without_an_architecture_is_not_made(store: Store) -> None:
    with pytest.raises(StoreError, match="architecture"):
        store.images.create({"os": "linux"}, ())


def _rewritten(store: Store, change: Change) -> Descriptor:
    """An image of two layers whose manifest and config went through `change`."""
    image = store.images.load(put_image(store, "app", {"a": b"1"}, {"b": b"2"}))
    manifest, config = json.loads(json.dumps(image.manifest)), json.loads(json.dumps(image.config))
    change(manifest, config)
    blob = store.blobs.put_bytes(canonical(config), OCI_CONFIG)
    if isinstance(manifest.get("config"), dict) and manifest["config"].get("digest") == image.id:
        manifest["config"].update(digest=blob.digest, size=blob.size)
    return store.blobs.put_bytes(canonical(manifest), OCI_MANIFEST)


REFUSED: dict[str, tuple[Change, str]] = {
    "an index and a manifest at once": (lambda m, c: m.update(manifests=[]), "something else"),
    "schema 1 inside": (lambda m, c: m.update(fsLayers=[]), "something else"),
    "another media type inside": (lambda m, c: m.update(mediaType=DOCKER_MANIFEST), "calls itself"),
    "schema version 1": (lambda m, c: m.update(schemaVersion=1), "schema version"),
    "no config": (lambda m, c: m.pop("config"), "size is None"),
    "a config of another kind": (
        lambda m, c: m["config"].update(mediaType="application/vnd.cncf.helm.config"),
        "no container image",
    ),
    "a layer of another kind": (lambda m, c: m["layers"][0].update(mediaType="text/plain"), "not known"),
    "a foreign layer": (
        lambda m, c: m["layers"][0].update(
            mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar", urls=["http://x"]
        ),
        "not known",
    ),
    "layers that are no list": (lambda m, c: m.update(layers={}), "not a list"),
    "a digest that is a path": (lambda m, c: m["layers"][0].update(digest="sha256:" + "../" * 21 + "x"), "not a sha256"),
    "a layer without a digest": (lambda m, c: m["layers"][0].pop("digest"), "digest"),
    "one layer too few in the config": (lambda m, c: c["rootfs"]["diff_ids"].pop(), "names 1 layers"),
    "one layer too few in the manifest": (lambda m, c: m["layers"].pop(), "names 2 layers"),
    "layers in another order": (lambda m, c: m["layers"].reverse(), "damaged"),
    "a rootfs of another type": (lambda m, c: c["rootfs"].update(type="tree"), "rootfs"),
    "no rootfs": (lambda m, c: c.pop("rootfs"), "type"),
    "a diff_id that is a path": (lambda m, c: c["rootfs"]["diff_ids"].__setitem__(0, "../../etc/passwd"), "not a sha256"),
    "a config that is a list": (lambda m, c: c.update(config=["sh"]), "not an object"),
    "no architecture": (lambda m, c: c.pop("architecture"), "architecture"),
    "too many layers": (lambda m, c: m.update(layers=m["layers"][:1] * (LAYER_LIMIT + 1)), "the limit is 500"),
}


def test_an_image_that_was_not_changed_is_read(store: Store) -> None:
    """The control of the refusals below."""
    assert len(store.images.load(_rewritten(store, lambda m, c: None)).layers) == 2


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_do_not_fit_are_refused(store: Store, name: str) -> None:
    change, reason = REFUSED[name]
    descriptor = _rewritten(store, change)
    with pytest.raises(StoreError, match=reason):
        store.images.load(descriptor)


def test_of_an_index_this_machines_image_is_taken(store: Store) -> None:
    mine, other = put_image(store, None, {"a": b"mine"}), put_image(store, None, {"a": b"other"})

    def item(descriptor: Descriptor, architecture: str) -> dict[str, object]:
        return {**descriptor.to_json(), "platform": {"os": "linux", "architecture": architecture}}

    attestation = {**item(other, "unknown"), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    index = store.blobs.put_bytes(
        canonical({"schemaVersion": 2, "manifests": [attestation, item(other, "vax"), item(mine, host_architecture())]}),
        OCI_INDEX,
    )
    assert store.images.load(index).descriptor.digest == mine.digest
    lonely = store.blobs.put_bytes(canonical({"schemaVersion": 2, "manifests": [attestation, item(mine, "vax")]}), OCI_INDEX)
    assert store.images.load(lonely).descriptor.digest == mine.digest
    strange = store.blobs.put_bytes(
        canonical({"schemaVersion": 2, "manifests": [item(mine, "vax"), item(other, "pdp11")]}), OCI_INDEX
    )
    with pytest.raises(StoreError, match="no image for linux"):
        store.images.load(strange)


def test_a_compressed_layer_may_have_any_diff_id_until_it_is_unpacked(store: Store) -> None:
    descriptor = _rewritten(store, lambda m, c: m["layers"][0].update(mediaType=OCI_LAYER_GZIP))
    assert store.images.load(descriptor).layers[0].compressed is False
