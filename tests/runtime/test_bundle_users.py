"""User namespaces of a bundle's container: made with maps, joined by a path, and mounts that show other owners."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from store.syscalls import MNT_DETACH, mount, umount
from tests import containers
from tests.runtime.bundles import Bundle, Bundles, until
from tests.runtime.test_engine import Console

pytestmark = [pytest.mark.needs("root", "mount", "cgroup", "userns")]

FIRST = 1_000_000
NODES = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
MAP = [{"containerID": 0, "hostID": FIRST, "size": 65536}]


def with_users(bundle: Bundle, path: str = "") -> Bundle:
    """In a user namespace of its own, with a root file system that is its root's; or in the one at `path`."""
    added = {"type": "user", **({"path": path} if path else {})}
    bundle.change("linux_namespaces", lambda old: [*old, added])
    if not path:
        bundle.change("linux_uidMappings", MAP).change("linux_gidMappings", MAP)
    bundle.rootfs.chmod(0o755)
    for folder, names, files in os.walk(bundle.rootfs):
        for name in (".", *names, *files):
            os.lchown(f"{folder}/{name}", FIRST, FIRST)
    return bundle


def make(bundles: Bundles, script: str, **parts: Any) -> Bundle:
    bundles.top.chmod(0o755)
    return with_users(bundles.make("sh", "-c", script, own_root=True, **parts))


def test_root_of_the_container_is_nobody_on_the_machine(bundles: Bundles) -> None:
    bundle = make(bundles, "id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; touch /made; stat -c %u /made")
    bundle.change("root_readonly", False)
    bundle.change("process_capabilities", lambda old: {each: ["CAP_DAC_OVERRIDE"] for each in old})
    row = f"0 {FIRST} 65536"
    said = [" ".join(line.split()) for line in bundle.run().stdout.splitlines()]
    assert said == ["0", row, row, "allow", "0"]
    assert (bundle.rootfs / "made").stat().st_uid == FIRST
    pid = bundle.change("process_args", ["sleep", "100"]).start()
    assert os.stat(f"/proc/{pid}/root").st_uid == FIRST
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"\nUid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n" in status
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")


def test_everything_that_a_container_has_it_has_there_too(bundles: Bundles) -> None:
    script = """
        cd /dev; stat -c '%n %F %t:%T' null zero full random urandom tty; echo x > null; ls -d pts/ptmx shm mqueue
        stat -c %u pts/ptmx /sys /proc; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; hostname; ls -d /sys/class/net/lo
        ls /sys/fs/cgroup >/dev/null && echo groups; ls /proc/acpi; echo x > /proc/sys/kernel/core_pattern; cat /proc/self/cgroup
    """
    bundle = make(bundles, script.replace("hostname;", "cat /proc/sys/kernel/hostname;"), hostname="within")
    bundle.change("linux_sysctl", {"net.ipv4.ip_unprivileged_port_start": "99"})
    done = bundle.run(status=None)
    lines = done.stdout.splitlines()
    assert lines[:6] == [
        f"{name} character special file {number}"
        for name, number in (
            ("null", "1:3"),
            ("zero", "1:5"),
            ("full", "1:7"),
            ("random", "1:8"),
            ("urandom", "1:9"),
            ("tty", "5:0"),
        )
    ]
    assert lines[6:9] == ["mqueue", "pts/ptmx", "shm"]
    assert lines[9:12] == ["0", "0" if lines[10] == "0" else "65534", "65534" if lines[11] == "65534" else "0"]
    assert lines[12:16] == ["99", "within", "/sys/class/net/lo", "groups"]
    assert "core_pattern: " in done.stderr
    assert all(line.endswith(":/") for line in lines[16:] if not line.startswith("0::") and "/" in line)


def test_limits_and_scores_are_given_by_the_machine_s_side(bundles: Bundles) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    bundle = make(bundles, "while :; do sleep 1; done", process_oomScoreAdj=500)
    limits = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": hard}, {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192}]
    pid = bundle.change("process_rlimits", limits).start()
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (512, hard)
    assert resource.prlimit(pid, resource.RLIMIT_MEMLOCK) == (4096, 8192)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
    look = "ulimit -n; ulimit -l; cat /proc/self/oom_score_adj"
    assert bundles.box("exec", "one", "sh", "-c", look).stdout.split() == ["512", "4", "500"]
    bundles.box("delete", "--force", "one")
    limits = [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]
    bundle.change("process_rlimits", limits).refused(f"limit nofile to {1 << 40}")
    bundle.change("process_rlimits", [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]).refused("unknown limit 'none'")


