"""A container's control groups: made by the parent, joined by the child itself, removed with whatever still runs in them.

Both layouts are served: v2 (one tree at /sys/fs/cgroup) and v1 (a tree for each controller). A group is `box/ID` in each tree.
Two facts decide the manner: writing somebody else's pid to `cgroup.procs` waits about 19 ms for an RCU grace period, while a
v1 task that writes `0` to `tasks`, and a v2 task that clone3 bears into the group, do not wait. No release agent is ever
installed: it would run as host root. Source: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst. Hot.
"""

import posix as os
import time

from runtime.linux import SIGKILL
from store.errors import BoxError, SetupFailed
from store.prepared import in_user_namespace
from store.syscalls import exists

MOUNT_POINT = "/sys/fs/cgroup"
FOLDER = "box"
_FORBIDDEN = (1, 2, 13, 30)  # EPERM, ENOENT, EACCES, EROFS
_PERIOD = 100_000  # microseconds in which a cpu quota is counted
_V1_ALWAYS = ("pids", "devices")
_V1_ALL = (*_V1_ALWAYS, "memory", "cpu", "cpuset", "freezer")
# null zero full random urandom tty console ptmx, and the terminals of devpts (major 136); everything else is denied first.
_DEVICES = ("c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:1", "c 5:2", "c 136:*")
_NODES = ("c *:* m", "b *:* m")  # making a node is harmless where it cannot be opened


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def is_v2(mount_point: str = MOUNT_POINT) -> bool:
    """Whether the machine has the one tree of cgroup v2 (a hybrid machine, with its controllers in v1, has not)."""
    return exists(mount_point + "/cgroup.controllers")


class Limits:
    """What a group may use: processes; bytes of memory and processors, None where there is no limit."""

    __slots__ = ("cpus", "memory", "pids")

    def __init__(self, pids: int, memory: int | None = None, cpus: float | None = None) -> None:
        self.pids = pids
        self.memory = memory
        self.cpus = cpus


