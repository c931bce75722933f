"""A container's root file system: what it is made of, and the way into it. Hot.

The parent makes what can be made without the container's namespaces, as detached mounts that go when their descriptors are
closed: the image's tree, the small files over it, the trees of the machine, the terminal. Every path of the image is looked up
there, inside the tree and through no link that the kernel invents. The child then only attaches: `emit` says how.

Sources: OCI runtime-spec, config-linux.md, for the default file systems and devices; docker's and podman's lists of masked paths.
"""

import posix as os

from runtime.program import AT_FDCWD, EBUSY, EINVAL, ENOENT, ENOTDIR, EPERM, Program, text
from runtime.spec import Bind, ImageTree, Spec, Tmpfs
from store.errors import RunError, SetupFailed
from store.overlay import mount_overlay
from store.syscalls import (
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    exists,
    mount_setattr,
    new_filesystem,
    open_tree,
    openat2,
)

MOUNT_TREE = "mount the image's tree"
_STRICTLY = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_STRICT = MS_NOSUID | MS_NODEV | MS_NOEXEC
_OWN = "find the directories of the container's own file systems"
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_S_IFCHR = 0o020000
# Of all that is mounted below a bind, too. Only a shared one lets the container's mounts be seen outside, where there is a right
# to mount; and then only if the source itself lies on a shared mount.
_PROPAGATION = {
    "": MS_PRIVATE, "private": MS_PRIVATE, "rprivate": MS_PRIVATE, "slave": MS_SLAVE, "rslave": MS_SLAVE, "shared": MS_SHARED,
    "rshared": MS_SHARED,
}  # fmt: skip

# Directories become empty ones, files /dev/null; a path that a kernel does not have is passed over.
MASKED_DIRECTORIES = ("/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")
MASKED_FILES = (
    "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list",
    "/proc/timer_stats",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)  # fmt: skip
_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.user_namespace import UserNamespace


