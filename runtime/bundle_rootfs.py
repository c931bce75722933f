"""A bundle's root file system: the directory that an engine has made ready, and the mounts of its config.json in their order.

As in runtime.rootfs, the parent opens and clones what is of the machine, and looks up mount points in the trees it has in hand,
through no link that leads out and whoever changes them meanwhile. What belongs to the container's namespaces (proc, sysfs,
mqueue, cgroups) the child mounts, each on a directory that it has opened inside the root.
"""

import posix as os

from runtime.bundle import Bundle
from runtime.bundle_devices import Device, emit_devices, open_nodes
from runtime.bundle_mounts import MS_SLAVE, PROPAGATIONS, BundleMount
from runtime.bundle_sources import clone, copy_up
from runtime.engine_state import in_user_namespace
from runtime.program import AT_FDCWD, EEXIST, ENOENT, ENOTDIR, EPERM, EROFS, Program, Result, text
from runtime.rootfs import open_mount_point, parts_of
from runtime.steps import TIOCSCTTY
from store.errors import RunError, SetupFailed
from store.syscalls import (
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    mount_setattr,
    new_filesystem,
    open_how,
    open_tree,
    openat2,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.bundle_users import Users

_STRICT = MS_NOSUID | MS_NODEV | MS_NOEXEC
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_AT_DIRECTORY = open_how(os.O_PATH | os.O_DIRECTORY, 0, _INSIDE)
_AT_ANY = open_how(os.O_PATH, 0, _INSIDE)
_TO_WRITE = open_how(os.O_WRONLY, 0, _INSIDE)
_S_IFREG, _NO_TERMINAL = 0o100000, 0o400  # O_NOCTTY
_TERMINAL = open_how(os.O_RDWR | _NO_TERMINAL, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
_IPC_SYSCTLS = (
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
    "kernel.shm_rmid_forced",
)  # fmt: skip


class BundleRootfs:
    """The root made ready. `tree` is a descriptor of it; with a terminal, `master` and `slave` are its two ends.

    `close` it when the child has entered it, or never will. `inherited` are the descriptors that the child needs.
    """

    __slots__ = (
        "_bundle", "_devices", "_mounts", "_nodes", "_own_dev", "_pts", "_sources", "_users", "has_terminal", "inherited",
        "master", "slave", "tree",
    )  # fmt: skip

    def __init__(self, bundle: Bundle, users: "Users | None" = None) -> None:
        """Raises SetupFailed or RunError, and nothing is left then."""
        self._bundle = bundle
        self._users = users
        self._nodes: dict[str, int] = {}
        self.has_terminal = False
        self.inherited: list[int] = []
        self.master = self.slave = self._pts = -1
        self._mounts = [BundleMount(place, bundle.directory) for place in bundle.mounts]
        self._devices = [Device(place) for place in bundle.linux.get("devices").each()]
        # What covers a place, as the mounts come: a tree in hand, or -1 for what only the child will mount.
        covered: list[tuple[list[str], int]] = []
        self._sources: list[
            tuple[int, int]
        ] = []  # of each mount: what is attached (-1: the child mounts it), and its mount point
        action = "open the root file system"
        try:
            self.tree = self._keep(open_tree(AT_FDCWD, bundle.rootfs, OPEN_TREE_CLONE | AT_RECURSIVE))
            mount_setattr(self.tree, 0, propagation=MS_PRIVATE, recursive=True)
            covered.append(([], self.tree))
            owner = users.root(self.tree) if users else None
            for wanted in self._mounts:
                action = str(wanted)
                source = target = -1
                directory = True
                if wanted.bind:
                    source = self._keep(clone(wanted, users))
                    directory = os.stat(source).st_mode & 0o170000 == 0o040000
                elif wanted.kind == "devpts" and not users:
                    source = self._make_terminals(wanted)
                parts = parts_of(wanted.target)
                above, tree = _above(covered, parts)
                if tree >= 0:
                    name = "/".join(parts[len(above) :])
                    mode = _mode_of(tree, name) if wanted.kind == "tmpfs" else 0
                    target = self._keep(open_mount_point(tree, name, directory=directory, owner=owner))
                    if wanted.kind == "tmpfs" and not wanted.bind:
                        if mode and "mode" not in dict(wanted.own_options()):
                            wanted.data += f"{',' * bool(wanted.data)}mode={mode:o}"
                        if wanted.copy_up:
                            source = self._keep(copy_up(wanted, target))
                    if wanted.kind in ("proc", "sysfs"):  # in place of a link, these would be somewhere else than all expect
                        os.close(openat2(tree, name, os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS))
                covered.append((parts, source))
                self._sources.append((source, target))
            self._make_working_directory(covered, owner)
            _, dev = _above(covered, ["dev"])
            self._own_dev = dev < 0 or dev == self.tree  # not the machine's own
            if self._own_dev and (users or in_user_namespace()):
                action = "show the machine's devices"
                self._nodes = open_nodes(self._devices)
                self.inherited += self._nodes.values()
        except OSError as err:
            self.close()
            raise SetupFailed(action, err.errno or 0, os.strerror(err.errno or 0), path=str(err.filename or "")) from err
        except BaseException:
            self.close()
            raise

    def _make_working_directory(self, covered: list[tuple[list[str], int]], owner: "tuple[int, int] | None") -> None:
        """Make it where it is missing, as engines expect. Where that cannot be, entering it says why."""
        if self._bundle.process is None:
            return
        parts = parts_of(self._bundle.process.cwd)
        above, tree = _above(covered, parts)
        if tree >= 0 and len(parts) > len(above):
            try:
                os.close(open_mount_point(tree, "/".join(parts[len(above) :]), directory=True, owner=owner))
            except OSError:
                return

    def _make_terminals(self, wanted: BundleMount) -> int:
        """The container's own devpts; with a terminal, its two ends."""
        source = self._keep(new_filesystem("devpts", wanted.own_options(), wanted.attributes))
        process = self._bundle.process
        if process is not None and process.terminal and self.master < 0:
            from runtime.terminal import open_terminal

            self.has_terminal = True
            self.master, self.slave = open_terminal(source)
            self._keep(self.slave)
        return source

    def close(self) -> None:
        """Let go of everything but the terminal's master."""
        for fd in self.inherited:
            os.close(fd)
        self.inherited.clear()

    def _keep(self, fd: int) -> int:
        self.inherited.append(fd)
        return fd

    def emit_mounts(self, program: Program, home: str, cgroups: dict[str, str], terminal: tuple[int, int]) -> None:
        """Add how the child, in its own mount namespace, attaches the root at the directory `home`, enters it as its working
        directory and makes the mounts in it. Every name is relative to it, and no link in it leads out: the machine's own root is
        still there, for hooks to be found in.

        `cgroups` says where the container's groups are, by controller; "unified" on v2. In a user namespace the child makes its
        terminal itself: with `terminal` as the two ends' descriptors.
        """
        call, mount = program.call, program.mount
        propagation = self._propagation()
        mount("", "/", "", MS_REC | (MS_PRIVATE if propagation & ~MS_REC in (0, MS_PRIVATE) else MS_SLAVE))
        # Who is root in a user namespace cannot find its way to `home`: there it lies over the machine's own root.
        program.attach(self.tree, AT_FDCWD, "/" if self._users else home, "/")
        call("fchdir", self.tree, path="/")
        call("umask", 0)
        for wanted, (source, target) in zip(self._mounts, self._sources, strict=True):
            self._emit_mount(program, wanted, source, target, cgroups)
            if self._users and wanted.kind == "devpts" and self._bundle.process and self._bundle.process.terminal:
                self._emit_terminal(program, wanted.target, *terminal)

    def _emit_terminal(self, program: Program, devpts: str, master: int, slave: int) -> None:
        """The container's terminal, opened in its own devpts."""
        if self.has_terminal:
            return
        self.has_terminal = True
        from runtime.terminal import TIOCGPTPEER, TIOCSPTLCK

        call, action = program.call, "open a terminal"
        path = text(f"{_relative(devpts)}/ptmx")
        opened = call("openat2", AT_FDCWD, path, _TERMINAL, len(_TERMINAL), action=action, path=f"{devpts}/ptmx")
        call("dup3", opened, master, 0, action=action)
        call("ioctl", master, TIOCSPTLCK, bytes(4), action=action)
        peer = call("ioctl", master, TIOCGPTPEER, os.O_RDWR | _NO_TERMINAL, action=action)
        call("dup3", peer, slave, 0, action=action)
        for number in range(3):
            call("dup3", slave, number, 0, action=action)
        call("ioctl", 0, TIOCSCTTY, 0, action="take the terminal")

    def emit_root(self, program: Program, *, pivot: bool = True, namespace: bool = True) -> None:
        """Add how the child makes the directory that it is in its root, and what belongs into that."""
        call, mount = program.call, program.mount
        if pivot and namespace:
            call("pivot_root", b".\0", b".\0")
            call("umount2", b".\0", MNT_DETACH, action="detach the old root")
        else:
            if namespace:
                mount(".", "/", "", MS_MOVE)
            call("chroot", b".\0")
        call("chdir", b"/\0", path="/")
        if self._own_dev and namespace:
            emit_devices(program, self._devices, self._nodes)
        if self.has_terminal:
            call("mknodat", AT_FDCWD, b"/dev/console\0", _S_IFREG | 0o600, 0, path="/dev/console", tolerated=(EEXIST,))
            mount("/dev/pts/0", "/dev/console", "", MS_BIND)
        self._emit_sysctls(program)
        linux = self._bundle.linux
        for path in linux.get("readonlyPaths").texts():
            mount(path, path, "", MS_BIND | MS_REC, tolerated=(ENOENT, ENOTDIR))
            mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _STRICT, tolerated=(ENOENT, ENOTDIR, 22))
        for path in linux.get("maskedPaths").texts():
            self._emit_mask(program, path)
        if self._bundle.read_only:
            attributes = MOUNT_ATTR_RDONLY.to_bytes(8, "little") + bytes(24)
            call("mount_setattr", AT_FDCWD, b"/\0", 0, attributes, len(attributes), action="make the root read-only")
        if self._propagation():
            mount("", "/", "", self._propagation())
        call("umask", 0o022)

    def _propagation(self) -> int:
        return PROPAGATIONS.get(self._bundle.linux.get("rootfsPropagation").choice(*PROPAGATIONS), 0)

    def _emit_mount(self, program: Program, wanted: BundleMount, source: int, target: int, cgroups: dict[str, str]) -> None:
        call = program.call
        path = wanted.target
        if target < 0:
            self._emit_mount_point(program, wanted, source)
        if source >= 0:
            if target >= 0:
                program.attach(source, target, "", path)
            else:
                place = self._open_inside(program, path, _AT_ANY)
                call("move_mount", source, b"\0", place, b"\0", 4 | 0x40, action="attach a mount", path=path)
            return
        # The directory is entered, so that the mount lands on it whatever becomes of its name.
        if target >= 0:
            call("fchdir", target, path=path)
        else:
            call("fchdir", self._open_inside(program, path, _AT_DIRECTORY), path=path)
        kind, flags = wanted.kind, wanted.flags
        if kind == "cgroup" and "unified" not in cgroups:
            self._emit_cgroups(program, wanted, cgroups)
        else:
            kind, data = ("cgroup2", "") if kind == "cgroup" else (kind, wanted.data)
            _mount_here(program, wanted.source or kind, kind, flags, data, path)
        call("fchdir", self.tree, path="/")
        if wanted.propagation:
            call("fchdir", self._open_inside(program, path, _AT_DIRECTORY), path=path)
            call("mount", None, b".\0", None, wanted.propagation, None, action="set the propagation of", path=path)
            call("fchdir", self.tree, path="/")

    def _emit_cgroups(self, program: Program, wanted: BundleMount, cgroups: dict[str, str]) -> None:
        """The v1 controllers below one directory, each showing the container's own group."""
        call = program.call
        path = wanted.target
        _mount_here(program, "tmpfs", "tmpfs", wanted.flags & ~MS_RDONLY, "mode=755", path)
        call("fchdir", self.tree, path="/")
        own = "cgroup" in self._bundle.namespaces and not self._bundle.namespaces["cgroup"]
        for controller, group in cgroups.items():
            below = f"{path}/{controller.rpartition('=')[2]}"
            call("mkdirat", AT_FDCWD, text(_relative(below)), 0o755, path=below, tolerated=(EEXIST,))
            place = self._open_inside(program, below, _AT_DIRECTORY)
            if own:
                call("fchdir", place, path=below)
                _mount_here(program, "cgroup", "cgroup", wanted.flags, controller, below)
                call("fchdir", self.tree, path="/")
            else:
                clone = self._keep(open_tree(AT_FDCWD, group, OPEN_TREE_CLONE))
                mount_setattr(clone, MOUNT_ATTR_RDONLY if wanted.flags & MS_RDONLY else 0, propagation=MS_PRIVATE)
                call("move_mount", clone, b"\0", place, b"\0", 4 | 0x40, action="attach a mount", path=below)
        if wanted.flags & MS_RDONLY:
            call("fchdir", self._open_inside(program, path, _AT_DIRECTORY), path=path)
            flags = MS_REMOUNT | MS_BIND | wanted.flags
            call("mount", None, b".\0", None, flags, None, action="make read-only", path=path)
            call("fchdir", self.tree, path="/")

    def _emit_mount_point(self, program: Program, wanted: BundleMount, source: int) -> None:
        """Make the mount point inside what the child itself has mounted above it."""
        parts = parts_of(wanted.target)
        is_file = source >= 0 and os.stat(source).st_mode & 0o170000 != 0o040000
        tolerated = (EEXIST, EROFS, ENOENT, EPERM)  # /proc has no room for new names; opening it says what is wrong
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            if end == len(parts) and is_file:
                program.call("mknodat", AT_FDCWD, text(path), _S_IFREG | 0o644, 0, path=path, tolerated=tolerated)
            else:
                program.call("mkdirat", AT_FDCWD, text(path), 0o755, path=path, tolerated=tolerated)

    def _open_inside(self, program: Program, path: str, how: bytes) -> Result:
        name = text(_relative(path))
        return program.call("openat2", AT_FDCWD, name, how, len(how), action="open the mount point", path=path)

    def _emit_sysctls(self, program: Program) -> None:
        new = {kind for kind, path in self._bundle.namespaces.items() if not path}
        for name, value in self._bundle.sysctl.items():
            name = name.replace("/", ".") if "." not in name else name
            if name in ("kernel.hostname", "kernel.domainname"):
                kind = "uts"
            elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
                kind = "ipc"
            elif name.startswith("net."):
                kind = "network"
            else:
                raise RunError(f"linux.sysctl.{name} is the whole machine's, not the container's", hint="set it on the machine")
            if kind not in new and not (kind in self._bundle.namespaces and kind != "uts"):
                raise RunError(f"linux.sysctl.{name} needs a {kind} namespace of the container's own")
            path = "/proc/sys/" + name.replace(".", "/")
            file = program.call("openat2", AT_FDCWD, text(path), _TO_WRITE, len(_TO_WRITE), action="set sysctl", path=path)
            data = value.encode("utf-8", "surrogateescape")
            program.call("write", file, data, len(data), action=f"set sysctl {name} to {value}")

    def _emit_mask(self, program: Program, path: str) -> None:
        # A directory becomes an empty one; mounting a file over it fails with ENOTDIR, and the other way round.
        program.mount("/dev/null", path, "", MS_BIND, tolerated=(ENOENT, ENOTDIR))
        program.mount("tmpfs", path, "tmpfs", _STRICT | MS_RDONLY, "size=0,nr_inodes=1", tolerated=(ENOENT, ENOTDIR))


def _mode_of(tree: int, path: str) -> int:
    """The mode of the directory at `path` inside `tree`; 0: there is none."""
    try:
        found = openat2(tree, path or ".", os.O_PATH | os.O_DIRECTORY, 0, _INSIDE)
    except OSError:
        return 0
    try:
        return os.fstat(found).st_mode & 0o7777
    finally:
        os.close(found)


def _relative(path: str) -> str:
    return "/".join(parts_of(path)) or "."


def _mount_here(program: Program, source: str, kind: str, flags: int, data: str, path: str) -> None:
    """mount(2) on the working directory."""
    options = text(data) if data else None
    program.call("mount", text(source), b".\0", text(kind), flags, options, action=f"mount {kind}", path=path)


def _above(covered: list[tuple[list[str], int]], parts: list[str]) -> tuple[list[str], int]:
    """What covers the place `parts`: the place where that is mounted, and its tree or -1. The last of the longest wins."""
    above: list[str] = []
    tree = covered[0][1]
    for mounted, source in covered:
        if len(mounted) >= len(above) and parts[: len(mounted)] == mounted:
            above, tree = mounted, source
    return above, tree
