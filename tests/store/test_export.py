"""A tree as one tar: everything of it, in the same bytes each time, readable by GNU tar."""

import io
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from store.errors import StoreError
from store.export import export
from store.walk import Node
from tests.store import generated, seen

pytestmark = pytest.mark.needs("root")


def exported(top: Path, skipped: Callable[[Node], None] = lambda node: None) -> bytes:
    target = io.BytesIO()
    descriptor = os.open(top, os.O_PATH)
    try:
        export(descriptor, target.write, skipped)
    finally:
        os.close(descriptor)
    return target.getvalue()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=generated.MADE)
def test_gnu_tar_makes_the_same_tree_of_it(tmp_path_factory: pytest.TempPathFactory, changes: list[generated.Change]) -> None:
    top = tmp_path_factory.mktemp("tree")
    for change in changes:
        change(top)
    os.utime(top, (5, 5))
    data = exported(top)
    assert exported(top) == data
    back = tmp_path_factory.mktemp("back")
    command = ["tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--delay-directory-restore", "-C", back]
    subprocess.run(command, input=data, check=True, capture_output=True)
    assert seen.tree(back) == seen.tree(top)


def test_all_kinds_of_files_are_in_it_but_sockets_which_are_told(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(7, 3))
    os.mknod(top / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mkfifo(top / "fifo")
    (top / "file").write_bytes(b"x")
    os.link(top / "file", top / "hard")
    os.symlink("file", top / "soft")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(top / "socket"))
    listener.close()
    told: list[bytes] = []
    data = exported(top, lambda node: told.append(node.path))
    done = subprocess.run(["tar", "-tv"], input=data, capture_output=True, check=True).stdout.decode().splitlines()
    assert [(line[0], line.split()[5]) for line in done] == [
        ("d", "./"), ("b", "block"), ("c", "char"), ("p", "fifo"), ("-", "file"), ("h", "hard"), ("l", "soft"),
    ]  # fmt: skip
    assert told == [b"socket"]


def test_a_file_that_becomes_shorter_is_an_error_and_not_a_wrong_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (3 << 20))

    def write(piece: memoryview) -> None:
        os.truncate(tmp_path / "file", 10)

    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(StoreError, match="became shorter"):
            export(descriptor, write, lambda node: None)
    finally:
        os.close(descriptor)
