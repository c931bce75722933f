"""The root file system: what is mounted, what is masked, what cannot be written, and that there is no way out."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime import rootfs
from store.errors import SetupFailed
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def mount_table() -> list[list[str]]:
    """Mount point, kind, the mount's options, propagation, source, the file system's options."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            dash = fields.index("-")
            found.append([fields[4], fields[dash + 1], fields[5], " ".join(fields[6:dash]), fields[dash + 2], fields[dash + 3]])
    return found


def test_the_mount_table_has_the_container_s_own_mounts_and_none_of_the_machine_s(site: Site) -> None:
    table = site.probe(mount_table)
    kinds = {(point, kind) for point, kind, *_ in table}
    assert {
        ("/", "overlay"), ("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"), ("/etc/hostname", "tmpfs"), ("/etc/hosts", "tmpfs"),
    } <= kinds  # fmt: skip
    assert {kind for _, kind in kinds} <= {"overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}
    assert [point for point, *_ in table].count("/") == 1
    assert site.root not in json.dumps(table)  # no path of the machine is told


def test_no_mount_shares_its_changes_with_the_machine(site: Site) -> None:
    assert {propagation for _, _, _, propagation, *_ in site.probe(mount_table)} == {""}


def test_every_mount_is_nosuid_and_only_dev_has_devices(site: Site) -> None:
    for point, kind, options, *_ in site.probe(mount_table):
        assert "nosuid" in options.split(","), point
        # The files over /etc and the masks are of /dev's tmpfs; the masks are its null device.
        assert "nodev" in options.split(",") or kind == "devpts" or point.startswith(("/dev", "/etc/", "/proc/")), point


def test_the_devices_are_the_few_harmless_ones(site: Site) -> None:
    def devices() -> dict[str, Any]:
        import os
        import stat

        found: dict[str, Any] = {}
        for name in os.listdir("/dev"):
            status = os.lstat(f"/dev/{name}")
            if stat.S_ISLNK(status.st_mode):
                found[name] = os.readlink(f"/dev/{name}")
            elif stat.S_ISDIR(status.st_mode):
                found[name] = "directory"
            else:
                kind = "c" if stat.S_ISCHR(status.st_mode) else "?"
                found[name] = [kind, os.major(status.st_rdev), os.minor(status.st_rdev), oct(status.st_mode & 0o7777)]
        return found

    assert site.probe(devices) == {
        "null": ["c", 1, 3, "0o666"], "zero": ["c", 1, 5, "0o666"], "full": ["c", 1, 7, "0o666"],
        "random": ["c", 1, 8, "0o666"], "urandom": ["c", 1, 9, "0o666"], "tty": ["c", 5, 0, "0o666"],
        "ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2", "pts": "directory", "shm": "directory", "mqueue": "directory",
    }  # fmt: skip


def test_the_devices_work(site: Site) -> None:
    def act() -> list[Any]:
        import os

        master, slave = os.openpty()
        os.write(slave, b"through a pty\n")
        try:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")
            full_errno = 0
        except OSError as error:
            full_errno = error.errno or 0
        with open("/dev/zero", "rb") as zero, open("/dev/urandom", "rb") as random, open("/dev/null", "wb") as null:
            null.write(b"gone")
            return [zero.read(3).hex(), len(random.read(8)), full_errno, os.read(master, 100).decode(), os.ttyname(slave)]

    assert site.probe(act) == ["000000", 8, 28, "through a pty\r\n", "/dev/pts/0"]


def test_a_device_node_cannot_be_made(site: Site) -> None:
    def attempts() -> list[int]:
        import os
        import stat

        errors = []
        for directory in ("/", "/dev", "/tmp", "/dev/shm"):
            for kind in (stat.S_IFCHR, stat.S_IFBLK):
                try:
                    os.mknod(f"{directory}/node", kind | 0o666, os.makedev(1, 1))
                    errors.append(0)
                except OSError as error:
                    errors.append(error.errno or 0)
        return errors

    assert set(site.probe(attempts)) == {1}  # EPERM


def test_a_device_node_that_could_be_made_cannot_be_opened(site: Site) -> None:
    """With CAP_MKNOD given on purpose: nodev refuses it outside /dev, and in /dev the control group does."""
    from runtime.capabilities import RUN_DEFAULT, adjust

    def attempts() -> dict[str, int]:
        import os
        import stat

        errors = {}
        for directory in ("/", "/dev", "/dev/shm"):
            path = f"{directory}/node"
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 1))  # /dev/mem
            try:
                os.close(os.open(path, os.O_RDONLY))
                errors[directory] = 0
            except OSError as error:
                errors[directory] = error.errno or 0
        return errors

    errors = site.probe(attempts, capabilities=adjust(RUN_DEFAULT, ["MKNOD"], []), userns="host")
    assert errors["/"] == errors["/dev/shm"] == 13  # EACCES
    assert errors["/dev"] == 1  # EPERM


