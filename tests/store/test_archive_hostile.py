"""Archives that lie: each is refused, and the store is as it was.

Each attack has its control: the same archive without the lie is loaded (`test_the_archive_without_a_lie_is_loaded`), so that what
is refused is the lie and not the test's own clumsiness.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.archive import load, load_directory
from store.digest import DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Digest
from store.documents import canonical
from store.errors import StoreError
from store.images import LAYER_LIMIT
from store.layout import Store
from tests.store.samples import compressed, damage, layer_tar, put_image
from tests.store.test_archive import archive, docker_archive, members, saved

Files = dict[str, bytes | str]
SECRET = b"a secret of this machine"


@pytest.fixture
def target(tmp_path: Path) -> Store:
    """The store under attack; it has an image already."""
    store = Store.open(str(tmp_path / "target"))
    put_image(store, "app", {"mine": b"mine"})
    return store


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def _state(store: Store) -> dict[str, bytes]:
    skipped = ("drafts", "probed")
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in Path(store.root).rglob("*")
        if path.is_file() and path.relative_to(store.root).parts[0] not in skipped
    }


def _refused(target: Store, data: bytes, reason: str) -> None:
    before = _state(target)
    with pytest.raises(StoreError, match=reason):
        load(target, io.BytesIO(data))
    assert _state(target) == before
    assert os.listdir(target.drafts.path) == []
    assert damage(target.root) == []


def _blob(files: Files, data: bytes) -> dict[str, Any]:
    digest = Digest.of(data)
    files[f"blobs/sha256/{digest.hex}"] = data
    return {"digest": str(digest), "size": len(data)}


class Lie:
    """An OCI archive of one image whose parts can be changed before they are sealed by digests."""

    def __init__(self) -> None:
        tar = layer_tar({"a": b"1"})
        self.files: Files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.layers = [{"mediaType": OCI_LAYER_GZIP, **_blob(self.files, compressed(tar))}]
        self.config: Any = {
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar))]}
        }  # fmt: skip
        self.manifest: Any = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": self.layers}
        self.annotations = {"org.opencontainers.image.ref.name": "app:latest"}
        self.descriptor: dict[str, Any] = {}

    def seal(self) -> Files:
        config = {"mediaType": OCI_CONFIG, **_blob(self.files, canonical(self.config))}
        self.manifest.setdefault("config", config)
        given = {"mediaType": OCI_MANIFEST, **_blob(self.files, canonical(self.manifest)), "annotations": self.annotations}
        given.update(self.descriptor)
        self.files.setdefault("index.json", canonical({"schemaVersion": 2, "manifests": [given]}))
        return self.files


def test_the_archive_without_a_lie_is_loaded(target: Store) -> None:
    ((name, _),) = load(target, io.BytesIO(archive(Lie().seal())))
    assert name == "app:latest"
    assert damage(target.root) == []


def _index_with(lie: Lie, change: Callable[[dict[str, Any]], object]) -> Files:
    index = json.loads(bytes(lie.seal()["index.json"]))  # type: ignore[arg-type]  # never a link here
    change(index)
    lie.files["index.json"] = canonical(index)
    return lie.files


def _changed(act: Callable[[Lie], object]) -> Callable[[], Files]:
    def make() -> Files:
        lie = Lie()
        act(lie)
        return lie.seal()

    return make


def _after(act: Callable[[Files], object]) -> Callable[[], Files]:
    def make() -> Files:
        files = Lie().seal()
        act(files)
        return files

    return make


def _layer_name(files: Files) -> str:
    return next(name for name, data in files.items() if isinstance(data, bytes) and data.startswith(b"\x1f\x8b"))


def _nested(lie: Lie) -> None:
    lie.seal()
    inner = lie.files.pop("index.json")
    assert isinstance(inner, bytes)
    for _ in range(20):
        given = {"mediaType": OCI_INDEX, **_blob(lie.files, inner)}
        inner = canonical({"schemaVersion": 2, "manifests": [{**given, "mediaType": OCI_INDEX}]})
    lie.files["index.json"] = inner


OCI_LIES: dict[str, tuple[Callable[[], Files], str]] = {
    "a blob that does not match its name": (
        _after(lambda files: files.update({_layer_name(files): compressed(layer_tar({"a": b"2"}))})),
        "is damaged",
    ),
    "a blob whose name is no digest": (_after(lambda files: files.update({"blobs/sha256/../../evil": b""})), "leads upwards"),
    "a blob whose name is too short": (_after(lambda files: files.update({"blobs/sha256/12": b""})), "not named by a digest"),
    "a layer that is not there": (_after(lambda files: files.pop(_layer_name(files))), "does not have it"),
    "a layer of another diff_id": (
        _changed(lambda lie: lie.config["rootfs"].update(diff_ids=[str(Digest.of(b"other"))])),
        "is damaged",
    ),
    "a layer that is no gzip": (
        _changed(lambda lie: lie.layers[0].update(_blob(lie.files, b"\x1f\x8bnonsense" * 99))),
        "damaged|cut short",
    ),
    "a layer that is cut short": (
        _changed(lambda lie: lie.layers[0].update(_blob(lie.files, compressed(layer_tar({"a": b"1" * 9999}))[:-30]))),
        "damaged|cut short",
    ),
    "a plain layer whose diff_id is another's": (
        _changed(lambda lie: lie.layers[0].update(mediaType="application/vnd.oci.image.layer.v1.tar")),
        "is damaged",
    ),
    "a size that is too large": (_changed(lambda lie: lie.layers[0].update(size=lie.layers[0]["size"] + 1)), "long"),
    "a size that is too small": (_changed(lambda lie: lie.layers[0].update(size=1)), "long"),
    "a manifest's size that is wrong": (_changed(lambda lie: lie.descriptor.update(size=3)), "long"),
    "a negative size": (_changed(lambda lie: lie.layers[0].update(size=-1)), "size is -1"),
    "a digest that is a path": (
        _changed(lambda lie: lie.layers[0].update(digest="sha256:../../../../etc/passwd")),
        "not a sha256 digest",
    ),
    "another digest's algorithm": (_changed(lambda lie: lie.layers[0].update(digest="md5:" + "0" * 32)), "not a sha256 digest"),
    "a foreign layer": (
        _changed(
            lambda lie: lie.layers[0].update(
                mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=["http://169.254.169.254/"]
            )
        ),
        "not known",
    ),
    "a manifest that is an index too": (_changed(lambda lie: lie.manifest.update(manifests=[])), "something else"),
    "too many layers": (_changed(lambda lie: lie.manifest.update(layers=lie.layers * (LAYER_LIMIT + 1))), "limit is 500"),
    "fewer diff_ids than layers": (_changed(lambda lie: lie.manifest.update(layers=lie.layers * 2)), "names 1 layers"),
    "a manifest that is something else": (_changed(lambda lie: lie.descriptor.update(mediaType="text/html")), "not known"),
    "no image": (lambda: _index_with(Lie(), lambda index: index.update(manifests=[])), "no image in it"),
    "indexes without end": (_changed(_nested), "has no image for"),
    "an index with a key twice": (
        _after(lambda files: files.update({"index.json": b'{"manifests":[],' + bytes(files["index.json"])[1:]})),  # type: ignore[arg-type]
        "twice",
    ),
    "an index that is too large": (_after(lambda files: files.update({"index.json": b" " * (5 << 20)})), "too large"),
    "an index that is too deep": (_after(lambda files: files.update({"index.json": b'{"a":' * 9999})), "deeply"),
    "a manifest that is too large": (
        _changed(lambda lie: lie.manifest.update(annotations={"x": "y" * (5 << 20)})),
        "too large",
    ),
    "an index that is a link": (_after(lambda files: files.update({"index.json": "SECRET"})), "symbolic link"),
    "a layout file that is a link": (_after(lambda files: files.update({"oci-layout": "SECRET"})), "symbolic link"),
    "a blob that is a link": (_after(lambda files: files.update({_layer_name(files): "SECRET"})), "symbolic link"),
    "a blob's directory that is a link": (_after(lambda files: files.update({"blobs/sha256": "SECRET"})), "symbolic link"),
    "neither index.json nor manifest.json": (lambda: {"readme": b"hello"}, "no image archive"),
    "nothing at all": (dict, "no image archive"),
}


@pytest.mark.parametrize("name", OCI_LIES)
def test_a_lying_oci_archive_is_refused(target: Store, secret: Path, name: str) -> None:
    make, reason = OCI_LIES[name]
    files = {key: str(secret) if data == "SECRET" else data for key, data in make().items()}
    _refused(target, archive(files), reason)


def _docker(store: Store, **changes: object) -> Files:
    put_image(store, "app:1", {"a": b"1"})
    return docker_archive(store, "app:1", **changes)


DOCKER_LIES: dict[str, tuple[dict[str, object], Callable[[Files], object], str]] = {
    "a config outside": ({"Config": "../../../etc/passwd"}, lambda files: None, "leads out of it"),
    "an absolute config": ({"Config": "/etc/passwd"}, lambda files: None, "has no file"),
    "a config through a link": ({"Config": "link"}, lambda files: files.update(link="SECRET"), "has no file"),
    "a layer outside": ({"Layers": ["../secret"]}, lambda files: None, "leads out of it"),
    "a layer through an absolute link": ({"Layers": ["x/l.tar"]}, lambda files: files.update({"x/l.tar": "SECRET"}), "no file"),
    "a layer through a link that leads out": (
        {"Layers": ["x/layer.tar"]}, lambda files: files.update({"x/layer.tar": "../../secret"}), "leads out of it",
    ),
    "a layer that links to itself": ({"Layers": ["x"]}, lambda files: files.update(x="x"), "no file"),
    "layers that link to each other": ({"Layers": ["x"]}, lambda files: files.update(x="y", y="x"), "no file"),
    "a layer that is missing": ({"Layers": ["none"]}, lambda files: None, "no file"),
    "one layer too few": ({"Layers": []}, lambda files: None, "names 1 layers"),
    "a layer of another diff_id": ({"Layers": ["other"]}, lambda files: files.update(other=layer_tar({"b": b"2"})), "is damaged"),
    "a name of several lines": ({"RepoTags": ["app:1\nevil:1 x"]}, lambda files: None, "not an image name"),
    "a name that is an option": ({"RepoTags": ["--root=/"]}, lambda files: None, "not an image name"),
    "a name that leads upwards": ({"RepoTags": ["../x"]}, lambda files: None, "not an image name"),
    "names that are no list": ({"RepoTags": "app:1"}, lambda files: None, "not a list"),
    "a config that is no text": ({"Config": 1}, lambda files: None, "not a string"),
    "a manifest that is a link": ({}, lambda files: files.update({"manifest.json": "SECRET"}), "symbolic link"),
    "a manifest that is no list of objects": ({}, lambda files: files.update({"manifest.json": b"[1]"}), "list of objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCKER_LIES)
def test_a_lying_docker_archive_is_refused(store: Store, target: Store, secret: Path, name: str) -> None:
    changes, act, reason = DOCKER_LIES[name]
    files = _docker(store, **changes)
    act(files)
    _refused(target, archive({key: str(secret) if data == "SECRET" else data for key, data in files.items()}), reason)


def test_the_naive_way_falls_to_a_linked_layer(store: Store, secret: Path, tmp_path: Path) -> None:
    """The control: unpacking the archive and opening what manifest.json names reads the host's file."""
    files = _docker(store, Layers=["x/layer.tar"])
    files["x/layer.tar"] = str(secret)
    for name, data in files.items():
        path = tmp_path / "naive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(data) if isinstance(data, str) else path.write_bytes(data)
    (item,) = json.loads((tmp_path / "naive" / "manifest.json").read_bytes())
    assert (tmp_path / "naive" / item["Layers"][0]).read_bytes() == SECRET


