"""Unpacking layers as honest tools make them: the tree is the one GNU tar makes, and overlayfs reads its whiteouts."""

import gzip
import io
import itertools
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from store.digest import Digest
from store.errors import ArchiveError, BlobCorrupt, StoreError
from store.unpack import Unpacked, unpack
from tests.store import seen
from tests.store.archives import archive, directory, file, hardlink, header, pax, symlink
from tests.store.stacked import mounted

pytestmark = pytest.mark.needs("root")


def unpacked(data: bytes, tree: Path, *lowers: Path, **how: object) -> Unpacked:
    tree.mkdir(exist_ok=True)
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(io.BytesIO(data), descriptor, lowers=[str(lower) for lower in lowers], **how)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


def rich_tree(top: Path) -> None:
    """A directory with one of everything that a Linux root file system has."""
    for name in ("etc", "usr/bin", "var/lib/a b", "spool"):
        (top / name).mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (top / "etc/shadow").write_text("secret")
    (top / "etc/shadow").chmod(0o640)
    os.chown(top / "etc/shadow", 0, 42)
    (top / "etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (top / "bin").symlink_to("usr/bin")
    (top / "usr/bin/big").write_bytes(os.urandom(3 << 20))
    (top / "usr/bin/su").write_bytes(b"\x7fELF")
    os.chown(top / "usr/bin/su", 7, 8)
    (top / "usr/bin/su").chmod(0o6755)
    os.link(top / "usr/bin/su", top / "usr/bin/sg")
    (top / "usr/bin/empty").touch()
    (top / "usr/bin/none").touch(0o000)
    (top / ("n" * 200)).write_text("long name")
    (top / os.fsdecode(b"caf\xe9\xff")).write_text("not UTF-8")
    (top / "link-to-far").symlink_to("/".join(["far" * 20] * 5))
    os.chown(top / "link-to-far", 3_000_000, 4_000_000_000, follow_symlinks=False)
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
    os.setxattr(top / "usr/bin/big", "user.note", b"\0binary\n=\xff")
    os.setxattr(top / "var", "trusted.note", b"directory")
    os.setxattr(top / "etc/localtime", "trusted.note", b"symlink", follow_symlinks=False)
    (top / "spool").chmod(0o3777)
    os.chown(top / "spool", 9, 10)
    for at, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + at * 1_000_000_007), follow_symlinks=False)
    os.utime(top, ns=(0, 77_000_000_123))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("style", ["gnu", "pax"])
