"""Where a container's groups are: hierarchies as machines mount them, `linux.cgroupsPath` as engines write it."""

import os

import pytest

from runtime.cgroup_paths import Hierarchies, hierarchies, place, scope
from store.errors import RunError

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,cpuset_v2_mode
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
42 31 0:39 / /sys/fs/cgroup/openrc rw,relatime - cgroup cgroup rw,name=openrc
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 60 0:32 /docker/abc /var/lib/some/rootfs/sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
51 60 0:36 /docker/abc /var/lib/some/rootfs/sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
"""
PURE_V1 = "\n".join(line for line in HYBRID.splitlines() if "cgroup2" not in line)
PURE_V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_a_hybrid_machine_has_its_controllers_on_v1_and_tracks_on_v2() -> None:
    found = hierarchies(HYBRID)
    assert not found.v2
    assert found.paths("/a/b") == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/a/b",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a/b",
        "cpuset": "/sys/fs/cgroup/cpuset/a/b",
        "memory": "/sys/fs/cgroup/memory/a/b",
        "name=systemd": "/sys/fs/cgroup/systemd/a/b",
        "unified": "/sys/fs/cgroup/unified/a/b",
    }


def test_a_pure_v1_machine_has_no_unified_tree() -> None:
    found = hierarchies(PURE_V1)
    assert found.unified == "" and not found.v2
    assert sorted(found.paths("/a")) == ["cpu", "cpuacct", "cpuset", "memory", "name=systemd"]


def test_a_pure_v2_machine_has_one_group() -> None:
    found = hierarchies(PURE_V2)
    assert found.v2
    assert found.paths("/a/b") == {"unified": "/sys/fs/cgroup/a/b"}


def test_a_left_over_v1_mount_does_not_make_a_v2_machine_hybrid() -> None:
    found = hierarchies(PURE_V2 + "33 29 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n")
    assert found.v2 and found.controllers == {}


def test_mount_points_are_unescaped_and_lines_that_say_nothing_are_passed_over() -> None:
    text = "junk\n1 2 3 - cgroup\n" + PURE_V1.replace("/sys/fs/cgroup", "/tmp/a\\040b")
    assert hierarchies(text, "/tmp/a b").controllers["memory"] == "/tmp/a b/memory"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (None, "/box/c1"),
        ("", "/box/c1"),
        ("/docker/8671", "/docker/8671"),
        ("/libpod_parent/libpod-986b", "/libpod_parent/libpod-986b"),
        ("relative/x", "/box/relative/x"),
        ("//a/./b//", "/a/b"),
        ("/a..b/...", "/a..b/..."),
        ("/kubepods/burstable/pod1:2:3", "/kubepods/burstable/pod1:2:3"),
        ("system.slice:docker:8671", "/system.slice/docker-8671.scope"),
        (":docker:8671", "/system.slice/docker-8671.scope"),
        ("user-1000.slice:libpod:ab", "/user.slice/user-1000.slice/libpod-ab.scope"),
        ("-.slice::ab", "/ab.scope"),
        ("kubepods-burstable.slice::pod7.slice", "/kubepods.slice/kubepods-burstable.slice/pod7.slice"),
    ],
)
def test_a_path_stands_where_runc_or_systemd_would_put_it(path: str | None, expected: str) -> None:
    assert place(path, "c1") == expected


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "root of all groups"),
        ("///", "root of all groups"),
        ("/.", "root of all groups"),
        ("/a/../../b", "leads out"),
        ("..", "leads out"),
        ("a/..", "leads out"),
        ("system.slice:..:/../x", "leads out"),
        ("/a\nb", "control character"),
        ("/a\0b", "control character"),
        ("/" + "a" * 256, "a name of over 255 bytes"),
        ("/" + "a/" * 2000, "longer than"),
        (7, "not a text"),
        ("docker:a:b", "not the name of a slice"),
        ("a--b.slice:a:b", "not the name of a slice"),
        ("system.slice:a:", "no name"),
    ],
)
def test_a_path_that_leads_out_or_is_nobody_s_own_is_refused(path: object, words: str) -> None:
    with pytest.raises(RunError, match=words) as caught:
        place(path, "c1")
    assert caught.value.message.startswith("linux.cgroupsPath")


def test_a_path_that_leads_out_would_reach_the_groups_of_others_if_it_were_believed() -> None:
    """The control: what a plain concatenation, which the kernel follows, makes of it."""
    mounted = hierarchies(PURE_V2)
    hostile = "/a/../../cgroup/system.slice"
    assert os.path.normpath(mounted.paths(hostile)["unified"]) == "/sys/fs/cgroup/system.slice"
    with pytest.raises(RunError, match="leads out"):
        place(hostile, "c1")


def test_systemd_is_answered_clearly() -> None:
    with pytest.raises(RunError, match="not supported here") as caught:
        place("system.slice:docker:ab", "c1", "systemd")
    assert "--cgroup-manager cgroupfs" in caught.value.hint
    with pytest.raises(RunError, match="no cgroup manager 'upstart'"):
        place("/a", "c1", "upstart")


def test_a_slice_within_slices_is_spelled_out() -> None:
    assert scope("a-b-c.slice", "p", "n") == "a.slice/a-b.slice/a-b-c.slice/p-n.scope"


def test_controllers_of_v1_are_left_aside_beside_a_v2_tree() -> None:
    found = Hierarchies({}, "/sys/fs/cgroup", True)
    assert found.mount_point("unified") == "/sys/fs/cgroup"
