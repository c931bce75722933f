"""Who a container runs as: `user[:group]` looked up in the image's own /etc/passwd and /etc/group, read and parsed by us.

Never by libc: its look-up would load the image's libnss into a process that still is root on this machine. The files are the
image's bytes: bounded, opened inside the image's root, and a line that is not as passwd(5) and group(5) have it is not there.
Hot, and it imports nothing later either, so it may be called after the container's root was entered.
"""

import posix as os

from store.errors import RunError
from store.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, decode, encode, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_ID = 2**32 - 2  # 2**32 - 1 is "no change" to setresuid(2)
LARGEST_FILE = 1 << 20

_ENOENT, _ENOTDIR, _EAGAIN = 2, 20, 11
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_TRIES = 128


class User:
    """An identity in numbers. `groups` are the supplementary ones, the primary first; `name` is empty for a bare number."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...], home: str = "/", name: str = "") -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home
        self.name = name


def resolve(root: int, text: str) -> User:
    """The user that `text` (`user`, `user:group`, or empty for root) means in the image whose root directory is the fd `root`.

    A file that is missing is an empty one; a file that is no regular file, or is over 1 MiB, is a RunError.
    """
    return find(_read(root, "etc/passwd"), _read(root, "etc/group"), text)


def find(passwd: bytes, group: bytes, text: str) -> User:
    """The user that `text` means, given the contents of /etc/passwd and /etc/group.

    What is written in digits is a number, never a name: an image must not make user 1000 root by naming root "1000". A number
    needs no entry: without one its group is 0 and its home "/". The first entry that fits counts. Supplementary groups are
    those that list the user's name, unless a group is given. All of it as docker does.
    """
    user, _, wanted_group = text.partition(":")
    number = _number(user) if user else 0
    if number is None:
        name = encode(user)
        entry = next((entry for entry in _users(passwd, name) if entry[0] == name), None)
        if entry is None:
            raise _unknown("user", user, "/etc/passwd", [entry[0] for entry in _users(passwd)])
    else:
        entry = next((entry for entry in _users(passwd, b"%d" % number) if entry[1] == number), (b"", number, 0, "/"))
    name, uid, gid, home = entry
    others: list[int] = []
    if wanted_group:
        gid = _group(group, wanted_group)
    elif name:
        others = [entry[1] for entry in _groups(group, name) if name in entry[2]]
    return User(uid, gid, tuple(dict.fromkeys((gid, *others))), home, decode(name))


def _group(group: bytes, wanted: str) -> int:
    number = _number(wanted)
    if number is not None:
        return number
    name = encode(wanted)
    for entry in _groups(group, name):
        if entry[0] == name:
            return entry[1]
    raise _unknown("group", wanted, "/etc/group", [entry[0] for entry in _groups(group)])


def _users(passwd: bytes, needle: bytes = b"") -> "Iterator[tuple[bytes, int, int, str]]":
    """(name, uid, gid, home) of every well-formed line that has `needle` somewhere."""
    for fields in _lines(passwd, needle, 4):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is not None and gid is not None:
            home = decode(fields[5]) if len(fields) > 5 else ""
            yield fields[0], uid, gid, home if home.startswith("/") else "/"


def _groups(group: bytes, needle: bytes = b"") -> "Iterator[tuple[bytes, int, list[bytes]]]":
    """(name, gid, members) of every well-formed line that has `needle` somewhere."""
    for fields in _lines(group, needle, 3):
        gid = _id(fields[2])
        if gid is not None:
            yield fields[0], gid, fields[3].split(b",") if len(fields) > 3 else []


def _lines(data: bytes, needle: bytes, least: int) -> "Iterator[list[bytes]]":
    for line in data.split(b"\n"):
        if needle in line:
            fields = line.strip(b" \t\r").split(b":")
            # A comment, an empty name and a NUL (which would cut an environment variable short) are no entry.
            if len(fields) >= least and fields[0] and not fields[0].startswith(b"#") and b"\0" not in line:
                yield fields


def _id(field: bytes) -> int | None:
    """The number in a field of digits, or None: what is malformed must not become 0, which is root."""
    if not field.isdigit() or len(field) > 10:
        return None
    number = int(field)
    return number if number <= LARGEST_ID else None


def _number(text: str) -> int | None:
    """The id that somebody wrote in digits, None for a name; a number that is no id is an error."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    number = _id(text.encode())
    if number is None:
        raise RunError(f"{text} is not an id", hint=f"ids go from 0 to {LARGEST_ID}")
    return number


def _unknown(kind: str, name: str, path: str, known: list[bytes]) -> RunError:
    # The names are the image's bytes on their way to a terminal: only those that can do nothing there are shown.
    shown = [entry.decode("ascii") for entry in known if len(entry) <= 32 and entry.translate(None, b"_-.").isalnum()]
    there = f"it has {', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''}" if shown else "it has none"
    return RunError(f"no {kind} {name!r} in the image's {path}", hint=f"{there}; a number needs no entry")


def _read(root: int, path: str) -> bytes:
    """The contents of the image's file; empty if there is none."""
    # Looked at through O_PATH before it is opened, for opening is already an act: a FIFO waits, a device starts.
    try:
        handle = _open(root, path, os.O_PATH)
    except OSError as err:
        if err.errno in (_ENOENT, _ENOTDIR):
            return b""
        raise RunError(f"the image's /{path} cannot be opened: {os.strerror(err.errno or 0)}") from err
    try:
        looked_at = os.fstat(handle)
    finally:
        os.close(handle)
    if looked_at.st_mode & _S_IFMT != _S_IFREG:
        raise RunError(f"the image's /{path} is not a regular file")
    try:
        fd = _open(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as err:
        raise RunError(f"the image's /{path} cannot be opened: {os.strerror(err.errno or 0)}") from err
    try:
        opened = os.fstat(fd)
        if (opened.st_dev, opened.st_ino) != (looked_at.st_dev, looked_at.st_ino):
            raise RunError(f"the image's /{path} was replaced while it was read", hint="try again")
        return _read_bounded(fd, path)
    finally:
        os.close(fd)


def _read_bounded(fd: int, path: str) -> bytes:
    parts: list[bytes] = []
    left = LARGEST_FILE + 1
    while left and (part := os.read(fd, min(left, 65536))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise RunError(f"the image's /{path} is larger than 1 MiB", hint="that is no file of users; box does not read it")
    return b"".join(parts)


def _open(root: int, path: str, flags: int) -> int:
    for _ in range(_TRIES):
        try:
            return openat2(root, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as err:
            if err.errno != _EAGAIN:
                raise
    return openat2(root, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
