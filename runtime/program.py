"""A child's life before execve, as a list of system calls: decided by the parent, shown if asked, then done without an
interpreter.

The child that enters a container's root runs no Python there: whatever can be looked up, opened or allocated is so by the
parent, before, and what is left is a list of numbered calls whose arguments are numbers and bytes. runtime.native performs it
in a child that shares the parent's memory (no page is copied, whatever the parent's size); runtime.portable performs the same
list in a forked child where that cannot be. Hot: imports nothing but the leaf.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h for aarch64.
"""

from store.syscalls import MACHINE

X86_64 = {
    "read": 0, "write": 1,
    "rt_sigaction": 13, "rt_sigprocmask": 14, "ioctl": 16, "socket": 41, "execve": 59, "chdir": 80, "fchdir": 81,
    "umask": 95, "setsid": 112, "setgroups": 116, "setresuid": 117, "setresgid": 119, "capset": 126, "pivot_root": 155,
    "chroot": 161, "prctl": 157, "mount": 165, "umount2": 166, "sethostname": 170, "keyctl": 250, "mkdirat": 258,
    "mknodat": 259, "unlinkat": 263, "symlinkat": 266, "unshare": 272, "dup3": 292, "prlimit64": 302, "setns": 308,
    "execveat": 322, "fcntl": 72, "setdomainname": 171, "fchownat": 260, "sched_setattr": 314, "ioprio_set": 251,
    "sched_setaffinity": 203, "personality": 135, "seccomp": 317, "set_mempolicy": 238, "recvfrom": 45, "ppoll": 271,
    "move_mount": 429, "close_range": 436, "openat2": 437, "mount_setattr": 442,
}  # fmt: skip
AARCH64 = {
    "read": 63, "write": 64, "rt_sigaction": 134, "rt_sigprocmask": 135, "ioctl": 29, "socket": 198, "execve": 221, "chdir": 49,
    "fchdir": 50, "umask": 166, "setsid": 157, "setgroups": 159, "setresuid": 147, "setresgid": 149, "capset": 91,
    "pivot_root": 41, "chroot": 51, "prctl": 167, "mount": 40, "umount2": 39, "sethostname": 161, "keyctl": 219,
    "mkdirat": 34, "mknodat": 33, "unlinkat": 35, "symlinkat": 36, "unshare": 97, "dup3": 24, "prlimit64": 261, "setns": 268,
    "execveat": 281, "fcntl": 25, "setdomainname": 162, "fchownat": 54, "sched_setattr": 274, "ioprio_set": 30,
    "sched_setaffinity": 122, "personality": 92, "seccomp": 277, "set_mempolicy": 237, "recvfrom": 207, "ppoll": 73,
    "move_mount": 429, "close_range": 436, "openat2": 437, "mount_setattr": 442,
}  # fmt: skip
NUMBERS = X86_64 if MACHINE == "x86_64" else AARCH64

AT_FDCWD = -100
EPERM, ENOENT, ENOEXEC, EACCES, EBUSY, EEXIST, ENOTDIR, EINVAL, EROFS, ENOSYS = 1, 2, 8, 13, 16, 17, 20, 22, 30, 38


TYPE_CHECKING = False
if TYPE_CHECKING:
    Structure = tuple[bytes | list[bytes], ...]


class Result:
    """The place of a call's result (a descriptor, say), to be an argument of one later call."""

    __slots__ = ("call",)

    def __init__(self, call: "Call") -> None:
        self.call = call


if TYPE_CHECKING:
    Argument = int | bytes | Structure | Result | None


class Call:
    """One system call: `name`, up to six arguments, the errnos that are no failure (at most four), and what to say if it fails.

    Bytes that the kernel reads as a string end in NUL. A tuple is a structure: bytes as they are, and for each list of one bytes
    object a pointer to that.
    """

    __slots__ = ("action", "arguments", "name", "path", "tolerated")

    def __init__(self, name: str, arguments: "tuple[Argument, ...]", tolerated: tuple[int, ...], action: str, path: str) -> None:
        self.name = name
        self.arguments = arguments
        self.tolerated = tolerated
        self.action = action
        self.path = path

    def __str__(self) -> str:
        return self.action + (f" {self.path}" if self.path else "")


class Program:
    """The list itself."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call(
        self,
        name: str,
        *arguments: "Argument",
        action: str = "",
        path: str = "",
        tolerated: tuple[int, ...] = (),
    ) -> Result:
        """Append the call `name`; what is said of its failure is `action` (or its name) and `path`."""
        call = Call(name, arguments, tolerated, action or name, path)
        self.calls.append(call)
        return Result(call)

    def mount(self, source: str, target: str, kind: str, flags: int, data: str = "", *, tolerated: tuple[int, ...] = ()) -> None:
        """mount(2)."""
        options = text(data) if data else None
        action = f"mount {kind}" if kind else f"bind {source}"
        self.call(
            "mount", text(source), text(target), text(kind), flags, options, action=action, path=target, tolerated=tolerated
        )

    def attach(self, mount: int, target: int, path: str, said: str = "") -> None:
        """move_mount(2): attach the detached mount at `path` below the directory `target`; with no path, on `target` itself."""
        flags = 4 | (0 if path else 0x40)  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
        self.call("move_mount", mount, b"\0", target, text(path), flags, action="attach a mount", path=said or path)

    def execute(self, candidates: list[str], argv: list[bytes], environment: list[bytes]) -> None:
        """execve of the first of `candidates` that there is."""
        words, variables = strings(argv), strings(environment)
        for path in candidates:
            self.call(
                "execve", text(path), words, variables, action="execute", path=path, tolerated=(ENOENT, ENOTDIR, EACCES),
            )  # fmt: skip


class Failure:
    """The call that ended a program early, and its errno; `call` is None when none of the executions succeeded.

    `executions` are the errnos of those that were tried.
    """

    __slots__ = ("call", "errno", "executions")

    def __init__(self, call: Call | None, errno: int, executions: list[int]) -> None:
        self.call = call
        self.errno = errno
        self.executions = executions


def strings(values: list[bytes]) -> "Structure":
    """A table of pointers to strings, ended by a null one, as execve(2) takes it."""
    return (*[[value + b"\0"] for value in values], bytes(8))


def text(value: str) -> bytes:
    """`value` as the kernel reads it."""
    return value.encode("utf-8", "surrogateescape") + b"\0"