class Rootfs:
    """A root file system made ready for one container. `close` it when the child has entered it, or never will.

    `tree` is a descriptor of the image's tree, to look things up in. With a terminal, `master` and `slave` are its two ends.
    """

    __slots__ = (
        "_attached", "_covered", "_descriptors", "_dev", "_devices", "_drafts", "_mapping", "_namespace", "_owner", "_pts",
        "_spec", "_sys", "master", "slave", "tree",
    )  # fmt: skip

    def __init__(self, spec: Spec, namespace: "UserNamespace | None" = None) -> None:
        """Make everything ready, for the user `namespace` that the container will be in. Raises SetupFailed or RunError, and
        nothing is left then."""
        self._spec = spec
        self._namespace = namespace
        self._owner = namespace.owner if namespace is not None else None
        self._mapping = namespace.mapping if namespace is not None else -1
        self._descriptors: list[int] = []
        self._attached: list[tuple[int, int, str]] = []  # a tree of the machine, its mount point, the latter's path
        self._covered: list[tuple[list[str], int]] = []  # a place in the container, and the tree that will be mounted there
        self._drafts: list[str] = []
        self._devices: list[tuple[int, int, str]] = []
        self.master = self.slave = self._pts = self._sys = -1
        action = MOUNT_TREE
        try:
            attributes = MOUNT_ATTR_NODEV | (MOUNT_ATTR_NOSUID if spec.no_new_privileges else 0)
            lowers = [*spec.lowers, spec.root + "/skeleton"]
            self.tree = self._keep(
                self._open_directory(attributes)
                if spec.rootfs
                else mount_overlay(lowers, spec.upper, spec.work, volatile=True, attributes=attributes, mapping=self._mapping)
            )
            for name in ("proc", "dev", "sys"):
                action = _OWN
                os.close(openat2(self.tree, name, os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS))
            action = "make /dev"
            self._make_dev()
            self._cover("/etc/hostname", spec.hostname + "\n")
            self._cover("/etc/hosts", _hosts(spec))
            if spec.network == "host":
                self._cover("/etc/resolv.conf", _read_text("/etc/resolv.conf"))
                if namespace is not None:  # it shows the network namespace's devices, and only that one's owner may mount it
                    self._sys = self._keep(_sysfs())
            if spec.terminal:
                action = "make a terminal"
                self._make_terminal()
            for wanted in sorted(spec.mounts, key=lambda each: len(parts_of(each.target))):  # the outer before the inner
                action = str(wanted)
                self._open(wanted)
            if spec.cwd.strip("/").split("/")[0] not in ("proc", "sys", "dev"):
                action = "make the working directory"
                os.close(self._find(spec.cwd, directory=True))
        except OSError as err:
            self.close()
            hint = message = ""
            if err.errno in (20, 40):  # ENOTDIR, ELOOP
                message = f"{action}: /{err.filename} is no directory in the image"
                hint = (
                    "name one, or a place where nothing is yet"
                    if action != _OWN
                    else "an image needs its own /proc, /dev and /sys"
                )
            path = str(err.filename or "")
            raise SetupFailed(action, err.errno or 0, err.strerror or "", path=path, hint=hint, message=message) from err
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of what the child has attached, or never will; the terminal's master is the caller's."""
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()

    def emit(self, program: Program, cgroups: dict[str, str], *, by_chroot: bool = False) -> None:
        """Add to `program` how the child, in its own mount namespace, makes all this its root; then nothing else is in reach.

        `cgroups` says which controllers the container has groups in (runtime.cgroups): they are shown, read-only, at
        /sys/fs/cgroup.
        """
        call, mount = program.call, program.mount
        # Nothing mounted from here on is seen outside, and nothing mounted outside appears here.
        mount("", "/", "", MS_REC | MS_PRIVATE)
        call("fchdir", self.tree, path="/")
        program.attach(self.tree, AT_FDCWD, "/")  # on top of the old root, which this process goes on to see
        if by_chroot:
            # The new root covers the old one, which stays below it, out of reach of all but a process with CAP_SYS_CHROOT.
            call("chroot", b".\0")
        else:
            # pivot_root(".", ".") stacks the old root on the new one: pivot_root(2), NOTES.
            call("pivot_root", b".\0", b".\0")
        call("chdir", b"/\0", path="/")
        call("umask", 0)
        program.attach(self._dev, AT_FDCWD, "/dev")
        for source, target, path in self._devices:
            program.attach(source, target, "", path)
        # A user namespace gets these only while the machine's own are in sight. No link is followed until that is gone.
        mount("proc", "/proc", "proc", _STRICT)
        self._emit_sys(program, cgroups)
        mount("mqueue", "/dev/mqueue", "mqueue", _STRICT)
        if not by_chroot:
            call("umount2", b".\0", MNT_DETACH, action="detach the old root")
        self._emit_dev(program)
        for path in MASKED_FILES:
            mount("/dev/null", path, "", MS_BIND, tolerated=(ENOENT, ENOTDIR))
        for path in MASKED_DIRECTORIES:
            mount("tmpfs", path, "tmpfs", _STRICT | MS_RDONLY, "size=0,nr_inodes=1", tolerated=(ENOENT, ENOTDIR))
        for path in READ_ONLY:
            mount(path, path, "", MS_BIND, tolerated=(ENOENT,))
            mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _STRICT, tolerated=(ENOENT, 22))
        for source, target, path in self._attached:
            program.attach(source, target, "", path)
        for path in self._drafts:  # what was deleted cannot be attached
            call("unlinkat", AT_FDCWD, text(path), 0, path=path, tolerated=(EBUSY,))  # that a link of the image's leads to
        if self._spec.read_only:
            attributes = MOUNT_ATTR_RDONLY.to_bytes(8, "little") + bytes(24)
            call("mount_setattr", AT_FDCWD, b"/\0", 0, attributes, len(attributes), action="make the root read-only")
        call("umask", 0o022)

    def _emit_dev(self, program: Program) -> None:
        call, mount = program.call, program.mount
        if self._pts >= 0:
            program.attach(self._pts, AT_FDCWD, "/dev/pts")
            # The terminal is also /dev/console, as in docker's and podman's containers.
            call("mknodat", AT_FDCWD, b"/dev/console\0", 0o100600, 0, action="make file", path="/dev/console")
            mount("/dev/pts/0", "/dev/console", "", MS_BIND)
        else:
            mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
        mount("tmpfs", "/dev/shm", "tmpfs", _STRICT, f"mode=1777,size={self._spec.shm_size}")

    def _emit_sys(self, program: Program, cgroups: dict[str, str]) -> None:
        call, mount = program.call, program.mount
        if self._sys >= 0:
            program.attach(self._sys, AT_FDCWD, "/sys")
        else:
            mount("sysfs", "/sys", "sysfs", _STRICT | MS_RDONLY)
        top = "/sys/fs/cgroup"
        if "unified" in cgroups:
            mount("cgroup2", top, "cgroup2", _STRICT | MS_RDONLY, tolerated=(EBUSY,))
            return
        mount("tmpfs", top, "tmpfs", _STRICT, "mode=755,size=64k")
        for controller in cgroups:
            call("mkdirat", AT_FDCWD, text(f"{top}/{controller}"), 0o755, action="make directory", path=f"{top}/{controller}")
            mount("cgroup", f"{top}/{controller}", "cgroup", _STRICT | MS_RDONLY, controller)
        mount("", top, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _STRICT)

    def _keep(self, fd: int) -> int:
        self._descriptors.append(fd)
        return fd

    def _make_dev(self) -> None:
        """/dev, with all in it that only the machine's root can make."""
        options: list[tuple[str, str | None]] = [("mode", "755"), ("size", "65536k")]
        dev = self._dev = self._keep(self._new_tmpfs(options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC))
        self._covered.append((["dev"], dev))
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
            os.chmod(name, 0o755, dir_fd=dev)  # whatever the caller's umask is
            self._give(name, dev)
        for name, major, minor in DEVICES:
            try:
                os.mknod(name, _S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
            except PermissionError:  # not the machine's root
                self._bind_device(name)
                continue
            os.chmod(name, 0o666, dir_fd=dev)
            self._give(name, dev)
        for name, target in LINKS:
            os.symlink(target, name, dir_fd=dev)
            self._give(name, dev)

    def _bind_device(self, name: str) -> None:
        """The machine's own node, over an empty file."""
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._dev))
        source = self._keep(open_tree(AT_FDCWD, "/dev/" + name, OPEN_TREE_CLONE))
        target = self._keep(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self._dev))
        self._devices.append((source, target, "/dev/" + name))

    def _give(self, name: str, directory: int) -> None:
        """Make it the container's root's."""
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=directory, follow_symlinks=False)

    def _new_tmpfs(self, options: "list[tuple[str, str | None]]", attributes: int) -> int:
        if self._namespace is not None:
            given = dict(options)
            user, group = self._namespace.maps.outside(int(given.pop("uid", None) or 0), int(given.pop("gid", None) or 0))
            options = [*given.items(), ("uid", str(user)), ("gid", str(group))]
        return new_filesystem("tmpfs", options, attributes)

    def _cover(self, path: str, content: str) -> None:
        """Mount a small file of the runtime's own over the image's, if the image has one that is no dangling link."""
        try:
            target = openat2(self.tree, path, os.O_PATH, 0, _INSIDE)
        except OSError:
            return
        self._keep(target)
        name = "." + path.rpartition("/")[2]
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=self._dev)
        try:
            os.fchmod(fd, 0o644)  # whatever the caller's umask is
            os.write(fd, content.encode("utf-8", "surrogateescape"))
            self._give(name, self._dev)
            try:
                source = self._keep(open_tree(self._dev, name, OPEN_TREE_CLONE))
            except OSError as err:
                if err.errno != EINVAL:
                    raise
                source = self._keep(self._clone_written(name, content))
        finally:
            os.close(fd)
        self._drafts.append("/dev/" + name)
        self._attached.append((source, target, path))

    def _clone_written(self, name: str, content: str) -> int:
        """A clone of a file with this content in the container's directory: before Linux 6.15 only what is mounted somewhere can
        be cloned."""
        path = f"{self._spec.root}/containers/{self._spec.id}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, content.encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)
        clone = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
        try:
            mount_setattr(clone, _STRICTLY, propagation=MS_PRIVATE)
            if self._mapping >= 0:
                self._map(clone)
        except BaseException:
            os.close(clone)
            raise
        return clone

    def _make_terminal(self) -> None:
        from runtime.terminal import open_terminal, set_size

        options: list[tuple[str, str | None]] = [("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")]
        if self._namespace is not None:
            options[-1] = ("gid", str(self._namespace.maps.outside(0, 5)[1]))
        self._pts = self._keep(new_filesystem("devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC))
        self.master, self.slave = open_terminal(self._pts)
        self._keep(self.slave)
        set_size(self.master, *self._spec.window)

    def _open(self, wanted: Bind | Tmpfs | ImageTree) -> None:
        directory = True
        if isinstance(wanted, Bind):
            source = self._keep(self._open_source(wanted))
            attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if wanted.read_only else 0)
            # All below it too: a submount would stay writable otherwise. And private: a clone is its original's peer, to which
            # a mount made in the one appears in the other.
            mount_setattr(source, attributes, propagation=_PROPAGATION[wanted.propagation], recursive=True)
            if self._mapping >= 0:
                self._map(source)
            directory = os.stat(source).st_mode & 0o170000 == 0o040000
        elif isinstance(wanted, Tmpfs):
            options: list[tuple[str, str | None]] = [("mode", f"{wanted.mode:o}"), *wanted.options.items()]
            if wanted.size is not None:
                options.append(("size", str(wanted.size)))
            attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if wanted.read_only else 0)
            source = self._keep(self._new_tmpfs(options, attributes | (0 if wanted.executable else MOUNT_ATTR_NOEXEC)))
        else:
            from runtime.volumes import open_image

            source = self._keep(open_image(self._spec.root, wanted, self._mapping))
            directory = os.stat(source).st_mode & 0o170000 == 0o040000
        parts = parts_of(wanted.target)
        if not parts or parts[0] in ("proc", "sys") or parts == ["dev"]:
            raise RunError(
                f"nothing can be mounted at {wanted.target}",
                hint="/, /proc, /sys and /dev are the container's own; choose another",
            )
        target = self._keep(self._find(wanted.target, directory=directory))
        if not directory and os.fstat(target).st_mode & 0o170000 == 0o040000:
            raise RunError(
                f"{wanted}: {wanted.target} is a directory, and what is to be shown there is none",
                hint="name a file in it, or a directory of this machine",
            )
        self._attached.append((source, target, wanted.target))
        self._covered.append((parts, source))

    def _map(self, bound: int) -> None:
        """What is root's on the machine is the container's root's there. Where a file system does not know such mounts, its files
        are as on the machine: nobody's that the container has."""
        try:
            mount_setattr(bound, MOUNT_ATTR_IDMAP, mapping=self._mapping, recursive=True)
        except OSError as err:
            if err.errno not in (EPERM, EINVAL):  # EPERM: it is so mapped already
                raise

    def _open_directory(self, attributes: int) -> int:
        """A directory of the machine as the root; where it lacks places for the container's own file systems, they are made."""
        from store.clones import clone_tree

        path = self._spec.rootfs
        plain = clone_tree(path)
        try:
            for name in ("proc", "dev", "sys"):
                os.close(open_mount_point(plain, name, directory=True))
            for name in _FILES:
                try:
                    os.close(open_mount_point(plain, name, directory=False))
                except OSError:
                    continue  # it then sees what it has there, a link that leads nowhere, say
        finally:
            os.close(plain)
        tree = clone_tree(path, attributes, mapping=self._mapping)
        mount_setattr(tree, 0, propagation=MS_PRIVATE)  # or the container's mounts would appear on the machine
        return tree

    def _open_source(self, wanted: Bind) -> int:
        """A detached clone of what is to be seen."""
        if wanted.volume:
            from runtime.volumes import provide

            return provide(self._spec.root, wanted, [self._spec.rootfs] if self._spec.rootfs else self._spec.lowers)
        if not exists(wanted.source):
            raise RunError(
                f"cannot bind {wanted.source}: there is no such file or directory",
                hint="box does not make it for you, since a typing error would then go unnoticed; create it first",
            )
        return open_tree(AT_FDCWD, wanted.source, OPEN_TREE_CLONE | (AT_RECURSIVE if wanted.recursive else 0))

    def _find(self, path: str, *, directory: bool) -> int:
        """`open_mount_point` of `path` as the container will see it: in what is mounted above it, else in the image's tree."""
        tree, inside = self.place(path)
        return open_mount_point(tree, inside, directory=directory, owner=self._owner)

    def place(self, path: str) -> tuple[int, str]:
        """The tree that has what the container sees at `path`, and the path in it."""
        parts = parts_of(path)
        above: list[str] = []
        tree = self.tree
        for mounted, source in self._covered:
            if len(mounted) >= len(above) and parts[: len(mounted)] == mounted:
                above, tree = mounted, source
        return tree, "/".join(parts[len(above) :])