def test_the_tree_is_the_one_that_gnu_tar_makes(style: str, umask: int, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    rich_tree(original)
    options = ["--xattrs", "--xattrs-include=*"] if style == "pax" else []
    tar = subprocess.run(
        ["tar", f"--format={style}", "--numeric-owner", *options, "-C", str(original), "-c", "."],
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "peer").mkdir()
    subprocess.run(
        ["tar", "--numeric-owner", "--same-permissions", *options, "-C", str(tmp_path / "peer"), "-x"], input=tar, check=True
    )

    before = os.umask(umask)
    try:
        unpacked(tar, tmp_path / "box")
    finally:
        os.umask(before)

    expected, found = seen.tree(tmp_path / "peer"), seen.tree(tmp_path / "box")
    assert found == expected
    if style == "pax":
        assert found == seen.tree(original)


def test_a_layer_is_described_by_what_went_through(tmp_path: Path) -> None:
    data = archive(file(b"a", b"x" * 3_000_000), directory(b"d/"))
    packed = gzip.compress(data)
    with open(tmp_path / "kept", "w+b") as kept:
        result = unpacked(packed, tmp_path / "tree", keep=kept.fileno())
        kept.seek(0)
        assert kept.read() == data
    assert result == Unpacked(Digest.of(data), len(data), 2, "gzip", len(packed))


def test_a_layer_with_another_digest_than_expected_is_refused(tmp_path: Path) -> None:
    data = archive(file(b"a"))
    assert unpacked(data, tmp_path / "good", expected=Digest.of(data)).entries == 1
    with pytest.raises(BlobCorrupt, match=Digest.of(b"other")):
        unpacked(data, tmp_path / "bad", expected=Digest.of(b"other"))


def test_what_follows_the_end_counts_for_the_digest(tmp_path: Path) -> None:
    data = archive(file(b"a")) + bytes(5 << 20)
    assert unpacked(data, tmp_path / "tree").diff_id == Digest.of(data)


# -- images that a careless fix would break


def test_a_file_below_a_symlinked_directory_lands_where_the_container_sees_it(tmp_path: Path) -> None:
    data = archive(
        directory(b"var/"),
        symlink(b"var/run", b"/run"),
        directory(b"run/", 0o711),
        file(b"var/run/app.pid", b"1"),
        symlink(b"bin", b"usr/bin"),
        file(b"bin/sh", b"#!", mode=0o755),
        symlink(b"a", b"../../../b/./c/.."),
        directory(b"b/c/"),
        file(b"a/file", b"2"),
    )
    unpacked(data, tmp_path)
    assert (tmp_path / "run/app.pid").read_bytes() == b"1"
    assert (tmp_path / "usr/bin/sh").read_bytes() == b"#!"
    assert (tmp_path / "b/file").read_bytes() == b"2"
    assert os.readlink(tmp_path / "var/run") == "/run"
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o711


def test_a_symlink_of_a_layer_below_is_followed_and_not_replaced(tmp_path: Path) -> None:
    unpacked(archive(symlink(b"var/run", b"/run"), directory(b"run/", 0o700, uid=5)), tmp_path / "lower")
    unpacked(archive(file(b"var/run/app.pid", b"1")), tmp_path / "upper", tmp_path / "lower")
    with mounted(tmp_path / "merged", tmp_path / "upper", tmp_path / "lower") as merged:
        assert os.readlink(merged / "var/run") == "/run"
        assert (merged / "run/app.pid").read_bytes() == b"1"
        status = (merged / "run").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, 5)


def test_a_directory_in_place_of_a_symlink_replaces_it(tmp_path: Path) -> None:
    unpacked(archive(symlink(b"var/run", b"/run"), directory(b"var/run/"), file(b"var/run/pid")), tmp_path)
    assert seen.kind(tmp_path / "var/run") == "directory"
    assert not os.path.lexists(tmp_path / "run")


def test_a_link_replaced_by_a_directory_no_longer_leads_away(tmp_path: Path) -> None:
    data = archive(symlink(b"d", b"e"), file(b"d/one"), directory(b"d/"), file(b"d/two"))
    unpacked(data, tmp_path)
    assert sorted(os.listdir(tmp_path / "e")) == ["one"]
    assert sorted(os.listdir(tmp_path / "d")) == ["two"]


def test_missing_parents_are_those_of_the_layer_below_or_plain(tmp_path: Path) -> None:
    lower = archive(
        pax({b"SCHILY.xattr.user.note": b"kept", b"mtime": b"5.25"}),
        directory(b"opt/", 0o2750, uid=11, gid=12),
        directory(b"./", 0o711, uid=3, mtime=9),
    )
    unpacked(lower, tmp_path / "lower")
    unpacked(archive(file(b"opt/app/file", b"1")), tmp_path / "upper", tmp_path / "lower")

    found = seen.tree(tmp_path / "upper")
    below = seen.tree(tmp_path / "lower")
    assert found[b"opt"] == below[b"opt"]
    assert found[b"."] == below[b"."]
    plain = found[b"opt/app"]
    assert (plain.mode, plain.uid, plain.gid, plain.mtime, plain.xattrs) == (stat.S_IFDIR | 0o755, 0, 0, 0, ())


