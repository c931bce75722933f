"""Layers in a user namespace: its root owns what root owns in the image, and neither layers nor uppers are changed for that."""

import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

from store import overlay, syscalls
from store.layers import import_layer
from store.overlay import mount_overlay
from tests.store import seen
from tests.store.archives import archive, directory, file, symlink
from tests.store.drivers import driver, open_store

pytestmark = pytest.mark.needs("root", "overlay", "erofs", "userns")

FIRST = 100_000
LAYERS = [
    archive(directory(b"d/"), file(b"d/of-root", b"1", mode=0o600), file(b"d/of-7", b"2", mode=0o640, uid=7, gid=8)),
    archive(file(b"d/second", b"3"), symlink(b"link", b"d", uid=3), file(b"gone")),
    archive(file(b".wh.gone")),
]


def in_namespace(namespace: int, act: Callable[[], None]) -> None:
    """Do it as root of the user namespace; an exception there is one here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.libc("setns", namespace, 0x10000000)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            act()
        except BaseException as err:
            os.write(writer, repr(err).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        failed = said.read()
    os.waitpid(pid, 0)
    assert not failed, failed


@pytest.fixture
def namespace() -> Iterator[int]:
    """A user namespace in which users 0 to 65535 are those from FIRST on."""
    ready, write_ready = os.pipe()
    done, write_done = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_done)
        syscalls.libc("unshare", 0x10000000)
        os.write(write_ready, b"x")
        os.read(done, 1)
        os._exit(0)
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {FIRST} 65536\n{0xFFFF0000} 0 1\n")  # and the machine's root, who stacks
    descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    for pipe in (ready, write_ready, done, write_done):
        os.close(pipe)
    os.waitpid(pid, 0)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("older", [False, True], ids=["this kernel", "as before Linux 6.15"])
@pytest.mark.parametrize("name", ["erofs", "loops", "overlay", "copy"])
def test_the_root_of_a_user_namespace_owns_what_root_owns_in_the_image(
    name: str, older: bool, namespace: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "attached", older)
    mounted = Path("/proc/self/mountinfo").read_text()
    for part in ("upper", "work"):
        (tmp_path / part).mkdir()
    with driver(name):
        store = open_store(tmp_path / "store", name)
        chain = []
        for data in LAYERS:
            chain.append(import_layer(store, BytesIO(data), parents=chain))
        before = seen.image(store, chain)
        lowers = [*store.snapshots.trees(chain), f"{store.root}/snapshots/empty"]
        mount = mount_overlay(lowers, str(tmp_path / "upper"), str(tmp_path / "work"), volatile=True, mapping=namespace)

    def act() -> None:
        def owner(path: str) -> tuple[int, int]:
            status = os.stat(path, dir_fd=mount, follow_symlinks=False)
            return status.st_uid, status.st_gid

        assert sorted(os.listdir(f"/proc/self/fd/{mount}")) == ["d", "link"]
        assert (owner("."), owner("d"), owner("d/of-root"), owner("d/of-7")) == ((0, 0), (0, 0), (0, 0), (7, 8))
        assert owner("link") == (3, 0)
        with open(os.open("d/of-root", os.O_RDWR, dir_fd=mount), "r+") as opened:
            assert opened.read() == "1"
            opened.write("more")
        os.chown("d/second", 5, 6, dir_fd=mount)
        with open(os.open("new", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=mount), "w") as made:
            made.write("new")
        os.chown("new", 9, 9, dir_fd=mount)
        os.unlink("link", dir_fd=mount)
        assert (owner("d/second"), owner("new"), owner("d/of-root")) == ((5, 6), (9, 9), (0, 0))

    try:
        assert os.stat("d/of-root", dir_fd=mount).st_uid == FIRST  # outside it is one of the namespace's users
        in_namespace(namespace, act)
    finally:
        os.close(mount)
    assert Path("/proc/self/mountinfo").read_text() == mounted
    upper = seen.tree(tmp_path / "upper")
    assert {path: (each.uid, each.gid) for path, each in upper.items() if path not in (b".", b"d", b"link")} == {
        b"d/of-root": (0, 0),
        b"d/second": (5, 6),
        b"new": (9, 9),
    }
    with driver(name):
        assert seen.image(store, chain) == before
