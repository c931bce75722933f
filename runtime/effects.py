"""The acts that make a root file system, each a value that can be shown before it is done.

They are applied in order by the child, inside the new root and before the container's first process exists, so that a path cannot
leave the image: what an image's symbolic link redirects stays inside the container. Links that the kernel itself invents (in /proc) are
never followed. Hot: imports only `os` and the leaf.
"""

import os

from store.syscalls import (
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
)

_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


class Mount:
    """A new file system of `kind` on the directory `target`, which must be a directory and no link."""

    __slots__ = ("data", "flags", "kind", "target")

    def __init__(self, kind: str, target: str, flags: int = MS_NOSUID | MS_NODEV | MS_NOEXEC, data: str = "") -> None:
        self.kind = kind
        self.target = target
        self.flags = flags
        self.data = data

    def __str__(self) -> str:
        return f"mount {self.kind} on {self.target}"

    def apply(self) -> None:
        if os.path.islink(self.target):
            raise OSError(40, "the image has a symbolic link here", self.target)  # ELOOP
        mount(self.kind, self.target, self.kind, self.flags, self.data)


class Directory:
    """A directory in a file system that the runtime itself has just mounted."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"make directory {self.path}"

    def apply(self) -> None:
        os.mkdir(self.path, 0o755)


class Device:
    """A character device that everybody may read and write."""

    __slots__ = ("major", "minor", "path")

    def __init__(self, path: str, major: int, minor: int) -> None:
        self.path = path
        self.major = major
        self.minor = minor

    def __str__(self) -> str:
        return f"make device {self.path}"

    def apply(self) -> None:
        os.mknod(self.path, 0o20666, os.makedev(self.major, self.minor))


class Link:
    """A symbolic link in a file system that the runtime itself has just mounted."""

    __slots__ = ("path", "target")

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.target = target

    def __str__(self) -> str:
        return f"link {self.path} -> {self.target}"

    def apply(self) -> None:
        os.symlink(self.target, self.path)


class Masked:
    """A path of /proc or /sys that must not be read: a file becomes /dev/null, a directory an empty one. A missing path is fine."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"mask {self.path}"

    def apply(self) -> None:
        try:
            mount("/dev/null", self.path, "", MS_BIND)
        except FileNotFoundError:
            return
        except NotADirectoryError:  # the kernel's answer to a file over a directory
            mount("tmpfs", self.path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,nr_inodes=1")


class ReadOnly:
    """A path of /proc that must not be written. A missing path is fine."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"make {self.path} read-only"

    def apply(self) -> None:
        try:
            mount(self.path, self.path, "", MS_BIND)
        except FileNotFoundError:
            return
        mount("", self.path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


class Text:
    """A small file of the runtime's own over the image's `target`, writable, gone with the container.

    It is a file of the container's /dev that is bound over `target` and then unlinked. An image that has no `target` gets none.
    """

    __slots__ = ("target", "text")

    def __init__(self, target: str, text: str) -> None:
        self.target = target
        self.text = text

    def __str__(self) -> str:
        return f"write {self.target}"

    def apply(self) -> None:
        try:
            target = openat2(AT_FDCWD, self.target, os.O_PATH, 0, _INSIDE)
        except FileNotFoundError:
            return
        draft = "/dev/.text"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, self.text.encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)
        tree = open_tree(AT_FDCWD, draft, OPEN_TREE_CLONE)
        try:
            move_mount(tree, target)
        finally:
            os.close(tree)
            os.close(target)
            os.unlink(draft)


class Attached:
    """A tree of this machine at `target`. Opened by `take`, before the old root goes; attached by `apply`, after."""

    __slots__ = ("fd", "read_only", "source", "target")

    def __init__(self, source: str, target: str, read_only: bool) -> None:
        self.source = source
        self.target = target
        self.read_only = read_only
        self.fd = -1

    def __str__(self) -> str:
        return f"bind {self.source} at {self.target}"

    def take(self) -> None:
        self.fd = open_tree(AT_FDCWD, self.source, OPEN_TREE_CLONE | AT_RECURSIVE)
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if self.read_only else 0)
        mount_setattr(self.fd, attributes, recursive=True)  # all below it too: a submount stays writable otherwise

    def apply(self) -> None:
        target = open_mount_point(self.target, directory=os.stat(self.fd).st_mode & 0o170000 == 0o040000)
        try:
            move_mount(self.fd, target)
        finally:
            os.close(target)
            os.close(self.fd)
            self.fd = -1


class Memory:
    """A tmpfs at a path of the image that is made where it is missing."""

    __slots__ = ("data", "target")

    def __init__(self, target: str, data: str) -> None:
        self.target = target
        self.data = data

    def __str__(self) -> str:
        return f"mount tmpfs on {self.target}"

    def apply(self) -> None:
        target = open_mount_point(self.target, directory=True)
        try:
            mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", MS_NOSUID | MS_NODEV, self.data)
        finally:
            os.close(target)


class Sealed:
    """The root file system itself, made read-only; what is mounted on it stays as it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "make / read-only"

    def apply(self) -> None:
        mount_setattr(AT_FDCWD, MOUNT_ATTR_RDONLY, path="/")


Effect = Mount | Directory | Device | Link | Masked | ReadOnly | Text | Attached | Memory | Sealed


def open_mount_point(path: str, *, directory: bool) -> int:
    """A descriptor of `path` in this root, made with its parents where it is missing: a directory, or an empty file.

    A dangling link on the way is an error: nothing is made through it.
    """
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for index in range(1, len(parts) + 1):
            part = "/".join(parts[:index])
            last_file = index == len(parts) and not directory
            try:
                found = openat2(here, part, os.O_PATH, 0, _INSIDE)
            except FileNotFoundError:
                if last_file:
                    made = os.open("/" + part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                    os.close(made)
                else:
                    os.mkdir("/" + part, 0o755)
                found = openat2(here, part, os.O_PATH, 0, _INSIDE)
            os.close(found)
        return openat2(here, "/".join(parts) or ".", os.O_PATH, 0, _INSIDE)
    finally:
        os.close(here)
