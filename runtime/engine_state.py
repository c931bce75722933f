"""What `box-runtime` keeps of its containers: a directory each below --root, for as long as the engine wants it.

    ROOT/.filters/        compiled seccomp profiles (runtime.engine_filters)
    ROOT/ID/              flocked by the command that changes it
      state.json          what is known of the container; written whole, by rename
      start, result       two FIFOs, while the container is created and waits (runtime.waiting): what is written to the first lets
                          it go on, the second says what failed, and is closed when the command was executed

A container's status is what its process says: created while it waits, running, stopped when it is gone; `paused` is its cgroups'.
"""

import posix as os
from fcntl import LOCK_EX, flock

from runtime.jsontext import read
from runtime.records import encode, write
from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

OCI_VERSION = "1.2.0"
_ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")


def check_id(identity: str) -> str:
    """The container's id, when it can be one. RunError for what could be a path or an option."""
    if not identity or len(identity) > 128 or identity[0] in "-." or not set(identity) <= _ID_LETTERS:
        raise RunError(
            f"invalid container ID format: {identity[:140]!r}", hint="letters, digits and _+.- of at most 128, not first - or ."
        )
    return identity


class EngineContainer:
    """A container's directory, held by this command until it is closed."""

    __slots__ = ("_fd", "identity", "path", "root", "state")

    def __init__(self, path: str, identity: str, fd: int, state: "dict[str, Any]") -> None:
        self.path = path
        self.root = path.rpartition("/")[0]
        self.identity = identity
        self._fd = fd
        self.state = state

    @classmethod
    def create(cls, root: str, identity: str) -> "Self":
        """A new directory. RunError when the id is taken."""
        path = f"{root}/{check_id(identity)}"
        _make_root(root)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError as err:
            raise RunError(f"container with given ID already exists: {identity}", hint=f"box-runtime delete {identity}") from err
        return cls(path, identity, _hold(path), {})

    @classmethod
    def open(cls, root: str, identity: str) -> "Self":
        """The container of this id. RunError when there is none."""
        path = f"{root}/{check_id(identity)}"
        try:
            fd = _hold(path)
        except FileNotFoundError as err:
            raise RunError(f"container does not exist: {identity}", hint="box-runtime list shows those that do") from err
        try:
            state = read(path + "/state.json", path + "/state.json")
        except FileNotFoundError:
            state = {}  # its maker was killed before it came to that
        except BaseException:
            os.close(fd)
            raise
        return cls(path, identity, fd, state)

    def save(self) -> None:
        """Write the state down."""
        write(self.path + "/state.json", self.state)

    @property
    def pid(self) -> int:
        """The process' pid while it lives, else 0."""
        pid = self.state.get("pid", 0)
        return pid if pid and started_at(pid) == self.state.get("started") else 0

    @property
    def status(self) -> str:
        """creating, created, running or stopped."""
        if not self.state:
            return "stopped"
        if "pid" not in self.state:
            return "creating"
        if not self.pid:
            return "stopped"
        return "running" if self.state.get("released") else "created"

    def described(self) -> "dict[str, Any]":
        """The state as the runtime-spec has it, and what runc adds."""
        status = self.status
        return {
            "ociVersion": OCI_VERSION,
            "id": self.identity,
            "pid": self.pid,
            "status": status,
            "bundle": self.state.get("bundle", ""),
            "rootfs": self.state.get("rootfs", ""),
            "created": self.state.get("created", ""),
            "annotations": self.state.get("annotations", {}),
            "owner": self.state.get("owner", ""),
        }

    def remove(self) -> None:
        """Delete the directory, and let go."""
        for name in ("start", "result", "state.json", "state.json.new", "program", "log"):
            try:
                os.unlink(f"{self.path}/{name}")
            except FileNotFoundError:
                continue
        os.rmdir(self.path)
        self.close()

    def close(self) -> None:
        """Let go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None") -> None:
        self.close()


def _make_root(root: str) -> None:
    parts = root.split("/")
    for end in range(2, len(parts) + 1):
        try:
            os.mkdir("/".join(parts[:end]), 0o711)
        except FileExistsError:
            continue


def _hold(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        flock(fd, LOCK_EX)
        if not os.fstat(fd).st_nlink:
            raise FileNotFoundError(2, "deleted while it was waited for", path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def started_at(pid: int) -> int:
    """When the process began, in ticks since the machine did: with the pid, what tells it from every other. 0 when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        data = os.read(fd, 4096)
    except OSError:
        return 0
    finally:
        os.close(fd)
    fields = data[data.rfind(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def in_user_namespace() -> bool:
    """Whether this process' own user namespace is not the machine's."""
    fd = os.open("/proc/self/uid_map", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).split() != [b"0", b"0", b"4294967295"]
    finally:
        os.close(fd)


def spell(state: "dict[str, Any]") -> str:
    """The state as JSON text."""
    return encode(state)


def timestamp(seconds: float) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    import time

    whole = int(seconds)
    now = time.gmtime(whole)
    fraction = int((seconds - whole) * 1e9)
    return f"{now.tm_year:04}-{now.tm_mon:02}-{now.tm_mday:02}T{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}.{fraction:09}Z"