def test_the_last_of_several_entries_of_a_directory_counts_and_its_files_stay(tmp_path: Path) -> None:
    data = archive(
        pax({b"SCHILY.xattr.user.old": b"1"}),
        directory(b"d/", 0o700),
        file(b"d/file"),
        directory(b"d/", 0o751, uid=4, mtime=44),
        file(b"d/late"),
    )
    unpacked(data, tmp_path)
    found = seen.tree(tmp_path)[b"d"]
    assert (stat.S_IMODE(found.mode), found.uid, found.mtime, found.xattrs) == (0o751, 4, 44_000_000_000, ())
    assert sorted(os.listdir(tmp_path / "d")) == ["file", "late"]


def test_the_metadata_of_a_replaced_directory_does_not_come_back(tmp_path: Path) -> None:
    data = archive(
        directory(b"d/", 0o700), directory(b"d/in/", 0o701, mtime=7), file(b"d", b"x"), file(b"d2/in/x"), hardlink(b"e", b"d")
    )
    again = archive(directory(b"d/"), directory(b"d/in/", 0o701, mtime=7), symlink(b"d", b"x"), directory(b"d/"), file(b"d/in/y"))
    unpacked(data, tmp_path / "one")
    unpacked(again, tmp_path / "two")
    assert (tmp_path / "one/e").read_bytes() == b"x"
    found = seen.tree(tmp_path / "two")[b"d/in"]
    assert (stat.S_IMODE(found.mode), found.mtime) == (0o755, 0)


def test_hard_links_share_a_file_until_one_of_them_comes_again(tmp_path: Path) -> None:
    data = archive(file(b"a", b"old"), hardlink(b"b", b"./a"), hardlink(b"c", b"/b"), hardlink(b"a", b"a"), file(b"a", b"new"))
    unpacked(data, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"new", b"old", b"old"]
    assert (tmp_path / "b").stat().st_ino == (tmp_path / "c").stat().st_ino


def test_a_hard_link_to_a_symlink_links_the_symlink(tmp_path: Path) -> None:
    unpacked(archive(file(b"f"), symlink(b"s", b"f"), hardlink(b"h", b"s")), tmp_path)
    assert os.readlink(tmp_path / "h") == "f"


@pytest.mark.parametrize("target", [b"d", b"missing", b"gone", b"d/missing"])
def test_a_hard_link_to_what_is_no_file_is_refused(target: bytes, tmp_path: Path) -> None:
    lower = archive(file(b"gone"))
    unpacked(lower, tmp_path / "lower")
    data = archive(directory(b"d/"), file(b".wh.gone"), hardlink(b"h", target))
    with pytest.raises(ArchiveError, match="hard link to what is not"):
        unpacked(data, tmp_path / "upper", tmp_path / "lower")


def test_a_hard_link_into_a_layer_below_becomes_a_copy_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    lower = archive(
        pax({b"SCHILY.xattr.user.note": b"kept", b"mtime": b"5.25"}),
        file(b"d/f", b"content" * 1000, mode=0o4755, uid=21, gid=22),
        symlink(b"d/s", b"f", uid=23),
        header(b"d/p", b"6", mode=0o620),
    )
    unpacked(lower, tmp_path / "lower")
    upper = archive(hardlink(b"f", b"d/f"), hardlink(b"s", b"d/s"), hardlink(b"p", b"d/p"))
    unpacked(upper, tmp_path / "upper", tmp_path / "lower")
    for name in "fsp":
        assert seen.one(tmp_path / "upper" / name) == seen.one(tmp_path / "lower/d" / name), name
    assert (tmp_path / "lower/d/f").stat().st_nlink == 1


def test_what_a_layer_between_deleted_cannot_be_linked(tmp_path: Path) -> None:
    unpacked(archive(file(b"d/f"), file(b"g")), tmp_path / "one")
    for at, hides in enumerate(
        [archive(file(b"d/.wh.f")), archive(file(b"d/.wh..wh..opq")), archive(file(b".wh.d")), archive(file(b"d"))]
    ):
        two = tmp_path / f"two{at}"
        unpacked(hides, two, tmp_path / "one")
        with pytest.raises(ArchiveError, match=r"hard link to what is not there|a file has entries below it"):
            unpacked(archive(hardlink(b"h", b"d/f")), tmp_path / f"three{at}", two, tmp_path / "one")
        unpacked(archive(hardlink(b"h", b"g")), tmp_path / f"four{at}", two, tmp_path / "one")


