"""Images as one file: saved for everyone, loaded from everyone, with the same digest."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard

from store import fsck
from store.archive import load, load_directory, save
from store.collect import delete_image, gc
from store.digest import OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor, Digest
from store.documents import canonical
from store.errors import BlobCorrupt, StoreError
from store.images import host_architecture, stack
from store.layout import Store
from tests.store import seen
from tests.store.samples import CONFIG, compressed, damage, layer_tar, names, put_image

BIG = bytes(range(256)) * 5000


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "other"))


def saved(store: Store, *texts: str) -> bytes:
    target = io.BytesIO()
    save(store, texts, target)
    return target.getvalue()


def loaded(store: Store, data: bytes) -> dict[str | None, Digest]:
    return {name: descriptor.digest for name, descriptor in load(store, io.BytesIO(data))}


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def archive(files: Mapping[str, bytes | str]) -> bytes:
    """A tar of these files; a text is where a symbolic link leads."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


def test_what_is_saved_comes_back_with_the_same_digest_and_name(store: Store, other: Store) -> None:
    image = put_image(store, "team/app:1.2", {"a": b"1"}, {"big": BIG})
    assert loaded(other, saved(store, "team/app:1.2")) == {"team/app:1.2": image.digest}
    assert damage(other.root) == []
    with seen.shown(other, other.images.load(image).layers) as top:
        assert ((top / "big").read_bytes(), (top / "a").read_bytes()) == (BIG, b"1")


def test_several_images_and_names_travel_together(store: Store, other: Store) -> None:
    first, second = put_image(store, "first", {"a": b"1"}), put_image(store, "second", {"a": b"1"}, {"b": b"2"})
    store.references.set("again", first)
    data = saved(store, "second", "first", "again", "first:latest")
    assert loaded(other, data) == {"first:latest": first.digest, "again:latest": first.digest, "second:latest": second.digest}
    assert names(other) == names(store)


def test_an_image_saved_by_its_id_has_no_name_afterwards(store: Store, other: Store) -> None:
    image = put_image(store, "app", {"a": b"1"})
    assert loaded(other, saved(store, image.digest.hex[:12])) == {None: image.digest}
    assert other.references.resolve(image.digest.hex[:12]).descriptor.digest == image.digest


def test_the_same_images_give_the_same_bytes(store: Store, other: Store) -> None:
    put_image(store, "a", {"a": b"1"})
    put_image(store, "b", {"b": b"2"})
    first = saved(store, "a", "b")
    time.sleep(0.01)
    before = os.umask(0o077)
    try:
        put_image(other, "b", {"b": b"2"})
        put_image(other, "a", {"a": b"1"})
        assert saved(other, "b", "a:latest", "a") == first
    finally:
        os.umask(before)


def test_the_archive_holds_what_each_reader_looks_for(store: Store) -> None:
    image = store.images.load(put_image(store, "app:1", {"a": b"1"}))
    files = members(saved(store, "app:1"))
    layer = f"blobs/sha256/{image.layers[0].diff_id.hex}"
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads(files["index.json"])["manifests"][0]["annotations"] == {
        "org.opencontainers.image.ref.name": "app:1",
        "io.containerd.image.name": "docker.io/library/app:1",
    }
    assert json.loads(files["manifest.json"]) == [
        {"Config": f"blobs/sha256/{image.id.hex}", "RepoTags": ["app:1"], "Layers": [layer]}
    ]
    assert files[layer] == layer_tar({"a": b"1"})


@pytest.mark.parametrize("name", ["first", "team/app", "localhost/app", "r.example/app", "r:5000/app"])
def test_containerd_gets_the_name_with_its_registry(store: Store, name: str) -> None:
    put_image(store, name, {"a": b"1"})
    (item,) = json.loads(members(saved(store, name))["index.json"])["manifests"]
    expected = {"first": "docker.io/library/first", "team/app": "docker.io/team/app"}.get(name, name)
    assert item["annotations"]["io.containerd.image.name"] == f"{expected}:latest"


def test_a_damaged_blob_is_not_saved(store: Store) -> None:
    image = store.images.load(put_image(store, "app", {"big": BIG}))
    path = Path(store.blobs.path(image.layers[0].diff_id))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BlobCorrupt):
        saved(store, "app")


