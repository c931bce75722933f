"""Steps that a container of `box run`, one of a bundle, and whoever joins either have in common. Hot."""

import posix as os
from _signal import SIG_IGN, getsignal
from fcntl import F_DUPFD_CLOEXEC, fcntl

from runtime.linux import SIGKILL
from runtime.program import AT_FDCWD, Program, text
from store.syscalls import RESOLVE_NO_MAGICLINKS, open_how

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.bundle import Process
    from runtime.id_maps import IdMaps
    from runtime.users import User

ENTER = "change to the working directory"
_UNCHANGEABLE = (SIGKILL, 19)
_OF_LIBC = (32, 33)  # libc says nothing of these, and a caller may have had them ignored
_SIG_DFL = bytes(32)  # struct kernel_sigaction: SIG_DFL, no flags, no mask
_SIG_SETMASK, _EMPTY_SET = 2, bytes(8)
_SIOCSIFFLAGS, _IFF_UP, _AF_INET, _SOCK_DGRAM_CLOEXEC, TIOCSCTTY = 0x8914, 1, 2, 2 | os.O_CLOEXEC, 0x540E
_ENTERING = open_how(os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS)


def emit_default_signals(program: Program) -> None:
    """No signal ignored: execve resets handlers, not that."""
    for number in range(1, 65):
        if number not in _UNCHANGEABLE and (number in _OF_LIBC or getsignal(number) == SIG_IGN):
            program.call("rt_sigaction", number, _SIG_DFL, None, 8)


def emit_unblocked(program: Program) -> None:
    """No signal blocked, as the child was born with."""
    program.call("rt_sigprocmask", _SIG_SETMASK, _EMPTY_SET, None, len(_EMPTY_SET))


def emit_root(program: Program) -> None:
    """The root of the user namespace that was just entered, in which its former user may have no place."""
    program.call("setgroups", 0, None)
    program.call("setresgid", 0, 0, 0)
    program.call("setresuid", 0, 0, 0)


def emit_loopback(program: Program) -> None:
    """The new network namespace's lo, up."""
    sock = program.call("socket", _AF_INET, _SOCK_DGRAM_CLOEXEC, 0)
    # struct ifreq: 16 bytes of name, then the flags as a short; the kernel reads 40 bytes. See netdevice(7).
    request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, "little") + bytes(22)
    program.call("ioctl", sock, _SIOCSIFFLAGS, request, action="bring up lo")


def emit_stdio(program: Program, stdio: tuple[int, int, int], opened: list[int], *, terminal: bool) -> None:
    """The three descriptors in their places; a terminal becomes the session's. What has to be opened for it is added to
    `opened`, and must live until the child does."""
    if stdio != (0, 1, 2):
        sources = []
        for fd in stdio:
            if fd <= 2:  # so that none is overwritten before it was copied
                fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)
                opened.append(fd)
            sources.append(fd)
        for number, fd in enumerate(sources):
            program.call("dup3", fd, number, 0)
    if terminal:
        program.call("ioctl", 0, TIOCSCTTY, 0, action="take the terminal")


def give(stdio: tuple[int, int, int], user: "User | Process", maps: "IdMaps | None", *, terminal: bool) -> None:
    """Make pipes, and a container's own terminal, the command's user's (`maps` says who that is here), who may then open them
    again as /dev/stdout. Files that the caller has redirected to stay whose they are."""
    uid, gid = maps.outside(user.uid, user.gid) if maps is not None else (user.uid, user.gid)
    for fd in {*stdio}:
        try:
            if terminal:
                os.fchown(fd, uid, -1)
            elif os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                os.fchown(fd, uid, gid)
        except OSError:
            pass  # no /proc, or somebody else's


def emit_working_directory(program: Program, cwd: str) -> None:
    """Into `cwd`: not through the caller's own descriptors, if one of them is a directory, for "magic" links are not followed
    at all."""
    directory = program.call("openat2", AT_FDCWD, text(cwd), _ENTERING, len(_ENTERING), action=ENTER, path=cwd)
    program.call("fchdir", directory, action=ENTER, path=cwd)
