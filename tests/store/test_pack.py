"""Packing: the same tree gives the same bytes, and what is packed comes back as it was, over any layer."""

import errno
import hashlib
import io
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from store.errors import StoreError
from store.pack import Packed, pack_changeset
from store.tar_read import Entry, TarReader
from store.tar_write import BUFFER, TarWriter
from store.trees import delete_tree
from store.unpack import unpack
from tests.store import seen
from tests.store.generated import CHANGED, MADE, Change
from tests.store.stacked import mounted
from tests.store.test_unpack import rich_tree

pytestmark = pytest.mark.needs("root")

LATE = 1 << 33  # an epoch after all the times that tests make up
EPOCH = 315_532_800


def packed(tree: Path, *, epoch: int = LATE, **how: object) -> bytes:
    written = bytearray()
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        result = pack_changeset(descriptor, written.extend, epoch=epoch, **how)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)
    data = bytes(written)
    assert result == Packed(len(tarfile_members(data)), len(data))
    return data


def tarfile_members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


def names(data: bytes) -> list[str]:
    return [member.name + "/" * member.isdir() for member in tarfile_members(data)]


def unpacked(data: bytes, tree: Path, *lowers: Path) -> None:
    tree.mkdir()
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack(io.BytesIO(data), descriptor, lowers=[str(lower) for lower in lowers])
    finally:
        os.close(descriptor)


@contextmanager
def place() -> Iterator[Path]:
    """A directory per example: hypothesis calls the test many times with one tmp_path."""
    top = tempfile.mkdtemp(prefix="box-pack-")
    try:
        yield Path(top)
    finally:
        delete_tree(top)


# -- there and back


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    rich_tree(tree)
    before = seen.tree(tree)
    data = packed(tree)
    unpacked(data, tmp_path / "back")
    assert seen.tree(tmp_path / "back") == before
    assert seen.tree(tree) == before
    assert packed(tmp_path / "back") == data


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(MADE)
def test_any_tree_comes_back_as_it_was(steps: list[Change]) -> None:
    with place() as top:
        (top / "tree").mkdir()
        for step in steps:
            step(top / "tree")
        before = seen.tree(top / "tree")
        data = packed(top / "tree")
        unpacked(data, top / "back")
        assert seen.tree(top / "back") == before
        assert packed(top / "back") == data


@pytest.mark.needs("overlay")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(MADE, CHANGED)
def test_any_changes_packed_and_applied_give_the_changed_tree(steps: list[Change], changes: list[Change]) -> None:
    with place() as top:
        lower, upper = top / "lower", top / "upper"
        lower.mkdir()
        upper.mkdir()
        for step in steps:
            step(lower)
        os.utime(lower, ns=(0, 5_000_000_000))
        shutil.copystat(lower, upper)
        with mounted(top / "merged", lower, upper=upper) as merged:
            for change in changes:
                change(merged)
        data = packed(upper)
        with mounted(top / "merged", upper, lower) as merged:
            expected = seen.tree(merged)
        unpacked(data, top / "applied", lower)
        with mounted(top / "merged", top / "applied", lower) as merged:
            assert seen.tree(merged) == expected
        assert packed(top / "applied") == data


