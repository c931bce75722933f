"""Putting files where somebody else changes the directories: nothing lands outside, nothing is written through."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import syscalls
from store.errors import BoxError
from store.place import Placer
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry
from tests.store import seen
from tests.store.exchanger import Canary, exchange

pytestmark = pytest.mark.needs("root")


def entry(kind: bytes, name: bytes, *, mode: int = 0o644, link: bytes = b"", uid: int = 0, mtime: int = 10**18) -> Entry:
    made = Entry(kind, name, mode, uid, uid, mtime)
    made.link = link
    if kind in (CHARACTER, BLOCK_DEVICE):
        made.device = (1, 3)
    return made


def data(text: bytes = b"") -> Callable[[], bytes]:
    pieces = iter([text] if text else [])
    return lambda: next(pieces, b"")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


@pytest.fixture
def placer(top: Path) -> Iterator[Placer]:
    made = opened(top)
    yield made
    made.close()


def opened(top: Path, *, archive: bool = False) -> Placer:
    descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        return Placer(descriptor, archive=archive)
    finally:
        os.close(descriptor)


class Naive:
    """The control: it makes the same by paths."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def place(self, entry: Entry, content: Callable[[], bytes]) -> None:
        path = self.top / os.fsdecode(entry.name)
        if entry.kind == DIRECTORY:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content())
        path.chmod(entry.mode)

    def finish(self) -> None:
        pass


@pytest.mark.parametrize(("way", "falls"), [("box", False), ("naive", True)])
def test_a_directory_exchanged_for_a_link_to_outside_gets_nothing(
    top: Path, placer: Placer, tmp_path: Path, way: str, falls: bool
) -> None:
    canary = Canary(tmp_path)
    (tmp_path / "link").symlink_to(canary.path)
    one: Placer | Naive = placer if way == "box" else Naive(top)
    one.place(entry(DIRECTORY, b"dir", mode=0o755), data())
    exchange(top / "dir", tmp_path / "link")
    try:
        one.place(entry(FILE, b"dir/file"), data(b"mine"))
        one.place(entry(FILE, b"dir/new"), data(b"mine"))
        one.finish()
    except BoxError as error:
        assert "not a directory" in error.message
    assert canary.is_hurt is falls


@pytest.mark.parametrize(("way", "falls"), [("box", False), ("naive", True)])
def test_a_file_that_is_a_link_to_outside_is_replaced_and_not_written_through(
    top: Path, placer: Placer, tmp_path: Path, way: str, falls: bool
) -> None:
    canary = Canary(tmp_path)
    (top / "file").symlink_to(canary.path / "file")
    one: Placer | Naive = placer if way == "box" else Naive(top)
    one.place(entry(FILE, b"file"), data(b"mine"))
    assert canary.is_hurt is falls
    if way == "box":
        assert (top / "file").read_bytes() == b"mine"
        assert not (top / "file").is_symlink()


def test_a_directory_taken_away_before_the_end_is_not_dressed_and_neither_is_its_stand_in(
    top: Path, placer: Placer, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o711)
    before = seen.one(other)
    placer.place(entry(DIRECTORY, b"dir", mode=0o777), data())
    exchange(top / "dir", other)
    placer.finish()
    assert seen.one(top / "dir") == before
    (top / "dir").rmdir()
    placer.finish()


def test_the_other_names_of_a_file_keep_their_content(top: Path, placer: Placer) -> None:
    (top / "one").write_bytes(b"old")
    os.link(top / "one", top / "other")
    placer.place(entry(FILE, b"one"), data(b"new"))
    assert ((top / "one").read_bytes(), (top / "other").read_bytes()) == (b"new", b"old")


def test_a_file_appears_whole_or_not_at_all(top: Path, placer: Placer) -> None:
    (top / "file").write_bytes(b"old")

    def fails() -> bytes:
        assert (top / "file").read_bytes() == b"old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        placer.place(entry(FILE, b"file"), fails)
    assert os.listdir(top) == ["file"]
    assert (top / "file").read_bytes() == b"old"


@pytest.mark.parametrize("kind", [FILE, SYMLINK, FIFO])
def test_a_directory_is_not_replaced_by_what_is_none_nor_the_other_way_round(top: Path, placer: Placer, kind: bytes) -> None:
    (top / "dir").mkdir()
    with pytest.raises(BoxError, match="cannot replace the directory dir"):
        placer.place(entry(kind, b"dir", link=b"x"), data(b"x"))
    placer.place(entry(kind, b"other", link=b"x"), data(b"x"))
    with pytest.raises(BoxError, match="is not a directory, by one"):
        placer.place(entry(DIRECTORY, b"other"), data())
    assert sorted(os.listdir(top)) == ["dir", "other"]


