"""The mounts of a bundle's config.json, as the container sees them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from store.syscalls import MNT_DETACH, MS_PRIVATE, MS_REC, mount, umount
from tests.runtime.bundles import Bundle, Bundles

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]


def adding(*mounts: dict[str, Any]) -> Any:
    return lambda old: [*old, *mounts]


def with_mounts(bundles: Bundles, script: str, *mounts: dict[str, Any], own_root: bool = True) -> Bundle:
    return bundles.make("sh", "-c", script, own_root=own_root).change("mounts", adding(*mounts))


def bound(source: Path, *options: str, target: str = "/data") -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def shared_tmpfs(*options: str, target: str = "/data") -> dict[str, Any]:
    return {"destination": target, "type": "tmpfs", "source": "memory", "options": list(options)}


MOUNTED = "while read -r line; do case $line in *\" /data\"*) echo \"$line\";; esac; done < /proc/self/mountinfo"  # fmt: skip


def mounted(text: str) -> dict[str, tuple[set[str], str, str]]:
    """Mount point -> its options, its propagation and its file system's options."""
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        found[fields[4]] = set(fields[5].split(",")), " ".join(fields[6:]), after.split()[2]
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system mounted below it."""
    top = tmp_path / "tree"
    (top / "below").mkdir(parents=True)
    (top / "file").write_text("of the machine\n")
    mount("below", str(top / "below"), "tmpfs")
    mount("", str(top / "below"), "", MS_PRIVATE | MS_REC)
    (top / "below" / "deep").write_text("deep\n")
    yield top
    umount(str(top / "below"), MNT_DETACH)


# --- what is bound ------------------------------------------------------------------------------------------------------------


def test_a_tree_is_bound_with_or_without_what_is_mounted_below(bundles: Bundles, tree: Path) -> None:
    script = "cat /data/file /data/below/deep; echo x > /data/made"
    assert with_mounts(bundles, script, bound(tree)).run().stdout == "of the machine\ndeep\n"
    assert (tree / "made").read_text() == "x\n"
    flat = {**bound(tree), "options": ["bind"]}
    assert "No such file" in with_mounts(bundles, script, flat).run().stderr


def test_attributes_are_the_mount_s_own_or_with_an_r_those_of_all_below(bundles: Bundles, tree: Path) -> None:
    seen = mounted(with_mounts(bundles, MOUNTED, bound(tree, "ro", "nosuid", "noatime")).run().stdout)
    assert {"ro", "nosuid", "noatime"} <= seen["/data"][0]
    assert "rw" in seen["/data/below"][0]
    assert not {"nosuid", "noatime"} & seen["/data/below"][0]
    seen = mounted(with_mounts(bundles, MOUNTED, bound(tree, "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime")).run().stdout)
    for place in ("/data", "/data/below"):
        assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= seen[place][0]
    seen = mounted(with_mounts(bundles, MOUNTED, bound(tree, "ro", "rrw", "rnosymfollow")).run().stdout)
    for place in ("/data", "/data/below"):
        assert {"rw", "nosymfollow"} <= seen[place][0]
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{tree}/below" in line)
    assert "noexec" not in line  # the machine's own are as they were


@pytest.mark.parametrize(
    ("option", "shown"),
    [("private", ""), ("rprivate", ""), ("rshared", "shared:"), ("rslave", ""), ("runbindable", "unbindable")],
)
def test_propagation_is_what_was_asked_for(bundles: Bundles, tree: Path, option: str, shown: str) -> None:
    seen = mounted(with_mounts(bundles, MOUNTED, bound(tree, option)).run().stdout)
    for place in ("/data", "/data/below"):
        assert seen[place][1].startswith(shown) and bool(seen[place][1]) is bool(shown)


def test_a_mount_of_the_machine_reaches_a_slave_and_no_private_one(bundles: Bundles, tree: Path) -> None:
    mount("", str(tree / "below"), "", 1 << 20)  # MS_SHARED
    (tree / "below" / "late").mkdir()
    script = "echo ready > /data/file; while ! [ -e /data/stop ]; do sleep 0.01; done"
    for option, visible in (("rslave", True), ("rprivate", False)):
        pid = with_mounts(bundles, script, bound(tree, option)).start(option)
        mount("late", str(tree / "below" / "late"), "tmpfs")
        try:
            assert (" /data/below/late " in Path(f"/proc/{pid}/mountinfo").read_text()) is visible
        finally:
            umount(str(tree / "below" / "late"))
        bundles.box("delete", "--force", option)


def test_a_file_is_bound_and_what_is_not_there_is_an_error(bundles: Bundles, tree: Path) -> None:
    bundle = with_mounts(bundles, "cat /etc/given /new/place", bound(tree / "file", target="/etc/given"))
    bundle.change("mounts", adding(bound(tree / "file", "ro", target="/new/place")))
    assert bundle.run().stdout == "of the machine\n" * 2
    with_mounts(bundles, "true", bound(tree / "none")).refused(f"cannot bind {tree}/none: no such file or directory")


def test_mounts_of_the_user_may_come_before_those_they_lie_in(bundles: Bundles, tree: Path) -> None:
    """A volume in /dev or /sys that is listed before these: what is mounted later covers it, as mount(8) would."""
    bundle = bundles.make("sh", "-c", "cat /dev/given/file; ls /sys/given 2>&1", own_root=True)
    first = bound(tree, target="/dev/given")
    bundle.change("mounts", lambda old: [bound(tree, target="/sys/given"), *old, first])
    done = bundle.run(status=2)
    assert "of the machine" in done.stdout
    assert "No such file" in done.stdout


# --- file systems in memory ---------------------------------------------------------------------------------------------------


def filled(bundle: Bundle) -> Path:
    """Give the bundle's root a directory /data with one of everything."""
    data = bundle.rootfs / "data"
    (data / "sub").mkdir(parents=True)
    data.chmod(0o2755)
    os.chown(data, 5, 6)
    (data / "file").write_text("of the image\n")
    os.chown(data / "file", 1000, 1001)
    (data / "file").chmod(0o4755)
    os.utime(data / "file", (0, 1_000_000_000))
    os.link(data / "file", data / "sub" / "again")
    (data / "link").symlink_to("/etc/shadow")
    os.mkfifo(data / "fifo", 0o600)
    os.setxattr(data / "file", "trusted.of", b"image")
    (data / "sub").chmod(0o1755)
    return data


