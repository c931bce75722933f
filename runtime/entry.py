"""The list of calls that takes a child from its birth to the container's program, for `run` and for `exec`. Hot.

The order of the last steps: working directory, groups and namespaces done, descriptors closed, keyring, limits, bounding set,
identity, capabilities, no_new_privs, filter, execve. Each takes away what the one before still needed.
"""

import posix as os
from _signal import SIG_IGN, getsignal

from runtime import capabilities
from runtime.confinement import confine
from runtime.linux import (
    CLONE_NEWCGROUP,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    SIGKILL,
)
from runtime.program import AT_FDCWD, EPERM, Program, text
from runtime.seccomp_cache import filter_bytes
from runtime.spec import DEFAULT_PATH, Spec
from runtime.users import User
from store.syscalls import RESOLVE_NO_MAGICLINKS, encode, open_how

_UNCHANGEABLE = (SIGKILL, 19)
_OF_LIBC = (32, 33)  # libc says nothing of these, and a caller may have had them ignored
_SIG_DFL = bytes(32)  # struct kernel_sigaction: SIG_DFL, no flags, no mask
_SIG_SETMASK, _EMPTY_SET = 2, bytes(8)
_SIOCSIFFLAGS, _IFF_UP, _AF_INET, _SOCK_DGRAM_CLOEXEC, _TIOCSCTTY = 0x8914, 1, 2, 2 | os.O_CLOEXEC, 0x540E
_ENTERING = open_how(os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS)
_FIRST_CLOSED = 4  # 0, 1, 2 are the program's, 3 is the lifeline


class Command:
    """What is executed at last, in a container's root."""

    __slots__ = ("argv", "capabilities", "cwd", "env", "limits", "no_new_privileges", "seccomp", "user")

    def __init__(self, spec: Spec, user: User, argv: list[str], env: list[str], cwd: str) -> None:
        """`argv` as `user`, confined as `spec` says. Reads the compiled filter from the store."""
        self.argv = argv
        self.user = user
        self.cwd = cwd or "/"
        self.env: dict[str, str] = {}
        for entry in env:
            name, _, value = entry.partition("=")
            self.env[name] = value
        self.env.setdefault("PATH", DEFAULT_PATH)
        self.env.setdefault("HOME", user.home)
        self.capabilities = spec.capabilities if spec.capabilities is not None else capabilities.RUN_DEFAULT
        self.no_new_privileges = spec.no_new_privileges
        self.seccomp = filter_bytes(spec.root, self.capabilities) if spec.seccomp else b""
        self.limits = spec.ulimits

    def candidates(self) -> list[str]:
        """The paths at which execvp(3) would look for the program."""
        name = self.argv[0]
        if "/" in name:
            return [name]
        return [f"{folder or '.'}/{name}" for folder in self.env["PATH"].split(":")] if name else []

    def emit(self, program: Program, lifeline: int) -> None:
        """Add the last steps. `lifeline` is a pipe's end whose other end only the parent has: its death is noticed there."""
        call = program.call
        if lifeline != 3:
            call("dup3", lifeline, 3, os.O_CLOEXEC)
        # Before the working directory is entered, so that one of /proc/self/fd/N has nothing of the machine to lead to.
        call("close_range", _FIRST_CLOSED, 0xFFFFFFFF, 0, action="close descriptors")
        # Nor through the caller's own descriptors, if one of them is a directory: "magic" links are not followed at all.
        directory = call(
            "openat2",
            AT_FDCWD,
            text(self.cwd),
            _ENTERING,
            len(_ENTERING),
            action="change to the working directory",
            path=self.cwd,
        )
        call("fchdir", directory, action="change to the working directory", path=self.cwd)
        confine(
            program,
            self.user,
            self.capabilities,
            no_new_privileges=self.no_new_privileges,
            seccomp=self.seccomp,
            limits=self.limits,
        )
        # Again: a change of identity clears it. And if the parent died in between, nobody holds the pipe's other end any more.
        call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        call("write", 3, b"\0", 1, action="find the parent alive")
        call("rt_sigprocmask", _SIG_SETMASK, _EMPTY_SET, None, len(_EMPTY_SET))
        environment = [encode(f"{name}={value}") for name, value in self.env.items()]
        program.execute(self.candidates(), [encode(word) for word in self.argv], environment)


def emit_birth(program: Program, joined: list[int]) -> None:
    """Add the first steps: no signal ignored (execve resets handlers, not that), no outliving the parent, no tracing by
    others, and into the control groups.

    `joined` are descriptors of the v1 `tasks` files: a task that writes 0 there moves itself, without the wait of any other way.
    """
    for number in range(1, 65):
        if number not in _UNCHANGEABLE and (number in _OF_LIBC or getsignal(number) == SIG_IGN):
            program.call("rt_sigaction", number, _SIG_DFL, None, 8)
    program.call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    program.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    program.call("setsid", tolerated=(EPERM,))
    for tasks in joined:
        program.call("write", tasks, b"0", 1, action="join the control group")


def emit_identity(program: Program, spec: Spec) -> None:
    """Add the container's own name, its network and, since it is in its control groups by now, its own view of them."""
    program.call("unshare", CLONE_NEWCGROUP, action="make a cgroup namespace")
    name = encode(spec.hostname)
    program.call("sethostname", name, len(name), path=spec.hostname)
    if spec.network == "none":
        sock = program.call("socket", _AF_INET, _SOCK_DGRAM_CLOEXEC, 0)
        # struct ifreq: 16 bytes of name, then the flags as a short; the kernel reads 40 bytes. See netdevice(7).
        request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, "little") + bytes(22)
        program.call("ioctl", sock, _SIOCSIFFLAGS, request, action="bring up lo")


def emit_stdio(program: Program, stdio: tuple[int, ...], *, terminal: bool) -> None:
    """Add the three descriptors, each above 2 (none: they are in their place); a terminal becomes the session's."""
    for number, fd in enumerate(stdio):
        program.call("dup3", fd, number, 0)
    if terminal:
        program.call("ioctl", 0, _TIOCSCTTY, 0, action="take the terminal")
