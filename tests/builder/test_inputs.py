"""Inputs of steps: what of a file counts, and that what is remembered is never believed wrongly."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import inputs
from builder.inputs import Context, Input, StatCache
from store.errors import BuildError
from tests.builder.building import drafts


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "context"
    (top / "src/empty").mkdir(parents=True)
    (top / "src/a.py").write_bytes(b"print(1)\n")
    (top / "src/run").write_bytes(b"#!/bin/sh\n")
    (top / "src/run").chmod(0o755)
    (top / "src/link").symlink_to("a.py")
    return top


@pytest.fixture
def context(tree: Path, tmp_path: Path) -> Iterator[Context]:
    with Context(str(tree), StatCache(str(tmp_path / "cache"), drafts(tmp_path))) as opened:
        yield opened


def facts(context: Context, path: bytes = b"src", *, with_mode: bool = True) -> dict[bytes, bytes]:
    return {entry.path: entry.fact(with_mode=with_mode) for entry in context.read(path)}


def test_a_directory_gives_all_that_is_below_it_in_the_order_of_names(context: Context) -> None:
    assert [entry.path for entry in context.read(b"src")] == [b"src", b"src/a.py", b"src/empty", b"src/link", b"src/run"]


def test_content_kind_executable_bit_and_target_count(context: Context) -> None:
    digest = hashlib.sha256(b"print(1)\n").hexdigest().encode()
    found = facts(context)
    assert found[b"src/a.py"] == b"file " + digest
    assert found[b"src/run"].startswith(b"file x ")
    assert found[b"src/empty"] == b"directory"
    assert found[b"src/link"] == b"symlink a.py"


def test_times_owners_and_other_mode_bits_do_not_count(context: Context, tree: Path) -> None:
    before = facts(context)
    os.utime(tree / "src/a.py", (1, 1))
    (tree / "src/a.py").chmod(0o600)
    (tree / "src/run").chmod(0o700)
    (tree / "src").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(tree / "src/a.py", 1234, 1234)
    assert facts(context) == before


def test_the_executable_bit_does_not_count_where_a_mode_is_declared(context: Context, tree: Path) -> None:
    before = facts(context, with_mode=False)
    (tree / "src/a.py").chmod(0o755)
    assert facts(context, with_mode=False) == before
    assert facts(context) != before


@pytest.mark.parametrize("kind", ["socket", "fifo"])
def test_what_is_no_file_is_refused_by_its_kind_and_without_waiting(
    context: Context, tree: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "fifo":
        os.mkfifo(tree / "src/odd")
    else:
        server = socket.socket(socket.AF_UNIX)
        with server:
            monkeypatch.chdir(tree / "src")
            server.bind("odd")
    with pytest.raises(BuildError, match=r"src/odd is a (named pipe|socket), which cannot be copied"):
        list(context.read(b"src"))


def test_a_named_pipe_as_the_source_itself_is_refused_without_waiting(context: Context, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(BuildError, match="pipe is a named pipe"):
        list(context.read(b"pipe"))


def test_a_link_out_of_the_context_is_refused(context: Context, tree: Path) -> None:
    (tree / "out").symlink_to("/etc/passwd")
    (tree / "up").symlink_to("../cache")
    (tree / "in").symlink_to("src/a.py")
    for name in (b"out", b"up"):
        with pytest.raises(BuildError, match="leads out of the build's directory"):
            context.real_path(name)
    assert context.real_path(b"in") == b"src/a.py"


def listed(context: Context) -> Input:
    return next(entry for entry in context.read(b"src") if entry.path == b"src/a.py")


def test_a_file_that_changed_after_it_was_listed_is_told(context: Context, tree: Path) -> None:
    entry = listed(context)
    (tree / "src/a.py").write_bytes(b"print(2)\n")
    descriptor = context.open(entry)
    try:
        with pytest.raises(BuildError, match=r"src/a.py changed while the build was reading it"):
            context.check(entry, descriptor)
    finally:
        os.close(descriptor)


def test_a_file_that_became_a_link_after_it_was_listed_is_not_followed(context: Context, tree: Path) -> None:
    entry = listed(context)
    (tree / "src/a.py").unlink()
    (tree / "src/a.py").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match=r"cannot read src/a\.py"):
        context.open(entry)


def test_a_directory_that_became_a_link_after_it_was_listed_is_not_followed(context: Context, tree: Path) -> None:
    entry = listed(context)
    (tree / "src").rename(tree.parent / "outside")
    (tree / "src").symlink_to("../outside")
    with pytest.raises(BuildError, match=r"cannot read src/a\.py"):
        context.open(entry)


class Reads:
    """Counts the files whose bytes are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(inputs, "digest_of", self.digest_of)
        self.real = inputs.__dict__["digest_of"]

    def digest_of(self, descriptor: int, size: int) -> bytes:
        self.count += 1
        return hashlib.sha256(os.read(descriptor, 1 << 20)).hexdigest().encode()