def test_a_full_disk_under_the_archive_is_said_to_be_full(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(StoreError, match="no space left"):
        save(store, ["app"], full)


COMPRESSIONS = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_archive_is_loaded_as_well(store: Store, other: Store, compression: str) -> None:
    image = put_image(store, "app", {"big": BIG})
    assert loaded(other, COMPRESSIONS[compression](saved(store, "app"))) == {"app:latest": image.digest}


@pytest.mark.parametrize("media_type", [OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
@pytest.mark.parametrize("content", [b"small", BIG], ids=["small", "big"])
def test_a_compressed_layer_keeps_its_blob_and_gains_its_tar(store: Store, other: Store, media_type: str, content: bytes) -> None:
    tar = layer_tar({"file": content})
    data = compressed(tar) if media_type == OCI_LAYER_GZIP else zstandard.compress(tar)
    blob = store.blobs.put_bytes(data, media_type)
    image = store.images.create(CONFIG, stack([(blob, Digest.of(tar))]))
    store.references.set("app", image)
    assert loaded(other, saved(store, "app")) == {"app:latest": image.digest}
    assert other.blobs.read(blob) == data
    assert [digest for digest, _ in other.tars.all()] == [Digest.of(tar)]
    assert damage(other.root) == []
    with seen.shown(other, other.images.load(image).layers) as top:
        assert (top / "file").read_bytes() == content


def test_an_oci_layout_directory_is_loaded(store: Store, other: Store) -> None:
    put_image(store, "a", {"a": b"1"})
    put_image(store, "b", {"big": BIG})
    assert {entry.name for entry in load_directory(other, store.root)} == {"a:latest", "b:latest"}
    assert names(other) == names(store)


def docker_archive(store: Store, text: str, **changes: object) -> dict[str, bytes | str]:
    """The image in the form of `docker save` before version 25: layers by invented names, equal ones as links."""
    image = store.images.load(store.references.resolve(text).descriptor)
    files: dict[str, bytes | str] = {}
    layers = []
    seen: dict[str, str] = {}
    for number, layer in enumerate(image.layers):
        folder = f"{number:064x}"
        if layer.diff_id in seen:
            files[f"{folder}/layer.tar"] = f"../{seen[layer.diff_id]}/layer.tar"
        else:
            seen[layer.diff_id] = folder
            files[f"{folder}/layer.tar"] = store.blobs.read(layer.descriptor, limit=1 << 30)
        files[f"{folder}/VERSION"] = b"1.0"
        layers.append(f"{folder}/layer.tar")
    files[f"{image.id.hex}.json"] = store.blobs.read(image.config_descriptor)
    item = {"Config": f"{image.id.hex}.json", "RepoTags": [text], "Layers": layers, **changes}
    files["manifest.json"] = json.dumps([item]).encode()
    files["repositories"] = b"{}"
    return files


def test_what_docker_saved_is_loaded_with_the_same_image_id(store: Store, other: Store) -> None:
    image = store.images.load(put_image(store, "app:1", {"a": b"1"}, {"big": BIG}, {"a": b"1"}))
    load(other, io.BytesIO(archive(docker_archive(store, "app:1"))))
    found = other.images.load(other.references.get("app:1"))
    assert (found.id, found.layers) == (image.id, image.layers)
    assert damage(other.root) == []


def test_what_docker_saved_under_two_names_or_none_is_loaded(store: Store, other: Store) -> None:
    image = put_image(store, "app:1", {"a": b"1"})
    assert set(loaded(other, archive(docker_archive(store, "app:1", RepoTags=["x:1", "y"])))) == {"x:1", "y:latest"}
    assert loaded(other, archive(docker_archive(store, "app:1", RepoTags=None))) == {None: image.digest}


def test_a_layer_that_docker_saved_compressed_is_loaded(store: Store, other: Store) -> None:
    put_image(store, "app:1", {"big": BIG})
    files = docker_archive(store, "app:1")
    layer = next(name for name in files if name.endswith("layer.tar"))
    tar = files[layer]
    assert isinstance(tar, bytes)
    files[layer] = compressed(tar)
    load(other, io.BytesIO(archive(files)))
    (found,) = other.images.load(other.references.get("app:1")).layers
    assert (found.descriptor.media_type, found.diff_id) == (OCI_LAYER_GZIP, Digest.of(tar))
    assert [digest for digest, _ in other.tars.all()] == [Digest.of(tar)]


def files_of(store: Store) -> dict[str, tuple[int, int]]:
    """Which file each blob and each tar is, and when it was written last."""
    found = {}
    for folder in ("blobs/sha256", "layers"):
        for name in os.listdir(f"{store.root}/{folder}"):
            status = os.stat(f"{store.root}/{folder}/{name}")
            found[f"{folder}/{name}"] = (status.st_ino, status.st_mtime_ns)
    return found


def written(written_to: int) -> int:
    """The bytes that this process has given to files so far."""
    with open("/proc/self/io") as file:
        return int(next(line for line in file if line.startswith("wchar:")).split()[1]) - written_to


def gzipped(store: Store, name: str, *contents: Mapping[str, bytes]) -> Descriptor:
    """An image whose layers are compressed."""
    plain = store.images.load(put_image(store, name, *contents)).layers
    layers = [
        (store.blobs.put_bytes(compressed(layer_tar(files)), OCI_LAYER_GZIP), layer.diff_id)
        for files, layer in zip(contents, plain, strict=True)
    ]
    made = store.images.create(CONFIG, stack(layers))
    store.references.set(name, made)
    return made


NOISE = random.Random(1).randbytes(3 << 20)


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_a_base_that_is_there_is_not_written_again(store: Store, other: Store, kind: str) -> None:
    put = put_image if kind == "plain" else gzipped
    put(store, "base", {"big": NOISE})
    put(store, "app", {"big": NOISE}, {"own": b"1"})
    loaded(other, saved(store, "base"))
    before, data = files_of(other), saved(store, "app", "base")
    bytes_before = written(0)
    loaded(other, data)
    assert written(bytes_before) < 200_000
    assert {name: there for name, there in files_of(other).items() if name in before} == before
    assert damage(other.root) == []


def test_a_base_that_podman_names_by_its_digest_is_not_written_again(store: Store, other: Store) -> None:
    put_image(store, "app:1", {"big": NOISE})
    files = docker_archive(store, "app:1")
    old = next(name for name in files if name.endswith("layer.tar") and isinstance(files[name], bytes))
    layer = Digest.of(files.pop(old)).hex  # type: ignore[arg-type]
    files[f"{layer}.tar"] = layer_tar({"big": NOISE})
    files["manifest.json"] = files["manifest.json"].replace(old.encode(), f"{layer}.tar".encode())  # type: ignore[union-attr, arg-type]
    loaded(other, archive(files))
    before = files_of(other)
    bytes_before = written(0)
    loaded(other, archive(files))
    assert written(bytes_before) < 200_000
    assert files_of(other) == before


def test_a_tar_that_is_there_as_a_blob_is_not_kept_twice(store: Store, other: Store) -> None:
    plain = put_image(other, "plain", {"big": NOISE})
    gzipped(store, "app", {"big": NOISE}, {"own": b"1"})
    loaded(other, saved(store, "app"))
    shared = other.images.load(plain).layers[0].diff_id
    assert shared not in [digest for digest, _ in other.tars.all()]
    image = other.images.load(other.references.get("app"))
    tree = other.snapshots.view(image.layers)
    try:
        assert seen.tree(f"/proc/self/fd/{tree}")[b"big"].content == hashlib.sha256(NOISE).digest()
    finally:
        os.close(tree)
    delete_image(other, "plain")
    gc(other)
    assert other.blobs.has(shared)  # the other image stands on it
    other.snapshots.delete(image.layers[0].chain_id)
    os.close(other.snapshots.view(image.layers))
    assert fsck.check(other).damaged == ()


@pytest.mark.parametrize("at", [0, 1 << 20, (3 << 20) + 100])
def test_a_damaged_blob_is_written_again_by_a_load(store: Store, other: Store, at: int) -> None:
    image = put_image(store, "app", {"big": NOISE})
    data = saved(store, "app")
    loaded(other, data)
    blob = Path(other.blobs.path(other.images.load(image).layers[0].diff_id))
    damaged = bytearray(blob.read_bytes())
    damaged[at] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(damaged)
    assert damage(other.root) != []
    loaded(other, data)
    assert damage(other.root) == []
    blob.write_bytes(damaged[:-512])
    loaded(other, data)
    assert damage(other.root) == []


def test_a_compressed_layer_that_is_not_what_the_config_says_is_refused_beside_one_that_is(store: Store, other: Store) -> None:
    """Its diff_id is known already, from another layer of the archive or of the store."""
    right = store.images.load(gzipped(store, "right", {"big": BIG})).layers[0]
    wrong = store.blobs.put_bytes(gzip.compress(layer_tar({"big": BIG[1:]}), mtime=0), OCI_LAYER_GZIP)
    store.references.set("wrong", store.images.create(CONFIG, stack([(wrong, right.diff_id)])))
    for names_saved in (["right", "wrong"], ["wrong"]):
        before = files_of(other)
        with pytest.raises(BlobCorrupt):
            load(other, io.BytesIO(saved(store, *names_saved)))
        assert files_of(other) == before
        loaded(other, saved(store, "right"))


SPELLINGS: dict[str, tuple[dict[str, str], str | None]] = {
    "box and podman": ({"ref": "localhost/app:1"}, "localhost/app:1"),
    "docker": ({"ref": "1.2", "containerd": "docker.io/library/app:1.2"}, "app:1.2"),
    "docker, a team's": ({"ref": "1.2", "containerd": "docker.io/team/app:1.2"}, "team/app:1.2"),
    "docker, a registry's": ({"ref": "1", "containerd": "r.example/app:1"}, "r.example/app:1"),
    "umoci": ({"ref": "app"}, "app:latest"),
    "nothing": ({}, None),
    "no name at all": ({"ref": "1.0 Final!"}, None),
    "several lines": ({"ref": "app:1\nevil:1 x"}, None),
}


@pytest.mark.parametrize("who", SPELLINGS)
def test_each_tools_way_to_write_a_name_is_understood(store: Store, other: Store, who: str) -> None:
    put_image(store, "was", {"a": b"1"})
    keys = {"ref": "org.opencontainers.image.ref.name", "containerd": "io.containerd.image.name"}
    written, expected = SPELLINGS[who]
    files: dict[str, bytes | str] = dict(members(saved(store, "was")))
    index = json.loads(files["index.json"])
    index["manifests"][0]["annotations"] = {keys[key]: value for key, value in written.items()}
    files["index.json"] = json.dumps(index).encode()
    assert list(loaded(other, archive(files))) == [expected]


def test_of_an_image_for_several_platforms_this_machines_is_loaded(store: Store, other: Store) -> None:
    mine, strange = put_image(store, "mine", {"a": b"1"}), put_image(store, "strange", {"a": b"2"})
    files: dict[str, bytes | str] = dict(members(saved(store, "mine", "strange")))
    inner = canonical(
        {
            "schemaVersion": 2,
            "manifests": [
                {**strange.to_json(), "platform": {"os": "linux", "architecture": "vax"}},
                {**mine.to_json(), "platform": {"os": "linux", "architecture": host_architecture()}},
            ],
        }
    )
    files[f"blobs/sha256/{Digest.of(inner).hex}"] = inner
    outer = {"mediaType": OCI_INDEX, "digest": Digest.of(inner), "size": len(inner)}
    outer["annotations"] = {"org.opencontainers.image.ref.name": "app:1"}
    files["index.json"] = canonical({"schemaVersion": 2, "manifests": [outer]})
    assert loaded(other, archive(files)) == {"app:1": mine.digest}


def test_a_large_archive_is_loaded_with_little_memory(store: Store, tmp_path: Path) -> None:
    with store.blobs.draft() as draft:
        for _ in range(300):
            draft.write(bytes(1 << 20))
        blob = draft.commit("application/vnd.oci.image.layer.v1.tar")
    store.references.set("app", store.images.create(CONFIG, stack([(blob, blob.digest)])))
    with open(tmp_path / "app.tar", "wb", buffering=0) as target:
        save(store, ["app"], target)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from store.layout import Store; from store.archive import load;"
        "load(Store.open(sys.argv[2]), open(sys.argv[3], 'rb', buffering=0)); print(open('/proc/self/status').read())"
    )
    command = [sys.executable, "-I", "-c", program, os.getcwd(), str(tmp_path / "small"), str(tmp_path / "app.tar")]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    assert peak < 60_000  # kilobytes, the interpreter's included


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_skopeo_reads_what_is_saved(store: Store, tmp_path: Path, transport: str) -> None:
    image = store.images.load(put_image(store, "team/app:1.2", {"a": b"1"}, {"big": BIG}))
    (tmp_path / "app.tar").write_bytes(saved(store, "team/app:1.2"))
    subprocess.run(
        ["skopeo", "copy", "-q", "--insecure-policy", f"{transport}:{tmp_path}/app.tar:team/app:1.2", f"dir:{tmp_path}/out"],
        check=True,
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["config"]["digest"] == image.id
    assert (tmp_path / "out" / image.layers[1].diff_id.hex).read_bytes() == layer_tar({"big": BIG})


@pytest.mark.needs("skopeo")
def test_skopeo_reads_the_store_itself(store: Store, tmp_path: Path) -> None:
    image = put_image(store, "team/app:1.2", {"a": b"1"})
    put_image(store, "other", {"a": b"2"})
    subprocess.run(
        ["skopeo", "copy", "-q", "--insecure-policy", f"oci:{store.root}:team/app:1.2", f"dir:{tmp_path}/out"], check=True
    )
    assert Digest.of((tmp_path / "out" / "manifest.json").read_bytes()) == image.digest


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_what_skopeo_writes_is_loaded(store: Store, other: Store, tmp_path: Path, transport: str) -> None:
    image = store.images.load(put_image(store, "team/app:1.2", {"a": b"1"}, {"big": BIG}))
    subprocess.run(
        [
            "skopeo",
            "copy",
            "-q",
            "--insecure-policy",
            f"oci:{store.root}:team/app:1.2",
            f"{transport}:{tmp_path}/app.tar:team/app:1.2",
        ],
        check=True,
    )
    with open(tmp_path / "app.tar", "rb", buffering=0) as source:
        ((name, descriptor),) = load(other, source)
    assert name in ("team/app:1.2", "docker.io/team/app:1.2")
    assert [layer.diff_id for layer in other.images.load(descriptor).layers] == [layer.diff_id for layer in image.layers]
    assert damage(other.root) == []
