"""Image archives for the benchmarks: one layer, as it lies in a file, and what OCI wants around it."""

import hashlib
import io
import json
import os
import platform
import tarfile

from bench.place import Place

_MEDIA = {"tar": "", "tar.gz": "+gzip", "tar.zst": "+zstd"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NAME = "debian:bench"


def oci_archive(place: Place, suffix: str) -> str:
    """The Debian root file system as an image, in an OCI archive whose layer is `debian.SUFFIX`. Made once a run."""
    path = f"{place.scratch}/image-{suffix}.tar"
    if os.path.exists(path):
        return path
    layer = place.debian(suffix)
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config = _bytes(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(place.debian("tar"))]},
        }
    )
    manifest = _bytes(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _described("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": f"application/vnd.oci.image.layer.v1.tar{_MEDIA[suffix]}",
                    "digest": _digest(layer),
                    "size": os.path.getsize(layer),
                }
            ],
        }
    )
    entry = _described("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    index = _bytes({"schemaVersion": 2, "manifests": [entry]})
    with tarfile.open(path + ".draft", "w") as archive:
        for name, data in (("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index)):
            _add(archive, name, data)
        for data in (config, manifest):
            _add(archive, f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
        archive.add(layer, f"blobs/sha256/{_digest(layer).partition(':')[2]}")
    os.rename(path + ".draft", path)
    return path


def docker_archive(place: Place) -> str:
    """The same, with the plain tar, as `docker save` writes it."""
    path = f"{place.scratch}/docker.tar"
    if os.path.exists(path):
        return path
    layer = place.debian("tar")
    config = _bytes(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    name = hashlib.sha256(config).hexdigest() + ".json"
    with tarfile.open(path + ".draft", "w") as archive:
        archive.add(layer, "layer/layer.tar")
        _add(archive, name, config)
        _add(archive, "manifest.json", _bytes([{"Config": name, "RepoTags": [NAME], "Layers": ["layer/layer.tar"]}]))
    os.rename(path + ".draft", path)
    return path


def layered_archive(place: Place, base: str, layers: int) -> str:
    """An OCI archive of `layers` layers, a few files each, on top of the one in the tar at `base`."""
    path = f"{place.scratch}/layers-{layers}.tar"
    tars = [base]
    for number in range(1, layers):
        tar = f"{place.scratch}/layer-{number}.tar"
        with tarfile.open(tar, "w") as archive:
            for name in ("srv", f"srv/{number}"):
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            for file in range(20):
                _add(archive, f"srv/{number}/{file}", b"%d\n" % number * 100)
        tars.append(tar)
    config = _bytes(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        }
    )
    name = hashlib.sha256(config).hexdigest() + ".json"
    with tarfile.open(path, "w") as archive:
        for number, tar in enumerate(tars):
            archive.add(tar, f"{number}/layer.tar")
        _add(archive, name, config)
        listed = [f"{number}/layer.tar" for number in range(len(tars))]
        _add(archive, "manifest.json", _bytes([{"Config": name, "RepoTags": [f"layers:{layers}"], "Layers": listed}]))
    return path


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def _described(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