def test_gnu_tar_reads_what_is_written(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    rich_tree(tree)
    (tmp_path / "peer").mkdir()
    command = ["tar", "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*", "-C", str(tmp_path / "peer"), "-xf", "-"]
    subprocess.run(command, input=packed(tree), check=True)
    assert seen.tree(tmp_path / "peer") == seen.tree(tree)


# -- the same bytes

_MAKE = """
import os, random, sys
names = [f"d{at % 7}/f{at}" for at in range(60)]
random.Random(int(sys.argv[2])).shuffle(names)
os.chdir(sys.argv[1])
for name in names:
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "w") as file:
        file.write(name)
    os.chmod(name, 0o644)
for name in {os.path.dirname(name) for name in names} | {"."}:
    os.chmod(name, 0o755)
os.link("d0/f0", "z"); os.link("d0/f0", "a")
"""
_PACK = """
import hashlib, os, sys
from store.pack import pack_changeset
digest = hashlib.sha256()
pack_changeset(os.open(sys.argv[1], os.O_RDONLY), digest.update, epoch=int(sys.argv[2]))
print(digest.hexdigest())
"""


def test_the_bytes_depend_on_neither_umask_nor_locale_nor_order_nor_time_nor_zone(tmp_path: Path) -> None:
    digests = set()
    root = Path(__file__).parents[2]
    for at, (umask, locale, zone) in enumerate(
        [(0o000, "C", "UTC"), (0o077, "tr_TR.UTF-8", "Asia/Tokyo"), (0o027, "POSIX", "UTC")]
    ):
        tree = tmp_path / ("x" * (1 + 40 * at))
        tree.mkdir(mode=0o755)
        subprocess.run([sys.executable, "-c", _MAKE, str(tree), str(at)], check=True, umask=umask)
        environment = {"LC_ALL": locale, "TZ": zone, "PYTHONHASHSEED": str(at), "USER": f"u{at}", "PYTHONPATH": str(root)}
        made = subprocess.run(
            [sys.executable, "-c", _PACK, str(tree), str(EPOCH)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            umask=umask,
        )
        digests.add(made.stdout)
    assert len(digests) == 1


def test_entries_are_in_order_and_parents_come_first(tmp_path: Path) -> None:
    for name in ("b", "a", "a.x", "B", "a/z", "a/b", "a/b/c", "a-"):
        path = tmp_path / name
        path.mkdir() if name in ("a", "a/b", "a-") else path.touch()
    (tmp_path / "b").unlink()
    os.mknod(tmp_path / "b", stat.S_IFCHR, 0)
    assert names(packed(tmp_path)) == ["./", ".wh.b", "B", "a.x", "a/", "a/z", "a/b/", "a/b/c", "a-/"]


def test_directories_are_in_the_order_of_their_bytes_whatever_the_disk_says(tmp_path: Path) -> None:
    made = [f"d{at}" for at in range(40)]
    for name in random.Random(3).sample(made, len(made)):
        (tmp_path / name).mkdir()
    assert names(packed(tmp_path)) == ["./", *(f"{name}/" for name in sorted(made))]


def test_times_after_the_epoch_become_the_epoch_in_the_tar_and_in_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/new").touch()
    (tree / "d/old").touch()
    (tree / "d/link").symlink_to("new")
    os.mkfifo(tree / "d/fifo")
    os.link(tree / "d/new", tree / "d/again")
    os.utime(tree / "d/old", ns=(0, 99_000_000_001))

    data = packed(tree, epoch=EPOCH)

    times = {name: found.mtime for name, found in seen.tree(tree).items()}
    assert times.pop(b"d/old") == 99_000_000_001
    assert set(times.values()) == {EPOCH * 1_000_000_000}
    unpacked(data, tmp_path / "back")
    assert seen.tree(tmp_path / "back") == seen.tree(tree)


# -- what belongs to a layer


def test_whiteouts_and_opaque_directories_are_written_as_oci_has_them(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    (tmp_path / "d/new").touch()
    os.mknod(tmp_path / "d/gone", stat.S_IFCHR, 0)
    data = packed(tmp_path)
    assert names(data) == ["./", "d/", "d/.wh..wh..opq", "d/.wh.gone", "d/new"]
    assert all(member.isreg() and member.size == 0 for member in tarfile_members(data) if ".wh." in member.name)


def test_marks_of_overlayfs_and_of_security_modules_stay_out(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.origin", b"x")
    os.setxattr(tmp_path / "d", "trusted.overlay.impure", b"y")
    os.setxattr(tmp_path / "f", "user.overlay.origin", b"x")
    os.setxattr(tmp_path / "f", "security.evil", b"x")
    os.setxattr(tmp_path / "f", "user.kept", b"x")
    keys = [key for member in tarfile_members(packed(tmp_path)) for key in member.pax_headers if "xattr" in key]
    assert keys == ["SCHILY.xattr.user.kept"]


def test_sockets_and_skipped_paths_leave_the_layer_and_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hosts").touch()
    (tree / "etc/kept").touch()
    (tree / "proc/inside").mkdir(parents=True)
    os.utime(tree / "etc", ns=(0, 5))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
        data = packed(tree, skip=[b"etc/hosts", b"proc", b"never/there"])
    assert names(data) == ["./", "etc/", "etc/kept"]
    unpacked(data, tmp_path / "back")
    assert seen.tree(tmp_path / "back") == seen.tree(tree)
    assert (tree / "etc").stat().st_mtime_ns == 5


def test_a_file_that_would_be_a_whiteout_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.wh.x").touch()
    with pytest.raises(StoreError, match=r"/d/\.wh\.x cannot be kept in a layer"):
        packed(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("redirect", b"/elsewhere"), ("metacopy", b""), ("whiteout", b""), ("opaque", b"x")])
def test_an_upper_that_is_not_all_there_is_refused(name: str, value: bytes, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", f"trusted.overlay.{name}", value)
    with pytest.raises(StoreError, match=f"/d is not all there: it has trusted.overlay.{name}"):
        packed(tmp_path)


def test_a_path_too_long_for_a_reader_is_refused(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=here)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        with pytest.raises(StoreError, match=r"a path of more than|name too long"):
            packed(tmp_path)
    finally:
        os.close(here)
        delete_tree(str(tmp_path / ("d" * 250)))


@pytest.mark.parametrize("size", [0, 1 << 20, (2 << 20) - 1536, 5 << 20])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_of_the_writer_comes_through(size: int, at: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(size))
    pieces = len(packed(tmp_path)) // BUFFER + 1
    taken: list[int] = []

    def full(data: memoryview) -> None:
        if len(taken) == at:
            raise OSError(errno.ENOSPC, "full")
        taken.append(len(data))

    threads = threading.active_count()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        if at < pieces:
            with pytest.raises(StoreError, match="cannot pack the changes: no space left"):
                pack_changeset(descriptor, full, epoch=0)
        else:
            assert pack_changeset(descriptor, full, epoch=0).size == sum(taken)
    finally:
        os.close(descriptor)
    assert threading.active_count() == threads


def test_a_slow_writer_gets_each_piece_unchanged(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(7_000_000)
    (tmp_path / "f").write_bytes(content)
    whole = bytearray()

    def slow(data: memoryview) -> None:
        time.sleep(0.01)
        whole.extend(data)

    descriptor = os.open(tmp_path, os.O_RDONLY)
    pack_changeset(descriptor, slow, epoch=0)
    os.close(descriptor)
    with tarfile.open(fileobj=io.BytesIO(bytes(whole))) as tar:
        found = tar.extractfile("f")
        assert found is not None
        assert found.read() == content


# -- the writer


def entry(name: bytes, **fields: object) -> Entry:
    made = Entry(b"0", name, 0o644, 0, 0, 0)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def read_back(made: Entry, content: bytes = b"") -> Entry:
    written = bytearray()
    tar = TarWriter(written.extend)
    tar.add(made, content)
    tar.finish()
    assert len(written) == tar.size
    pieces = iter([memoryview(bytes(written))])
    reader = TarReader(lambda: next(pieces, None))
    found = reader.next()
    assert found is not None
    assert reader.read() == content
    assert reader.next() is None
    return found


LENGTHS = [1, 99, 100, 101, 150, 155, 156, 200, 255, 256, 257, 1000, 4095]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("every", [1, 7, 60, 99, 100, 101, 155, 10_000])
@pytest.mark.parametrize("kind", [b"0", b"5"])
def test_a_name_of_any_length_is_read_back(length: int, every: int, kind: bytes) -> None:
    name = b"".join(b"/" if at % (every + 1) == every and at < length - 1 else b"x" for at in range(length))
    assert read_back(entry(name, kind=kind)).name == name


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2047, 2048, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_content_of_any_size_is_read_back(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert read_back(entry(b"f", size=size), content).size == size


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": 2_097_151, "gid": 2_097_152},
        {"uid": 4_294_967_294, "gid": 0},
        {"mtime": -1},
        {"mtime": -1_500_000_001},
        {"mtime": 1},
        {"mtime": 8_589_934_591_999_999_999},
        {"mtime": 8_589_934_592_000_000_000},
        {"mode": 0o7777},
        {"kind": b"2", "link": b"t" * 100},
        {"kind": b"2", "link": b"t/" * 2000},
        {"kind": b"1", "link": b"t" * 101},
        {"kind": b"3", "device": (4095, 1_048_575)},
        {"xattrs": {b"user.a=b%": b"\0\n=", b"user.b": b""}},
        {"xattrs": {b"user.%d" % size: b"v" * size for size in (*range(60, 120), *range(960, 1000))}},
    ],
)
def test_a_field_of_any_value_is_read_back(fields: dict[str, object]) -> None:
    made = entry(b"name", **fields)
    found = read_back(made)
    for slot in ("kind", "name", "mode", "uid", "gid", "mtime", "link", "device", "xattrs"):
        assert getattr(found, slot) == getattr(made, slot), slot


def test_an_owner_that_chown_does_not_know_is_refused() -> None:
    with pytest.raises(StoreError, match="owner that cannot be"):
        read_back(entry(b"f", uid=(1 << 32) - 1))


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"short")
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    with pytest.raises(StoreError, match="f became shorter"):
        TarWriter(hashlib.sha256().update).add_file(entry(b"f", size=6), descriptor)
    os.close(descriptor)
