"""The namespaces of a bundle's container: its own, joined ones, and clocks that are set."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.bundles import Bundles

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]

KINDS = {"mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "time": "time"}
OFFSETS = {"monotonic": {"secs": 86400, "nanosecs": 5}, "boottime": {"secs": 172800}}
UPTIME = ("sh", "-c", "readlink /proc/self/ns/time; cat /proc/self/timens_offsets /proc/uptime")


def with_time(path: str = "") -> Any:
    return lambda old: [*old, {"type": "time", **({"path": path} if path else {})}]


def uptime(text: str) -> float:
    return float(text.splitlines()[-1].split()[0])


def test_clocks_are_set_and_only_the_container_s(bundles: Bundles) -> None:
    bundle = bundles.make(*UPTIME, linux_timeOffsets=OFFSETS)
    bundle.refused("linux.timeOffsets without a time namespace")
    seen = bundle.change("linux_namespaces", with_time()).run().stdout
    assert seen.splitlines()[0] != os.readlink("/proc/self/ns/time")
    assert seen.splitlines()[1].split() == ["monotonic", "86400", "5"]
    assert seen.splitlines()[2].split() == ["boottime", "172800", "0"]
    assert uptime(seen) - time.clock_gettime(time.CLOCK_BOOTTIME) == pytest.approx(172800, abs=60)
    assert os.readlink("/proc/self/ns/time_for_children") == os.readlink("/proc/self/ns/time")


def test_what_joins_has_the_container_s_clocks(bundles: Bundles) -> None:
    bundle = bundles.make("sleep", "100", linux_timeOffsets=OFFSETS).change("linux_namespaces", with_time())
    pid = bundle.start()
    seen = bundles.box("exec", "one", *UPTIME).stdout
    assert seen.splitlines()[0] == os.readlink(f"/proc/{pid}/ns/time") == os.readlink(f"/proc/{pid}/ns/time_for_children")
    assert uptime(seen) > 172800


def test_a_time_namespace_is_joined_by_its_path(bundles: Bundles) -> None:
    bundle = bundles.make("sleep", "100", linux_timeOffsets=OFFSETS).change("linux_namespaces", with_time())
    pid = bundle.start("first")
    joining = bundles.make(*UPTIME).change("linux_namespaces", with_time(f"/proc/{pid}/ns/time"))
    seen = joining.run("second").stdout
    assert seen.splitlines()[0] == os.readlink(f"/proc/{pid}/ns/time")
    assert uptime(seen) > 172800
    joining.change("linux_timeOffsets", OFFSETS).refused("linux.timeOffsets without a time namespace of its own")


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        ({"realtime": {"secs": 1}}, "linux.timeOffsets has 'realtime'"),
        ({"monotonic": {"secs": "1"}}, "linux.timeOffsets.monotonic.secs"),
        ({"monotonic": {"nanosecs": 1_000_000_000}}, "linux.timeOffsets.monotonic.nanosecs"),
        ({"monotonic": {"secs": -(10**12)}}, "set linux.timeOffsets"),
    ],
)
def test_offsets_that_cannot_be_are_named(bundles: Bundles, offsets: dict[str, Any], said: str) -> None:
    bundles.make("true", linux_timeOffsets=offsets).change("linux_namespaces", with_time()).refused(said)


@pytest.mark.parametrize("kind", KINDS)
def test_each_namespace_is_its_own_or_the_one_at_a_path_or_the_machine_s(bundles: Bundles, kind: str) -> None:
    name = KINDS[kind]
    first = bundles.make("sleep", "100").change("linux_namespaces", with_time())
    pid = first.start("first")
    theirs = os.readlink(f"/proc/{pid}/ns/{name}")
    assert theirs != os.readlink(f"/proc/self/ns/{name}")
    second = bundles.make("sleep", "100", own_root=True)

    def joining(old: list[dict[str, str]]) -> list[dict[str, str]]:
        return [*(each for each in old if each["type"] != kind), {"type": kind, "path": f"/proc/{pid}/ns/{name}"}]

    second.change("linux_namespaces", joining)
    if kind in ("mount", "uts"):
        second.change("hostname", "")
    if kind == "mount":  # what is mounted there is not the second's to say
        for part in ("mounts", "linux_maskedPaths", "linux_readonlyPaths"):
            second.change(part, [])
        second.change("process_args", ["/bin/sleep", "100"])
    joined = second.start("second")
    links = {each: os.readlink(f"/proc/{joined}/ns/{each}") for each in KINDS.values()}
    assert links[name] == theirs
    others = set(KINDS.values()) - {name, "time"}
    assert not {links[each] for each in others} & {os.readlink(f"/proc/{pid}/ns/{each}") for each in others}
    if kind != "time":
        assert links["time"] == os.readlink("/proc/self/ns/time")
    bundles.box("delete", "--force", "second")
    os.waitpid(joined, 0)  # the first process of a pid namespace does not end before the others of it are reaped


def test_a_path_that_is_no_namespace_of_the_kind_is_named(bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for kind in ("network", "pid", "time", "ipc"):
        for path, said in ((str(tmp_path / "none"), "no such file"), (str(tmp_path / "file"), "Invalid argument")):
            bundle = bundles.make("true")
            bundle.change("linux_namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": kind, "path": path}])
            assert kind in bundle.refused(said, path)


def test_what_belongs_to_hardware_that_box_does_not_manage_is_refused_by_its_name(bundles: Bundles) -> None:
    bundles.make("true", linux_intelRdt={"closID": "x"}).refused("linux.intelRdt is not supported")
    bundles.make("true", linux_netDevices={"eth0": {"name": "x"}}).refused("linux.netDevices is not supported")
