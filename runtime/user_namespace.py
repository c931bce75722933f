"""A container's user namespace: which ids it has, and what the mounts that it gets need to know of them. Hot.

Its root is nobody on the machine. The image's files and the container's own stay as they are on disk: their mounts say that they
belong to the container's users (idmapped mounts: mount_setattr(2)), so nothing is ever chowned.
"""

import posix as os
from fcntl import F_DUPFD, fcntl

from runtime.id_maps import IdMaps, allocate, make_namespace
from store.errors import RunError, SetupFailed
from store.prepared import in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.spec import Spec

_HINT = "--userns host (or BOX_USERNS=host) does without: the container's root is then the machine's"


class NoUserNamespace(RunError):
    """There can be none here: this process is in a chroot, say, or the kernel's limit is reached."""


class UserNamespace:
    """What is known of a user namespace before there is one. `close` it when the container has ended.

    `owner` is its root outside: a user and a group. `mapping` is the descriptor of a user namespace for idmapped mounts, -1
    where the container's ids are this process' own.
    """

    __slots__ = ("_gate", "_lock", "mapping", "maps", "owner")

    def __init__(self, maps: IdMaps, lock: int, mapping: int) -> None:
        self.maps = maps
        self.owner = maps.outside(0, 0)
        self.mapping = mapping
        self._lock = lock
        self._gate: tuple[int, int] | None = None

    def gate(self) -> tuple[int, int]:
        """A pipe: from the first end the container's process reads, to wait for its maps."""
        self._gate = os.pipe2(os.O_CLOEXEC)
        return self._gate

    def ready(self, pid: int) -> None:
        """Give the process its maps, and let it go on."""
        self.maps.write(pid)
        if self._gate is not None:
            os.write(self._gate[1], b"1")

    def born(self) -> None:
        """The process needs no gate any more, and no other mounts."""
        if self._gate is not None:
            for descriptor in self._gate:
                os.close(descriptor)
            self._gate = None

    def keep(self, least: int) -> None:
        """Let the ids be kept, by a descriptor from `least` on, also by what this process executes, for as long as it lives."""
        lock = fcntl(self._lock, F_DUPFD, least) if self._lock >= 0 else -1
        self.close()
        self._lock = lock

    def close(self) -> None:
        """Give the ids back."""
        self.born()
        for descriptor in (self.mapping, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self.mapping = self._lock = -1


def open_namespace(spec: "Spec") -> UserNamespace | None:
    """What the container's options say; None for the caller's own namespace. RunError when they cannot be met,
    NoUserNamespace when there can be none here."""
    if spec.userns == "host" and not spec.id_maps:
        return None
    if spec.userns not in ("", "auto"):
        raise RunError(f"unknown kind of user namespace {spec.userns!r}", hint="say auto, or host")
    lock = -1
    try:
        if spec.id_maps:
            maps = IdMaps(*spec.id_maps)
        else:
            if in_user_namespace():  # no ids to spare: the same as outside, but other rights
                maps = IdMaps.of("self").unchanged()
            else:
                first, lock = allocate()
                maps = IdMaps.shifted(first)
        maps.outside(0, 0)
        return UserNamespace(maps, lock, -1 if maps.is_identity() else make_namespace(maps.for_mounts()))
    except BaseException as err:
        if lock >= 0:
            os.close(lock)
        if isinstance(err, (SetupFailed, OSError)):
            raise NoUserNamespace(f"cannot make a user namespace for the container: {err}", hint=_HINT) from err
        raise
