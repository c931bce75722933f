"""The devices of a bundle's container. OCI runtime-spec, config-linux.md "Devices" and "Default Devices"."""

import posix as os

from runtime.bundle import Place
from runtime.program import AT_FDCWD, EEXIST, ENOENT, EROFS, Program, text
from runtime.rootfs import DEVICES, LINKS, parts_of
from store.errors import RunError
from store.prepared import read_text
from store.syscalls import MS_PRIVATE, OPEN_TREE_CLONE, mount_setattr, open_tree

_NODE_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


class Device:
    """A node of `linux.devices`."""

    __slots__ = ("gid", "mode", "number", "path", "uid")

    def __init__(self, place: Place) -> None:
        kind = place.get("type").choice(*_NODE_TYPES)
        if not kind:
            raise place.get("type").wrong("one of c, b, u, p")
        self.path = place.get("path").absolute()
        mode = place.get("fileMode")
        self.mode = _NODE_TYPES[kind] | (0o666 if mode.missing() else mode.number(most=0o177777) & 0o7777)
        self.number = os.makedev(place.get("major").number(), place.get("minor").number()) if kind != "p" else 0
        self.uid = place.get("uid").number(most=(1 << 32) - 2)
        self.gid = place.get("gid").number(most=(1 << 32) - 2)


def open_nodes(devices: list[Device]) -> dict[str, int]:
    """Where nodes cannot be made: those of the machine, as detached mounts by their path in the container. RunError for one that
    the machine has not."""
    found: dict[str, int] = {}
    wanted = {f"/dev/{name}": (f"/dev/{name}", 0o020000, os.makedev(major, minor)) for name, major, minor in DEVICES}
    wanted |= {device.path: (device.path, device.mode & 0o170000, device.number) for device in devices}
    try:
        for path, (here, kind, number) in wanted.items():
            if kind == 0o010000:
                continue  # a FIFO can be made by anybody
            for candidate in (here, _named(kind, number)):
                try:
                    status = os.stat(candidate)
                except OSError:
                    continue
                if (status.st_mode & 0o170000, status.st_rdev) == (kind, number):
                    found[path] = open_tree(AT_FDCWD, candidate, OPEN_TREE_CLONE)
                    mount_setattr(found[path], 0, propagation=MS_PRIVATE)
                    break
            else:
                raise RunError(
                    f"device {path} cannot be made in a user namespace, and the machine has no such node to show there",
                    hint=f"make {here} on the machine, or leave the device out",
                )
    except BaseException:
        for descriptor in found.values():
            os.close(descriptor)
        raise
    return found


def _named(kind: int, number: int) -> str:
    """Where the kernel says that the machine's node of this number is."""
    name = f"/sys/dev/{'block' if kind == 0o060000 else 'char'}/{os.major(number)}:{os.minor(number)}/uevent"
    try:
        lines = read_text(name).splitlines()
    except OSError:
        return ""
    return next((f"/dev/{line[8:]}" for line in lines if line.startswith("DEVNAME=")), "")


def emit_devices(program: Program, devices: list[Device], nodes: dict[str, int]) -> None:
    """Add the nodes and links of /dev: those that every container has, and `devices`; `nodes` are shown instead of made. The
    child is in its root."""
    call = program.call
    call("mkdirat", AT_FDCWD, b"/dev\0", 0o755, path="/dev", tolerated=(EEXIST, EROFS))
    given = {device.path for device in devices}
    for name, major, minor in DEVICES:
        path = f"/dev/{name}"
        if path in given:
            continue
        call("unlinkat", AT_FDCWD, text(path), 0, tolerated=(ENOENT, EROFS))
        if path in nodes:
            _emit_shown(program, path, nodes[path])
            continue
        number = os.makedev(major, minor)
        call("mknodat", AT_FDCWD, text(path), 0o020666, number, action="make device", path=path, tolerated=(EEXIST, EROFS))
    for device in devices:
        parts = parts_of(device.path)
        for end in range(1, len(parts)):
            folder = "/" + "/".join(parts[:end])
            call("mkdirat", AT_FDCWD, text(folder), 0o755, path=folder, tolerated=(EEXIST, EROFS))
        path = device.path
        call("unlinkat", AT_FDCWD, text(path), 0, tolerated=(ENOENT, EROFS))
        if path in nodes:
            _emit_shown(program, path, nodes[path])
            continue
        call("mknodat", AT_FDCWD, text(path), device.mode, device.number, action="make device", path=path, tolerated=(EEXIST,))
        if device.uid or device.gid:
            call("fchownat", AT_FDCWD, text(path), device.uid, device.gid, 0x100, action="own device", path=path)
    for name, target in LINKS:
        call("symlinkat", text(target), AT_FDCWD, text("/dev/" + name), path="/dev/" + name, tolerated=(EEXIST, EROFS))


def _emit_shown(program: Program, path: str, node: int) -> None:
    program.call("mknodat", AT_FDCWD, text(path), 0o100666, 0, action="make a place for device", path=path, tolerated=(EEXIST,))
    program.attach(node, AT_FDCWD, path)
