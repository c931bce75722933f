"""fsck: every kind of damage is found and named; what can be made again is; what cannot is left, with the way to get it back."""

import errno
import gzip
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from store import fsck, sources
from store.archive import load, load_directory, save
from store.collect import forget_images, gc
from store.digest import OCI_LAYER_GZIP, Descriptor, Digest
from store.errors import StoreError
from store.images import Layer, stack
from store.layers import import_layer
from store.layout import Store
from store.marks import InUse
from store.mend import check_and_mend
from store.prepare import prepare
from store.snapshot_overlay import OverlayDriver
from store.sources import TAR, remember
from tests.store.samples import CONFIG, compressed, damage, layer_tar, put_image
from tests.store.test_archive import archive, docker_archive

FILES = {"dir/a": b"first", "b": b"second"}


def whole(store: Store) -> None:
    assert fsck.check(store).findings == ()
    assert damage(store.root) == []


def spoil(path: str, at: int = 0) -> None:
    """Change one byte, as a disk does."""
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def put_compressed(store: Store, name: str, *, with_tar: bool = True) -> tuple[Descriptor, Digest]:
    """An image of one compressed layer; its manifest and the diff_id."""
    tar = layer_tar(FILES)
    blob = store.blobs.put_bytes(compressed(tar), OCI_LAYER_GZIP)
    if with_tar:
        store.tars.put_bytes(tar, "")
    image = store.images.create(CONFIG, stack([(blob, Digest.of(tar))]))
    store.references.set(name, image)
    return image, Digest.of(tar)


def test_a_store_without_damage_is_whole_and_all_of_it_was_looked_at(store: Store) -> None:
    put_image(store, "app", FILES, {"c": b"third"})
    put_compressed(store, "packed")
    prepare(store, "app")
    checked = fsck.check(store)
    assert (checked.blobs, checked.tars, checked.images, checked.findings) == (7, 1, 2, ())
    assert checked.snapshots >= 1
    assert os.listdir(store.drafts.path) == []


def test_an_empty_store_is_whole(store: Store) -> None:
    assert fsck.check(store) == fsck.Checked(0, 0, 0, 0, ())


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", [spoil, os.unlink], ids=["changed", "gone"])
def test_a_damaged_part_of_an_image_is_named_with_its_place_and_the_images_that_need_it(
    store: Store, part: str, how: Callable[[str], None]
) -> None:
    image = put_image(store, "app", FILES)
    store.references.set("twin", image)
    loaded = store.images.load(image)
    digest = {"manifest": image.digest, "config": loaded.id, "layer": loaded.layers[0].descriptor.digest}[part]
    how(store.blobs.path(digest))
    for checked in (fsck.check(store), check_and_mend(store)):  # there is nothing that it could be made from
        findings = [finding for finding in checked.damaged if digest.hex in finding.place + finding.what]
        assert findings, checked
        assert findings[0].images == ("app:latest", "twin:latest")
        assert "load or build app:latest, twin:latest again" in findings[0].hint
    assert store.references.get("app") == image  # what cannot be mended stays as it was


def test_a_damaged_blob_that_nothing_needs_is_deleted(store: Store) -> None:
    put_image(store, "app", FILES)
    stray = store.blobs.put_bytes(b"left over", "x").digest
    spoil(store.blobs.path(stray))
    (finding,) = fsck.check(store).findings
    assert (finding.place, finding.images) == (f"blobs/sha256/{stray.hex}", ())
    assert "nothing needs it" in finding.hint
    checked = check_and_mend(store)
    assert [(finding.mended, finding.place) for finding in checked.findings] == [(True, f"blobs/sha256/{stray.hex}")]
    assert not store.blobs.has(stray)
    whole(store)


