"""Walking a tree that somebody else changes: nothing is seen but what is in it."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.tar_read import DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK
from store.walk import Node, members, walk
from tests.store.exchanger import Canary, exchange


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "dir" / "file").write_bytes(b"inside")
    (top / "dir" / "deep" / "file").write_bytes(b"deep inside")
    return top


def walked(top: Path) -> list[bytes]:
    descriptor = os.open(top, os.O_PATH)
    try:
        return [node.path for node in walk(descriptor)]
    finally:
        os.close(descriptor)


def contents(nodes: Iterator[Node]) -> Iterator[tuple[bytes, bytes]]:
    """The walk's own way to read, node by node."""
    for node in nodes:
        if node.kind == FILE:
            try:
                descriptor = node.open()
            except FileNotFoundError:
                continue
            with open(descriptor, "rb") as file:
                yield node.path, file.read()
        else:
            yield node.path, b""


def naive(top: Path) -> Iterator[tuple[bytes, bytes]]:
    """The same by os.walk and paths, as one writes it on a quiet afternoon."""
    for directory, directories, files in os.walk(top):
        yield os.path.relpath(directory, top).encode().replace(b".", b""), b""
        for name in sorted(files):
            path = Path(directory, name)
            yield os.path.relpath(path, top).encode(), path.read_bytes()
        directories.sort()


def test_the_order_is_that_of_bytes_with_a_directory_before_what_is_in_it(tree: Path) -> None:
    for name in ("b", "a", "\u00e9", "dir-", "Z"):
        (tree / name).write_bytes(b"")
    (tree / "dir0").mkdir()
    assert walked(tree) == [
        b"", b"Z", b"a", b"b", b"dir-", "\u00e9".encode(), b"dir", b"dir/file", b"dir/deep", b"dir/deep/file", b"dir0",
    ]  # fmt: skip


def test_a_directory_exchanged_for_a_link_to_outside_is_not_entered(tree: Path, tmp_path: Path) -> None:
    canary = Canary(tmp_path)
    (tmp_path / "link").symlink_to(canary.path)
    (tree / "first").write_bytes(b"")
    descriptor = os.open(tree, os.O_PATH)
    found = []
    for node in walk(descriptor):
        found.append(node.path)
        if node.path == b"first":  # the top is listed, and `dir` was seen to be a directory
            exchange(tree / "dir", tmp_path / "link")
    os.close(descriptor)
    assert found == [b"", b"first"]
    assert not canary.is_hurt


@pytest.mark.parametrize(("way", "falls"), [("walk", False), ("naive", True)])
def test_a_directory_exchanged_while_it_is_read_gives_no_file_of_outside(
    tree: Path, tmp_path: Path, way: str, falls: bool
) -> None:
    canary = Canary(tmp_path)
    (tmp_path / "link").symlink_to(canary.path)
    descriptor = os.open(tree, os.O_PATH)
    seen = contents(walk(descriptor)) if way == "walk" else naive(tree)
    found = []
    for path, content in seen:
        found.append(content)
        if path == b"dir":  # it is open, and its files come next
            exchange(tree / "dir", tmp_path / "link")
    os.close(descriptor)
    assert (canary.SECRET in found) is falls
    assert not canary.is_hurt


@pytest.mark.parametrize(("way", "falls"), [("walk", False), ("naive", True)])
def test_a_file_exchanged_for_a_link_to_outside_is_not_followed(tree: Path, tmp_path: Path, way: str, falls: bool) -> None:
    canary = Canary(tmp_path)
    (tree / "dir" / "afile").write_bytes(b"first")
    (tmp_path / "link").symlink_to(canary.path / "file")
    descriptor = os.open(tree, os.O_PATH)
    seen = contents(walk(descriptor)) if way == "walk" else naive(tree)
    found = []
    for path, content in seen:
        found.append(content)
        if path == b"dir/afile":  # the directory is listed, its next file is not open yet
            exchange(tree / "dir" / "file", tmp_path / "link")
    os.close(descriptor)
    assert (canary.SECRET in found) is falls


def test_a_file_that_becomes_a_fifo_is_not_waited_for(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tree, os.O_PATH)
    done = []

    def read() -> None:
        for node in walk(descriptor):
            if node.path == b"dir/file":
                exchange(tree / "dir" / "file", tmp_path / "fifo")
                with pytest.raises(FileNotFoundError):
                    node.open()
                done.append(True)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    os.close(descriptor)
    assert done == [True]


def test_what_goes_away_meanwhile_is_passed_over(tree: Path) -> None:
    descriptor = os.open(tree, os.O_PATH)
    seen = []
    for node in walk(descriptor):
        seen.append(node.path)
        if node.path == b"dir/file":
            (tree / "dir" / "deep" / "file").unlink()
            (tree / "dir" / "deep").rmdir()
    os.close(descriptor)
    assert seen == [b"", b"dir", b"dir/file"]


def test_members_are_links_the_second_time_and_sockets_are_told(tree: Path) -> None:
    os.link(tree / "dir" / "file", tree / "also")
    os.symlink("dir/file", tree / "sym")
    os.mkfifo(tree / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tree / "socket"))
    listener.close()
    told: list[bytes] = []
    descriptor = os.open(tree, os.O_PATH)
    found = {
        entry.name: (entry.kind, entry.link)
        for entry, _ in members(walk(descriptor), lambda path: b"x/" + path, lambda node: told.append(node.path))
    }
    os.close(descriptor)
    assert told == [b"socket"]
    assert found == {
        b"x/": (DIRECTORY, b""), b"x/also": (FILE, b""), b"x/fifo": (FIFO, b""), b"x/sym": (SYMLINK, b"dir/file"),
        b"x/dir": (DIRECTORY, b""), b"x/dir/file": (HARDLINK, b"x/also"), b"x/dir/deep": (DIRECTORY, b""),
        b"x/dir/deep/file": (FILE, b""),
    }  # fmt: skip


@pytest.mark.needs("mount")
def test_a_file_system_to_be_avoided_is_an_empty_directory(tree: Path) -> None:
    descriptor = os.open("/", os.O_PATH)
    device = os.stat("/proc").st_dev
    assert device != os.stat("/").st_dev
    walk_of_root = walk(descriptor, avoid={os.stat("/").st_dev})
    assert [node.path for node in walk_of_root] == [b""]
    os.close(descriptor)
