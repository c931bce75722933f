"""The devices of a bundle's container. OCI runtime-spec, config-linux.md "Devices" and "Default Devices"."""

import posix as os

from runtime.bundle import Place
from runtime.program import AT_FDCWD, EEXIST, ENOENT, EROFS, Program, text
from runtime.rootfs import DEVICES, LINKS, parts_of

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


def emit_devices(program: Program, devices: list[Device]) -> None:
    """Add the nodes and links of /dev: those that every container has, and `devices`. The child is in its root."""
    call = program.call
    call("mkdirat", AT_FDCWD, b"/dev\0", 0o755, path="/dev", tolerated=(EEXIST, EROFS))
    given = {device.path for device in devices}
    for name, major, minor in DEVICES:
        if f"/dev/{name}" not in given:
            path = text(f"/dev/{name}")
            call("unlinkat", AT_FDCWD, path, 0, tolerated=(ENOENT, EROFS))
            number = os.makedev(major, minor)
            call(
                "mknodat",
                AT_FDCWD,
                path,
                0o020666,
                number,
                action="make device",
                path=f"/dev/{name}",
                tolerated=(EEXIST, EROFS),
            )
    for device in devices:
        parts = parts_of(device.path)
        for end in range(1, len(parts)):
            folder = "/" + "/".join(parts[:end])
            call("mkdirat", AT_FDCWD, text(folder), 0o755, path=folder, tolerated=(EEXIST, EROFS))
        path = text(device.path)
        call("unlinkat", AT_FDCWD, path, 0, tolerated=(ENOENT, EROFS))
        call("mknodat", AT_FDCWD, path, device.mode, device.number, action="make device", path=device.path, tolerated=(EEXIST,))
        if device.uid or device.gid:
            call("fchownat", AT_FDCWD, path, device.uid, device.gid, 0x100, action="own device", path=device.path)
    for name, target in LINKS:
        call("symlinkat", text(target), AT_FDCWD, text("/dev/" + name), path="/dev/" + name, tolerated=(EEXIST, EROFS))