def test_a_process_that_joins_is_in_the_same_user_namespace(bundles: Bundles) -> None:
    bundle = make(bundles, "while :; do sleep 1; done")
    bundle.change("process_capabilities", lambda old: {each: ["CAP_SETUID", "CAP_SETGID"] for each in old})
    pid = bundle.start()
    seen = bundles.box(
        "exec", "one", "sh", "-c", "readlink /proc/self/ns/user; id; grep Cap /proc/self/status"
    ).stdout.splitlines()
    assert seen[0] == os.readlink(f"/proc/{pid}/ns/user")
    assert seen[1].startswith("uid=0 gid=0")
    init = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Cap")]
    assert seen[2:] == init
    assert bundles.box("exec", "--user", "7:8", "one", "id").stdout.startswith("uid=7 gid=8")
    assert "user 70000 has no place" in bundles.box("exec", "--user", "70000", "one", "id", status=1).stderr


def test_a_terminal_is_its_root_s(bundles: Bundles) -> None:
    bundle = make(bundles, "readlink /proc/self/fd/0; stat -c '%u %a' /dev/pts/0 /dev/console; tty </dev/tty; exec cat")
    bundle.change("process_terminal", True).change(
        "process_args", lambda old: [*old[:2], old[2].replace("tty </dev/tty", "true </dev/tty")]
    )
    before = containers.children()
    console = Console(bundles.top / "console")
    with console.socket:
        bundle.create("one", "--console-socket", console.path)
        data, master = console.receive()
    try:
        assert data == b"/dev/ptmx"
        bundles.box("start", "one")
        shown = b""
        while shown.count(b"\n") < 3:
            shown += os.read(master, 4096)
        assert shown == b"/dev/pts/0\r\n0 620\r\n0 620\r\n"
        another = Console(bundles.top / "another")
        with another.socket:
            words = ("sh", "-c", "stat -L -c %u /proc/self/fd/0; sleep 100")
            bundles.box("exec", "--detach", "--tty", "--console-socket", another.path, "one", *words)
            _, second = another.receive()
        try:
            assert os.read(second, 4096) == b"0\r\n"
        finally:
            os.close(second)
    finally:
        os.close(master)
        bundles.box("kill", "one", "KILL")
        _reap(before)


def _reap(before: set[int]) -> None:
    """Take the ends of what has become this process' children: the first of a pid namespace waits for the others."""

    def none() -> bool:
        left = containers.children() - before
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        return not left

    until(none)


