"""What layers cost once they are there: deleting one, reading an image from a cold disk, starting from forty, sharing one,
and indexing very many files."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator

from bench import tables
from bench.archives import docker_archive, layered_archive
from bench.place import Place, run, say
from bench.timing import ENVIRONMENT, Contestant, Result, calls, paired, process
from bench.unpack import Disk

ROUNDS = 7
_LAYERS = 40
_FILES = 50_000
_SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def measure(place: Place, rounds: int) -> Iterator[str]:
    """A table each."""
    disk = Disk(place.scratch)
    try:
        yield from _delete(place, disk, rounds)
        yield from _read(place, disk, rounds)
    finally:
        disk.close()
    yield from _start(place, rounds)
    yield _share(place)
    yield from _index(place)


def _delete(place: Place, disk: Disk, rounds: int) -> Iterator[str]:
    from store.collect import delete_image
    from store.layout import Store

    say("deleting a layer")
    archive, tar = docker_archive(place), place.debian("tar")
    root, tree = f"{disk.directory}/box", f"{disk.directory}/tree"

    def loaded() -> None:
        disk.renew()
        run([place.box()[0], "--root", root, "load", "-i", archive])
        os.sync()

    def extracted() -> None:
        disk.renew()
        run(["tar", "-xf", tar, "-C", tree])
        os.sync()

    results: dict[str, Result] = paired(
        [
            Contestant("box", calls(lambda: delete_image(Store.open(root), "debian:bench")), loaded),
            Contestant("rm -rf", process(["rm", "-rf", tree]), extracted),
            Contestant("box rmi (the whole process)", process([place.box()[0], "--root", root, "rmi", "debian:bench"]), loaded),
        ],
        rounds,
        warm_up=1,
    )
    yield tables.comparison(f"delete: an image of one layer, or its tree, {disk.kind}", "box", results, {"rm -rf": 0.15})


def _read(place: Place, disk: Disk, rounds: int) -> Iterator[str]:
    say("reading from a cold disk")
    disk.renew()
    root, tree, mount = f"{disk.directory}/box", f"{disk.directory}/tree", f"{place.scratch}/mount"
    run([place.box()[0], "--root", root, "load", "-i", docker_archive(place)])
    run(["tar", "-xf", place.debian("tar"), "-C", tree])
    os.makedirs(mount, exist_ok=True)
    run([place.box()[0], "--root", root, "mount", "debian:bench", mount])

    def cold() -> None:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")

    try:
        results: dict[str, Result] = paired(
            [
                Contestant("mounted by box", calls(lambda: _read_all(mount)), cold),
                Contestant("tree on ext4", calls(lambda: _read_all(tree)), cold),
            ],
            rounds,
            warm_up=1,
        )
    finally:
        run([place.box()[0], "--root", root, "umount", mount])
    yield tables.comparison("read: every file of the image, nothing cached", "mounted by box", results, {"tree on ext4": 0.35})


def _read_all(directory: str) -> None:
    """Read every file, in the order of their names."""
    buffer = bytearray(1 << 20)
    for here, below, names in os.walk(directory):
        below.sort()
        for name in sorted(names):
            path = f"{here}/{name}"
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            file = os.open(path, os.O_RDONLY)
            while os.readv(file, [buffer]):
                pass
            os.close(file)


def _start(place: Place, rounds: int) -> Iterator[str]:
    say(f"starting from {_LAYERS} layers")
    for layers in (1, _LAYERS):
        run(place.box("load", "-i", layered_archive(place, place.debian("tar"), layers)))
    many, one = f"{_LAYERS} layers", "1 layer"
    results: dict[str, Result] = paired(
        [
            Contestant(many, process(place.box("run", "--rm", f"layers:{_LAYERS}", "/bin/true"))),
            Contestant(one, process(place.box("run", "--rm", "layers:1", "/bin/true"))),
        ],
        rounds * 5,
    )
    yield tables.comparison("start: box run --rm, of an image of", many, results, {one: 1.1})


def _share(place: Place) -> str:
    root = f"{place.scratch}/share"
    before: list[int] = []
    for layers in (1, 2):
        run([place.box()[0], "--root", root, "load", "-i", layered_archive(place, place.debian("tar"), layers)])
        run([place.box()[0], "--root", root, "run", "--rm", f"layers:{layers}", "/bin/true"])
        before.append(sum(_size(f"{root}/{name}") for name in ("blobs", "layers", "indexes", "snapshots", "prepared")))
    base = os.path.getsize(place.debian("tar"))
    own = os.path.getsize(f"{place.scratch}/layer-1.tar")
    shutil.rmtree(root)
    return (
        "\nshare: a second image on the same base\n"
        f"  the base's tar {base:,} bytes, the second image's own layer {own:,}; the store grew by {before[1] - before[0]:,}"
    )


def _size(directory: str) -> int:
    return sum(os.path.getsize(f"{here}/{name}") for here, _, names in os.walk(directory) for name in names)


_INDEX = """
import gc, io, resource, sys, time
sys.path.insert(0, sys.argv[1])
from store.erofs_format import BLOCK, FIRST_BLOCK, Device
from store.erofs_tree import LayerTree
from store.erofs_write import build_index
from store.flow import Flow
from store.tar_read import TarReader
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with io.FileIO(sys.argv[2]) as source:
    whole = memoryview(source.readall()) if sys.argv[3] == "time" else None
