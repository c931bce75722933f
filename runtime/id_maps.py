"""Whom the users and groups of a user namespace are outside of it: user_namespaces(7), subuid(5), newuidmap(1).

A map is a list of ranges: the first id inside, the first id outside, how many. Every container of box has ids of its own, which
no other container has: what breaks out of one is nobody to the others, and to the machine.
"""

import posix as os
from fcntl import fcntl

from runtime import linux
from runtime.program import Program
from runtime.spawn import spawn
from store.errors import RunError, SetupFailed
from store.prepared import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Ranges = list[tuple[int, int, int]]

SIZE = 65536
# Of the ids that systemd sets aside for containers (systemd.io/UIDS-GIDS) those above what useradd(8) gives to users for theirs.
FIRST, LAST = 0x24000000, 0x6FFF0000
_LOCKS = "/run/box/ids"
_F_WRLCK, _F_OFD_SETLK = 1, 37
# Who stacks an overlay writes to its upper directory as itself, the machine's root, which a container's map leaves out. What it
# leaves there as its own (whiteouts, the work directory) has this owner, which nobody else is.
_OF_ROOT = 0xFFFF0000
_OVERFLOW = 65534
_LIMIT = 340  # ranges in a map
_ID_LIMIT = (1 << 32) - 1


class IdMaps:
    """The two maps of a user namespace."""

    __slots__ = ("groups", "users")

    def __init__(self, users: "Ranges", groups: "Ranges") -> None:
        self.users = users
        self.groups = groups

    @classmethod
    def shifted(cls, first: int, size: int = SIZE) -> "IdMaps":
        """Ids from 0 on are those from `first` on."""
        return cls([(0, first, size)], [(0, first, size)])

    @classmethod
    def of(cls, pid: "int | str") -> "IdMaps":
        """Those of a process' user namespace, as this process' sees them. OSError when it has ended."""
        found = []
        for name in ("uid_map", "gid_map"):
            rows = [line.split() for line in read_text(f"/proc/{pid}/{name}").splitlines()]
            found.append([(int(inside), int(outside), int(size)) for inside, outside, size in rows])
        return cls(*found)

    def unchanged(self) -> "IdMaps":
        """All ids of a namespace with these, each itself again."""
        return IdMaps(
            [(inside, inside, size) for inside, _, size in self.users],
            [(inside, inside, size) for inside, _, size in self.groups],
        )

    def is_identity(self) -> bool:
        """Whether each id is the same inside and outside."""
        return all(inside == outside for ranges in (self.users, self.groups) for inside, outside, _ in ranges)

    def for_mounts(self) -> "IdMaps":
        """The same, and the machine's root beside: what the mounts of a container's layers are given, but never the container."""
        return IdMaps(_with_root(self.users), _with_root(self.groups))

    def write(self, pid: int) -> None:
        """Give the new user namespace of the process `pid`, a child of this one, its maps. SetupFailed when that is refused."""
        for name, ranges in (("uid_map", self.users), ("gid_map", self.groups)):
            text = "".join([f"{inside} {outside} {size}\n" for inside, outside, size in ranges])
            tell_kernel(f"/proc/{pid}/{name}", text, "map ids " + text.replace("\n", ", ").rstrip(", "))

    def outside(self, user: int, group: int) -> tuple[int, int]:
        """Whom a user and a group of the namespace are outside. RunError for one that has no place there."""
        return _look_up(self.users, user, "user"), _look_up(self.groups, group, "group")

    def inside(self, user: int, group: int) -> tuple[int, int]:
        """Who a user and a group are in the namespace; 65534, as the kernel says it, for those that have no place there."""
        return _look_back(self.users, user), _look_back(self.groups, group)


