"""The namespaces of a bundle's container: which are made, which are joined, what they are told. OCI runtime-spec, config-linux.md
"Namespaces" and "Offset for Time Namespace"; time_namespaces(7)."""

import posix as os

from runtime import linux
from runtime.bundle import Bundle, Place
from runtime.program import AT_FDCWD, Program
from store.errors import RunError
from store.syscalls import open_how

CLONE_FLAGS = {
    "mount": linux.CLONE_NEWNS, "pid": linux.CLONE_NEWPID, "network": linux.CLONE_NEWNET, "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS, "cgroup": linux.CLONE_NEWCGROUP, "time": linux.CLONE_NEWTIME,
    "user": linux.CLONE_NEWUSER,
}  # fmt: skip
_LATER = ("cgroup", "time")  # not made at birth: when the groups are joined; by the child itself, which enters it by execve
BORN_IN = ("pid", "time")  # joined by the parent for its children: see runtime.joining.spawn_in
_CLOCKS = ("monotonic", "boottime")
_SECONDS = 1 << 62
_TO_READ, _TO_WRITE = open_how(os.O_RDONLY, 0, 0), open_how(os.O_WRONLY, 0, 0)


def made_at_birth(bundle: Bundle) -> int:
    """The CLONE_NEW* of what the child is born into."""
    flags = 0
    later = ("cgroup",) if "user" in bundle.namespaces else _LATER  # whose clocks only its parent can set then
    for kind, path in bundle.namespaces.items():
        if not path and kind not in later:
            flags |= CLONE_FLAGS[kind]
    return flags


def open_namespace(kind: str, path: str) -> int:
    """A descriptor of the namespace that config.json names by its path. RunError when there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise RunError(f"cannot join the {kind} namespace {path}: {(err.strerror or '').lower()}") from err


def emit_joining_by_path(program: Program, bundle: Bundle, opened: list[int]) -> None:
    """Add the steps into the namespaces that have a path, but those of `open_born_in`; descriptors are added to `opened`."""
    last = None
    for kind, path in bundle.namespaces.items():
        if path and kind != "user" and kind not in _born_in(bundle):
            fd = open_namespace(kind, path)
            opened.append(fd)
            if kind == "mount":
                last = fd, path  # the others' paths were the machine's
            else:
                program.call("setns", fd, CLONE_FLAGS[kind], action=f"join the {kind} namespace", path=path)
    if last:
        program.call("setns", last[0], linux.CLONE_NEWNS, action="join the mount namespace", path=last[1])


def open_born_in(bundle: Bundle, opened: list[int]) -> list[tuple[int, int, str]]:
    """The namespaces that have a path and that the child is born in, for `spawn_in`; descriptors are added to `opened`."""
    found = []
    for kind in _born_in(bundle):
        if path := bundle.namespaces.get(kind):
            fd = open_namespace(kind, path)
            opened.append(fd)
            found.append((fd, CLONE_FLAGS[kind], path))
    return found


def _born_in(bundle: Bundle) -> tuple[str, ...]:
    # A child in a user namespace may have no right to those that others own.
    return (*BORN_IN, "network", "ipc", "uts", "cgroup") if "user" in bundle.namespaces else BORN_IN


def emit_clock(program: Program, bundle: Bundle) -> None:
    """Add a new time namespace, whose clocks are set before anybody is in it: see `emit_entering_clock`."""
    if bundle.namespaces.get("time") != "" or "user" in bundle.namespaces:
        return
    program.call("unshare", linux.CLONE_NEWTIME, action="make a time namespace")
    if offsets := clock_offsets(bundle.linux.get("timeOffsets")):
        path = "/proc/self/timens_offsets"
        file = program.call("openat2", AT_FDCWD, path.encode() + b"\0", _TO_WRITE, len(_TO_WRITE), path=path)
        program.call("write", file, offsets, len(offsets), action="set linux.timeOffsets")


def emit_entering_clock(program: Program, bundle: Bundle) -> None:
    """Add the way into the new time namespace, behind an execve: which is one by itself since Linux 6.3, and before that makes
    it possible, for the child is alone in its memory now."""
    if bundle.namespaces.get("time") != "":
        return
    path = "/proc/self/ns/time_for_children"
    own = program.call("openat2", AT_FDCWD, path.encode() + b"\0", _TO_READ, len(_TO_READ), path=path)
    program.call("setns", own, linux.CLONE_NEWTIME, action="enter the time namespace")


def clock_offsets(place: Place) -> bytes:
    """`linux.timeOffsets` as the kernel reads it. RunError for a clock that has none."""
    if place.missing():
        return b""
    if type(place.value) is not dict:
        raise place.wrong("an object")
    lines = []
    for clock in place.value:
        if clock not in _CLOCKS:
            raise RunError(f"config.json: {place.path} has {clock!r}", hint="only " + " and ".join(_CLOCKS) + " can be set")
        offset = place.get(clock)
        seconds = offset.get("secs").number(least=-_SECONDS, most=_SECONDS)
        lines.append(f"{clock} {seconds} {offset.get('nanosecs').number(most=999_999_999)}\n")
    return "".join(lines).encode()