def open_mount_point(tree: int, path: str, *, directory: bool, owner: tuple[int, int] | None = None) -> int:
    """A descriptor of `path` inside `tree`, made (for `owner`) with its parents where it is missing: a directory, or an empty
    file.

    A dangling link on the way is an error: nothing is made through it.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    here = openat2(tree, ".", os.O_PATH | os.O_DIRECTORY, 0, _INSIDE)
    try:
        for index, part in enumerate(parts):
            wants_file = index == len(parts) - 1 and not directory
            so_far = "/".join(parts[: index + 1])
            flags = os.O_PATH | (0 if wants_file else os.O_DIRECTORY)
            try:
                found = openat2(tree, so_far, flags, 0, _INSIDE)
            except FileNotFoundError:
                if wants_file:
                    made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=here)
                    os.fchmod(made, 0o644)
                    os.close(made)
                else:
                    os.mkdir(part, 0o755, dir_fd=here)
                    os.chmod(part, 0o755, dir_fd=here)
                if owner is not None:
                    os.chown(part, *owner, dir_fd=here, follow_symlinks=False)
                found = openat2(tree, so_far, flags, 0, _INSIDE)
            os.close(here)
            here = found
    except BaseException:
        os.close(here)
        raise
    return here


def parts_of(path: str) -> list[str]:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def make_skeleton(root: str) -> None:
    """Make ROOT/skeleton: the lowest layer of every container, which has the mount points that an image may lack.

    So none of them is ever made in a container's own upper tree, where a build would find it as a change.
    """
    top = root + "/skeleton"
    if exists(top + "/etc/resolv.conf"):  # the last to be made
        return
    for name in ("", "/proc", "/dev", "/sys", "/etc"):
        try:
            os.mkdir(top + name, 0o755)
        except FileExistsError:
            continue
        os.chmod(top + name, 0o755)  # whatever the umask is
    for name in _FILES:
        fd = os.open(top + name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.fchmod(fd, 0o644)
        os.close(fd)


def _sysfs() -> int:
    attributes = _STRICTLY | MOUNT_ATTR_RDONLY
    try:
        return new_filesystem("sysfs", [], attributes)
    except PermissionError:  # only the network namespace's owner may: then the machine's own
        mount = open_tree(AT_FDCWD, "/sys", OPEN_TREE_CLONE | AT_RECURSIVE)
        try:
            mount_setattr(mount, attributes, recursive=True)
        except BaseException:
            os.close(mount)
            raise
        return mount


def _hosts(spec: Spec) -> str:
    if spec.network == "host":
        content = _read_text("/etc/hosts")
        if content and not content.endswith("\n"):
            content += "\n"
    else:
        content = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{spec.hostname}\n"
    for entry in spec.add_hosts:
        name, _, address = entry.partition(":")
        content += f"{address}\t{name}\n"
    return content


def _read_text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