def _raw(*items: tuple[str, bytes, str, bytes]) -> bytes:
    """A tar of (name, type, link, content), with names twice where they stand twice."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, kind, link, data in items:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_neither_file_nor_directory_is_refused(target: Store, secret: Path, kind: bytes) -> None:
    _refused(target, _raw(("blobs/sha256/" + "0" * 64, kind, str(secret)[1:], b"")), "neither a file nor a directory")


@pytest.mark.parametrize("names", [("index.json", "index.json"), ("index.json", "./index.json"), ("x", "/x"), ("a/b", "a//b")])
def test_two_members_of_one_name_are_refused(target: Store, names: tuple[str, str]) -> None:
    _refused(target, _raw(*((name, tarfile.REGTYPE, "", b"{}") for name in names)), "two members")


def test_an_archive_is_refused_wherever_it_is_cut(store: Store, target: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    data = saved(store, "app").rstrip(b"\0")
    for length in range(0, len(data), 512):
        before = _state(target)
        with pytest.raises(StoreError):
            load(target, io.BytesIO(data[:length]))
        assert _state(target) == before


@pytest.mark.parametrize("media_type", [OCI_LAYER_GZIP, DOCKER_LAYER_GZIP, OCI_LAYER_ZSTD])
def test_a_layer_that_grows_without_end_is_refused(target: Store, monkeypatch: pytest.MonkeyPatch, media_type: str) -> None:
    import zstandard

    from store import decompress

    monkeypatch.setattr(decompress.open_stream, "__defaults__", (decompress.Bounds(total=64 << 20, ratio=200, floor=1 << 20),))
    lie = Lie()
    bomb = bytes(32 << 20)
    data = zstandard.compress(bomb) if media_type == OCI_LAYER_ZSTD else compressed(bomb)
    lie.layers[0].update(mediaType=media_type, **_blob(lie.files, data))
    lie.config["rootfs"]["diff_ids"] = [str(Digest.of(bomb))]
    _refused(target, archive(lie.seal()), "decompresses|grows|larger|times|limit")


def test_too_many_members_are_refused(target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.archive_members.ENTRY_LIMIT", 50)
    _refused(target, archive({f"f{number}": b"" for number in range(60)}), "more than 50 entries")


def test_small_members_do_not_fill_the_memory(target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.archive_members.SMALL_TOTAL", 100)
    load(target, io.BytesIO(archive(Lie().seal())))
    assert damage(target.root) == []


@pytest.mark.parametrize("what", ["blob", "index", "folder", "fifo"])
def test_a_layout_directory_with_links_in_it_is_refused(store: Store, target: Store, secret: Path, what: str) -> None:
    image = store.images.load(put_image(store, "app", {"a": b"1"}))
    blob = Path(store.blobs.path(image.layers[0].diff_id))
    if what == "folder":
        Path(store.root, "blobs", "sha256").rename(secret.parent / "elsewhere")
        Path(store.root, "blobs", "sha256").symlink_to(secret.parent / "elsewhere")
    else:
        path = Path(store.root, "index.json") if what == "index" else blob
        path.rename(secret.parent / "moved")
        os.mkfifo(path) if what == "fifo" else path.symlink_to(secret.parent / "moved")
    before = _state(target)
    with pytest.raises(StoreError):
        load_directory(target, store.root)
    assert _state(target) == before
    assert members(saved(target, "app"))