LOOK = """
    stat -c '%n %F %a %u:%g' /data /data/*; stat -c '%Y %h' /data/file; readlink /data/link; cat /data/sub/again
"""
COPIED = """\
/data directory 2755 5:6
/data/fifo fifo 600 0:6
/data/file regular file 4755 1000:1001
/data/link symbolic link 777 0:6
/data/sub directory 1755 0:0
1000000000 2
/etc/shadow
of the image
"""


def test_what_a_file_system_in_memory_covers_is_copied_up_into_it(bundles: Bundles) -> None:
    bundle = with_mounts(bundles, LOOK, shared_tmpfs("tmpcopyup", "nosuid", "nodev"))
    data = filled(bundle)
    assert bundle.run().stdout == COPIED
    assert sorted(os.listdir(data)) == ["fifo", "file", "link", "sub"]  # and not the other way round
    bundle.change("mounts", lambda old: [{**each, "options": []} if each["destination"] == "/data" else each for each in old])
    assert (
        bundle.run(status=1).stdout.splitlines()[0] == "/data directory 2755 0:0"
    )  # the control: nothing is copied, but its mode


def test_options_of_a_file_system_in_memory_hold_when_it_is_copied_up(bundles: Bundles) -> None:
    options = ("tmpcopyup", "mode=0777", "uid=7", "gid=8", "size=64k", "nr_inodes=50", "ro", "noexec", "nosuid", "sync")
    bundle = with_mounts(bundles, f"stat -c '%a %u:%g' /data; {MOUNTED}; touch /data/x", shared_tmpfs(*options))
    filled(bundle)
    done = bundle.run(status=1)
    assert done.stdout.splitlines()[0] == "777 7:8"
    own, _, filesystem = mounted("\n".join(done.stdout.splitlines()[1:]))["/data"]
    assert {"ro", "noexec", "nosuid"} <= own
    assert {"size=64k", "nr_inodes=50", "sync"} <= set(filesystem.split(","))
    assert "Read-only file system" in done.stderr


def test_what_has_no_room_is_an_error_and_leaves_nothing(bundles: Bundles) -> None:
    bundle = with_mounts(bundles, "true", shared_tmpfs("tmpcopyup", "size=4k"))
    (bundle.rootfs / "data").mkdir()
    (bundle.rootfs / "data" / "large").write_bytes(bytes(range(256)) * 64)
    bundle.refused("mount tmpfs at /data", "No space left on device")


def test_a_link_in_place_of_the_directory_leads_to_nothing_of_the_machine(bundles: Bundles, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("secret")
    bundle = with_mounts(bundles, "cat /data/secret; ls -a /data/", shared_tmpfs("tmpcopyup"))
    (bundle.rootfs / "data").symlink_to(canary)
    done = bundle.create("refused", status=None)
    assert done.returncode == 1
    assert os.path.realpath(bundle.rootfs / "data") == str(canary)  # the control: by its name it is reached
    assert os.listdir(canary) == ["secret"]


def test_nothing_to_copy_up_is_an_empty_one(bundles: Bundles) -> None:
    bundle = with_mounts(bundles, "ls -a /new/place /dev/run", shared_tmpfs("tmpcopyup", target="/new/place"))
    bundle.change("mounts", adding(shared_tmpfs("tmpcopyup", target="/dev/run")))
    assert bundle.run().stdout.split() == ["/dev/run:", ".", "..", "/new/place:", ".", ".."]


def test_a_file_system_in_memory_has_the_mode_of_what_it_covers_unless_told(bundles: Bundles) -> None:
    bundle = with_mounts(bundles, "stat -c %a /tmp /a /b", shared_tmpfs(target="/tmp"), shared_tmpfs(target="/a"))
    bundle.change("mounts", adding(shared_tmpfs("mode=0711", target="/b")))
    (bundle.rootfs / "tmp").chmod(0o1777)
    (bundle.rootfs / "a").mkdir(mode=0o750)
    (bundle.rootfs / "b").mkdir(mode=0o750)
    assert bundle.run().stdout.split() == ["1777", "750", "711"]


def test_an_option_of_nobody_s_is_the_file_system_s_to_refuse(bundles: Bundles) -> None:
    with_mounts(bundles, "true", shared_tmpfs("nosuch=1")).refused("mount tmpfs", "/data")
    with_mounts(bundles, "true", shared_tmpfs("tmpcopyup", "nosuch=1")).refused("mount tmpfs", "/data")
