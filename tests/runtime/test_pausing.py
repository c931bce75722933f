"""Pausing and new limits for a container of `box run` that runs, on v1 and on v2."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import join, lifecycle, pausing
from runtime.cgroups import Cgroup
from runtime.journal import looked_after
from runtime.process_table import running
from runtime.state import Container
from runtime.updating import update
from runtime.usage import usage
from store.errors import RunError
from tests.containers import Site, cgroups, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

COUNT = "while :; do echo x >> /count; sleep 0.01; done"


def setting(identity: str, *names: str) -> str:
    """The value of a container's control file, by its name on v1 or on v2."""
    for directory in cgroups(identity):
        for name in names:
            if os.path.exists(f"{directory}/{name}"):
                return Path(f"{directory}/{name}").read_text().strip()
    raise AssertionError(f"no {names} among {cgroups(identity)}")


def counted(one: Container) -> int:
    try:
        return os.path.getsize(f"{one.path}/upper/count")
    except FileNotFoundError:
        return 0


class TestPausing:
    def test_nothing_of_a_paused_container_goes_on_until_it_is_unpaused(self, site: Site) -> None:
        one = site.start("sh", "-c", f"{COUNT} & {COUNT}")
        until(lambda: counted(one) > 20)
        pausing.pause(one)
        assert one.paused
        before = counted(one)
        time.sleep(0.2)
        assert counted(one) == before
        pausing.unpause(one)
        assert not one.paused
        until(lambda: counted(one) > before + 20)
        lifecycle.remove(one, force=True)
        assert cgroups(one.id) == []

    def test_all_that_forks_meanwhile_stands_still_too(self, site: Site) -> None:
        one = site.start("sh", "-c", "while :; do sleep 0.001 & sleep 0.001; done")
        for _ in range(5):
            pausing.pause(one)
            now = sorted(Cgroup(one.id).processes())
            time.sleep(0.05)
            assert sorted(Cgroup(one.id).processes()) == now
            pausing.unpause(one)
        lifecycle.remove(one, force=True)

    def test_what_cannot_be_done_with_a_paused_container_is_refused_and_says_what_to_do(self, site: Site) -> None:
        one = site.start("sleep", "100")
        with pytest.raises(RunError, match="is not paused"):
            pausing.unpause(one)
        pausing.pause(one)
        with pytest.raises(RunError, match="paused already"):
            pausing.pause(one)
        for act in (lambda: join.run(one, ["true"], env=[], forward=False), lambda: lifecycle.start(one)):
            with pytest.raises(RunError, match="paused container") as caught:
                act()
            assert "unpause" in caught.value.hint
        lifecycle.remove(one, force=True)

    @pytest.mark.parametrize("end", [
        lambda one: lifecycle.stop(one, 20),
        lambda one: lifecycle.kill(one, signal.SIGKILL),
        lambda one: lifecycle.kill(one, signal.SIGTERM),
        lambda one: lifecycle.remove(one, force=True),
    ], ids=["stop", "kill", "kill by its stop signal", "rm -f"])  # fmt: skip
    def test_a_paused_container_can_be_ended(self, site: Site, end: Any) -> None:
        one = site.start("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
        time.sleep(0.1)
        pausing.pause(one)
        started = time.monotonic()
        end(one)
        lifecycle.wait_released(one)
        assert time.monotonic() - started < 10
        assert cgroups(one.id) == []

    def test_another_signal_waits_for_the_container_to_go_on(self, site: Site) -> None:
        one = site.start("sh", "-c", "trap 'echo > /came' USR1; while :; do sleep 0.01; done")
        time.sleep(0.1)
        pausing.pause(one)
        lifecycle.kill(one, signal.SIGUSR1)
        time.sleep(0.1)
        assert one.paused
        assert not os.path.exists(f"{one.path}/upper/came")
        pausing.unpause(one)
        until(lambda: os.path.exists(f"{one.path}/upper/came"))
        lifecycle.remove(one, force=True)

    def test_a_paused_container_whose_keeper_is_killed_is_cleared_up(self, site: Site) -> None:
        one = site.start("sleep", "100", removed=False)
        pausing.pause(one)
        keeper = next(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _holds(pid, one.path))
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not looked_after(one.path))
        until(lambda: (now := next((each for each in site.containers.all() if each.id == one.id), None)) is None
              or now.status == "stopped")  # fmt: skip
        assert cgroups(one.id) == []
        lifecycle.remove(one, force=True)

    def test_one_that_does_not_run_cannot_be_paused(self, site: Site) -> None:
        spec = site.spec("true", removed=False)
        lifecycle.create(spec)
        one = site.containers.read(spec.id)
        assert one is not None
        with pytest.raises(RunError, match="not running"):
            pausing.pause(one)
        lifecycle.remove(one)


def _holds(pid: int, path: str) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == path for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