@pytest.mark.parametrize("how", [spoil, lambda path: os.truncate(path, 100)], ids=["changed", "cut short"])
def test_a_tar_is_made_again_from_its_compressed_blob(store: Store, how: Callable[[str], None]) -> None:
    _, diff_id = put_compressed(store, "packed")
    os.chmod(store.tars.path(diff_id), 0o600)
    how(store.tars.path(diff_id))
    (finding,) = fsck.check(store).findings
    assert (finding.place, finding.images, finding.hint) == (
        f"layers/{diff_id.hex}", ("packed:latest",), "box fsck --repair makes it again",
    )  # fmt: skip
    assert [finding.mended for finding in check_and_mend(store).findings] == [True]
    whole(store)


def test_a_plain_layer_is_made_again_from_the_compressed_one_of_another_image(store: Store) -> None:
    put_image(store, "plain", FILES)
    _, diff_id = put_compressed(store, "packed", with_tar=False)
    os.unlink(store.blobs.path(diff_id))
    assert [finding.what for finding in fsck.check(store).findings] == ["it is missing"]
    assert [finding.mended for finding in check_and_mend(store).findings] == [True]
    whole(store)


SOURCES = ("archive", "gzip archive", "docker archive", "directory", "tar", "gzip tar")


def put_from(store: Store, top: Path, kind: str) -> tuple[Path, Digest]:
    """An image that came from a file, of which is remembered where that lies; the file and the layer's digest."""
    origin = Store.open(str(top / "origin"))
    image = origin.images.load(put_image(origin, "app", FILES, {"big": bytes(range(256)) * 1000}))
    path = top / "from here"
    packed = gzip.compress if "gzip" in kind else bytes
    if kind.endswith("tar"):
        path.write_bytes(packed(layer_tar(FILES)))
        with open(path, "rb") as file:
            layer = import_layer(store, file)
        remember(store, TAR, str(path), [layer.descriptor.digest])
        store.references.set("app", store.images.create(CONFIG, [layer]))
        return path, layer.descriptor.digest
    if kind == "directory":
        shutil.copytree(origin.root, path)
        load_directory(store, str(path))
    else:
        made = io.BytesIO()
        if kind == "docker archive":
            files = docker_archive(origin, "app:latest")
            made.write(archive(files))
        else:
            save(origin, ["app"], made)
        path.write_bytes(packed(made.getvalue()))
        with open(path, "rb", buffering=0) as file:
            load(store, file, path=os.path.relpath(path))
    return path, image.layers[1].descriptor.digest