def tell_kernel(path: str, text: str, action: str) -> None:
    """Write to a file of the kernel's. SetupFailed, which calls it `action`, when that is refused."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as err:
        raise SetupFailed(action, err.errno or 0, os.strerror(err.errno or 0), path=path) from err


def _with_root(ranges: "Ranges") -> "Ranges":
    if any(outside == 0 for _, outside, _ in ranges):
        return ranges
    return [*ranges, (_OF_ROOT, 0, 1)]


def _look_up(ranges: "Ranges", number: int, what: str) -> int:
    for inside, outside, size in ranges:
        if inside <= number < inside + size:
            return outside + number - inside
    raise RunError(f"{what} {number} has no place in the container's user namespace", hint="map more ids, or choose another")


def _look_back(ranges: "Ranges", number: int) -> int:
    for inside, outside, size in ranges:
        if outside <= number < outside + size:
            return inside + number - outside
    return _OVERFLOW


def checked(ranges: "Ranges", what: str) -> "Ranges":
    """`ranges`, when they can be a map: RunError, which calls them `what`, for none, too many, overlapping or impossible ones."""
    if not ranges:
        raise RunError(f"{what} is empty: a user namespace without ids has no user to run as")
    if len(ranges) > _LIMIT:
        raise RunError(f"{what} has {len(ranges)} ranges; the kernel takes {_LIMIT}")
    for side in (0, 1):
        end = -1
        for first, size in sorted((each[side], each[2]) for each in ranges):
            if size < 1 or first < 0 or first + size > _ID_LIMIT:
                raise RunError(f"{what} has a range that cannot be: {first} and {size} from there")
            if first < end:
                raise RunError(f"{what} has ranges that overlap at {first}", hint="each id can be one other only")
            end = first + size
    return ranges


def allocate() -> "tuple[int, int]":
    """The first of SIZE ids that no container on this machine has, and a descriptor that keeps them: they are free again when it
    is closed, or whoever has it has ended. RunError when all are taken.

    One byte of a file is locked for each range, whatever store the container is of: fcntl_locking(2), open file descriptions.
    """
    descriptor = _open_locks()
    try:
        count = (LAST - FIRST) // SIZE
        start = int.from_bytes(os.urandom(4), "little") % count
        for step in range(count):
            number = (start + step) % count
            # struct flock: type, whence, (padding,) start, length, pid
            byte = _F_WRLCK.to_bytes(2, "little") + bytes(6) + number.to_bytes(8, "little") + (1).to_bytes(8, "little") + bytes(8)
            try:
                fcntl(descriptor, _F_OFD_SETLK, byte)
            except OSError as err:
                if err.errno not in (11, 13):  # EAGAIN, EACCES: somebody has it
                    raise
                continue
            return FIRST + number * SIZE, descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise RunError(f"all {count} ranges of ids are taken by containers", hint="end some of them")


def _open_locks() -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(_LOCKS, flags)
    except FileNotFoundError:
        try:
            os.mkdir(_LOCKS.rpartition("/")[0], 0o711)
        except FileExistsError:
            pass
        return os.open(_LOCKS, flags | os.O_CREAT, 0o600)


def make_namespace(maps: IdMaps) -> int:
    """The descriptor of a new user namespace with these maps, in which no process is: for mounts that shall show their ids so."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    program = Program()
    program.call("prctl", linux.PR_SET_PDEATHSIG, linux.SIGKILL, 0, 0, 0)
    program.call("close_range", writer, writer, 0)
    program.call("read", reader, b"\0", 1)
    program.execute(["/proc/self/exe/"], [b"box"], [])  # fails, and so it ends
    found = -1

    def ready(pid: int) -> None:
        nonlocal found
        maps.write(pid)
        found = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        os.write(writer, b"1")

    try:
        pid, _ = spawn(program, linux.CLONE_NEWUSER, None, ready)
        os.waitpid(pid, 0)
    except BaseException:
        if found >= 0:
            os.close(found)
        raise
    finally:
        os.close(reader)
        os.close(writer)
    return found


def subordinate(path: str, names: "Sequence[str]") -> "list[tuple[int, int]]":
    """The ranges (first, size) that a file like /etc/subuid gives to one of `names` (a user's name, or its number as text)."""
    try:
        lines = read_text(path).splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        name, _, rest = line.strip().partition(":")
        first, _, size = rest.partition(":")
        if name in names and first.isdigit() and size.isdigit() and int(size):
            found.append((int(first), int(size)))
    return found