best = 1e9
for turn in range(5 if whole is not None else 1):
    tree = LayerTree(None, None, base=FIRST_BLOCK * BLOCK)
    if whole is not None:
        chunks = iter([whole[at : at + (1 << 20)] for at in range(0, len(whole), 1 << 20)])
        gc.disable()
        began = time.perf_counter()
        count = tree.take(TarReader(lambda: next(chunks, None)))
    else:
        began = time.perf_counter()
        with io.FileIO(sys.argv[2]) as source, Flow(source.readinto) as flow:
            count = tree.take(TarReader(flow.feed))
            flow.finish()
    data = build_index(tree.finish(None), [Device(b"", 1 << 20, FIRST_BLOCK)], lowest=True)
    best = min(best, time.perf_counter() - began)
print(count, best, peak() - before, len(data))
"""


def _index(place: Place) -> Iterator[str]:
    say(f"indexing {_FILES} files")
    many, large = f"{place.scratch}/many.tar", f"{place.scratch}/large.tar"
    with tarfile.open(many, "w") as archive:
        for number in range(_FILES):
            info = tarfile.TarInfo(f"usr/lib/node_modules/package-{number // 100}/lib/file-{number}.js")
            info.size = 64
            archive.addfile(info, _Zeros(64))
    with tarfile.open(large, "w") as archive:
        info = tarfile.TarInfo("large")
        info.size = 1 << 30
        archive.addfile(info, _Zeros(1 << 30))
    count, seconds, _, _ = _indexed(many, "time")
    _, _, memory, size = _indexed(many, "memory")
    _, _, constant, _ = _indexed(large, "memory")
    each, room = float(seconds) / int(count) * 1e6, int(memory) * 1024 / int(count)
    yield (
        f"\nindex: {_FILES} files\n"
        f"  {each:.2f} us a file, of the limit of 8: {each / 8:.2f}: {'met' if each <= 8 else 'missed'}"
        " (headers, layout, in memory; the best of 5)\n"
        f"  {room:.0f} bytes of memory a file, of the limit of 1024: {room / 1024:.2f}: {'met' if room <= 1024 else 'missed'}\n"
        f"  {int(size) / int(count):.0f} bytes of index a file; a file of 1 GiB takes {int(constant) // 1024} MiB of memory"
    )
    os.unlink(many)
    os.unlink(large)


def _indexed(tar: str, what: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", _INDEX, _SOURCES, tar, what], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


class _Zeros:
    """A file of zeros."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        taken = self._left if size < 0 else min(size, self._left)
        self._left -= taken
        return bytes(taken)