@pytest.mark.parametrize("how", [spoil, os.unlink], ids=["changed", "gone"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_blob_is_taken_again_from_where_it_came(store: Store, tmp_path: Path, kind: str, how: Callable[[str], None]) -> None:
    path, digest = put_from(store, tmp_path, kind)
    whole(store)
    how(store.blobs.path(digest))
    (finding,) = fsck.check(store).findings
    assert finding.hint == f"box fsck --repair takes it again from {path}"
    assert [finding.mended for finding in check_and_mend(store).findings] == [True]
    whole(store)


@pytest.mark.parametrize("part", ["manifest", "config"])
@pytest.mark.parametrize("how", [spoil, os.unlink], ids=["changed", "gone"])
def test_manifests_and_configs_are_taken_again_as_well(
    store: Store, tmp_path: Path, part: str, how: Callable[[str], None]
) -> None:
    put_from(store, tmp_path, "archive")
    given = store.references.get("app")
    how(store.blobs.path(given.digest if part == "manifest" else store.images.load(given).id))
    assert len(fsck.check(store).findings) == 1
    assert check_and_mend(store).damaged == ()
    whole(store)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "what", [layer_tar({"x": b"1"}), b"nothing of the kind" * 100, b"", None], ids=["lies", "odd", "empty", "gone"]
)
def test_a_source_that_does_not_have_it_any_more_mends_nothing(
    store: Store, tmp_path: Path, kind: str, what: bytes | None
) -> None:
    path, digest = put_from(store, tmp_path, kind)
    spoil(store.blobs.path(digest))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if what is not None:
        path.write_bytes(what)
    (finding,) = check_and_mend(store).findings
    assert not finding.mended
    assert "load or build app:latest again" in finding.hint


def test_where_blobs_came_from_is_forgotten_with_them_and_damage_there_does_no_harm(store: Store, tmp_path: Path) -> None:
    path, digest = put_from(store, tmp_path, "archive")
    with open(f"{store.root}/sources", "ab") as file:
        file.write(b"sha256:cut o")
    remember(store, TAR, "/elsewhere", [digest])
    assert sources.place_of(store, digest) == ""  # there is no such file
    remember(store, TAR, str(path), [digest])
    assert sources.place_of(store, digest) == str(path)
    store.references.delete("app")
    forget_images(store)
    gc(store)
    assert Path(f"{store.root}/sources").read_bytes() == b""


def first_file(top: str) -> str:
    return next(os.path.join(place, name) for place, _, names in os.walk(top) for name in names if name == "b")


def become_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def tree_damages() -> list[tuple[str, Callable[[str], None], str]]:
    return [
        ("content", lambda path: Path(path).write_bytes(b"sec0nd"), "content"),
        ("size", lambda path: Path(path).write_bytes(b""), "size"),
        ("mode", lambda path: os.chmod(path, 0o4755), "mode"),
        ("owner", lambda path: os.chown(path, 1, 1), "owner"),
        ("time", lambda path: os.utime(path, (1, 1)), "time"),
        ("missing", os.unlink, "is missing"),
        ("type", become_directory, "type"),
        ("added", lambda path: Path(path + "2").write_bytes(b""), "is not from the layer"),
        ("opaque", lambda path: os.setxattr(os.path.dirname(path) + "/dir", "trusted.overlay.opaque", b"y"), "hides"),
    ]


@pytest.mark.needs("root", "overlay")
@pytest.mark.parametrize(
    ("driver", "how", "what"),
    [pytest.param("overlay", how, what, id=f"overlay-{name}") for name, how, what in tree_damages()]
    # its trees are whole stacks: they hide nothing
    + [pytest.param("copy", how, what, id=f"copy-{name}") for name, how, what in tree_damages() if name != "opaque"],
)
def test_a_tree_that_is_not_what_its_layer_makes_is_named_and_made_again(
    root: str, driver: str, how: Callable[[str], None], what: str
) -> None:
    store = Store.open(root, driver)
    image = put_image(store, "app", FILES, {"c": b"third"})
    prepare(store, "app")
    layers = store.images.load(image).layers
    place = f"{'copies' if driver == 'copy' else 'snapshots'}/{layers[0].chain_id.hex}"
    how(first_file(f"{root}/{place}"))
    (finding,) = fsck.check(store).findings
    assert finding.place == place
    assert what in finding.what
    assert finding.images == ("app:latest",)
    assert [finding.mended for finding in check_and_mend(store).findings] == [True]
    whole(store)
    store.snapshots.trees(layers[:1])
    assert Path(first_file(f"{root}/{place}")).read_bytes() == b"second"


@pytest.mark.needs("root", "erofs")
def test_an_index_that_is_not_what_its_layer_makes_is_named_and_made_again(root: str) -> None:
    store = Store.open(root, "erofs")
    image = put_image(store, "app", FILES)
    prepare(store, "app")
    (layer,) = store.images.load(image).layers
    (index,) = Path(f"{root}/indexes/{layer.chain_id.hex}").glob("*.erofs")
    spoil(str(index), 1100)
    (finding,) = fsck.check(store).findings
    assert finding.place == f"indexes/{layer.chain_id.hex}"
    assert [finding.mended for finding in check_and_mend(store).findings] == [True]
    whole(store)


@pytest.mark.needs("root", "overlay")
def test_a_layer_and_the_trees_on_top_of_it_are_mended_in_one_go(root: str) -> None:
    store = Store.open(root, "overlay")
    put_compressed(store, "packed", with_tar=False)
    image = put_image(store, "app", FILES, {"c": b"third"})
    prepare(store, "app")
    layers = store.images.load(image).layers
    spoil(store.blobs.path(layers[0].descriptor.digest), 600)
    for layer in layers:
        shutil.rmtree(f"{root}/snapshots/{layer.chain_id.hex}/tree")
        os.mkdir(f"{root}/snapshots/{layer.chain_id.hex}/tree")
    checked = check_and_mend(store)
    assert checked.damaged == ()
    assert len(checked.findings) == 3
    whole(store)


def test_what_is_wrong_with_a_config_is_told_once(store: Store) -> None:
    image = store.images.load(put_image(store, "app", FILES))
    spoil(store.blobs.path(image.id))
    (finding,) = fsck.check(store).findings
    assert finding.place == f"blobs/sha256/{image.id.hex}"
    assert finding.images == ("app:latest",)


@pytest.mark.needs("root", "overlay")
def test_a_layer_that_images_share_is_looked_at_once(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(root, "overlay")
    for number in range(5):
        put_image(store, f"app{number}", FILES, {"c": b"third"}, {"own": b"%d" % number})
        prepare(store, f"app{number}")
    asked: list[Digest] = []
    verify = OverlayDriver.verify

    def counted(self: OverlayDriver, layer: Layer, below: Sequence[Layer]) -> str | None:
        if type(self) is OverlayDriver:
            asked.append(layer.chain_id)
        return verify(self, layer, below)

    monkeypatch.setattr(OverlayDriver, "verify", counted)
    assert fsck.check(store).snapshots == len(asked) == len(set(asked)) == 2 + 5


@pytest.mark.needs("root", "overlay")
def test_a_tree_that_nothing_explains_is_dropped_unless_somebody_uses_it(root: str) -> None:
    store = Store.open(root, "overlay")
    image = put_image(store, "app", FILES)
    prepare(store, "app")
    (layer,) = store.images.load(image).layers
    store.references.forget([image.digest])
    checked = fsck.check(store)
    assert (checked.findings, checked.unknown) == ((), (layer.chain_id,))
    tree = Path(f"{root}/snapshots/{layer.chain_id.hex}")
    assert check_and_mend(store, ended=lambda: InUse(trees=frozenset({str(layer.chain_id)}))).unknown == (layer.chain_id,)
    other = Store.open(root, "overlay")
    with other.leased():
        other.use_layers([layer])
        assert check_and_mend(store).unknown == ()  # its maker knows
    assert tree.exists()
    steps = [("", layer)]
    assert fsck.check(store, steps=lambda: steps).unknown == ()
    (finding,) = check_and_mend(store).findings
    assert (finding.place, finding.mended) == (f"snapshots/{layer.chain_id.hex}", True)
    assert not tree.exists()


@pytest.mark.needs("root", "overlay")
def test_no_tree_is_taken_from_under_a_container_or_a_running_command(root: str) -> None:
    store = Store.open(root, "overlay")
    image = put_image(store, "app", FILES)
    prepare(store, "app")
    (layer,) = store.images.load(image).layers
    path = first_file(f"{root}/snapshots/{layer.chain_id.hex}")
    os.chmod(path, 0)
    standing = InUse(trees=frozenset({str(layer.chain_id)}))
    (finding,) = check_and_mend(store, used=lambda: standing).findings
    assert (finding.mended, "a running container stands on it" in finding.hint) == (False, True)
    other = Store.open(root, "overlay")
    with other.leased():
        other.use_image("app")
        (finding,) = check_and_mend(store).findings
        assert (finding.mended, "a running command uses it" in finding.hint) == (False, True)
    assert os.stat(path).st_mode & 0o777 == 0
    assert check_and_mend(store).damaged == ()


def test_an_index_json_that_cannot_be_read_is_made_again_with_all_its_names(store: Store) -> None:
    app = put_image(store, "app", FILES)
    store.references.set("twin:2", app)
    other = put_image(store, "other", {"x": b"1"})
    before = store.references.all()
    with open(f"{store.root}/index.json", "w") as file:
        file.write('{"manifests": [')
    (finding,) = fsck.check(store).findings
    assert finding.place == "index.json"
    checked = check_and_mend(store)
    assert [(finding.place, finding.mended) for finding in checked.findings] == [("index.json", True)]
    assert store.references.all() == before
    assert Path(f"{store.root}/index.json.damaged-1").read_text() == '{"manifests": ['
    assert {app.digest, other.digest} <= {entry.descriptor.digest for entry in store.references.all()}
    whole(store)


def test_an_index_json_that_is_lost_with_its_names_is_made_again_from_the_manifests(store: Store) -> None:
    app = put_image(store, "app", FILES)
    os.unlink(f"{store.root}/index.json")
    os.unlink(f"{store.root}/references")
    assert check_and_mend(store).damaged == ()
    assert [(entry.name, entry.descriptor.digest) for entry in store.references.all()] == [(None, app.digest)]


def test_the_layout_file_and_the_names_for_the_hot_path_are_written_again(store: Store) -> None:
    put_image(store, "app", FILES)
    Path(f"{store.root}/oci-layout").write_text("{}")
    first = Path(f"{store.root}/references").read_text().splitlines()[0]
    Path(f"{store.root}/references").write_text(f"{first}\napp:latest {'0' * 64}\n")
    assert [finding.place for finding in fsck.check(store).findings] == ["oci-layout", "references"]
    assert check_and_mend(store).damaged == ()
    whole(store)


def test_a_prepared_image_that_says_something_else_than_its_config_is_dropped(store: Store) -> None:
    image = put_image(store, "app", FILES, config={"Env": ["A=1"]})
    prepare(store, "app")
    path = Path(f"{store.root}/prepared/{image.digest.hex}")
    path.write_bytes(path.read_bytes().replace(b"A=1", b"A=2"))
    (finding,) = fsck.check(store).findings
    assert (finding.place, finding.images) == (f"prepared/{image.digest.hex}", ("app:latest",))
    assert check_and_mend(store).damaged == ()
    assert not path.exists()
    prepare(store, "app")
    whole(store)


def test_what_is_stale_is_not_damaged(store: Store) -> None:
    image = put_image(store, "app", FILES)
    prepare(store, "app")
    path = Path(f"{store.root}/prepared/{image.digest.hex}")
    fields = path.read_bytes().split(b"\0")
    path.write_bytes(b"\0".join([fields[0], b"another boot", *fields[2:]]))
    Path(f"{store.root}/references").write_text("1 2 3 4\nnonsense")
    whole(store)


def test_a_check_keeps_what_it_reads_from_being_deleted(store: Store) -> None:
    image = put_image(store, "app", FILES)
    other = Store.open(store.root)

    def delete(part: str) -> None:
        if part == "blobs":
            other.references.forget([image.digest])
            assert gc(other).gone == ()

    assert fsck.check(store, progress=delete).findings == ()
    assert len(gc(other).gone) >= 3


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_machine_that_has_nothing_left_is_no_damage_and_nothing_is_mended(
    store: Store, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(store, "app", FILES)
    prepare(store, "app")
    before = store.references.all()
    real = os.open
    for limit in range(60):
        left = iter(range(limit))

        def starved(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None, left: Iterator[int] = left) -> int:
            if next(left, None) is None:
                raise OSError(error, os.strerror(error), path)
            return real(path, flags, mode, dir_fd=dir_fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", starved)
            try:
                found = check_and_mend(store).findings
            except (StoreError, OSError) as err:
                assert os.strerror(error).lower() in str(err).lower()
            else:
                assert found == ()
        assert store.references.all() == before
    assert not os.path.exists(f"{store.root}/index.json.damaged")
    whole(store)