@pytest.mark.parametrize("archive", [False, True])
def test_owners_set_id_bits_and_attributes_are_kept_only_by_an_archive(top: Path, archive: bool) -> None:
    placer = opened(top, archive=archive)
    file = entry(FILE, b"file", mode=0o6755, uid=1234)
    file.xattrs = {b"user.k": b"v"}
    placer.place(file, data(b"x"))
    placer.place(entry(DIRECTORY, b"dir", mode=0o3711, uid=1234), data())
    placer.place(entry(SYMLINK, b"link", link=b"/nowhere", uid=1234), data())
    placer.place(entry(FIFO, b"fifo", mode=0o640, uid=1234), data())
    placer.finish()
    placer.close()
    owner = 1234 if archive else 0
    assert {seen.one(top / name).uid for name in ("file", "dir", "link", "fifo")} == {owner}
    assert stat.S_IMODE(os.stat(top / "file").st_mode) == (0o6755 if archive else 0o755)
    assert stat.S_IMODE(os.stat(top / "dir").st_mode) == (0o3711 if archive else 0o1711)
    assert stat.S_IMODE(os.stat(top / "fifo").st_mode) == 0o640
    assert seen.one(top / "file").xattrs == ((("user.k", b"v"),) if archive else ())
    assert {seen.one(top / name).mtime for name in ("file", "dir", "link", "fifo")} == {10**18}


def test_devices_are_made_only_by_an_archive(top: Path, placer: Placer) -> None:
    with pytest.raises(BoxError, match="is a device"):
        placer.place(entry(CHARACTER, b"null"), data())
    with_devices = opened(top, archive=True)
    with_devices.place(entry(CHARACTER, b"null"), data())
    with_devices.close()
    assert os.stat(top / "null").st_rdev == os.makedev(1, 3)


def test_an_existing_directory_keeps_its_mode_but_in_an_archive(top: Path, placer: Placer) -> None:
    (top / "dir").mkdir(mode=0o700)
    placer.place(entry(DIRECTORY, b"dir", mode=0o755), data())
    placer.finish()
    assert stat.S_IMODE(os.stat(top / "dir").st_mode) == 0o700
    archive = opened(top, archive=True)
    archive.place(entry(DIRECTORY, b"dir", mode=0o755), data())
    archive.finish()
    archive.close()
    assert stat.S_IMODE(os.stat(top / "dir").st_mode) == 0o755


def test_hard_links_are_links_and_a_link_to_itself_leaves_no_draft(top: Path, placer: Placer) -> None:
    placer.place(entry(FILE, b"a/b/file"), data(b"x"))  # an archive need not name its directories
    placer.place(entry(HARDLINK, b"link", link=b"a/b/file"), data())
    placer.place(entry(HARDLINK, b"link", link=b"a/b/file"), data())
    assert os.path.samefile(top / "a/b/file", top / "link")
    assert sorted(os.listdir(top)) == ["a", "link"]
    assert stat.S_IMODE(os.stat(top / "a").st_mode) == 0o700  # until the end
    placer.finish()
    assert stat.S_IMODE(os.stat(top / "a").st_mode) == 0o755


def test_a_hard_link_does_not_follow_a_link_to_outside(top: Path, placer: Placer, tmp_path: Path) -> None:
    canary = Canary(tmp_path)
    (top / "sym").symlink_to(canary.path / "file")
    placer.place(entry(HARDLINK, b"mine", link=b"sym"), data())
    assert (top / "mine").is_symlink()
    assert not canary.is_hurt


def test_more_directories_than_descriptors(top: Path, placer: Placer) -> None:
    for number in range(200):
        placer.place(entry(FILE, b"d%d/file" % number), data(b"x"))
    for number in range(200):
        placer.place(entry(HARDLINK, b"e%d/link" % number, link=b"d%d/file" % number), data())
    assert len(os.listdir(top)) == 400


@pytest.mark.needs("mount")
def test_a_file_that_is_mounted_there_is_written_to_as_it_is(top: Path, placer: Placer, tmp_path: Path) -> None:
    (tmp_path / "volume").write_bytes(b"old and longer")
    (top / "file").write_bytes(b"")
    syscalls.mount(str(tmp_path / "volume"), str(top / "file"), "", syscalls.MS_BIND)
    try:
        placer.place(entry(FILE, b"file"), data(b"new"))
        assert (tmp_path / "volume").read_bytes() == b"new"
        assert os.listdir(top) == ["file"]
    finally:
        syscalls.umount(str(top / "file"))
