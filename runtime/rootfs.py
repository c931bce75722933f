"""A container's root file system: what it is made of, and the way into it. Hot: imports only `os` and the leaf.

Source for the default file systems and devices: OCI runtime-spec, config-linux.md; for the masked paths: docker's and podman's lists.
"""

import os

from runtime.effects import Attached, Device, Directory, Effect, Link, Masked, Memory, Mount, ReadOnly, Sealed, Text
from runtime.linux import pivot_root_here
from runtime.spec import Bind, Spec
from store.errors import SetupFailed
from store.syscalls import (
    AT_FDCWD,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_STRICTATIME,
    mount,
    mount_setattr,
    move_mount,
    new_filesystem,
    umount,
)

_PAGE = 4096  # mount(2) copies no more than a page of options
_STRICT = MS_NOSUID | MS_NODEV | MS_NOEXEC

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEV = (
    Mount("tmpfs", "/dev", MS_NOSUID | MS_NOEXEC | MS_STRICTATIME, "mode=755,size=65536k"),
    Device("/dev/null", 1, 3),
    Device("/dev/zero", 1, 5),
    Device("/dev/full", 1, 7),
    Device("/dev/random", 1, 8),
    Device("/dev/urandom", 1, 9),
    Device("/dev/tty", 5, 0),
    Directory("/dev/pts"),
    Directory("/dev/shm"),
    Directory("/dev/mqueue"),
    Mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    Mount("mqueue", "/dev/mqueue", _STRICT),
    Link("/dev/ptmx", "pts/ptmx"),
    Link("/dev/fd", "/proc/self/fd"),
    Link("/dev/stdin", "/proc/self/fd/0"),
    Link("/dev/stdout", "/proc/self/fd/1"),
    Link("/dev/stderr", "/proc/self/fd/2"),
)


def effects(spec: Spec, cgroups: dict[str, str]) -> list[Effect]:
    """What turns the bare tree of `spec`'s image into a root file system, in order; nothing is done yet.

    `cgroups` says which controllers the container has groups in (runtime.cgroups): they are shown, read-only, at /sys/fs/cgroup.
    """
    plan: list[Effect] = [Mount("proc", "/proc"), *_DEV]
    plan.append(Mount("tmpfs", "/dev/shm", _STRICT, f"mode=1777,size={spec.shm_size}"))
    plan.append(Mount("sysfs", "/sys", _STRICT | MS_RDONLY))
    if "unified" in cgroups:
        plan.append(Mount("cgroup2", "/sys/fs/cgroup", _STRICT | MS_RDONLY))
    else:
        plan.append(Mount("tmpfs", "/sys/fs/cgroup", _STRICT, "mode=755,size=64k"))
        for controller in cgroups:
            directory = "/sys/fs/cgroup/" + controller
            plan += [Directory(directory), Mount("cgroup", directory, _STRICT | MS_RDONLY, controller)]
    plan += [Masked(path) for path in MASKED]
    plan += [ReadOnly(path) for path in READ_ONLY]
    plan += [Text("/etc/hostname", spec.hostname + "\n"), Text("/etc/hosts", _hosts(spec))]
    if spec.network == "host":
        plan.append(Text("/etc/resolv.conf", _read_text("/etc/resolv.conf")))
    for wanted in spec.mounts:
        if isinstance(wanted, Bind):
            plan.append(Attached(wanted.source, wanted.target, wanted.read_only))
        else:
            size = "" if wanted.size is None else f",size={wanted.size}"
            plan.append(Memory(wanted.target, f"mode={wanted.mode:o}{size}"))
    if spec.read_only:
        plan.append(Sealed())
    return plan


def enter(spec: Spec, plan: list[Effect]) -> None:
    """Make the image's tree the root of this process' own mount namespace, and apply `plan` in it.

    On return the machine's file systems are out of reach but for what `plan` attached. Raises SetupFailed naming the act.
    """
    action = "make mounts private"
    try:
        # Nothing mounted from here on is seen outside, and nothing mounted outside appears here.
        mount("", "/", "", MS_REC | MS_PRIVATE)
        for effect in plan:
            if isinstance(effect, Attached):
                action = str(effect)
                effect.take()
        action = "mount overlay"
        _mount_tree(spec)
        action = "pivot_root"
        pivot_root_here()
        umount(".", MNT_DETACH)
        os.chdir("/")
        os.umask(0)
        for effect in plan:
            action = str(effect)
            effect.apply()
        os.umask(0o022)
    except OSError as err:
        raise SetupFailed(action, err.errno or 0, err.strerror or "", path=err.filename or "") from err


def _mount_tree(spec: Spec) -> None:
    """Mount the image's tree over its container's directory, and go there.

    The paths are relative to the snapshots' folder, and so free of the characters that overlay's options give a meaning: colon, comma
    and backslash of the way there. Many layers do not fit into a page of options; then each is given by its own call (Linux 6.5).
    """
    home = f"{spec.root}/containers/{spec.id}"
    os.chdir(spec.root + "/snapshots")
    prefix = spec.root + "/"
    lowers = [_relative(path, prefix) for path in [*spec.lowers, prefix + "skeleton"]]
    pairs: list[tuple[str, str | None]] = [("upperdir", _relative(spec.upper, prefix)), ("workdir", _relative(spec.work, prefix))]
    fixed = "volatile,index=off,metacopy=off,redirect_dir=nofollow,xino=off"
    data = f"lowerdir={':'.join(lowers)},upperdir={pairs[0][1]},workdir={pairs[1][1]},{fixed}"
    flags = MS_NODEV | (MS_NOSUID if spec.no_new_privileges else 0)
    if len(data) < _PAGE:
        mount("overlay", home, "overlay", flags, data)
    else:
        options: list[tuple[str, str | None]] = [("lowerdir+", lower) for lower in lowers]
        options += pairs
        for option in fixed.split(","):
            key, _, value = option.partition("=")
            options.append((key, value or None))
        tree = new_filesystem("overlay", options)
        try:
            mount_setattr(tree, MOUNT_ATTR_NODEV | (MOUNT_ATTR_NOSUID if spec.no_new_privileges else 0))
            move_mount(tree, AT_FDCWD, home)
        finally:
            os.close(tree)
    os.chdir(home)


def _relative(path: str, prefix: str) -> str:
    """`path` as seen from the snapshots' folder of the store at `prefix`."""
    if not path.startswith(prefix):
        return path
    inside = path[len(prefix) :]
    return inside.removeprefix("snapshots/") if inside.startswith("snapshots/") else "../" + inside


def make_skeleton(root: str) -> None:
    """Make ROOT/skeleton: the lowest layer of every container, which has the mount points that an image may lack.

    So none of them is ever made in a container's own upper tree, where a build would find it as a change.
    """
    top = root + "/skeleton"
    last = top + "/etc/resolv.conf"
    if os.path.exists(last):
        return
    for name in ("", "/proc", "/dev", "/sys", "/etc"):
        try:
            os.mkdir(top + name, 0o755)
        except FileExistsError:
            continue
        os.chmod(top + name, 0o755)  # whatever the umask is
    for name in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf"):
        fd = os.open(top + name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.fchmod(fd, 0o644)
        os.close(fd)


def _hosts(spec: Spec) -> str:
    if spec.network == "host":
        text = _read_text("/etc/hosts")
        if text and not text.endswith("\n"):
            text += "\n"
    else:
        text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + f"127.0.0.1\t{spec.hostname}\n"
    for entry in spec.add_hosts:
        name, _, address = entry.partition(":")
        text += f"{address}\t{name}\n"
    return text


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(65536)
    except OSError:
        return ""
