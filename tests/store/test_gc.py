"""Deleting: never what somebody uses or will refer to, always what nobody does."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from store import fsck
from store.collect import Deleted, delete_image, forget_images, gc, nothing_used
from store.digest import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Digest
from store.documents import canonical
from store.errors import ReferenceMissing, StoreError
from store.grave import Grave
from store.images import stack
from store.layout import Store
from store.marks import InUse, Keep, Used, keep_nothing
from store.prepare import prepare
from store.usage import usage
from tests.store.samples import CONFIG, compressed, layer_tar, put_image, reachable


def _blobs(store: Store) -> set[str]:
    return {str(digest) for digest, _ in store.blobs.all()}


def _keeping(digests: Iterable[str]) -> Callable[[], list[str]]:
    return lambda: list(digests)


def _made_of(store: Store, image: Descriptor) -> Callable[[], InUse]:
    """A container of the image, as `box run` records it."""
    loaded = store.images.load(image)
    return lambda: InUse(images=frozenset({str(loaded.id)}), trees=frozenset(str(layer.chain_id) for layer in loaded.layers))


def _prune(store: Store, *, unused: bool = False, keep: Keep = keep_nothing, used: Used = nothing_used) -> Deleted:
    """What `box prune` does to images."""
    forgotten = forget_images(store, unused=unused, used=used)
    collected = gc(store, keep=keep, used=used)
    return Deleted(forgotten.names, forgotten.images, collected.gone, forgotten.deferred or collected.deferred)


def full_disk(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


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


def test_an_image_that_a_container_was_made_of_stays(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"}, {"b": b"2"})
    chain = [layer.chain_id for layer in store.images.load(image).layers]
    used = _made_of(store, image)
    prepare(store, "app")
    before = _blobs(store)
    with pytest.raises(StoreError, match="used by a container"):
        delete_image(store, "app", used=used)
    assert [entry.name for entry in store.references.all()] == ["app:latest"]
    done = delete_image(store, "app", used=used, force=True)
    assert (done.names, done.images, done.deferred) == (("app:latest",), (), False)
    _prune(store, used=used)
    _prune(store, used=used, unused=True)
    assert _blobs(store) == before
    assert sorted(store.snapshots.all()) == sorted(chain)
    _prune(store)
    assert (_blobs(store), store.snapshots.all(), store.prepared()) == (set(), [], [])


def test_a_container_without_an_image_s_id_keeps_the_image_of_its_stack(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    put_image(store, "other", {"a": b"1"}, {"b": b"2"})
    (layer,) = store.images.load(image).layers
    chains = frozenset({str(layer.chain_id)})
    used = lambda: InUse(stacks=chains, trees=chains)  # noqa: E731
    with pytest.raises(StoreError, match="used by a container"):
        delete_image(store, "app", used=used)
    assert _prune(store, unused=True, used=used).names == ("other:latest",)
    assert _blobs(store) == reachable(store, [image])


def test_an_image_may_go_when_it_is_only_the_base_of_a_container_s_image(store: Store) -> None:
    below = put_image(store, "below", {"a": b"1"})
    above = put_image(store, "above", {"a": b"1"}, {"b": b"2"})
    assert delete_image(store, "below", used=_made_of(store, above)).images == (below.digest,)
    assert _blobs(store) == reachable(store, [above])


def test_the_trees_of_a_container_stay_also_when_its_image_is_unknown(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    used = _made_of(store, image)
    prepare(store, "app")
    store.references.forget([image.digest])
    gc(store, used=used)
    assert frozenset(store.snapshots.all()) == used().trees


def test_layers_of_the_build_cache_stay(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    (layer,) = store.images.load(image).layers
    prepare(store, "app")
    keep = _keeping([layer.diff_id, layer.chain_id])
    delete_image(store, "app", keep=keep)
    _prune(store, keep=keep)
    assert _blobs(store) == {layer.diff_id}
    assert store.snapshots.all() == [layer.chain_id]
    _prune(store)
    assert (_blobs(store), store.snapshots.all()) == (set(), [])


def test_what_a_running_command_has_made_or_uses_stays_and_the_rest_goes(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    whole = put_image(store, "base", {"b": b"1"})
    left = store.blobs.put_bytes(b"left by a build that was killed", "x")
    builder = Store.open(store.root)
    with builder.leased():
        half = builder.blobs.put_bytes(b"a layer that no image names yet", "x")
        tar = builder.tars.put_bytes(b"the tar of a layer", "x")
        builder.use_image("base")
        builder.snapshots.trees(builder.images.load(whole).layers)
        done = delete_image(store, "base")
        assert (done.names, done.deferred, done.freed) == (("base:latest",), True, 0)
        assert not delete_image(store, "app").deferred
        assert [(gone.kind, gone.digest) for gone in gc(store).gone] == [("blob", left.digest)]
        assert _blobs(store) == {*reachable(store, [whole]), half.digest}
        assert [digest for digest, _ in store.tars.all()] == [tar.digest]
        assert len(store.snapshots.all()) == 1
        with pytest.raises(ReferenceMissing):
            store.references.get("base")
    gc(store)
    assert (_blobs(store), list(store.tars.all()), store.snapshots.all()) == (set(), [], [])


def test_a_name_that_a_build_gives_while_the_image_is_deleted_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put_image(store, "app", {"a": b"1"})
    builder = Store.open(store.root)
    with builder.leased():
        builder.use_image("app")
        forget = store.references.forget

        def meanwhile(digests: list[Digest], *, names: set[str]) -> None:
            builder.references.set("new", image)
            forget(digests, names=names)

        monkeypatch.setattr(type(store.references), "forget", lambda self, digests, *, names: meanwhile(digests, names=names))
        delete_image(store, "app")
    assert [entry.name for entry in store.references.all()] == ["new:latest"]
    gc(store)
    assert _blobs(store) == reachable(store, [image])


def test_images_that_a_running_command_uses_are_not_pruned(store: Store) -> None:
    put_image(store, None, {"a": b"1"})
    image = put_image(store, "app", {"b": b"1"})
    user = Store.open(store.root)
    with user.leased():
        user.use_image("app")
        assert len(_prune(store, unused=True).images) == 1
        assert store.references.get("app") == image
    assert _prune(store, unused=True).names == ("app:latest",)


def test_deleting_waits_for_a_container_that_is_being_written_down_but_not_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.collect.PATIENCE", 0.0)
    put_image(store, "app", {"a": b"1"})
    store.blobs.put_bytes(b"left over", "x")
    before = _blobs(store)
    with Store.open(store.root).shared():
        assert delete_image(store, "app").deferred
        assert forget_images(store, unused=True).deferred
        assert gc(store).deferred
        assert _blobs(store) == before
    with pytest.raises(ReferenceMissing):
        store.references.get("app")
    _prune(store)
    assert _blobs(store) == set()


def test_what_would_go_is_said_by_a_dry_run_which_deletes_nothing(store: Store) -> None:
    put_image(store, "app", {"a": b"1"}, {"b": b"2"})
    prepare(store, "app")
    store.references.forget([store.references.get("app").digest])
    before = (_blobs(store), store.snapshots.all(), store.prepared())
    dry = gc(store, dry_run=True)
    assert (_blobs(store), store.snapshots.all(), store.prepared()) == before
    real = gc(store)
    assert dry.gone == real.gone
    assert sorted({gone.kind for gone in real.gone}) == ["blob", "prepared", "tree"]
    assert all(gone.size > 0 for gone in real.gone)
    assert real.freed == sum(gone.size for gone in real.gone)
    assert (_blobs(store), store.snapshots.all(), store.prepared()) == (set(), [], [])
    assert os.listdir(store.drafts.path) == []
    assert gc(store).gone == ()


def test_the_gate_is_open_again_and_again_while_much_is_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.collect.BATCH", 2)
    other = Store.open(store.root)
    for number in range(7):
        store.blobs.put_bytes(b"%d" % number, "x")
    shut = []
    real = store.exclusive

    @contextmanager
    def watched(*, patience: float) -> Iterator[bool]:
        with other.shared():
            pass
        with real(patience=patience) as alone:
            shut.append(len(_blobs(store)))
            yield alone

    monkeypatch.setattr(store, "exclusive", watched)
    gc(store)
    assert shut == [7, 5, 3, 1]
    assert _blobs(store) == set()


def test_a_disk_too_full_for_a_grave_does_not_keep_anything_from_being_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    store.references.forget([store.references.get("app").digest])

    monkeypatch.setattr("os.mkdir", full_disk)
    gc(store)
    assert (_blobs(store), store.snapshots.all()) == (set(), [])


@pytest.mark.parametrize("driver", ["overlay", "erofs", "copy"])
def test_a_deletion_without_a_grave_that_is_killed_leaves_no_half_tree_that_is_believed(
    root: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(root, driver)
    image = put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    (layer,) = store.images.load(image).layers
    store.references.forget([image.digest])

    def killed(path: str) -> None:
        for place, _, names in os.walk(path):
            for name in names:
                if name == "a" or name.endswith(".erofs"):
                    os.truncate(f"{place}/{name}", 0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.mkdir", full_disk)
        patch.setattr("store.grave.delete_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            for path in filter(os.path.lexists, store.snapshot_places(layer.chain_id)):
                Grave(store.drafts).take(path)
    view = Store.open(root, driver).snapshots.view([layer])
    file = os.open("a", os.O_RDONLY, dir_fd=view)
    assert os.read(file, 10) == b"1"
    os.close(file)
    os.close(view)


def test_a_killed_deletion_leaves_only_drafts_which_the_next_command_sweeps(store: Store) -> None:
    store.blobs.put_bytes(b"left over", "x")
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from store import grave; from store.collect import gc; from store.layout import Store\n"
        "grave.Grave.close = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "gc(Store.open(sys.argv[2]))"
    )
    assert subprocess.run([sys.executable, "-I", "-c", program, os.getcwd(), store.root], check=False).returncode == -9
    assert _blobs(store) == set()
    assert len(os.listdir(store.drafts.path)) == 1
    Store.open(store.root)
    assert os.listdir(store.drafts.path) == []


def test_prune_takes_images_without_a_name_and_what_killed_builds_left(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    kept = put_image(store, "app", {"a": b"2"})
    store.blobs.put_bytes(b"left over", "x")
    store.tars.put_bytes(b"left over", "x")
    done = _prune(store)
    assert (done.names, len(done.images)) == ((), 1)
    assert _blobs(store) == reachable(store, [kept])
    assert list(store.tars.all()) == []
    assert _prune(store, unused=True).names == ("app:latest",)
    assert _blobs(store) == set()


def test_the_tar_of_a_compressed_layer_goes_with_it(store: Store) -> None:
    tar = layer_tar({"a": b"1"})
    blob = store.blobs.put_bytes(compressed(tar), OCI_LAYER_GZIP)
    store.tars.put_bytes(tar, "")
    image = store.images.create(CONFIG, stack([(blob, Digest.of(tar))]))
    store.references.set("app", image)
    _prune(store)
    assert [digest for digest, _ in store.tars.all()] == [Digest.of(tar)]
    delete_image(store, "app")
    assert (_blobs(store), list(store.tars.all())) == (set(), [])


def test_a_damaged_image_stops_the_deletion_of_others_but_can_be_deleted(store: Store) -> None:
    broken = put_image(store, "broken", {"a": b"shared"}, {"b": b"1"})
    whole = put_image(store, "whole", {"a": b"shared"}, {"b": b"2"})
    os.unlink(store.blobs.path(store.images.load(broken).id))
    before = _blobs(store)
    for act in (lambda: delete_image(store, "whole"), lambda: gc(store)):
        with pytest.raises(StoreError, match="nothing was deleted") as caught:
            act()
        assert caught.value.hint.endswith(f"box rmi {broken.digest.hex[:12]}")
    assert _blobs(store) == before
    delete_image(store, broken.digest.hex[:12])
    _prune(store)
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
    _prune(store)
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
    _prune(store)
    assert all(os.path.exists(path) for path in strangers)
    assert _blobs(store) == reachable(store, [image])


def artifact(store: Store, kind: str) -> Descriptor:
    """What another tool may have put there, which is no container image."""
    config = store.blobs.put_bytes(
        b"{}" if kind != "an unknown config" else b'{"a": 1}', "application/vnd.unknown.config.v1+json"
    )
    layer = store.blobs.put_bytes(b"a chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    media_type = "application/vnd.oci.artifact.manifest.v1+json" if kind == "an artifact manifest" else OCI_MANIFEST
    manifest: dict[str, object] = {"schemaVersion": 2, "mediaType": media_type}
    if kind == "an artifact manifest":
        manifest["blobs"] = [layer.to_json(), config.to_json()]
    else:
        manifest |= {"config": config.to_json(), "layers": [layer.to_json()]}
    made = store.blobs.put_bytes(canonical(manifest), media_type)
    if kind == "an index for another machine":
        platform = {"os": "plan9", "architecture": "vax"}
        items = [{**made.to_json(), "platform": platform}, {**made.to_json(), "platform": {**platform, "variant": "2"}}]
        made = store.blobs.put_bytes(canonical({"schemaVersion": 2, "manifests": items}), OCI_INDEX)
    return made


@pytest.mark.parametrize("kind", ["an unknown config", "an artifact manifest", "an index for another machine"])
def test_what_is_no_container_image_keeps_what_it_names_and_hinders_nobody(store: Store, kind: str) -> None:
    put_image(store, "app", {"a": b"1"})
    store.references.add([("chart:1", artifact(store, kind))])
    before = _blobs(store)
    stray = store.blobs.put_bytes(b"left over", "x").digest
    assert [gone.digest for gone in gc(store).gone] == [stray]
    assert _blobs(store) == before
    assert fsck.check(store).findings == ()
    assert [image.names for image in usage(store).each] == [("app:latest",)]
    assert delete_image(store, "chart:1").names == ("chart:1",)
    gc(store)
    assert _blobs(store) == reachable(store, [store.references.get("app")])


def test_an_image_that_is_damaged_still_stops_gc(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    os.unlink(store.blobs.path(store.images.load(image).id))
    with pytest.raises(StoreError, match="nothing was deleted"):
        gc(store)
