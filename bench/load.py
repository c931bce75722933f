"""An image archive to an image that can run, both digests of its layer verified, durable: against docker, podman, and GNU tar,
which verifies nothing and makes no image. Each sample works on a file system of its own, made anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from bench import tables
from bench.archives import docker_archive, oci_archive
from bench.docker import Docker
from bench.place import Place, say
from bench.podman import Podman
from bench.timing import Contestant, Failed, Result, paired, process
from bench.unpack import Disk

ROUNDS = 5
_OURS = "box load"
_OPTIONS = {"tar": "-xf", "tar.gz": "-xzf", "tar.zst": "--zstd -xf"}
_GOALS = {"tar": 0.85, "tar.gz": 0.4, "tar.zst": 0.85}


def measure(place: Place, rounds: int) -> Iterator[str]:
    """A table for each kind of compression."""
    disk = Disk(place.scratch)
    try:
        for suffix, options in _OPTIONS.items():
            archive = docker_archive(place) if suffix == "tar" else oci_archive(place, suffix)
            layer = place.debian(suffix)
            for path in (archive, layer):
                with open(path, "rb") as file:  # into the page cache
                    while file.read(1 << 20):
                        pass
            say(f"loading {os.path.basename(archive)}")
            tar = f"tar {options}"
            extraction = [*tar.split(), layer, "-C", f"{disk.directory}/tree"]
            load = process([place.box()[0], "--root", f"{disk.directory}/box", "load", "-i", archive])
            contestants = [Contestant(_OURS, load, disk.renew), Contestant(tar, process(extraction), disk.renew)]
            podman = _Podman(disk)
            contestants.append(Contestant("podman load", podman.sampler(archive), podman.renew))
            docker = _Docker(disk)
            if suffix == "tar":  # the only kind that this docker reads
                contestants.append(Contestant("docker load", docker.sampler(archive), docker.renew))
            try:
                results: dict[str, Result] = paired(contestants, rounds, warm_up=1)
            finally:
                docker.close()
            goals = {tar: _GOALS[suffix], "podman load": 0.25, "docker load": 0.2}
            yield tables.comparison(
                f"load: an image of debian.{suffix} ({os.path.getsize(layer) // 1_000_000} MB), {disk.kind}",
                _OURS,
                results,
                goals,
            )
    finally:
        disk.close()


class _Podman:
    """podman with its store on the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._directory = f"{disk.directory}/podman"

    def renew(self) -> None:
        self._disk.renew()
        self._podman = Podman(self._directory, isolated=True)

    def sampler(self, archive: str) -> Callable[[], float]:
        def sample() -> float:
            return process(self._podman.command("load", "-q", "-i", archive))()

        return sample


class _Docker:
    """A daemon with its data on the disk, started before each sample."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._docker: Docker | None = None

    def renew(self) -> None:
        self._disk.renew()
        self._docker = Docker(f"{self._disk.directory}/docker")

    def sampler(self, archive: str) -> Callable[[], float]:
        def sample() -> float:
            if self._docker is None:
                raise Failed("dockerd did not start")
            try:
                return process(self._docker.command("load", "-q", "-i", archive))()
            finally:
                self.close()

        return sample

    def close(self) -> None:
        """End the daemon, so that the disk can be unmounted."""
        docker, self._docker = self._docker, None
        if docker is not None:
            docker.close()