def test_what_is_made_for_mounts_is_the_container_s(bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    bundle = make(bundles, "stat -c %u /new /new/place /new/memory", process_cwd="/work/here")
    place = {"destination": "/new/place", "type": "bind", "source": str(tmp_path / "given"), "options": ["rbind"]}
    memory = {"destination": "/new/memory", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    bundle.change("mounts", lambda old: [*old, place, memory])
    assert bundle.run().stdout.split() == ["0", "65534", "0"]
    for name in ("new", "new/place", "work", "work/here"):
        assert (bundle.rootfs / name).stat().st_uid == FIRST


def test_devices_are_shown_and_those_that_the_machine_has_not_are_named(bundles: Bundles) -> None:
    bundle = make(bundles, "stat -c '%F %t:%T' /dev/given /dev/deep/er; cat /dev/given | head -c1")
    nodes = [
        {"path": "/dev/given", "type": "c", "major": 1, "minor": 5},
        {"path": "/dev/deep/er", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3},
    ]
    bundle.change("linux_devices", nodes).change("process_args", lambda old: [*old[:2], old[2].partition(";")[0]])
    assert bundle.run().stdout == "character special file 1:5\ncharacter special file 1:3\n"
    bundle.change("linux_devices", [{"path": "/dev/none", "type": "c", "major": 239, "minor": 199}])
    bundle.refused("device /dev/none cannot be made in a user namespace")


def test_the_namespaces_of_others_are_joined_before_it_is_entered(bundles: Bundles) -> None:
    """As podman's network, which the machine's root owns."""
    pid = bundles.make("sleep", "100").start("owner")
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts"}
    bundle = make(bundles, "while :; do sleep 1; done", hostname="")

    def joining(old: list[dict[str, str]]) -> list[dict[str, str]]:
        return [
            *(each for each in old if each["type"] not in kinds),
            *({"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in kinds.items()),
        ]

    bundle.change("linux_namespaces", joining)
    # What only the owner of such a namespace may mount is answered by its name.
    said = bundle.refused("mount")
    assert "/dev/mqueue" in said or "/sys" in said
    assert "another user namespace" in said
    bundle.change(
        "mounts", lambda old: [each for each in old if each["destination"] not in ("/sys", "/dev/mqueue", "/sys/fs/cgroup")]
    )
    joined = bundle.start()
    for name in kinds.values():
        assert os.readlink(f"/proc/{joined}/ns/{name}") == os.readlink(f"/proc/{pid}/ns/{name}")
    assert os.readlink(f"/proc/{joined}/ns/user") != os.readlink(f"/proc/{pid}/ns/user")
    seen = bundles.box("exec", "one", "readlink", "/proc/self/ns/net", "/proc/self/ns/user").stdout.split()
    assert seen == [os.readlink(f"/proc/{joined}/ns/{name}") for name in ("net", "user")]


def test_a_user_namespace_is_joined_by_its_path_and_others_are_made_in_it(bundles: Bundles) -> None:
    """As the containers of a pod do."""
    pid = make(bundles, "while :; do sleep 1; done").start("first")
    bundle = bundles.make("sh", "-c", "while :; do sleep 1; done", own_root=True, process_oomScoreAdj=10)
    with_users(bundle, f"/proc/{pid}/ns/user")
    network = {"type": "network", "path": f"/proc/{pid}/ns/net"}
    bundle.change("linux_namespaces", lambda old: [*(each for each in old if each["type"] != "network"), network])
    joined = bundle.start("second")
    assert os.readlink(f"/proc/{joined}/ns/user") == os.readlink(f"/proc/{pid}/ns/user")
    assert os.readlink(f"/proc/{joined}/ns/net") == os.readlink(f"/proc/{pid}/ns/net")
    assert os.readlink(f"/proc/{joined}/ns/pid") != os.readlink(f"/proc/{pid}/ns/pid")
    assert os.stat(f"/proc/{joined}/root").st_uid == FIRST
    assert f"\nPPid:\t{os.getpid()}\n" in Path(f"/proc/{joined}/status").read_text()
    assert Path(f"/proc/{joined}/oom_score_adj").read_text() == "10\n"
    # In the groups that it was given, v1's and v2's.
    groups = bundle.config["linux"]["cgroupsPath"]
    listed = Path(f"/proc/{joined}/cgroup").read_text()
    assert f"pids:{groups}\n" in listed or f"0::{groups}\n" in listed
    assert all(line.endswith(groups) for line in listed.splitlines() if line.startswith("0::"))
    seen = bundles.box("exec", "second", "sh", "-c", "id -u; readlink /proc/self/ns/user; ls /proc/1/exe").stdout.split()
    assert seen == ["0", os.readlink(f"/proc/{pid}/ns/user"), "/proc/1/exe"]
    bundles.box("delete", "--force", "second")
    bundle.change("process_cwd", "/proc/nowhere").refused("working directory", "/proc/nowhere")


def test_a_path_that_is_no_user_namespace_is_named(bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in ((str(tmp_path / "none"), "no such file"), (str(tmp_path / "file"), "Invalid argument")):
        with_users(bundles.make("true", own_root=True), path).refused(path, said)


def test_clocks_of_a_user_namespace_are_set(bundles: Bundles) -> None:
    bundle = make(bundles, "cat /proc/self/timens_offsets", linux_timeOffsets={"boottime": {"secs": 86400}})
    bundle.change("linux_namespaces", lambda old: [*old, {"type": "time"}])
    lines = [line.split() for line in bundle.run().stdout.splitlines()]
    assert ["boottime", "86400", "0"] in lines


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ([], "linux.uidMappings"),
        ([{"containerID": 1, "hostID": FIRST, "size": 10}], "the container's root"),
        ([{"containerID": 0, "hostID": FIRST, "size": 10}, {"containerID": 5, "hostID": 9, "size": 10}], "overlap"),
        ([{"containerID": 0, "hostID": FIRST, "size": 0}], "linux.uidMappings[0].size"),
        ([{"containerID": 0, "hostID": "x", "size": 1}], "linux.uidMappings[0].hostID"),
        ([{"containerID": each * 2, "hostID": each * 2, "size": 1} for each in range(400)], "the kernel takes 340"),
    ],
)
def test_maps_that_cannot_be_are_named(bundles: Bundles, maps: list[dict[str, Any]], said: str) -> None:
    make(bundles, "true").change("linux_uidMappings", maps).refused(said)


def test_whoever_has_no_place_in_the_maps_is_named(bundles: Bundles) -> None:
    make(bundles, "true", process_user={"uid": 70000, "gid": 0}).refused("process.user", "user 70000 has no place")
    make(bundles, "true", process_user={"uid": 0, "gid": 0, "additionalGids": [70000]}).refused("group 70000 has no place")
    bundles.make("true", linux_uidMappings=MAP, linux_gidMappings=MAP).refused("without a user namespace")


def test_an_agent_answers_there_too(bundles: Bundles) -> None:
    from tests.runtime.agent import Agent

    agent = Agent(bundles.top / "agent", lambda question: 122)
    try:
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(bundles.top / "agent"),
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }
        assert os.strerror(122) in make(bundles, "mkdir /dev/shm/made", linux_seccomp=profile).run(status=1).stderr
    finally:
        agent.close()


# --- mounts that show other owners --------------------------------------------------------------------------------------------


@pytest.fixture
def owned(tmp_path: Path) -> Any:
    """A file system with a file of the machine's root and one of user 5, and another one below."""
    top = tmp_path / "owned"
    top.mkdir()
    mount("owned", str(top), "tmpfs")
    (top / "below").mkdir()
    mount("below", str(top / "below"), "tmpfs")
    for name in ("root", "five", "below/root"):
        (top / name).write_text("")
    os.chown(top / "five", 5, 5)
    yield top
    umount(str(top / "below"), MNT_DETACH)
    umount(str(top), MNT_DETACH)


def shown(source: Path, *options: str, **more: Any) -> Any:
    added = {"destination": "/data", "type": "bind", "source": str(source), "options": ["rbind", *options], **more}
    return lambda old: [*old, added]


OWNERS = "stat -c '%u:%g' /data/root /data/five /data/below/root"


def test_a_mount_is_shown_with_the_owners_that_the_container_s_maps_give(bundles: Bundles, owned: Path) -> None:
    for option, seen in (("", "65534 65534 65534"), ("idmap", "0 5 65534"), ("ridmap", "0 5 0")):
        bundle = make(bundles, OWNERS).change("mounts", shown(owned, *([option] if option else [])))
        assert bundle.run().stdout.split() == [f"{each}:{each}" for each in seen.split()], option
    bundle = make(bundles, "touch /data/made").change("mounts", shown(owned, "idmap"))
    bundle.run()
    assert (owned / "made").stat().st_uid == 0  # what is made there is of the machine's root, as it is seen inside


def test_a_mount_has_maps_of_its_own_without_any_user_namespace(bundles: Bundles, owned: Path) -> None:
    maps = [{"containerID": 0, "hostID": 700, "size": 3}, {"containerID": 5, "hostID": 900, "size": 1}]
    bundle = bundles.make("sh", "-c", OWNERS, own_root=True)
    bundle.change("mounts", shown(owned, uidMappings=maps, gidMappings=maps))
    assert bundle.run().stdout.split() == ["700:700", "900:900", "0:0"]
    bundle.change("mounts", lambda old: [*old[:-1], {**old[-1], "options": ["rbind", "ridmap"]}])
    assert bundle.run().stdout.split() == ["700:700", "900:900", "700:700"]


def test_what_cannot_be_shown_so_is_named(bundles: Bundles, owned: Path) -> None:
    bundle = bundles.make("true", own_root=True).change("mounts", shown(owned, "idmap"))
    bundle.refused("neither it nor the container has maps of ids")
    bundle = make(bundles, "true")
    bundle.change("mounts", shown(Path("/proc/sys"), "idmap")).refused("cannot show /proc/sys with other owners")
    bundle = make(bundles, "true")
    bundle.change("mounts", lambda old: [*old, {"destination": "/data", "type": "tmpfs", "source": "x", "options": ["idmap"]}])
    bundle.refused("only what is bound can be shown so")
    bundle = bundles.make("true", own_root=True)
    bundle.change("mounts", shown(owned, uidMappings=MAP)).refused("gidMappings")


def test_the_features_say_so(bundles: Bundles) -> None:
    said = json.loads(bundles.box("features").stdout)
    assert {"user", "time"} <= set(said["linux"]["namespaces"])
    assert said["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    assert {"idmap", "ridmap", "tmpcopyup"} <= set(said["mountOptions"])