def test_a_node_in_the_image_cannot_be_opened(site: Site, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
    assert os.access(tree / "null", os.R_OK)
    ran = site.run("cat", "/null", lowers=[str(tree), *site.trees])
    assert ran.status == 1
    assert "Permission denied" in ran.err


MASKED = (
    "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list",
    "/proc/timer_stats", "/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip


def test_what_tells_about_the_machine_is_masked(site: Site) -> None:
    def contents(paths: list[str]) -> dict[str, Any]:
        import os

        found: dict[str, Any] = {}
        for path in paths:
            if os.path.isdir(path):
                found[path] = os.listdir(path)
            elif os.path.exists(path):
                with open(path, "rb") as file:
                    found[path] = file.read(1).decode("latin-1")
        return found

    seen = site.probe(contents, list(MASKED))
    assert seen.keys() == {path for path in MASKED if os.path.exists(path)}
    assert seen["/proc/interrupts"] == ""
    assert all(not content for content in seen.values()), seen
    with open("/proc/interrupts") as file:
        assert file.read(1)  # so there was something to mask


def test_the_kernel_s_settings_cannot_be_written(site: Site) -> None:
    def attempts() -> dict[str, int]:
        import os

        errors = {}
        paths = (
            "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/modprobe",
            "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/bus", "/proc/fs", "/sys/kernel/uevent_helper",
            "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/pids/notify_on_release",
            "/sys/fs/cgroup/pids/release_agent", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/devices/devices.allow",
            "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cgroup.procs",
        )  # fmt: skip
        for path in paths:
            try:
                if os.path.isdir(path):
                    os.mkdir(f"{path}/new")
                else:
                    os.close(os.open(path, os.O_WRONLY))
                errors[path] = 0
            except OSError as error:
                errors[path] = error.errno or 0
        return errors

    for userns, refusal in (("auto", 13), ("host", 30)):  # EACCES: the machine's root's; EROFS
        errors = site.probe(attempts, userns=userns)
        assert errors.pop("/proc/sys/kernel/core_pattern") == refusal
        assert set(errors.values()) <= {1, 2, 13, 30}, errors


def test_a_group_cannot_be_made_nor_the_mounts_changed_from_inside(site: Site) -> None:
    def attempts() -> list[int]:
        import ctypes
        import os

        libc = ctypes.CDLL(None, use_errno=True)
        errors = []
        for source, target, kind, flags in (
            (b"x", b"/tmp", b"tmpfs", 0),
            (b"", b"/proc/sys", b"", 32 | 4096),  # remount, writable
            (b"", b"/sys", b"", 32),
            (b"/", b"/tmp", b"", 4096),
        ):
            errors.append(0 if libc.mount(source, target, kind, flags, None) == 0 else ctypes.get_errno())
        errors.append(0 if libc.umount2(b"/proc/sys", 2) == 0 else ctypes.get_errno())
        errors.append(0 if libc.unshare(0x20000) == 0 else ctypes.get_errno())
        for path in ("/sys/fs/cgroup/pids/new", "/sys/fs/cgroup/new"):
            try:
                os.mkdir(path)
                errors.append(0)
            except OSError as error:
                errors.append(error.errno or 0)
        return errors

    assert set(site.probe(attempts)) <= {1, 2, 30}


def breakout() -> dict[str, Any]:
    """The ways out of a chroot, each with what it leads to: the device and inode of the root that it ends in."""
    import os

    def place() -> list[int]:
        status = os.stat(".")
        return [status.st_dev, status.st_ino]

    found: dict[str, Any] = {}
    os.chdir("/")
    found["own"] = place()
    os.chdir("/" + "../" * 64)
    found["dots"] = place()
    for name in ("root", "cwd"):
        os.chdir(f"/proc/1/{name}/..")
        found[f"/proc/1/{name}/.."] = place()
    os.chdir("/proc/self/root/proc/1/root/../..")
    found["/proc/self/root"] = place()
    # The classic: a descriptor of the old root, a chroot below it, fchdir back, and up.
    held = os.open("/", os.O_RDONLY)
    os.makedirs("/tmp/jail", exist_ok=True)
    try:
        os.chroot("/tmp/jail")
        found["chroot"] = "allowed"
    except PermissionError:
        found["chroot"] = "refused"
    os.fchdir(held)
    for _ in range(64):
        os.chdir("..")
    found["descriptor"] = place()
    return found


@pytest.mark.parametrize("with_chroot", [False, True])
def test_every_way_out_of_the_root_leads_back_into_it(site: Site, with_chroot: bool) -> None:
    from runtime.capabilities import RUN_DEFAULT, adjust

    capabilities = adjust(RUN_DEFAULT, ["SYS_CHROOT"], []) if with_chroot else None
    found = site.probe(breakout, capabilities=capabilities)
    assert found.pop("chroot") == ("allowed" if with_chroot else "refused")
    own = found.pop("own")
    assert own != [os.stat("/").st_dev, os.stat("/").st_ino]
    assert all(place == own for place in found.values()), found


def test_a_root_entered_by_chroot_alone_would_have_been_left(tmp_path: Path) -> None:
    """The control: the same attack by descriptor leads out where there is only a chroot."""
    from tests.runtime.child import result_of

    def attack() -> Any:
        (tmp_path / "tmp").mkdir()
        held = os.open("/", os.O_RDONLY)
        os.chroot(tmp_path)
        os.fchdir(held)
        return [os.stat(".").st_dev, os.stat(".").st_ino]

    assert result_of(attack) == [os.stat("/").st_dev, os.stat("/").st_ino]


def test_a_change_goes_to_the_upper_and_the_image_stays_as_it_was(site: Site) -> None:
    before = sorted(os.listdir(site.trees[0]))
    assert site.shell("echo x > /new && rm /etc/passwd && echo changed > /etc/group").status == 0
    assert sorted(os.listdir(site.trees[0])) == before
    assert "app:x" in site.shell("cat /etc/passwd /etc/group").out


def test_a_run_that_changes_nothing_leaves_an_empty_upper(site: Site, tmp_path: Path) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    assert site.run("cat", "/etc/hosts", "/proc/self/status", upper=str(upper), work=str(work)).status == 0
    assert list(upper.iterdir()) == []


@pytest.mark.parametrize("network", ["none", "host"])
@pytest.mark.parametrize("terminal", [False, True])
def test_an_image_without_proc_dev_sys_and_etc_works_and_its_upper_stays_empty(
    site: Site, tmp_path: Path, network: str, terminal: bool
) -> None:
    """The skeleton has them: nothing that box needs to mount on is ever made in what a build would take for a change."""
    tree, upper, work = tmp_path / "tree", tmp_path / "upper", tmp_path / "work"
    for directory in (tree, upper, work):
        directory.mkdir(mode=0o755)
    original = Path(site.trees[-1])
    for name in ("usr", "bin", "lib", "lib64", "sbin"):
        if (original / name).is_symlink():
            (tree / name).symlink_to(os.readlink(original / name))
    # Hard links: the same programs, in a tree that has nothing else.

    shutil.copytree(
        original / "usr", tree / "usr", symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns("python3*")
    )
    script = "cat /etc/hostname; ls /proc/1 >/dev/null && ls /dev/pts >/dev/null && ls /sys/class >/dev/null && echo whole"
    ran = site.shell(
        script, lowers=[str(tree)], upper=str(upper), work=str(work), network=network, terminal=terminal, hostname="bare"
    )
    assert ran.status == 0, ran
    assert ran.out.split() == ["bare", "whole"]
    assert list(upper.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("target", ["/tmp", "/etc", "../../../../tmp", "usr", "missing"])
def test_an_image_whose_proc_dev_or_sys_is_a_link_is_refused(site: Site, tmp_path: Path, name: str, target: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / name).symlink_to(target)
    with pytest.raises(SetupFailed) as caught:
        site.run("true", lowers=[str(tree), *site.trees])
    assert name in caught.value.message
    assert "an image needs its own" in caught.value.hint


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_an_image_whose_proc_dev_or_sys_is_a_file_is_refused(site: Site, tmp_path: Path, name: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / name).write_text("")
    with pytest.raises(SetupFailed, match=name) as caught:
        site.run("true", lowers=[str(tree), *site.trees])
    assert "an image needs its own" in caught.value.hint


@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
@pytest.mark.parametrize(
    "target", ["{canary}", "/proc/1/root{canary}", "../../../../../..{canary}", "/dev/null", "hosts", "/tmp", "missing"]
)
def test_a_file_of_etc_that_is_a_link_in_the_image_writes_to_nothing_outside(
    site: Site, tmp_path: Path, name: str, target: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    before = os.stat(canary)
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    tree.chmod(0o755)
    (tree / "etc" / name).symlink_to(target.format(canary=canary))
    try:
        ran = site.shell(f"echo written > /etc/{name}", lowers=[str(tree), *site.trees], network="host")
        assert ran.status in (0, 1, 2)
    except SetupFailed as error:
        assert f"/etc/{name}" in error.message  # a link to itself
    after = os.stat(canary)
    assert canary.read_text() == "alive"
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns, after.st_nlink) == (
        before.st_ino, before.st_mtime_ns, before.st_ctime_ns, before.st_nlink,
    )  # fmt: skip


def test_a_read_only_root_can_be_written_nowhere_but_in_memory(site: Site) -> None:
    def attempts() -> dict[str, int]:
        import os

        errors = {}
        for directory in ("/", "/etc", "/tmp", "/home/app", "/usr/bin", "/dev", "/dev/shm"):
            try:
                os.close(os.open(f"{directory}/new", os.O_WRONLY | os.O_CREAT))
                errors[directory] = 0
            except OSError as error:
                errors[directory] = error.errno or 0
        return errors

    errors = site.probe(attempts, read_only=True)
    assert errors.pop("/dev") == errors.pop("/dev/shm") == 0
    assert set(errors.values()) == {30}


def test_the_root_directory_has_the_image_s_mode_and_owner(site: Site, tmp_path: Path) -> None:
    def root() -> list[int]:
        import os

        status = os.stat("/")
        return [status.st_mode & 0o7777, status.st_uid, status.st_gid]

    assert site.probe(root) == [0o755, 0, 0]
    tree = tmp_path / "tree"
    tree.mkdir()
    tree.chmod(0o751)
    os.chown(tree, 12, 34)
    assert site.probe(root, lowers=[str(tree), *site.trees]) == [0o751, 12, 34]


def test_shared_memory_is_as_large_as_asked(site: Site) -> None:
    def size() -> int:
        import os

        status = os.statvfs("/dev/shm")
        return status.f_blocks * status.f_frsize

    assert site.probe(size) == 64 << 20
    assert site.probe(size, shm_size=1 << 20) == 1 << 20


def test_before_linux_6_15_the_small_files_are_clones_of_the_container_s_directory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, what is mounted nowhere cannot be cloned: `make test-vm`, which has such a kernel, does it for real."""
    real, refused = rootfs.open_tree, []

    def before(directory: int, path: str, flags: int) -> int:
        if directory >= 0 and path:
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument", path)
        return real(directory, path, flags)

    monkeypatch.setattr(rootfs, "open_tree", before)
    ran = site.shell("cat /etc/hostname; ls -ln /etc/hostname; echo x > /etc/hostname && cat /etc/hostname", hostname="inner")
    assert refused == [".hostname", ".hosts"]
    first, listed, last = ran.out.splitlines()
    assert (first, last) == ("inner", "x")
    assert listed.split()[2:4] == ["0", "0"]