class Cgroup:
    """The groups of one container, by its id: those that there are, unless `controllers` says which.

    `paths` says where, by controller; on v2 the one path stands under "unified".
    """

    __slots__ = ("paths", "v2")

    def __init__(self, identity: str, controllers: tuple[str, ...] | None = None, mount_point: str = MOUNT_POINT) -> None:
        self.v2 = is_v2(mount_point)
        if self.v2:
            self.paths = {"unified": f"{mount_point}/{FOLDER}/{identity}"}
        else:
            paths = {name: f"{mount_point}/{name}/{FOLDER}/{identity}" for name in controllers or _V1_ALL}
            self.paths = paths if controllers else {name: path for name, path in paths.items() if exists(path)}

    @classmethod
    def create(cls, identity: str, limits: Limits, resources: "Mapping[str, Any] | None" = None) -> "Cgroup":
        """Make the groups with their limits, and with those of `resources` (runtime.limits). On error nothing is left of them.
        Raises SetupFailed, RunError."""
        controllers: tuple[str, ...] = _V1_ALWAYS
        if limits.memory is not None:
            controllers += ("memory",)
        if limits.cpus is not None:
            controllers += ("cpu",)
        if resources:
            from runtime.limits import controllers_of

            controllers = tuple(dict.fromkeys((*controllers, *controllers_of(resources))))
        group = cls(identity, controllers)
        try:
            for controller, path in list(group.paths.items()):
                if not make(path, controller):
                    del group.paths[controller]
            group._limit(limits)
            if resources:
                from runtime.limits import apply

                apply(group.paths, resources)
        except OSError as err:
            group.delete()
            if err.errno in _FORBIDDEN and in_user_namespace():
                return cls.none()
            hint = "box needs to be root, with the cgroup file system writable" if err.errno in _FORBIDDEN else ""
            raise SetupFailed("create cgroup", err.errno or 0, err.strerror or "", path=str(err.filename), hint=hint) from err
        except BoxError:
            group.delete()
            raise
        return group

    @classmethod
    def none(cls) -> "Cgroup":
        """No groups, and so no limits: those of an ordinary user, to whom nobody has delegated any."""
        group = cls("", ())
        group.v2, group.paths = False, {}
        return group

    def _limit(self, limits: Limits) -> None:
        unified = self.paths.get("unified", "")
        _write((unified or self.paths["pids"]) + "/pids.max", str(limits.pids) if limits.pids > 0 else "max")
        if limits.memory is not None:
            if unified:
                _write(unified + "/memory.max", str(limits.memory))
            else:
                _write(self.paths["memory"] + "/memory.limit_in_bytes", str(limits.memory))
        if limits.cpus is not None:
            quota = int(limits.cpus * _PERIOD)
            if unified:
                _write(unified + "/cpu.max", f"{quota} {_PERIOD}")
            else:
                _write(self.paths["cpu"] + "/cpu.cfs_period_us", str(_PERIOD))
                _write(self.paths["cpu"] + "/cpu.cfs_quota_us", str(quota))
        devices = self.paths.get("devices")
        if devices is not None:
            _write(devices + "/devices.deny", "a")
            for rule in _NODES:
                _write(devices + "/devices.allow", rule)
            for device in _DEVICES:
                _write(devices + "/devices.allow", device + " rwm")

    def open_for_clone(self) -> int | None:
        """On v2, the descriptor that clone3 bears the child into; None on v1, where the child joins by itself."""
        return os.open(self.paths["unified"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if self.v2 else None

    def open_to_join(self) -> list[int]:
        """On v1, the descriptors to which a task writes 0 to move itself in, which does not wait; none on v2."""
        if self.v2:
            return []
        return [os.open(path + "/tasks", os.O_WRONLY | os.O_CLOEXEC) for path in self.paths.values()]

    def processes(self) -> list[int]:
        """The pids in the groups, of this process' pid namespace."""
        found: list[int] = []
        for path in self.paths.values():
            found += [int(line) for line in _read(path + "/cgroup.procs").split() if line not in (b"0",)]
        return list(dict.fromkeys(found))

    def oom_kills(self) -> int:
        """How many processes the kernel killed because the group's memory ran out."""
        for path in self.paths.values():
            for name in ("/memory.events", "/memory.oom_control"):
                for line in _read(path + name).splitlines():
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
        return 0

    def pids_refused(self) -> int:
        """How many forks the pids limit refused."""
        for path in self.paths.values():
            for line in _read(path + "/pids.events").splitlines():
                if line.startswith(b"max "):
                    return int(line.split()[1])
        return 0

    def kill(self, patience: float = 5.0) -> None:
        """Kill everything in the groups, and wait until it is gone. Raises SetupFailed when something stays for `patience`
        seconds."""
        deadline = time.monotonic() + patience
        while pids := self.processes():
            for pid in pids:
                try:
                    os.kill(pid, SIGKILL)
                except ProcessLookupError:
                    continue
            if "freezer" in self.paths:
                _write(self.paths["freezer"] + "/freezer.state", "THAWED")  # v1: what is frozen does not die
            if time.monotonic() > deadline:
                raise SetupFailed(
                    "kill the container's processes",
                    16,
                    f"{len(pids)} of them do not end",
                    path=next(iter(self.paths.values()), ""),
                )
            time.sleep(0.002)

    def delete(self, patience: float = 5.0) -> None:
        """Remove the groups; what is gone already is no error. A group just left is busy for a moment: tried again until
        `patience` is over."""
        deadline = time.monotonic() + patience
        for path in self.paths.values():
            while True:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    break
                except OSError as err:
                    if err.errno != 16 or time.monotonic() > deadline:  # EBUSY
                        raise SetupFailed("remove cgroup", err.errno or 0, err.strerror or "", path=path) from err
                    time.sleep(0.0005)
                else:
                    break


def make(path: str, controller: str) -> bool:
    """Make a group, and the folder of all groups where it is the first; False where a controller is missing that box can do
    without."""
    try:
        os.mkdir(path, 0o755)
        return True
    except FileNotFoundError:
        folder = path.rpartition("/")[0]
    tree = folder.rpartition("/")[0]
    if not exists(tree):
        if controller == "devices":  # nodev and no CAP_MKNOD still hold
            return False
        raise SetupFailed(
            "create cgroup", 2, f"no {controller} controller here", path=path,
            hint="box limits every container's processes; mount the cgroup file systems (on most machines systemd has done it)",
        )  # fmt: skip
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        pass  # somebody else's first container
    if controller == "unified":
        for directory in (tree, folder):
            _write(directory + "/cgroup.subtree_control", "+pids +memory +cpu")
    os.mkdir(path, 0o755)
    return True


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as err:
        raise OSError(err.errno, f"{err.strerror} (writing {value!r})", path) from err
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 20)
    except OSError:
        return b""  # ENODEV: the group went while it was read
    finally:
        os.close(fd)