@pytest.mark.parametrize("size", [0, 1, inputs.CHUNK - 1, inputs.CHUNK, inputs.CHUNK + 1, 3 * inputs.CHUNK])
@pytest.mark.parametrize("guess", [0, 10, inputs.CHUNK, 5 * inputs.CHUNK])
def test_a_digest_is_of_all_bytes_whatever_the_size_was_taken_for(tmp_path: Path, size: int, guess: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert inputs.digest_of(descriptor, guess) == hashlib.sha256(data).hexdigest().encode()
    finally:
        os.close(descriptor)


def settle(tree: Path) -> None:
    """Let the files' times become old enough to be believed."""
    time.sleep(0.12)


def read_again(tree: Path, cache: Path) -> list[Input]:
    with Context(str(tree), StatCache(str(cache), drafts(tree.parent))) as opened:
        return list(opened.read(b"src"))


def test_what_was_read_once_is_not_read_again(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tree)
    cache = tmp_path / "digests"
    reads = Reads(monkeypatch)
    first = read_again(tree, cache)
    assert reads.count == 2
    second = read_again(tree, cache)
    assert reads.count == 2
    assert [entry.fact(with_mode=True) for entry in first] == [entry.fact(with_mode=True) for entry in second]


def test_a_change_that_keeps_size_and_mtime_is_seen(tree: Path, tmp_path: Path) -> None:
    settle(tree)
    cache = tmp_path / "digests"
    path = tree / "src/a.py"
    before = {entry.path: entry.digest for entry in read_again(tree, cache)}
    status = path.stat()
    path.write_bytes(b"print(2)\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = {entry.path: entry.digest for entry in read_again(tree, cache)}
    assert after[b"src/a.py"] != before[b"src/a.py"]


def test_a_file_so_fresh_that_it_may_change_within_its_times_is_not_remembered(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "digests"
    reads = Reads(monkeypatch)
    for name in ("a.py", "run"):
        (tree / "src" / name).write_bytes(b"written just now")
    read_again(tree, cache)
    read_again(tree, cache)
    assert reads.count == 4


def test_a_file_system_that_keeps_whole_seconds_is_believed_only_after_two(tree: Path, tmp_path: Path) -> None:
    status = (tree / "src/a.py").stat()
    whole = os.stat_result(tuple(status)[:10], {"st_mtime_ns": 5_000_000_000, "st_ctime_ns": 5_000_000_000})
    now = [6_000_000_000]
    cache = StatCache(str(tmp_path / "digests"), drafts(tmp_path), clock=lambda: now[0])
    cache.learn(b"x", whole, b"value")
    assert cache.known(b"x", inputs.signature(whole)) is None
    now[0] = 8_000_000_000
    cache.learn(b"x", whole, b"value")
    assert cache.known(b"x", inputs.signature(whole)) == b"value"


@pytest.mark.parametrize("keep", range(0, 200, 7))
def test_a_cache_cut_short_is_no_cache(tree: Path, tmp_path: Path, keep: int) -> None:
    settle(tree)
    cache = tmp_path / "digests"
    whole = [entry.digest for entry in read_again(tree, cache)]
    data = cache.read_bytes()
    assert len(data) > 200
    cache.write_bytes(data[:keep])
    assert [entry.digest for entry in read_again(tree, cache)] == whole


def test_files_that_are_gone_are_forgotten_in_time(tmp_path: Path) -> None:
    def look(*names: bytes) -> StatCache:
        cache = StatCache(str(tmp_path / "digests"), drafts(tmp_path), clock=lambda: 1 << 62)
        for name in names:
            if cache.known(name, inputs.signature(status)) is None:
                cache.learn(name, status, b"value")
        cache.save()
        return StatCache(str(tmp_path / "digests"), drafts(tmp_path))

    status = os.stat("/")
    old = [b"old%d" % number for number in range(inputs.SPARE + 10)]
    assert look(*old).known(b"old5", inputs.signature(status))
    assert look(b"new").known(b"old5", inputs.signature(status)) is None
    assert look(b"new").known(b"new", inputs.signature(status))


def test_a_store_that_cannot_be_written_makes_no_error(tree: Path) -> None:
    settle(tree)
    assert len(read_again(tree, Path("/proc/no/such/place"))) == 5
