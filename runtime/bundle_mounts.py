"""The mounts of a bundle's config.json: their options as the kernel takes them. OCI runtime-spec, config.md "Mounts"; mount(8).

Options of the virtual file system become flags of mount(2), or attributes of mount_setattr(2) for what is bound; the rest is the
file system's own.
"""

from runtime.bundle import Place
from store.errors import RunError
from store.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
)

_NOATIME, _STRICTATIME, _NODIRATIME, _NOSYMFOLLOW = 0x10, 0x20, 0x80, 0x200000
_ATIME_MASK = 0x70
MS_SLAVE, MS_SHARED, MS_UNBINDABLE = 1 << 19, 1 << 20, 1 << 17

# Option -> flag of mount(2) to set and to clear; attribute to set and to clear.
_FLAGS: dict[str, tuple[int, int, int, int]] = {
    "ro": (MS_RDONLY, 0, MOUNT_ATTR_RDONLY, 0), "rw": (0, MS_RDONLY, 0, MOUNT_ATTR_RDONLY),
    "nosuid": (MS_NOSUID, 0, MOUNT_ATTR_NOSUID, 0), "suid": (0, MS_NOSUID, 0, MOUNT_ATTR_NOSUID),
    "nodev": (MS_NODEV, 0, MOUNT_ATTR_NODEV, 0), "dev": (0, MS_NODEV, 0, MOUNT_ATTR_NODEV),
    "noexec": (MS_NOEXEC, 0, MOUNT_ATTR_NOEXEC, 0), "exec": (0, MS_NOEXEC, 0, MOUNT_ATTR_NOEXEC),
    "sync": (16, 0, 0, 0), "async": (0, 16, 0, 0), "mand": (64, 0, 0, 0), "nomand": (0, 64, 0, 0),
    "dirsync": (128, 0, 0, 0), "nosymfollow": (256, 0, _NOSYMFOLLOW, 0), "symfollow": (0, 256, 0, _NOSYMFOLLOW),
    "noatime": (1024, 0, _NOATIME, _ATIME_MASK), "atime": (0, 1024, 0, _ATIME_MASK),
    "nodiratime": (2048, 0, _NODIRATIME, 0), "diratime": (0, 2048, 0, _NODIRATIME),
    "silent": (1 << 15, 0, 0, 0), "loud": (0, 1 << 15, 0, 0),
    "relatime": (1 << 21, 0, 0, _ATIME_MASK), "norelatime": (0, 1 << 21, 0, 0),
    "iversion": (1 << 23, 0, 0, 0), "noiversion": (0, 1 << 23, 0, 0),
    "strictatime": (1 << 24, 0, _STRICTATIME, _ATIME_MASK), "nostrictatime": (0, 1 << 24, 0, _ATIME_MASK),
    "lazytime": (1 << 25, 0, 0, 0), "nolazytime": (0, 1 << 25, 0, 0), "defaults": (0, 0, 0, 0),
}  # fmt: skip
_RECURSIVE = frozenset({
    "rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec", "rnoatime", "ratime", "rnodiratime", "rdiratime",
    "rrelatime", "rnorelatime", "rstrictatime", "rnostrictatime", "rnosymfollow", "rsymfollow",
})  # fmt: skip
PROPAGATIONS = {"private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED, "unbindable": MS_UNBINDABLE}
PROPAGATIONS |= {"r" + name: MS_REC | flag for name, flag in PROPAGATIONS.items()}


class BundleMount:
    """One entry: what to mount and where, in the order of the document.

    `flags` and `data` are for mount(2); `attributes` and `cleared` for what is bound, the `deep` ones for all below it, too.
    """

    __slots__ = (
        "attributes", "bind", "cleared", "copy_up", "data", "deep_attributes", "deep_cleared", "flags", "kind", "mapped",
        "place", "propagation", "recursive", "source", "target",
    )  # fmt: skip

    def __init__(self, place: Place, directory: str) -> None:
        self.target = place.get("destination").text()
        if not self.target.startswith("/"):
            self.target = "/" + self.target  # as the specification once allowed
        self.kind = place.get("type").text()
        self.source = place.get("source").text()
        self.bind = self.kind == "bind"
        self.recursive = False
        self.copy_up = False
        self.mapped = ""  # idmap or ridmap: shown with other owners, with all that is mounted below or not
        self.place = place
        mapped = place.get("uidMappings").value or place.get("gidMappings").value
        self.flags = self.propagation = 0
        self.attributes = self.cleared = self.deep_attributes = self.deep_cleared = 0
        own: list[str] = []
        for item in place.get("options").each():
            option = item.text()
            if option in _FLAGS:
                on, off, attribute, cleared = _FLAGS[option]
                self.flags = self.flags & ~off | on
                self.attributes = self.attributes & ~cleared | attribute
                self.cleared = self.cleared & ~attribute | cleared
            elif option in _RECURSIVE:
                _, _, attribute, cleared = _FLAGS[option[1:]]
                self.deep_attributes = self.deep_attributes & ~cleared | attribute
                self.deep_cleared = self.deep_cleared & ~attribute | cleared
            elif option in PROPAGATIONS:
                self.propagation = PROPAGATIONS[option]
            elif option in ("bind", "rbind"):
                self.bind = True
                self.recursive = option == "rbind"
            elif option == "tmpcopyup":
                self.copy_up = True
            elif option in ("idmap", "ridmap"):
                self.mapped = option
            elif option != "remount":
                own.append(option)
        if mapped and not self.mapped:
            self.mapped = "idmap"
        self.data = ",".join(own)
        if self.bind:
            if not self.source:
                raise place.get("source").wrong("what to bind")
            if not self.source.startswith("/"):
                self.source = f"{directory}/{self.source}"
        elif not self.kind:
            raise place.get("type").wrong("a file system")
        elif self.mapped:
            raise RunError(f"config.json: {place.path} is {self.mapped}, and no bind mount: only what is bound can be shown so")

    def own_options(self) -> "list[tuple[str, str | None]]":
        """The file system's own options, as fsconfig(2) takes them: a name, and a value if it has one."""
        options: list[tuple[str, str | None]] = []
        for option in self.data.split(","):
            name, equals, value = option.partition("=")
            if name:
                options.append((name, value if equals else None))
        return options

    def __str__(self) -> str:
        return f"bind {self.source} at {self.target}" if self.bind else f"mount {self.kind} at {self.target}"


def known_options() -> list[str]:
    """Every option that is not the file system's own."""
    return sorted({*_FLAGS, *_RECURSIVE, *PROPAGATIONS, "bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"})