@pytest.mark.parametrize("hides", [file(b"d/.wh..wh..opq"), file(b".wh.d"), file(b".wh..wh..opq")])
def test_what_the_layer_itself_hides_cannot_be_linked(hides: bytes, tmp_path: Path) -> None:
    unpacked(archive(file(b"d/f")), tmp_path / "lower")
    with pytest.raises(ArchiveError, match="hard link to what is not there"):
        unpacked(archive(hides, directory(b"d/"), hardlink(b"h", b"d/f")), tmp_path / "upper", tmp_path / "lower")


def test_attributes_that_belong_to_no_layer_are_left_out_and_others_kept(tmp_path: Path) -> None:
    records = {
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
        b"SCHILY.xattr.trusted.overlay.overlay.opaque": b"y",
        b"LIBARCHIVE.xattr.user.overlay.whiteout": b"eQ",
        b"SCHILY.xattr.security.selinux": b"system_u",
        b"SCHILY.xattr.security.ima": b"\x01",
        b"SCHILY.xattr.user.overlaid": b"a",
        b"SCHILY.xattr.trusted.b": b"b",
    }
    unpacked(archive(pax(records), directory(b"d/"), pax(records), file(b"f")), tmp_path)
    for name in "df":
        assert sorted(os.listxattr(tmp_path / name)) == ["trusted.b", "user.overlaid"]


def test_an_attribute_the_kernel_refuses_is_named(tmp_path: Path) -> None:
    data = archive(pax({b"SCHILY.xattr.security.capability": b"nonsense"}), file(b"f"))
    with pytest.raises(ArchiveError, match=r"refuses the extended attribute security\.capability of f"):
        unpacked(data, tmp_path)


def test_a_default_acl_of_a_directory_does_not_reach_the_files_in_it(tmp_path: Path) -> None:
    acl = bytes.fromhex("0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff")
    data = archive(
        pax({b"SCHILY.xattr.system.posix_acl_default": acl}), directory(b"d/"), file(b"d/f", mode=0o600), directory(b"d/e/")
    )
    unpacked(data, tmp_path)
    found = seen.tree(tmp_path)
    assert dict(found[b"d"].xattrs) == {"system.posix_acl_default": acl}
    assert found[b"d/f"].xattrs == found[b"d/e"].xattrs == ()
    assert stat.S_IMODE(found[b"d/f"].mode) == 0o600


# -- whiteouts

LOWER = archive(
    file(b"keep", b"lower"),
    file(b"gone", b"lower"),
    file(b"d/a", b"lower"),
    file(b"d/b", b"lower"),
    directory(b"e/", 0o700, uid=6),
    file(b"e/f/g", b"lower"),
    symlink(b"l", b"d"),
)


def merged(tmp_path: Path, *members: bytes) -> dict[bytes, seen.Seen]:
    """What one sees of the layer of `members` on top of LOWER."""
    unpacked(LOWER, tmp_path / "lower")
    unpacked(archive(*members), tmp_path / "upper", tmp_path / "lower")
    with mounted(tmp_path / "merged", tmp_path / "upper", tmp_path / "lower") as top:
        return seen.tree(top)


def test_a_whiteout_deletes_a_file_or_a_directory_below(tmp_path: Path) -> None:
    found = merged(tmp_path, file(b".wh.gone"), file(b"d/.wh.a"), file(b".wh.e"), file(b".wh.never-there"), file(b".wh.l"))
    assert sorted(found) == [b".", b"d", b"d/b", b"keep"]


OPAQUE = [
    [file(b"d/.wh..wh..opq"), directory(b"d/", 0o711), file(b"d/new")],
    [file(b".wh.d"), directory(b"d/", 0o711), file(b"d/new")],
]


