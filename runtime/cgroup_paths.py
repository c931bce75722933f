"""Where the control groups of a container are: `linux.cgroupsPath` on the hierarchies that this machine has mounted.

As runc reads it: an absolute path stands below the mount of each controller; a relative one below `box`, where groups without a
path are made as well. With `systemd` as the manager a path is `SLICE:PREFIX:NAME`; box does not talk to systemd, and makes that
very path by itself where it is told to (`cgroupfs`). Sources: OCI runtime-spec config-linux.md (Cgroups Path), proc(5)
(mountinfo), systemd.slice(5).
"""

from runtime.cgroup_files import read_strictly
from runtime.cgroups import FOLDER, MOUNT_POINT
from store.errors import RunError
from store.syscalls import exists

MANAGERS = ("cgroupfs", "systemd", "disabled")
UNIFIED = "unified"  # the key of the v2 tree among the paths by controller
_FIELD = "linux.cgroupsPath"
_LONGEST_NAME, _LONGEST = 255, 3072
_OPTIONS = ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods")


class Hierarchies:
    """Mount points: `controllers` of v1 by name (a named hierarchy as `name=NAME`), `unified` of v2 or empty.

    `v2` says that the one tree has it all; otherwise, on a hybrid machine, `unified` only tracks and kills.
    """

    __slots__ = ("controllers", "unified", "v2")

    def __init__(self, controllers: dict[str, str], unified: str, v2: bool) -> None:
        self.controllers = controllers
        self.unified = unified
        self.v2 = v2

    def paths(self, path: str) -> dict[str, str]:
        """The directories of the group `path` (absolute), by controller; on v2 the one stands under "unified"."""
        if self.v2:
            return {UNIFIED: self.unified + path}
        found = {name: point + path for name, point in self.controllers.items()}
        if self.unified:
            found[UNIFIED] = self.unified + path
        return found

    def mount_point(self, controller: str) -> str:
        """Where the tree of one of `paths` begins."""
        return self.unified if controller == UNIFIED else self.controllers[controller]


def hierarchies(mountinfo: str | None = None, mount_point: str = MOUNT_POINT) -> Hierarchies:
    """What `mountinfo` (a text; by default this process' own) has mounted at `mount_point` or below it, and nowhere else: a
    container's view of the groups may be mounted too."""
    if mountinfo is None:
        mountinfo = read_strictly("/proc/self/mountinfo")
    controllers: dict[str, str] = {}
    unified = ""
    v2 = False
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 3 or rest[0] not in ("cgroup", "cgroup2"):
            continue
        point = _unescape(fields[4])
        if point != mount_point and not point.startswith(mount_point + "/"):
            continue
        if rest[0] == "cgroup2":
            v2 = v2 or point == mount_point
            unified = point if point == mount_point else unified or point
            continue
        for option in rest[2].split(","):
            if option in _OPTIONS or ("=" in option and option != "name=systemd"):
                continue
            controllers.setdefault(option, point)
    return Hierarchies({} if v2 else controllers, unified, v2)


def _unescape(text: str) -> str:
    """A path of mountinfo, where a space is `\\040`."""
    first, *rest = text.split("\\")
    return first + "".join([chr(int(part[:3], 8)) + part[3:] for part in rest])


def place(path: object, identity: str, manager: str = "cgroupfs") -> str:
    """The group's path within each hierarchy, absolute, without `.`, `..` and doubled slashes.

    `path` is `linux.cgroupsPath` (None or empty: `box/ID`). Raises RunError for one that leads out, that is the root of
    everything, or that wants systemd.
    """
    if manager not in MANAGERS:
        raise RunError(f"no cgroup manager {manager!r}", hint="there are: " + ", ".join(MANAGERS))
    if path is None or path == "":
        path = identity
    if not isinstance(path, str):
        raise RunError(f"{_FIELD}: not a text")
    if manager == "systemd":
        why = "systemd is not running" if not exists("/run/systemd/system") else "box does not talk to systemd"
        raise RunError(
            f"cgroup manager systemd: not supported here, {why}",
            hint="leave out --systemd-cgroup, or give --cgroup-manager cgroupfs",
        )
    if not path.startswith("/") and path.count(":") == 2:
        return _normal("/" + scope(*path.split(":")))
    return _normal(path if path.startswith("/") else f"/{FOLDER}/{path}")


def scope(slice_name: str, prefix: str, name: str) -> str:
    """Where systemd would put the unit: slices in slices, then a scope `PREFIX-NAME.scope` (or a slice of its own)."""
    slice_name = slice_name or "system.slice"
    if slice_name == "-.slice":
        parts = []
    else:
        stem = slice_name.removesuffix(".slice")
        if stem == slice_name or not stem or "/" in stem or stem[0] == "-" or stem[-1] == "-" or "--" in stem:
            raise RunError(f"{_FIELD}: {slice_name!r} is not the name of a slice", hint="it is SLICE:PREFIX:NAME there")
        words = stem.split("-")
        parts = ["-".join(words[: count + 1]) + ".slice" for count in range(len(words))]
    if not name:
        raise RunError(f"{_FIELD}: no name after the second colon", hint="it is SLICE:PREFIX:NAME there")
    unit = name if name.endswith(".slice") else (f"{prefix}-{name}.scope" if prefix else f"{name}.scope")
    return "/".join([*parts, unit])


def below(path: str, wanted: str) -> str:
    """The existing sub-group `wanted` (of `exec --cgroup`) of the group at `path`."""
    names = _names(wanted, "--cgroup")
    found = "/".join([path, *names])
    if not exists(found + "/cgroup.procs"):
        raise RunError(f"--cgroup: the container has no sub-group {wanted!r}")
    return found


def _normal(path: str) -> str:
    names = _names(path, _FIELD)
    if not names:
        raise RunError(
            f"{_FIELD}: {path!r} is the root of all groups, which is nobody's own", hint="give the container a group of its own"
        )
    return "/" + "/".join(names)


def _names(path: str, field: str) -> list[str]:
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise RunError(f"{field}: {path!r} leads out by '..'")
    if any(ord(character) < 32 or character == "\x7f" for character in path):
        raise RunError(f"{field}: {path!r} has a control character")
    if len(path.encode("utf-8", "surrogateescape")) > _LONGEST:
        raise RunError(f"{field}: longer than {_LONGEST} bytes")
    if any(len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME for name in names):
        raise RunError(f"{field}: a name of over {_LONGEST_NAME} bytes")
    return names
