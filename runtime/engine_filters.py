"""The system call filters of bundles, compiled once: engines give every container of a machine the same profile.

They are kept in ROOT/.filters, next to the containers (no id begins with a point), by a digest of the profile and of the
compiler's own files. A file there is derived data, and says by itself whether it is whole.
"""

import posix as os

from runtime.records import encode
from runtime.seccomp_cache import keep_body, kept_body
from store.syscalls import MACHINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.bundle import Place
    from runtime.seccomp_listener import Listener

_COMPILER = ("seccomp.py", "seccomp_oci.py", "seccomp_policy.py", "syscall_numbers.py", "syscall_tables.py")
_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_MOST = 64  # profiles kept: a profile that is made for one container alone is not to fill a tmpfs


class Filter:
    """A compiled filter: its instructions, 8 bytes each, and the flags of seccomp(2) to install it with; `listener`, where some
    call is answered by an agent."""

    __slots__ = ("flags", "instructions", "listener")

    def __init__(self, instructions: bytes, flags: int, place: "Place") -> None:
        self.instructions = instructions
        self.flags = flags
        self.listener = _listener(place) if flags & _NEW_LISTENER else None


def filter_of(place: "Place", root: str) -> "Filter | None":
    """The filter that `linux.seccomp` at `place` asks for; `root` is where box-runtime keeps its containers. Raises RunError."""
    if place.missing():
        return None
    directory = f"{root}/.filters"
    path = f"{directory}/{_key(place)}"
    body = kept_body(path)
    if body:
        return Filter(body[8:], int.from_bytes(body[:8], "little"), place)
    from runtime import seccomp_oci, seccomp_policy

    policy = seccomp_policy.read(place.value)
    made = Filter(seccomp_oci.compile_policy(policy, MACHINE), policy.flags, place)
    _make_room(directory)
    keep_body(directory, path, made.flags.to_bytes(8, "little") + made.instructions)
    return made


def _listener(place: "Place") -> "Listener":
    from runtime.seccomp_listener import Listener

    return Listener(place.value)


def _key(place: "Place") -> str:
    from _blake2 import blake2b

    digest = blake2b(encode(place.value).encode("utf-8", "surrogatepass"), digest_size=20)
    here = __file__.rpartition("/")[0]
    for name in _COMPILER:
        status = os.stat(f"{here}/{name}")
        digest.update(f"{name} {status.st_mtime_ns} {status.st_size} {MACHINE}".encode())
    return digest.hexdigest()


def _make_room(directory: str) -> None:
    try:
        names = os.listdir(directory)
    except OSError:
        return
    if len(names) >= _MOST:
        for name in names:
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                continue  # another box-runtime makes room, too