@pytest.mark.parametrize("members", [order for each in OPAQUE for order in itertools.permutations(each)])
def test_a_directory_that_hides_what_is_below_does_so_in_any_order(members: tuple[bytes, ...], tmp_path: Path) -> None:
    found = merged(tmp_path, *members)
    assert [name for name in found if name.startswith(b"d")] == [b"d", b"d/new"]
    assert stat.S_IMODE(found[b"d"].mode) == 0o711


def test_a_whiteout_never_deletes_what_its_own_layer_has(tmp_path: Path) -> None:
    found = merged(tmp_path, file(b"gone", b"upper"), file(b".wh.gone"), file(b".wh.keep"), file(b"keep", b"upper"))
    assert found[b"gone"].content == found[b"keep"].content != b""
    assert found[b"gone"].mode == stat.S_IFREG | 0o644


def test_an_opaque_directory_that_no_entry_names_hides_as_well(tmp_path: Path) -> None:
    found = merged(tmp_path, file(b"e/.wh..wh..opq"))
    assert b"e" in found
    assert b"e/f" not in found


def test_a_whiteout_followed_by_entries_below_it_leaves_only_those(tmp_path: Path) -> None:
    found = merged(tmp_path, file(b".wh.e"), file(b"e/new/file"))
    assert [name for name in found if name.startswith(b"e")] == [b"e", b"e/new", b"e/new/file"]
    assert (found[b"e"].uid, stat.S_IMODE(found[b"e"].mode)) == (0, 0o755)


@pytest.mark.parametrize("last", [True, False])
def test_an_opaque_root_hides_all_there_is_below(last: bool, tmp_path: Path) -> None:
    members = [file(b"d/new"), file(b"keep", b"upper")]
    members.insert(2 if last else 0, file(b".wh..wh..opq"))
    assert sorted(merged(tmp_path, *members)) == [b".", b"d", b"d/new", b"keep"]


def test_the_bookkeeping_of_aufs_is_dropped(tmp_path: Path) -> None:
    found = merged(tmp_path, directory(b".wh..wh.plnk/"), file(b".wh..wh.aufs"), file(b".wh..wh.orph"))
    assert not [name for name in found if b".wh." in name]
    assert b"gone" in found


def test_whiteouts_in_the_lowest_layer_hide_nothing_and_show_nothing(tmp_path: Path) -> None:
    unpacked(archive(file(b".wh.x"), file(b"d/.wh..wh..opq"), file(b"d/y")), tmp_path / "tree")
    with mounted(tmp_path / "merged", tmp_path / "tree") as top:
        assert sorted(seen.tree(top)) == [b".", b"d", b"d/y"]


# -- when it does not go well


def test_threads_end_when_unpacking_fails(tmp_path: Path) -> None:
    before = threading.active_count()
    big = archive(file(b"a", b"x" * (20 << 20)), file(b"../up"))
    with pytest.raises(ArchiveError):
        unpacked(big, tmp_path)
    with pytest.raises(ArchiveError):
        unpacked(archive(file(b"../up"), file(b"a", b"x" * (20 << 20))), tmp_path)
    assert threading.active_count() == before


@pytest.mark.needs("mount")
def test_a_full_disk_is_said_and_leaks_no_descriptor(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], check=True)
    before = os.listdir("/proc/self/fd")
    try:
        with pytest.raises(StoreError, match="cannot unpack d/big: no space left on device") as caught:
            unpacked(archive(file(b"d/big", bytes(8 << 20))), place)
        assert "space" in caught.value.hint
        with open(place / "kept", "wb") as kept, pytest.raises(StoreError, match="no space left"):
            unpacked(archive(file(b"small"), file(b"also", bytes(8 << 20))), tmp_path / "tree", keep=kept.fileno())
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert os.listdir("/proc/self/fd") == before


def test_an_error_of_the_source_comes_out_as_one_of_the_store(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            got = super().readinto(buffer)
            if not got:
                raise OSError(5, "broken")
            return got

    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StoreError, match="input/output error"):
            unpack(Broken(archive(file(b"a", bytes(3 << 20)))[: 2 << 20]), descriptor)
    finally:
        os.close(descriptor)
