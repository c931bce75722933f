"""The tar reader: what it understands, what it refuses, and that a cut or a changed byte never passes for an archive."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import ArchiveError
from store.tar_read import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, Limits, TarReader
from tests.store.archives import (
    END,
    archive,
    directory,
    file,
    hardlink,
    header,
    long_name,
    padded,
    pax,
    raw_pax,
    record,
    stdlib_names,
    symlink,
)


def reader(data: bytes, *, chunk: int = 1 << 20, limits: Limits | None = None) -> TarReader:
    pieces: Iterator[memoryview] = (memoryview(data)[at : at + chunk] for at in range(0, len(data), chunk))
    return TarReader(lambda: next(pieces, None), limits or Limits())


def entries(data: bytes, **how: object) -> list[Entry]:
    return list(reader(data, **how))  # type: ignore[arg-type]


def only(*members: bytes) -> Entry:
    (entry,) = entries(archive(*members))
    return entry


# -- what it understands


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("chunk", [512, 1536, 1 << 20])
def test_what_the_standard_library_writes_is_read_as_it_was_meant(style: int, chunk: int) -> None:
    long = "deep/" * 12 + "x" * 90
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=style) as tar:
        for name, kind, link, size in [
            ("./", tarfile.DIRTYPE, "", 0),
            ("./plain", tarfile.REGTYPE, "", 1000),
            (long, tarfile.REGTYPE, "", 512),
            ("link", tarfile.SYMTYPE, "/absolute/../target", 0),
            ("again", tarfile.LNKTYPE, "./plain", 0),
            ("dir/", tarfile.DIRTYPE, "", 0),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, link, size, 0o640
            info.uid, info.gid, info.mtime, info.uname = 1000, 1001, 1_700_000_000, "somebody"
            tar.addfile(info, io.BytesIO(b"c" * size))

    source = reader(written.getvalue(), chunk=chunk)
    found = [(entry.kind, entry.name, entry.link, source.read()) for entry in source]

    assert found == [
        (DIRECTORY, b"", b"", b""),
        (FILE, b"plain", b"", b"c" * 1000),
        (FILE, long.encode(), b"", b"c" * 512),
        (SYMLINK, b"link", b"/absolute/../target", b""),
        (HARDLINK, b"again", b"plain", b""),
        (DIRECTORY, b"dir", b"", b""),
    ]


@pytest.mark.parametrize("style", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_is_read_as_it_was_meant(style: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_bytes(b"content")
    (tmp_path / "d/link").symlink_to("file")
    made = subprocess.run(
        [
            "tar",
            f"--format={style}",
            "--owner=1000",
            "--group=1001",
            "--mtime=@1234567890",
            "--mode=0751",
            "--sort=name",
            "-c",
            "d",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    source = reader(made)
    found = [(each.kind, each.name, each.uid, each.gid, each.mtime, source.read()) for each in source]
    when = 1_234_567_890_000_000_000
    assert found == [
        (DIRECTORY, b"d", 1000, 1001, when, b""),
        (FILE, b"d/file", 1000, 1001, when, b"content"),
        (SYMLINK, b"d/link", 1000, 1001, when, b""),
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"./a", b"a"),
        (b"/a", b"a"),
        (b"//a//b", b"a/b"),
        (b"./", b""),
        (b".", b""),
        (b"/", b""),
        (b"././a/./b", b"a/b"),
        (b"./.hidden", b".hidden"),
        (b"a/.hidden/b", b"a/.hidden/b"),
        (b"a/..b", b"a/..b"),
        (b"..a", b"..a"),
        (b"...", b"..."),
        (b"caf\xe9 \xff", b"caf\xe9 \xff"),
        (b"line\nbreak", b"line\nbreak"),
    ],
)
def test_a_name_means_a_path_below_the_root(name: bytes, path: bytes) -> None:
    if not name.endswith(b"/"):
        assert only(file(name)).name == path
        assert only(long_name(name), file(b"x")).name == path
        assert only(pax({b"path": name}), file(b"x")).name == path
    assert only(directory(name.rstrip(b"/") + b"/")).name == path
    assert only(long_name(name), directory(b"x")).name == path


def test_the_prefix_counts_in_ustar_and_only_there() -> None:
    assert only(file(b"name", prefix=b"some/where")).name == b"some/where/name"
    assert only(file(b"name", magic=b"ustar  \0", prefix=b"\x01\x02")).name == b"name"
    star = b"some/where".ljust(131, b"\0") + b"00000000001\0" * 2
    assert only(file(b"name", prefix=star)).name == b"some/where/name"


def test_numbers_come_in_octal_in_base_256_and_in_decimal() -> None:
    big = (1 << 31) + 5
    coded = b"\x80" + big.to_bytes(7, "big")
    assert only(file(b"x", uid=coded, gid=b"  1750 ")).uid == big
    assert only(file(b"x", uid=coded, gid=b"  1750 ")).gid == 0o1750
    assert only(pax({b"uid": b"4294967294", b"gid": b"3000000"}), file(b"x")).uid == 4294967294
    assert only(file(b"x", mtime=b"\xff" * 11 + b"\xfe")).mtime == -2_000_000_000
    assert only(header(b"x", size=b"\x80" + bytes(9) + b"\x02\x00"), bytes(512)).size == 512


@pytest.mark.parametrize(
    ("seconds", "nearest"),
    [
        (1 << 40, 15032385535), (15032385536, 15032385535), (15032385535, 15032385535), (15032385534, 15032385534),
        (-99999999999, -2147483648), (-2147483649, -2147483648), (-2147483647, -2147483647),
    ],
)  # fmt: skip
def test_a_time_that_not_every_file_system_holds_is_the_nearest_that_all_do(seconds: int, nearest: int) -> None:
    binary = file(b"x", mtime=b"\x80" + seconds.to_bytes(11, "big") if seconds > 0 else seconds.to_bytes(12, "big", signed=True))
    for members in (archive(pax({b"mtime": b"%d" % seconds}), file(b"x")), archive(binary)):
        assert {entry.mtime for entry in reader(members)} == {nearest * 1_000_000_000}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"1.123456789", 1_123_456_789),
        (b"1.1234567899999", 1_123_456_789),
        (b"-1.25", -1_250_000_000),
        (b"1700000000.000000001", 1_700_000_000_000_000_001),
        (b"7.", 7_000_000_000),
    ],
)
def test_a_time_is_exact_to_the_nanosecond(text: bytes, nanoseconds: int) -> None:
    assert only(pax({b"mtime": text}), file(b"x")).mtime == nanoseconds


def test_extended_attributes_come_in_the_ways_of_star_and_libarchive() -> None:
    star = pax({b"SCHILY.xattr.user.a%3Db%25": b"raw\0\n=", b"SCHILY.xattr.user.empty": b""})
    assert only(star, file(b"x")).xattrs == {b"user.a=b%": b"raw\0\n=", b"user.empty": b""}
    libarchive = pax({b"LIBARCHIVE.xattr.user.a%3Db": b"cmF3AAo"})
    assert only(libarchive, file(b"x")).xattrs == {b"user.a=b": b"raw\0\n"}


def test_a_global_header_holds_until_it_is_overruled() -> None:
    data = archive(
        pax({b"uid": b"7", b"comment": b"made by git"}, kind=b"g"),
        file(b"a"),
        pax({b"uid": b"8"}),
        file(b"b"),
        file(b"c"),
    )
    assert [(each.name, each.uid) for each in entries(data)] == [(b"a", 7), (b"b", 8), (b"c", 7)]


def test_an_extended_header_holds_for_one_entry() -> None:
    data = archive(pax({b"path": b"long", b"uid": b"9"}), file(b"x"), file(b"y"))
    assert [(each.name, each.uid) for each in entries(data)] == [(b"long", 9), (b"y", 0)]


def test_content_that_nobody_reads_is_skipped() -> None:
    data = archive(file(b"a", b"1" * 5000), file(b"b", b"2"))
    for chunk in (512, 1024, 1 << 20):
        assert [each.name for each in entries(data, chunk=chunk)] == [b"a", b"b"]


def test_a_file_and_a_directory_of_before_posix_are_told_apart_by_the_slash() -> None:
    assert only(header(b"d/", b"\0", magic=bytes(8))).kind == DIRECTORY
    assert only(header(b"f", b"\0", magic=bytes(8))).kind == FILE


def test_the_checksum_of_signed_bytes_is_accepted() -> None:
    block = bytearray(header(b"caf\xe9"))
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
    block[148:156] = b"%06o\0 " % signed
    assert only(bytes(block)).name == b"caf\xe9"


# -- what it refuses, where the standard library believes it

BELIEVED = [
    ("a file whose name ends in a slash", archive(file(b"f/", b"x")), "name ends in a slash"),
    ("a size on a directory", header(b"d/", b"5", size=512) + file(b"inner") + END, "has no content says it has 512"),
    ("a size on a symlink", header(b"s", b"2", size=512, link=b"t") + bytes(512) + END, "has no content says"),
    ("a size on a hard link", header(b"h", b"1", size=512, link=b"t") + file(b"smuggled") + END, "has no content says"),
    ("an owner of -1", archive(file(b"x", uid=b"\xff" * 8)), "an owner that cannot be: -1"),
    ("an owner of 2**32 - 1", archive(pax({b"uid": b"4294967295"}), file(b"x")), "an owner that cannot be"),
    ("a group of 2**32", archive(pax({b"gid": b"4294967296"}), file(b"x")), "an owner that cannot be"),
    ("a time that is no number", archive(pax({b"mtime": b"nan"}), file(b"x")), "not a number"),
    ("a time without end", archive(pax({b"mtime": b"inf"}), file(b"x")), "not a number"),
    ("a time with an exponent", archive(pax({b"mtime": b"1e400"}), file(b"x")), "not a number"),
    ("a time too far away", archive(pax({b"mtime": b"99999999999999"}), file(b"x")), "time that cannot be"),
    ("a time too long ago", archive(pax({b"mtime": b"-99999999999999"}), file(b"x")), "time that cannot be"),
    ("a time of 2**95", archive(file(b"x", mtime=b"\x80" + b"\x7f" * 11)), "time that cannot be"),
    ("a NUL in a name", archive(pax({b"path": b"a\0b"}), file(b"x")), "NUL byte"),
    ("a NUL in a link target", archive(pax({b"linkpath": b"a\0b"}), symlink(b"x", b"y")), "link to nowhere"),
    ("a symlink to nothing", archive(symlink(b"s", b"")), "link to nowhere"),
    ("a hard link to the root", archive(hardlink(b"h", b".")), "hard link to the root"),
    ("a name of more than a path", archive(pax({b"path": b"a/" * 3000 + b"b"}), file(b"x")), "a path of more than 4095"),
    ("a GNU name of more than a path", archive(long_name(b"a/" * 3000 + b"b"), file(b"x")), "a path of more than 4095"),
    ("a target of more than a path", archive(pax({b"linkpath": b"a" * 5000}), symlink(b"x", b"y")), "a path of more than 4095"),
    ("an extended header of megabytes", archive(pax({b"comment": b"x" * (2 << 20)}), file(b"x")), "extended header of 2097"),
    ("two names", archive(long_name(b"a"), pax({b"path": b"b"}), file(b"x")), "two paths for one entry"),
    (
        "two names in one header",
        archive(raw_pax(record(b"path", b"a") + record(b"path", b"b")), file(b"x")),
        "two paths for one entry",
    ),
    ("a name for all", archive(pax({b"path": b"a"}, kind=b"g"), file(b"x"), file(b"y")), "every entry the same path"),
    ("a device beyond the kernel's", archive(header(b"n", b"3", device=(4096, 0))), "device number that cannot be"),
    ("something behind the end", archive(file(b"x")) + file(b"y") + END, "behind the end"),
    ("something behind one block of zeros", file(b"x") + bytes(512) + file(b"y") + END, "behind the end"),
    ("an upward hard link", archive(hardlink(b"h", b"../../etc/shadow")), "link target leads upwards"),
    ("no end", file(b"x", b"content"), "cut short"),
    ("an unknown type", archive(header(b"x", b"Z")), "unknown type"),
]


@pytest.mark.parametrize(("data", "message"), [each[1:] for each in BELIEVED], ids=[each[0] for each in BELIEVED])
def test_a_header_that_the_standard_library_believes_is_refused(data: bytes, message: str) -> None:
    assert stdlib_names(data), "the control does not believe it either"
    with pytest.raises(ArchiveError, match=message):
        entries(data)


REFUSED = [
    ("a negative size", archive(header(b"x", size=b"\xff" * 12)), "negative size"),
    ("a size of 2**88", header(b"x", size=b"\x80" + b"\x7f" * 11) + END, "cut short"),
    ("a negative size of an extended header", archive(header(b"x", b"x", size=b"\xff" * 12)), "extended header of -1"),
    ("a size with a sign", archive(header(b"x", size=b"-0000000001\0")), "not a number"),
    ("a size with an underscore", archive(header(b"x", size=b"0_00000001 \0")), "not a number"),
    ("a decimal size with a sign", archive(pax({b"size": b"-1"}), file(b"x")), "not a number"),
    ("a decimal size of 5000 digits", archive(pax({b"size": b"9" * 5000}), file(b"x")), "not a number"),
    ("a record longer than its header", archive(raw_pax(b"99 path=x\n"), file(b"x")), "cannot be read"),
    ("a record of length zero", archive(raw_pax(b"0 path=x\n"), file(b"x")), "cannot be read"),
    ("a record of negative length", archive(raw_pax(b"-9 path=x\n"), file(b"x")), "cannot be read"),
    ("a record whose length never ends", archive(raw_pax(b"1" * 100_000), file(b"x")), "cannot be read"),
    ("a record without a key", archive(raw_pax(b"8 =path\n"), file(b"x")), "cannot be read"),
    ("a record without an end", archive(raw_pax(b"9 path=xx"), file(b"x")), "cannot be read"),
    ("two extended headers", archive(pax({b"path": b"a"}), pax({b"uid": b"1"}), file(b"x")), "two extended headers"),
    ("an extended header at the end", archive(pax({b"path": b"a"})), "between an extended header and its entry"),
    ("an attribute that is no base64", archive(pax({b"LIBARCHIVE.xattr.user.a": b"!"}), file(b"x")), "cannot be read"),
    ("an attribute name badly quoted", archive(pax({b"LIBARCHIVE.xattr.user.%zz": b"YQ"}), file(b"x")), "cannot be read"),
    ("an attribute with NUL in its name", archive(pax({b"SCHILY.xattr.user.a\0b": b"c"}), file(b"x")), "cannot be"),
    ("an attribute without a name", archive(pax({b"SCHILY.xattr.": b"c"}), file(b"x")), "cannot be"),
    ("an entry without a name", archive(file(b"")), "without a name"),
    ("a wrong checksum", archive(header(b"x", checksum=1234)), "checksum is wrong"),
    ("no tar at all", b"#!/bin/sh\n" * 100, "this is no tar archive"),
    ("nothing at all", b"", "the archive is empty"),
    ("less than a header", b"text", "this is no tar archive: it is shorter than a header"),
]


@pytest.mark.parametrize(("data", "message"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_a_damaged_header_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        entries(data)


WHOLE = archive(
    directory(b"d/"),
    pax({b"path": b"d/long", b"SCHILY.xattr.user.a": b"b"}),
    file(b"x", b"content" * 300),
    long_name(b"d/" + b"n" * 120),
    file(b"y", b"z" * 512),
    symlink(b"d/s", b"x"),
    hardlink(b"d/h", b"d/long"),
)


@pytest.mark.parametrize("at", range(512, len(WHOLE) - len(END) + 1, 512))
def test_an_archive_cut_at_a_block_is_refused(at: int) -> None:
    assert len(entries(WHOLE)) == 5
    with pytest.raises(ArchiveError, match="cut short"):
        entries(WHOLE[:at])


@pytest.mark.parametrize("at", range(877, len(WHOLE) - len(END), 777))
def test_an_archive_cut_anywhere_is_refused(at: int) -> None:
    with pytest.raises(ArchiveError, match="cut short"):
        entries(WHOLE[:at])


@pytest.mark.parametrize("at", range(0, 512, 7))
def test_a_changed_byte_in_a_header_is_noticed(at: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] ^= 0x11
    with pytest.raises(ArchiveError):
        entries(bytes(changed))


def test_more_entries_than_allowed_are_refused() -> None:
    data = archive(*(file(b"%d" % at) for at in range(11)))
    assert len(entries(data, limits=Limits(entries=11))) == 11
    with pytest.raises(ArchiveError, match="more than 10 entries"):
        entries(data, limits=Limits(entries=10))


def test_zeros_of_any_length_may_follow_the_end() -> None:
    assert len(entries(archive(file(b"x")) + bytes(10_000), chunk=512)) == 1


def test_a_name_in_a_message_has_no_control_characters() -> None:
    with pytest.raises(ArchiveError) as caught:
        entries(archive(file(b"../\x1b]0;evil\x07\xff")))
    assert caught.value.message.isprintable()


def test_padded_is_what_a_block_needs() -> None:
    assert [len(padded(b"x" * size)) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]
