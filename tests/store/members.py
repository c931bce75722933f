"""Layers as hypothesis makes them up: archives of everything a member can say, in any order, one on top of another."""

import struct
from collections.abc import Callable

from hypothesis import strategies as st

from tests.store.archives import directory, file, hardlink, padded, pax, symlink
from tests.store.archives import header as raw


class Member(bytes):
    """A member of an archive that an example is shown by."""

    said: str

    def __new__(cls, data: bytes, said: str) -> "Member":
        self = super().__new__(cls, data)
        self.said = said
        return self

    def __repr__(self) -> str:
        return self.said


_PARTS = st.one_of(
    st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"n" * 120, b"m" * 255, b"\xff\xfe", b" ", b"-", b"..."])
)
_SOME = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.one_of(st.lists(_SOME, min_size=1, max_size=3).map(b"/".join), st.lists(_PARTS, min_size=1, max_size=4).map(b"/".join))
_TARGETS = st.one_of(
    PATHS,
    PATHS.map(lambda path: b"/" + path),
    st.sampled_from([b"..", b".", b"../a", b"../../b/c", b"/", b"a/../b", b"nowhere", b"t" * 700, b"t" * 4000]),
)
_IDS = st.one_of(st.just(0), st.sampled_from([1, 1000, 65534, 2_097_151, 2_097_152, 4_294_967_294]))
_TIMES = st.one_of(
    st.integers(-2_000_000_000 * 10**9, 4_000_000_000 * 10**9), st.sampled_from([0, 1, -1, -1_500_000_000, 999_999_999])
)
_MODES = st.one_of(st.sampled_from([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0]), st.integers(0, 0o7777))


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as its extended attribute has it, of (tag, permissions, id): linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_ANY = 0xFFFFFFFF
_ACLS = [
    acl((1, 6, _ANY), (2, 4, 1000), (4, 4, _ANY), (16, 5, _ANY), (32, 0, _ANY)),
    acl((1, 7, _ANY), (4, 5, _ANY), (8, 7, 2_097_152), (16, 7, _ANY), (32, 5, _ANY)),
    acl((1, 6, _ANY), (4, 4, _ANY), (32, 4, _ANY)),  # says no more than a mode
    acl((1, 6, 0), (2, 4, 7), (2, 4, 8), (4, 4, 0), (16, 4, 0), (32, 0, 0)),
    acl((1, 6, _ANY)),  # the rest are none
    acl((4, 6, _ANY), (1, 6, _ANY), (32, 6, _ANY)),
    b"\2\0\0\0",
    b"",
]
_CAPABILITIES = [struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0), struct.pack("<IIIIII", 0x03000000, 1 << 10, 0, 0, 0, 1000)]
_VALUES = st.one_of(st.binary(max_size=40), st.integers(100, 1500).map(lambda size: b"v\0" * (size // 2)))
_XATTR = st.one_of(
    st.tuples(st.sampled_from([b"user.a", b"user.b", b"user.caf\xc3\xa9", b"trusted.t", b"user." + b"k" * 200]), _VALUES),
    st.tuples(st.sampled_from([b"trusted.overlay.opaque", b"user.overlay.redirect", b"security.selinux"]), st.just(b"y")),
    st.tuples(st.just(b"security.capability"), st.sampled_from(_CAPABILITIES)),
    st.tuples(st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"]), st.sampled_from(_ACLS[:4])),
    st.tuples(st.sampled_from([b"system.posix_acl_access", b"security.capability"]), st.sampled_from(_ACLS[4:])),
)
_CONTENTS = st.one_of(
    st.just(b""), st.binary(min_size=1, max_size=30), st.integers(500, 9000).map(lambda size: b"0123456789abcdef" * (size // 16))
)


def _dressed(
    make: Callable[..., bytes],
    path: bytes,
    *what: bytes,
    mode: int,
    owner: tuple[int, int],
    mtime: int,
    xattrs: dict[bytes, bytes],
) -> bytes:
    """The member, with all of it said by PAX that a plain header may have no room for."""
    more = {b"path": path, b"uid": b"%d" % owner[0], b"gid": b"%d" % owner[1], b"mtime": _seconds(mtime)}
    said = [each[:20] for each in what]
    if make in (symlink, hardlink):
        more[b"linkpath"] = what[0]
        what = (b"x",)
    more |= {b"SCHILY.xattr." + name: value for name, value in xattrs.items()}
    fields = {} if make is symlink else {"mode": mode}
    data = pax(more) + make(b"x/" if make is directory else b"x", *what, **fields)
    return Member(data, f"{make.__name__}({path!r}, {said!r}, {mode:#o}, {owner}, {mtime}, {xattrs!r})")


def _seconds(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    whole, part = divmod(abs(nanoseconds), 10**9)
    return b"%s%d.%09d" % (sign, whole, part)


_LOOKS = {
    "mode": _MODES,
    "owner": st.tuples(_IDS, _IDS),
    "mtime": _TIMES,
    "xattrs": st.one_of(st.just({}), st.just({}), st.just({}), st.lists(_XATTR, max_size=3).map(dict)),
}


def _fifo(name: bytes, **fields: int) -> bytes:
    return raw(name, b"6", **fields)  # type: ignore[arg-type]


def _device(kind: bytes, number: tuple[int, int]) -> Callable[..., bytes]:
    def device(name: bytes, **fields: int) -> bytes:
        return raw(name, kind, device=number, **fields)  # type: ignore[arg-type]

    return device


def _whiteout(path: bytes) -> bytes:
    above, _, name = path.rpartition(b"/")
    return Member(pax({b"path": (above + b"/" if above else b"") + b".wh." + name[:200]}) + file(b"x"), f"whiteout({path!r})")


def _opaque(path: bytes) -> bytes:
    return Member(pax({b"path": path + b"/.wh..wh..opq" if path else b".wh..wh..opq"}) + file(b"x"), f"opaque({path!r})")


def _sparse(path: bytes, pieces: list[tuple[int, bytes]]) -> bytes:
    """A file with holes, in the form PAX 1.0 of GNU tar."""
    at = 0
    listed: list[tuple[int, bytes]] = []
    for gap, content in pieces:
        listed.append((at + gap, content))
        at += gap + len(content)
    size = at + 5000
    lines = [len(listed)] + [number for offset, content in listed for number in (offset, len(content))]
    body = padded(b"".join(b"%d\n" % number for number in lines)) + b"".join(content for _, content in listed)
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": path,
        b"GNU.sparse.realsize": b"%d" % size,
    }
    return Member(pax(records) + file(b"x", body), f"sparse({path!r}, {[(gap, len(content)) for gap, content in pieces]})")


_PIECES = st.lists(st.tuples(st.sampled_from([0, 512, 4096, 100_000]), st.sampled_from([b"p" * 512, b"q" * 1024])), max_size=3)
_NUMBERS = st.sampled_from([(1, 3), (7, 200), (8, 256), (259, 1048575), (4095, 0)])

MEMBERS = st.one_of(
    st.builds(_dressed, st.just(file), PATHS, _CONTENTS, **_LOOKS),  # type: ignore[arg-type]
    st.builds(_dressed, st.just(file), PATHS, _CONTENTS, **_LOOKS),  # type: ignore[arg-type]
    st.builds(_dressed, st.just(directory), st.one_of(PATHS, PATHS, PATHS, st.just(b"")), **_LOOKS),  # type: ignore[arg-type]
    st.builds(_dressed, st.just(symlink), PATHS, _TARGETS, **_LOOKS),  # type: ignore[arg-type]
    st.builds(_dressed, st.just(hardlink), PATHS, PATHS, **_LOOKS),  # type: ignore[arg-type]
    st.builds(_dressed, st.just(_fifo), PATHS, **_LOOKS),  # type: ignore[arg-type]
    st.builds(_dressed, st.builds(_device, st.sampled_from([b"3", b"4"]), _NUMBERS), PATHS, **_LOOKS),  # type: ignore[arg-type]
    st.builds(_sparse, PATHS, _PIECES),
    st.builds(_whiteout, PATHS),
    st.builds(_opaque, st.one_of(PATHS, PATHS, PATHS, st.just(b""))),
)
LAYERS = st.lists(st.lists(MEMBERS, max_size=12), min_size=1, max_size=4)
"""Some layers, each a list of members: the lowest first."""
