"""Into a container that runs: what `exec` of box and of box-runtime have in common. Hot for `exec`."""

import posix as os

from runtime import linux
from runtime.program import Failure, Program
from runtime.spawn import spawn
from runtime.steps import emit_root
from store.errors import SetupFailed
from store.prepared import in_user_namespace
from store.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

JOINED = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET | linux.CLONE_NEWCGROUP
_BY_NAME = {
    linux.CLONE_NEWNS: "mnt", linux.CLONE_NEWUTS: "uts", linux.CLONE_NEWIPC: "ipc", linux.CLONE_NEWNET: "net",
    linux.CLONE_NEWCGROUP: "cgroup",
}  # fmt: skip
_PTMX = os.makedev(5, 2)
_BORN_IN = {
    linux.CLONE_NEWPID: "pid", linux.CLONE_NEWTIME: "time", linux.CLONE_NEWNET: "net", linux.CLONE_NEWIPC: "ipc",
    linux.CLONE_NEWUTS: "uts", linux.CLONE_NEWCGROUP: "cgroup",
}  # fmt: skip


def open_root(pid: int, pidfd: int) -> int:
    """A descriptor of the root of the process `pid`, which `pidfd` is open on. ProcessLookupError when it has ended."""
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise ProcessLookupError(*err.args) from err
    try:
        linux.pidfd_send_signal(pidfd, 0)  # alive after its root was opened: the root is its own, no later process'
    except BaseException:
        os.close(root)
        raise
    return root


def other_namespaces(pid: int) -> int:
    """The CLONE_NEW* that `emit_joining` joins, without those that this process is in as well: to join one again takes rights."""
    found = 0
    for kind, name in _BY_NAME.items():
        if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            found |= kind
    return found


def has_user_namespace(pid: int) -> bool:
    """Whether the process has another user namespace than this one."""
    return os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino


def emit_joining(program: Program, pidfd: int, root: int, *, user_namespace: bool, kinds: int = JOINED) -> None:
    """Add the steps into the namespaces (`kinds`, by default all but those of `spawn_in`) of the process behind `pidfd`, and into
    its root."""
    flags = kinds | (linux.CLONE_NEWUSER if user_namespace else 0)
    program.call("setns", pidfd, flags, action="join the container's namespaces")
    if user_namespace:
        emit_root(program)
    # setns enters the namespace's root, which is the container's only where box itself runs in no chroot.
    program.call("fchdir", root, action="enter the container's root")
    program.call("chroot", b".\0", action="enter the container's root")
    program.call("umask", 0o022)


def open_terminal_in(root: int) -> tuple[int, int]:
    """A new terminal of the container whose root this is: its master and its slave. SetupFailed without a devpts there."""
    from runtime.terminal import open_terminal

    devpts = openat2(root, "dev/pts", os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
    try:
        if os.stat("ptmx", dir_fd=devpts, follow_symlinks=False).st_rdev != _PTMX:
            raise SetupFailed("open a terminal", 0, "the container's /dev/pts is no devpts", path="/dev/pts/ptmx")
        return open_terminal(devpts)
    finally:
        os.close(devpts)


def spawn_in(
    namespaces: "list[tuple[int, int, str]]",
    program: Program,
    flags: int = 0,
    cgroup: int | None = None,
    ready: "Callable[[int], object] | None" = None,
) -> "tuple[int, Failure | None]":
    """`spawn` into other namespaces that a child is born in, since it cannot join them itself: each a descriptor of one, or a
    process' pidfd, and which (CLONE_NEWTIME asks that this process has one thread), and its path for errors."""
    former: list[tuple[int, int]] = []
    try:
        for namespace, kind, path in namespaces:
            own = os.open(f"/proc/thread-self/ns/{_BORN_IN[kind]}", os.O_RDONLY | os.O_CLOEXEC)
            former.append((own, 0))
            try:
                linux.setns(namespace, kind)
            except OSError as err:
                errno = err.errno or 0
                raise SetupFailed(f"join the {_BORN_IN[kind]} namespace", errno, os.strerror(errno), path=path) from err
            former[-1] = (own, kind)
        return spawn(program, flags, cgroup, ready)
    finally:
        for own, kind in former:
            try:
                if kind:
                    linux.setns(own, kind)
            except PermissionError:  # an ordinary user cannot go back; there are no more children to come
                if not in_user_namespace():
                    raise
            finally:
                os.close(own)
