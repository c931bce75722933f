"""The user namespace of a bundle's container: made with the maps of config.json, or joined by its path; user_namespaces(7).

A process that owns nothing outside can be told some things only by others: its maps, what of its limits and of its score for the
kernel's choice of whom to kill is more than it may give itself, the clocks of its time namespace. Its parent does these while it
waits.
"""

import posix as os

from runtime.bundle import Bundle, Place, Process
from runtime.bundle_namespaces import open_namespace
from runtime.confinement import LIMITS, NO_LIMIT
from runtime.id_maps import IdMaps, checked, make_namespace, tell_kernel
from runtime.program import EPERM, Program
from store.errors import RunError, SetupFailed
from store.syscalls import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.id_maps import Ranges

_LARGEST = (1 << 32) - 1


def id_maps(users: Place, groups: Place) -> "IdMaps | None":
    """The two maps that stand at these places; None where there are none. Raises RunError."""
    if not users.value and not groups.value:
        return None
    return IdMaps(_ranges(users), _ranges(groups))


def _ranges(place: Place) -> "Ranges":
    found = [
        (
            item.get("containerID").number(most=_LARGEST),
            item.get("hostID").number(most=_LARGEST),
            item.get("size").number(least=1, most=_LARGEST),
        )
        for item in place.each()
    ]
    return checked(found, f"config.json: {place.path}")


class Users:
    """The user namespace. `maps` are those of a new one; `path` is where one to join is."""

    __slots__ = ("_held", "_release", "maps", "path")

    def __init__(self, bundle: Bundle) -> None:
        """Reads the maps. Raises RunError for what cannot be the container's."""
        self.path = bundle.namespaces["user"]
        self._held = self._release = -1
        self.maps: IdMaps | None = None
        if self.path:
            return
        linux_ = bundle.linux
        self.maps = id_maps(linux_.get("uidMappings"), linux_.get("gidMappings"))
        if self.maps is None:
            raise RunError("config.json has a user namespace without linux.uidMappings and linux.gidMappings")
        self._check(0, 0, "linux.uidMappings and linux.gidMappings: the container's root")
        process = bundle.process
        if process is not None:
            self._check(process.uid, process.gid, "process.user")
            for gid in process.groups:
                self._check(0, gid, "process.user.additionalGids")

    def _check(self, uid: int, gid: int, what: str) -> None:
        assert self.maps is not None
        try:
            self.maps.outside(uid, gid)
        except RunError as err:
            raise RunError(f"config.json: {what}: {err.message}", hint=err.hint) from err

    def root(self, rootfs: int) -> tuple[int, int]:
        """Whom the container's root is here. Of a namespace that is joined nobody says it: who owns the root file system does."""
        if self.maps is not None:
            return self.maps.outside(0, 0)
        status = os.fstat(rootfs)
        return status.st_uid, status.st_gid

    def namespace(self) -> int:
        """A descriptor of a namespace with the container's maps, for mounts that shall be shown so."""
        return open_namespace("user", self.path) if self.maps is None else make_namespace(self.maps)

    def emit_becoming_root(self, program: Program, opened: list[int]) -> None:
        """Add, as the child's first steps, the wait for `ready` and that it is the namespace's root. Descriptors are added to
        `opened`, and must live until the child is born."""
        if self.maps is not None:
            self._held, self._release = os.pipe2(os.O_CLOEXEC)
            opened += (self._held, self._release)
            # Its own copy of the other end would keep it waiting when its parent is gone.
            program.call("close_range", self._release, self._release, 0)
            program.call("read", self._held, b"\0", 1, action="wait for the maps of ids")
        program.call("setgroups", 0, None, tolerated=(EPERM,))
        program.call("setresgid", 0, 0, 0, action="become root of the user namespace")
        program.call("setresuid", 0, 0, 0, action="become root of the user namespace")

    def telling(self, process: Process, offsets: bytes) -> "Callable[[int], None]":
        """What the parent does while the child waits: to be `ready` of runtime.spawn."""

        def ready(pid: int) -> None:
            assert self.maps is not None
            if os.geteuid() != 0:  # who is nobody special may map one id, if no group can be dropped then
                tell_kernel(f"/proc/{pid}/setgroups", "deny", "forbid setgroups")
            self.maps.write(pid)
            if process.oom_score_adj is not None:
                tell_kernel(
                    f"/proc/{pid}/oom_score_adj",
                    str(process.oom_score_adj),
                    f"set process.oomScoreAdj to {process.oom_score_adj}",
                )
            if offsets:
                tell_kernel(f"/proc/{pid}/timens_offsets", offsets.decode(), "set linux.timeOffsets")
            os.write(self._release, b"1")

        return ready


def set_limits(pid: int, process: Process) -> None:
    """The limits of another process: to raise one takes a right that is the machine's. Raises SetupFailed."""
    for name, soft, hard in process.limits:
        if name not in LIMITS:
            raise RunError(f"unknown limit {name!r}", hint=f"known are {', '.join(LIMITS)}")
        values = b"".join([min(value, NO_LIMIT).to_bytes(8, "little") for value in (soft, hard)])
        try:
            libc("prlimit64", pid, LIMITS.index(name), values, None)
        except OSError as err:
            raise SetupFailed(f"set the limit {name} to {soft}:{hard}", err.errno or 0, os.strerror(err.errno or 0)) from err
