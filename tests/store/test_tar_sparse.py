"""Sparse files in archives: as GNU tar writes them, and as nobody should."""

import io
import os
import subprocess
from pathlib import Path

import pytest

from store.aside import digest_of
from store.errors import ArchiveError
from store.layers import import_layer
from store.layout import Store
from store.tar_read import TarReader
from tests.store.archives import archive, file, header, padded, pax

FORMATS = {
    "old GNU": ["--format=gnu"],
    "PAX 0.0": ["--format=posix", "--sparse-version=0.0"],
    "PAX 0.1": ["--format=posix", "--sparse-version=0.1"],
    "PAX 1.0": ["--format=posix", "--sparse-version=1.0"],
}
MANY = 60  # pieces: more than a header of the old form, or its first continuation, holds


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    with open(tree / "many", "wb") as many:
        for piece in range(MANY):
            many.seek(piece << 16)
            many.write(b"piece %d " % piece * 100)
        many.truncate((MANY + 3) << 16)
    with open(tree / "hole", "wb") as hole:
        hole.truncate(1 << 20)
    (tree / "plain").write_bytes(b"plain")
    return tree


@pytest.mark.parametrize("driver", ["erofs", "overlay"])
@pytest.mark.parametrize("form", FORMATS)
def test_what_gnu_tar_writes_comes_out_with_its_holes(form: str, driver: str, tree: Path, tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    subprocess.run(["tar", *FORMATS[form], "-S", "-C", tree, "-cf", tar, "."], check=True)
    assert tar.stat().st_size < 1 << 20, "the control: it is not sparse"
    store = Store.open(str(tmp_path / "store"), driver)
    with io.FileIO(tar) as source:
        layer = import_layer(store, source)
    view = store.snapshots.view([layer])
    try:
        for name in ("many", "hole", "plain"):
            assert Path(f"/proc/self/fd/{view}/{name}").read_bytes() == (tree / name).read_bytes()
    finally:
        os.close(view)
    used = int(subprocess.run(["du", "-sk", store.root], capture_output=True, check=True).stdout.split()[0])
    assert used < 2048, "the holes were written"


def old(pieces: list[tuple[int, int]], size: int, stored: bytes, *, more: bytes = b"") -> bytes:
    """An old GNU sparse file of at most four pieces."""
    pairs = b"".join(b"%011o\0%011o\0" % piece for piece in pieces).ljust(96, b"\0")
    block = bytearray(header(b"x", b"S", size=b"%011o\0" % len(stored), magic=b"ustar  \0"))
    block[386:482] = pairs
    block[482] = bool(more)
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return archive(bytes(block) + more + padded(stored))


def new(records: dict[bytes, bytes], content: bytes) -> bytes:
    """A PAX sparse file."""
    return archive(pax({b"GNU.sparse." + key: value for key, value in records.items()}), file(b"x", content))


HOSTILE = [
    ("pieces that overlap", old([(0, 4), (2, 4)], 10, b"x" * 8), "overlap"),
    ("pieces out of order", old([(4, 4), (0, 4)], 10, b"x" * 8), "overlap"),
    ("a piece past the end", old([(8, 4)], 10, b"x" * 4), "past its end"),
    ("more stored than the map says", old([(0, 4)], 10, b"x" * 8), "where its map says 4"),
    ("less stored than the map says", old([(0, 8)], 10, b"x" * 4), "where its map says 8"),
    ("a size that no disk has", old([(0, 4)], 1 << 32, b"x" * 4).replace(b"%011o\0" % (1 << 32), b"77777777777\0"), "wrong"),
    ("a map that never ends", old([], 10, b"", more=(bytes(504) + b"\1" + bytes(7)) * 3)[: 4 * 512], "cut short"),
    ("a number that is none", new({b"map": b"0,x", b"size": b"4"}, b"xxxx"), "cannot be read"),
    ("a number too many", new({b"map": b"0,4,8", b"size": b"10"}, b"xxxx"), "odd number"),
    ("a file of many exabytes", new({b"map": b"0,4", b"size": b"9" * 18}, b"xxxx"), "the limit is"),
    ("no size", new({b"map": b"0,4"}, b"xxxx"), "cannot be read"),
    ("a form that is not known", new({b"major": b"2", b"minor": b"0"}, b"xxxx"), "form that is not known"),
    ("a map in front that is none", new({b"major": b"1", b"minor": b"0", b"realsize": b"4"}, b"q" * 512), "cannot be read"),
    ("a map in front of a billion pieces", new({b"major": b"1", b"minor": b"0", b"realsize": b"4"}, b"1000000000\n"), "pieces"),
    ("a map in front that is cut", new({b"major": b"1", b"minor": b"0", b"realsize": b"4"}, b"2\n0\n4\n"), "cannot be read|map"),
]


@pytest.mark.parametrize(("data", "message"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_a_map_that_cannot_be_is_refused(data: bytes, message: str) -> None:
    pieces = iter([memoryview(data)])
    reader = TarReader(lambda: next(pieces, None))
    with pytest.raises(ArchiveError, match=message):
        while reader.next() is not None:
            pass


def test_the_digest_of_what_lies_aside_reads_no_holes_and_sees_every_byte(tmp_path: Path) -> None:
    found = set()
    path = tmp_path / "aside"
    for size, at, content in [
        (1 << 40, 0, b""),
        (1 << 39, 0, b""),
        (1 << 40, 5, b"x"),
        (1 << 40, 4096 + 5, b"x"),
        (1 << 40, 5, b"y"),
    ]:
        with open(path, "wb") as file:
            file.seek(at)
            file.write(content)
            file.truncate(size)
        with open(path, "rb") as file:
            found.add(digest_of(file.fileno()))
    assert len(found) == 5
    with open(path, "r+b") as file:  # zeros that are written are as good as a hole
        file.seek(1 << 20)
        file.write(bytes(8192))
    with open(path, "rb") as file:
        assert digest_of(file.fileno()) in found