class TestLimits:
    def test_those_of_a_new_container_are_in_force(self, site: Site) -> None:
        one = site.start(
            "sleep", "100", memory=64 << 20,
            resources={"memory": {"reservation": 32 << 20}, "cpu": {"shares": 512, "cpus": "0", "mems": "0"}},
        )  # fmt: skip
        assert setting(one.id, "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
        assert setting(one.id, "cpu.shares", "cpu.weight") in ("512", "59")
        assert setting(one.id, "cpuset.cpus") == "0"
        assert os.sched_getaffinity(one.pid) == {0}
        lifecycle.remove(one, force=True)
        assert cgroups(one.id) == []

    def test_one_that_cannot_be_had_is_said_by_its_option_and_nothing_is_left(self, site: Site) -> None:
        with pytest.raises(RunError, match=r"--cpuset-cpus: "):
            site.run("true", resources={"cpu": {"cpus": "4000"}})

    def test_a_running_container_gets_new_ones_and_keeps_them_for_its_next_start(self, site: Site) -> None:
        one = site.start("sleep", "100", removed=False)
        update(one, {"pids": {"limit": 7}, "memory": {"limit": 64 << 20}, "cpu": {"quota": 20000, "period": 100000, "cpus": "0"}})
        for _ in range(2):
            assert setting(one.id, "pids.max") == "7"
            assert setting(one.id, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
            assert setting(one.id, "cpu.cfs_quota_us", "cpu.max") in ("20000", "20000 100000")
            assert os.sched_getaffinity(one.pid) == {0}
            lifecycle.restart(one, 0)
            now = site.containers.read(one.id)
            assert now is not None
            one = now
        lifecycle.remove(one, force=True)
        assert cgroups(one.id) == []

    def test_one_that_rests_gets_them_when_it_is_started(self, site: Site) -> None:
        spec = site.spec("sleep", "100", removed=False, pids_limit=50)
        lifecycle.create(spec)
        one = site.containers.read(spec.id)
        assert one is not None
        update(one, {"pids": {"limit": 9}, "cpu": {"shares": 256}})
        lifecycle.start(one)
        assert setting(one.id, "pids.max") == "9"
        assert setting(one.id, "cpu.shares", "cpu.weight") in ("256", "35")
        lifecycle.remove(site.containers.find(one.id), force=True)

    def test_a_lowered_limit_of_memory_ends_what_takes_more(self, site: Site) -> None:
        take = "import time\ntime.sleep(0.6)\nx = bytearray(b'x') * (256 << 20)\ntime.sleep(100)"
        one = site.start("python3", "-I", "-S", "-c", take, removed=False)
        update(one, {"memory": {"limit": 48 << 20}})
        assert lifecycle.wait(one) == 137
        ended = site.containers.read(one.id)
        assert ended is not None
        assert ended.oom
        lifecycle.remove(ended)


class TestUse:
    def test_it_counts_processor_time_memory_and_processes(self, site: Site) -> None:
        take = "import os, time\nx = bytearray(b'x') * (40 << 20)\nif os.fork():\n while True: pass\ntime.sleep(100)"
        one = site.start("python3", "-I", "-S", "-c", take, memory=512 << 20)
        until(lambda: (now := usage(one)) is not None and now.memory > 40 << 20)
        first = usage(one)
        time.sleep(0.5)
        second = usage(one)
        assert first is not None
        assert second is not None
        assert 0.3 < (second.cpu - first.cpu) / (second.when - first.when) < 1.2
        assert second.memory < 100 << 20
        assert second.memory_limit == 512 << 20
        assert second.processes == 2
        lifecycle.remove(one, force=True)
        assert usage(one) is None

    def test_without_a_limit_it_is_counted_too(self, site: Site) -> None:
        one = site.start("python3", "-I", "-S", "-c", "import time\nx = bytearray(b'x') * (40 << 20)\ntime.sleep(100)")
        until(lambda: (now := usage(one)) is not None and 40 << 20 < now.memory < 100 << 20)
        found = usage(one)
        assert found is not None
        assert found.memory_limit > 100 << 20
        lifecycle.remove(one, force=True)


def test_its_processes_are_as_the_kernel_has_them(site: Site) -> None:
    one = site.start("sh", "-c", "sleep 1001 & sleep 1002; true", user="1000:1001")
    commands = ["sh -c sleep 1001 & sleep 1002; true", "sleep 1001", "sleep 1002"]
    until(lambda: sorted(each.command for each in running(Cgroup(one.id).processes())) == commands)
    table = running(Cgroup(one.id).processes())
    assert table[0].command == commands[0]
    for each in table:
        status = Path(f"/proc/{each.pid}/status").read_text()
        assert f"\nPPid:\t{each.parent}\n" in status
        assert f"\nUid:\t{each.uid}\t" in status
        assert abs(each.started - time.time()) < 60
    lifecycle.remove(one, force=True)


@pytest.mark.skipif(Cgroup("x").v2, reason="v2 kills what is frozen")
def test_the_control_a_frozen_v1_process_does_not_die_of_sigkill_alone(site: Site) -> None:
    one = site.start("sleep", "100")
    pausing.pause(one)
    os.kill(one.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert looked_after(one.path)
    lifecycle.remove(one, force=True)
