"""The kernel calls that Python has no name for: the one place where box crosses into libc by address.

`_ctypes` is used without its wrapper package `ctypes`, whose import costs 2.4 ms of a command that lasts ten. Every
function raises `OSError` with errno, the call's name and, where there is one, the path. Integers are passed at full width,
`bytes` as a pointer to their data, `None` as a null pointer. A `buffer` is what the kernel writes into.

Sources: the man pages of the calls; linux/mount.h, linux/openat2.h. Calls numbered from 424 on have the same number on every
architecture.
"""

import posix as os  # os itself, its Python half, costs a millisecond
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    Array,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

MACHINE = os.uname().machine

OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 428, 429, 430, 431, 432
OPENAT2 = 437
MOUNT_SETATTR = 442

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 2, 4, 8, 16

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 4096, 8192, 16384, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x100000
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC and OPEN_TREE_CLONE take the same role under different numbers


TYPE_CHECKING = False  # as in typing, whose import would cost 9 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    _SimpleInt = _SimpleCData[int]
    _SimpleBytes = _SimpleCData[bytes]
    Buffer = Array[Any]
else:
    _SimpleInt = _SimpleBytes = _SimpleCData
    Buffer = Array


class Long(_SimpleInt):
    """A C `long`: an integer argument at full width (a bare int is passed as a C int)."""

    _type_ = "l"


class _Char(_SimpleBytes):
    _type_ = "c"


class _CharPointer(_SimpleBytes):
    _type_ = "z"


Argument = int | bytes | Buffer | None


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = Long


class _HoldingFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI
    _restype_ = Long


_libc = dlopen(None, 0)  # type: ignore[arg-type]  # typeshed forgets that None means this very process
_syscall = _Function(dlsym(_libc, "syscall"))
_syscall_holding = _HoldingFunction(dlsym(_libc, "syscall"))
_functions: dict[str, _Function] = {}
_TRIES = 128  # of a path walk that others race
# As a long, and as an int in the lower half of the register, whose upper half then means nothing. No address ends so.
_MINUS_ONE = (-1, 0xFFFFFFFF)


def _widen(arguments: tuple[Argument, ...]) -> list[Long | bytes | Buffer | None]:
    return [Long(value) if isinstance(value, int) else value for value in arguments]


def _fail(action: str, path: str | None) -> OSError:
    errno = get_errno()
    return OSError(errno, f"{action}: {os.strerror(errno)}", path)


def syscall(name: str, number: int, *arguments: Argument, path: str | None = None) -> int:
    """Make the numbered call; `name` and `path` are what an error says."""
    result: int = _syscall(Long(number), *_widen(arguments))
    if result == -1:
        raise _fail(name, path)
    return result


def syscall_keeping_the_lock(name: str, number: int, *arguments: Argument) -> int:
    """The same without giving up the interpreter's lock, so that a clone's child wakes up holding it."""
    result: int = _syscall_holding(Long(number), *_widen(arguments))
    if result == -1:
        raise _fail(name, None)
    return result


def libc(name: str, *arguments: Argument, path: str | None = None) -> int:
    """Call libc's function `name`."""
    function = _functions.get(name)
    if function is None:
        function = _functions[name] = _Function(dlsym(_libc, name))
    result: int = function(*_widen(arguments))
    if result in _MINUS_ONE:
        raise _fail(name, path)
    return result


def address_of(data: bytes) -> int:
    """Where `data` lies in memory, for a pointer within a structure. It holds for as long as the caller keeps `data`."""
    return int.from_bytes(bytes(_CharPointer(data)), "little")


def buffer(size: int) -> "tuple[Array[_Char], int]":
    """`size` zeroed bytes for the kernel, or other code, to write into, and their address; a slice of them is `bytes`."""
    memory = (_Char * size)()
    return memory, addressof(memory)


def callable_at(address: int) -> "Callable[..., int]":
    """The C function at `address`, taking pointers and numbers, returning a long."""
    entry = _Function(address)
    return lambda *arguments: int(entry(*_widen(arguments)))


def encode(name: str | bytes) -> bytes:
    """A file's name as the kernel has it; what is not UTF-8 in it survives, as with os.fsencode."""
    return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name


def decode(name: bytes) -> str:
    """The other way round, as with os.fsdecode."""
    return name.decode("utf-8", "surrogateescape")


def exists(path: str) -> bool:
    """Whether there is something at `path`."""
    return os.access(path, os.F_OK)


def openat2(directory: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2) with close-on-exec; `resolve` is of RESOLVE_*.

    EAGAIN says that a rename or a mount anywhere on the machine raced the walk: it is tried again, some hundred times.
    """
    name = encode(path)
    how = open_how(flags, mode, resolve)
    for _ in range(_TRIES):
        try:
            return syscall("openat2", OPENAT2, directory, name, how, len(how), path=decode(name))
        except BlockingIOError:
            continue
    return syscall("openat2", OPENAT2, directory, name, how, len(how), path=decode(name))


def open_how(flags: int, mode: int, resolve: int) -> bytes:
    """The structure that openat2(2) takes, with close-on-exec."""
    return b"".join([value.to_bytes(8, "little") for value in (flags | os.O_CLOEXEC, mode, resolve)])


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). `data` longer than a page is refused by the kernel."""
    libc(
        "mount", encode(source), encode(target), kind.encode(), flags,
        encode(data) if data else None, path=target,
    )  # fmt: skip


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    libc("umount2", encode(target), flags, path=target)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2) with close-on-exec: with OPEN_TREE_CLONE, a detached copy of the mount at `path`."""
    return syscall("open_tree", OPEN_TREE, directory, encode(path), flags | os.O_CLOEXEC, path=path)


def move_mount(source: int, target: int, path: str = "") -> None:
    """move_mount(2): attach the detached mount `source` at `path` below the directory `target`, or on the very fd `target`."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    syscall("move_mount", MOVE_MOUNT, source, b"", target, encode(path), flags, path=path or None)


def mount_setattr(
    mount_fd: int, attributes: int, *, clear: int = 0, propagation: int = 0, mapping: int = 0, recursive: bool = False,
    path: str = "",
) -> None:  # fmt: skip
    """mount_setattr(2): set MOUNT_ATTR_* `attributes`, clear `clear` and set the `propagation` (MS_PRIVATE, ...; 0: as it is)
    of a mount, or of it and all below it. `mapping` is the user namespace that MOUNT_ATTR_IDMAP means."""
    attr = b"".join(value.to_bytes(8, "little") for value in (attributes, clear, propagation, mapping))
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    syscall("mount_setattr", MOUNT_SETATTR, mount_fd, encode(path), flags, attr, len(attr), path=path or None)


def new_filesystem(kind: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """fsopen, fsconfig of each option (None: a flag), fsmount: the fd of a detached mount, which goes when it is closed."""
    context = syscall("fsopen", FSOPEN, kind.encode(), CLOEXEC)
    try:
        for key, value in options:
            if value is None:
                syscall("fsconfig", FSCONFIG, context, FSCONFIG_SET_FLAG, key.encode(), None, 0, path=key)
            else:
                syscall(
                    "fsconfig", FSCONFIG, context, FSCONFIG_SET_STRING, key.encode(), encode(value), 0,
                    path=f"{key}={value}",
                )  # fmt: skip
        syscall("fsconfig", FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0, path=kind)
        return syscall("fsmount", FSMOUNT, context, CLOEXEC, attributes)
    finally:
        os.close(context)
