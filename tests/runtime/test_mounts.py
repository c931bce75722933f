"""What of this machine is shown in a container, and file systems in memory: where they appear, and what they cannot reach."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.spec import Bind, Tmpfs
from store.errors import RunError, SetupFailed
from store.syscalls import MNT_DETACH, mount, umount
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    directory = tmp_path / "shown"
    directory.mkdir(mode=0o755)
    (directory / "file").write_text("of the machine\n")
    return directory


def test_a_directory_is_shown_and_written_through(site: Site, shown: Path) -> None:
    ran = site.shell("cat /data/file; echo new > /data/made", mounts=[Bind(str(shown), "/data")])
    assert (ran.status, ran.out) == (0, "of the machine\n")
    assert (shown / "made").read_text() == "new\n"


def test_a_read_only_one_cannot_be_written_nor_made_writable(site: Site, shown: Path) -> None:
    def attempts() -> list[Any]:
        import ctypes
        import os

        libc = ctypes.CDLL(None, use_errno=True)
        with open("/data/file") as file:
            found: list[Any] = [file.read()]
        for act in (
            lambda: os.close(os.open("/data/file", os.O_WRONLY)), lambda: os.mkdir("/data/new"), lambda: os.unlink("/data/file"),
            lambda: os.chmod("/data/file", 0o777), lambda: os.utime("/data/file"),
        ):  # fmt: skip
            try:
                act()
                found.append(0)
            except OSError as error:
                found.append(error.errno)
        found.append(0 if libc.mount(b"", b"/data", b"", 32 | 4096, None) == 0 else ctypes.get_errno())
        return found

    seen = site.probe(attempts, mounts=[Bind(str(shown), "/data", read_only=True)])
    assert seen[0] == "of the machine\n"
    assert set(seen[1:-1]) == {30}
    assert seen[-1] == 1
    assert os.listdir(shown) == ["file"]


@pytest.fixture
def with_submount(shown: Path) -> Iterator[Path]:
    (shown / "sub").mkdir()
    mount("sub", str(shown / "sub"), "tmpfs")
    (shown / "sub" / "below").write_text("in the submount\n")
    yield shown
    umount(str(shown / "sub"), MNT_DETACH)


def test_what_is_mounted_below_a_read_only_one_cannot_be_written_either(site: Site, with_submount: Path) -> None:
    ran = site.shell("cat /data/sub/below && echo x > /data/sub/new", mounts=[Bind(str(with_submount), "/data", read_only=True)])
    assert ran.out == "in the submount\n"
    assert ran.status == 2
    assert "Read-only file system" in ran.err
    assert os.listdir(with_submount / "sub") == ["below"]
    # The machine's own mounts have not become read-only by it.
    (with_submount / "sub" / "new").write_text("x")


def test_a_submount_is_shown_and_written_through(site: Site, with_submount: Path) -> None:
    assert site.shell("echo x > /data/sub/new", mounts=[Bind(str(with_submount), "/data")]).status == 0
    assert (with_submount / "sub" / "new").read_text() == "x\n"


def test_set_user_id_programs_and_devices_of_a_volume_have_no_power(site: Site, shown: Path) -> None:
    os.mknod(shown / "null", 0o020666, os.makedev(1, 3))
    ran = site.shell("cat /data/null || grep -q x; cat /proc/self/mountinfo", mounts=[Bind(str(shown), "/data")])
    assert "Permission denied" in ran.err
    line = next(line for line in ran.out.splitlines() if " /data " in line)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))


def test_a_mount_made_under_a_volume_stays_on_its_side(site: Site, shown: Path) -> None:
    """On most machines every mount is shared with its copies; a container must not get such a copy."""
    from runtime.capabilities import RUN_DEFAULT, adjust
    from tests.runtime.child import result_of

    def inside() -> list[str]:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(b"inside", b"/data", b"tmpfs", 0, None) == 0, ctypes.get_errno()
        with open("/proc/self/mountinfo") as file:
            return [" ".join(line.split()[6 : line.split().index("-")]) for line in file if " /data " in line]

    def act() -> list[Any]:
        from store.syscalls import MS_REC, libc

        libc("unshare", 0x20000)
        mount("", "/", "", MS_REC | 1 << 20)  # MS_SHARED
        mount("outside", str(shown), "tmpfs")
        before = Path("/proc/self/mountinfo").read_text()
        optional = [line.split()[6] for line in before.splitlines() if f" {shown} " in line]
        seen = site.probe(
            inside,
            mounts=[Bind(str(shown), "/data")],
            capabilities=adjust(RUN_DEFAULT, ["SYS_ADMIN"], []),
            seccomp=False,
        )
        return [optional, seen, Path("/proc/self/mountinfo").read_text() == before]

    optional, seen, unchanged = result_of(act)
    assert optional[0].startswith("shared:")  # the control: so the copy would have been
    assert seen == ["", ""]
    assert unchanged


def test_a_file_is_shown_in_place_of_the_image_s(site: Site, shown: Path) -> None:
    ran = site.shell("cat /etc/passwd; cat /new/place/file", mounts=[
        Bind(str(shown / "file"), "/etc/passwd", read_only=True), Bind(str(shown / "file"), "/new/place/file"),
    ])  # fmt: skip
    assert ran.out == "of the machine\n" * 2


def test_a_source_that_is_a_link_shows_what_it_leads_to(site: Site, shown: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shown)
    assert site.run("cat", "/data/file", mounts=[Bind(str(tmp_path / "link"), "/data")]).out == "of the machine\n"


def test_a_source_that_is_not_there_is_an_error_and_is_not_made(site: Site, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such file or directory"):
        site.run("true", mounts=[Bind(str(tmp_path / "missing"), "/data")])
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("outer_first", [True, False])
def test_a_volume_within_a_volume_is_seen(site: Site, shown: Path, tmp_path: Path, outer_first: bool) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "beside").write_text("")
    mounts = [Bind(str(outer), "/data"), Bind(str(shown), "/data/in/ner")]
    ran = site.shell("ls /data /data/in; cat /data/in/ner/file", mounts=mounts if outer_first else mounts[::-1])
    assert ran.out.split() == ["/data:", "beside", "in", "/data/in:", "ner", "of", "the", "machine"]


def test_a_volume_within_a_file_system_in_memory_is_seen_and_the_other_way_round(site: Site, shown: Path) -> None:
    mounts = [Tmpfs("/run"), Bind(str(shown), "/run/data"), Tmpfs("/run/data/scratch")]
    ran = site.shell("cat /run/data/file; echo x > /run/data/scratch/gone; ls /run/data/scratch", mounts=mounts)
    assert (ran.status, ran.out) == (0, "of the machine\ngone\n")
    assert list((shown / "scratch").iterdir()) == []


def test_a_volume_in_dev_is_seen(site: Site, shown: Path) -> None:
    def seen() -> list[Any]:
        import os

        status = os.statvfs("/dev/shm")
        with open("/dev/shown/file") as file:
            return [file.read(), os.path.exists("/dev/null"), status.f_blocks * status.f_frsize]

    assert site.probe(seen, mounts=[Bind(str(shown), "/dev/shown"), Tmpfs("/dev/shm", size=4096)]) == [
        "of the machine\n", True, 4096,
    ]  # fmt: skip


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/sys", "/sys/fs/cgroup", "/dev", "/dev/../proc", "/x/.."])
@pytest.mark.parametrize("kind", [Bind, Tmpfs])
def test_nothing_is_mounted_over_what_the_kernel_tells(site: Site, shown: Path, target: str, kind: type) -> None:
    wanted = Bind(str(shown), target) if kind is Bind else Tmpfs(target)
    with pytest.raises(RunError, match="nothing can be mounted at"):
        site.run("true", mounts=[wanted])


@pytest.mark.parametrize("target", ["{canary}", "/proc/1/root{canary}", "../../../../../../..{canary}"])
def test_a_mount_point_that_is_a_link_in_the_image_stays_inside(site: Site, shown: Path, tmp_path: Path, target: str) -> None:
    """/data -> somewhere on the machine: the path is looked up in the image, or refused; outside nothing happens."""
    canary = tmp_path / "canary"
    canary.mkdir()
    before = os.stat(canary)
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / "data").symlink_to(target.format(canary=canary))
    for wanted in (Bind(str(shown), "/data"), Bind(str(shown), "/data/below"), Tmpfs("/data/below")):
        try:
            ran = site.shell("echo x > /data/new; ls /data/", lowers=[str(tree), *site.trees], mounts=[wanted])
            assert ran.status in (0, 1, 2)
        except SetupFailed as error:
            assert error.errno in (2, 17, 20, 40)  # the link dangles in the image
    after = os.stat(canary)
    assert list(canary.iterdir()) == []
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns, after.st_nlink) == (
        before.st_ino, before.st_mtime_ns, before.st_ctime_ns, before.st_nlink,
    )  # fmt: skip
    if not target.startswith("/proc"):  # the control: a path that is only put together leads out
        assert os.path.realpath(f"{tree}/data") == str(canary)


def test_a_mount_point_that_is_a_link_to_a_directory_of_the_image_is_that_directory(
    site: Site, shown: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / "data").symlink_to("/home/../home/app")
    ran = site.run("cat", "/home/app/file", lowers=[str(tree), *site.trees], mounts=[Bind(str(shown), "/data")])
    assert ran.out == "of the machine\n"


def test_a_file_system_in_memory_has_its_size_and_mode_and_keeps_nothing(site: Site) -> None:
    def seen() -> list[Any]:
        import os

        status = os.statvfs("/scratch")
        mode = os.stat("/scratch").st_mode & 0o7777
        with open("/scratch/x", "wb") as file:
            try:
                file.write(bytes(2 << 20))
                file.flush()
                written = 0
            except OSError as error:
                written = error.errno or 0
        os.truncate("/scratch/x", 0)
        return [status.f_blocks * status.f_frsize, oct(mode), written]

    assert site.probe(seen, mounts=[Tmpfs("/scratch", size=1 << 20, mode=0o750)]) == [1 << 20, "0o750", 28]
    assert site.probe(seen, mounts=[Tmpfs("/scratch", size=4 << 20)])[1:] == ["0o1777", 0]


def test_the_mode_of_what_is_made_for_a_mount_does_not_depend_on_the_caller_s_mask(site: Site, shown: Path) -> None:
    former = os.umask(0o077)
    try:
        ran = site.shell("cat /new/data/file", mounts=[Bind(str(shown), "/new/data")], user="app")
    finally:
        os.umask(former)
    assert (ran.status, ran.out) == (0, "of the machine\n")


def test_a_working_directory_in_a_volume_is_made_there(site: Site, shown: Path) -> None:
    ran = site.shell("pwd; echo x > here", mounts=[Bind(str(shown), "/data")], cwd="/data/new/place")
    assert (ran.status, ran.out) == (0, "/data/new/place\n")
    assert (shown / "new" / "place" / "here").exists()
