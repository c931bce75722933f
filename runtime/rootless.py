"""An ordinary user becomes root of a user namespace of his own, and so can do all that root can with what is his: mount, unpack
files of many owners, run containers. All commands on one store are in one such namespace, as long as a container runs in it.

His subordinate ids (subuid(5)) are mapped by newuidmap(1) and newgidmap(1), which are set-user-id root. Sources:
user_namespaces(7), ioctl_ns(2).
"""

import os
from fcntl import LOCK_EX, flock, ioctl

from runtime import linux
from runtime.id_maps import subordinate
from store.errors import RunError
from store.syscalls import MS_PRIVATE, MS_REC, libc, mount

_NS_GET_PARENT = 0xB702
_TOOLS = ("newuidmap", "newgidmap")
_HINT = "let root give you some: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}; or try sudo"

entered = False  # whether this process has done so: its mounts are then seen by nobody else

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def enter(root: str) -> None:
    """Make this process, which has one thread, root of the user namespace for the store `root`, in a mount namespace of its own.
    RunError says what is missing for that."""
    global entered
    if not _join(root):
        with _Lock(root):  # two that begin at once shall meet
            if not _join(root):
                _make()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.setgroups([])
    libc("unshare", linux.CLONE_NEWNS)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    entered = True


class _Lock:
    """One at a time, as far as the store is there already."""

    __slots__ = ("_fd",)

    def __init__(self, root: str) -> None:
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flock(self._fd, LOCK_EX)
        except OSError:
            self._fd = -1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _join(root: str) -> bool:
    """Enter the namespace that a running container of the store was made in; False when none runs."""
    for pid in _running(root):
        try:
            inner = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            outer = ioctl(inner, _NS_GET_PARENT)
        except OSError:
            continue
        finally:
            os.close(inner)
        try:
            linux.setns(outer, linux.CLONE_NEWUSER)
        except OSError:
            continue
        finally:
            os.close(outer)
        return True
    return False


def _running(root: str) -> "Iterable[int]":
    from runtime.state import Containers

    for container in Containers(root).all():
        if container.status == "running":
            yield container.pid


def _make() -> None:
    """A new namespace with all ids that this user has. Its maps are written by a child that stays outside."""
    uid, gid = os.geteuid(), os.getegid()
    names = _names(uid)
    users, groups = (_ranges(path, names, own) for path, own in (("/etc/subuid", uid), ("/etc/subgid", gid)))
    target = os.getpid()
    unshared, tell = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = 125
        try:
            os.close(tell)
            if os.read(unshared, 1):
                status = _map(target, users, groups)
        finally:
            os._exit(status)
    os.close(unshared)
    try:
        libc("unshare", linux.CLONE_NEWUSER)
        os.write(tell, b"1")
    except OSError as err:
        raise RunError(
            f"cannot make a user namespace: {os.strerror(err.errno or 0).lower()}",
            hint="see sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone; or try sudo",
        ) from err
    finally:
        os.close(tell)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RunError("newuidmap or newgidmap would not map this user's subordinate ids", hint="see /etc/subuid and /etc/subgid")


def _ranges(path: str, names: list[str], own: int) -> list[str]:
    """The arguments of newuidmap or newgidmap: root is this user, the others follow. RunError without any."""
    words = ["0", str(own), "1"]
    inside = 1
    for first, size in subordinate(path, names):
        words += [str(inside), str(first), str(size)]
        inside += size
    if inside == 1:
        raise RunError(f"{path} gives {names[0]} no ids", hint=_HINT.format(name=names[0]))
    return words


def _map(pid: int, users: list[str], groups: list[str]) -> int:
    """In the child: run both programs; what they say goes to the error output."""
    for tool, words in zip(_TOOLS, (users, groups), strict=True):
        try:
            ended = os.posix_spawnp(tool, [tool, str(pid), *words], os.environ)
        except FileNotFoundError:
            os.write(2, f"box: {tool} is not installed: apt-get install uidmap\n".encode())
            return 127
        status = os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])
        if status:
            return status if status > 0 else 128 - status
    return 0


def _names(uid: int) -> list[str]:
    """What the user may be called in subuid(5)."""
    from pwd import getpwuid

    try:
        return [getpwuid(uid).pw_name, str(uid)]
    except KeyError:
        return [str(uid)]
