"""Processors and memory nodes of a bundle's process, as the kernel says that it has them."""

import json
import os
from typing import Any

import pytest

from tests.runtime.bundles import Bundles

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]

MAPS = ("sh", "-c", "cat /proc/self/numa_maps")


def policies(text: str) -> set[str]:
    """The memory policies that numa_maps names."""
    return {line.split()[1] for line in text.splitlines()}


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "interleave=static:0"),
        ({"mode": "MPOL_PREFERRED", "nodes": "0"}, "prefer:0"),
        ({"mode": "MPOL_LOCAL"}, "local"),
        ({"mode": "MPOL_DEFAULT"}, "default"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES"]}, "bind=relative"),
    ],
)
def test_memory_comes_from_the_nodes_that_are_named(bundles: Bundles, wanted: dict[str, Any], shown: str) -> None:
    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("this kernel knows no memory nodes")
    assert policies(bundles.make(*MAPS).run().stdout) == {"default"}
    seen = policies(bundles.make(*MAPS, linux_memoryPolicy=wanted).run().stdout)
    assert len(seen) == 1
    assert seen.pop().startswith(shown)


def test_a_process_that_joins_has_the_same_memory_policy(bundles: Bundles) -> None:
    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("this kernel knows no memory nodes")
    bundles.make("sleep", "100", linux_memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"}).start()
    assert policies(bundles.box("exec", "one", *MAPS).stdout) == {"bind:0"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "linux.memoryPolicy.mode"),
        ({"mode": "MPOL_NONE"}, "linux.memoryPolicy.mode"),
        ({"mode": "MPOL_BIND"}, "linux.memoryPolicy.nodes"),
        ({"mode": "MPOL_BIND", "nodes": "x"}, "linux.memoryPolicy.nodes is 'x', not a list of memory nodes"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["X"]}, "linux.memoryPolicy.flags[0]"),
        ({"mode": "MPOL_LOCAL", "nodes": "0"}, "MPOL_LOCAL takes no nodes"),
        ({"mode": "MPOL_BIND", "nodes": "63"}, "set linux.memoryPolicy to MPOL_BIND 63"),
    ],
)
def test_a_memory_policy_that_cannot_be_is_named(bundles: Bundles, wanted: dict[str, Any], said: str) -> None:
    bundles.make("true", linux_memoryPolicy=wanted).refused(said)


def allowed(text: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.startswith("Cpus_allowed_list"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_what_joins_is_put_on_the_processors_that_are_named(bundles: Bundles) -> None:
    """`process.execCPUAffinity` is about exec alone."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    look = ("grep", "Cpus_allowed_list", "/proc/self/status")
    bundle = bundles.make("sleep", "100", process_execCPUAffinity={"initial": str(first), "final": str(last)})
    pid = bundle.start()
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert allowed(bundles.box("exec", "one", *look).stdout) == str(last)
    # One that exec is given itself goes before the container's.
    process = bundle.directory / "process.json"
    process.write_text(json.dumps({"args": look, "execCPUAffinity": {"final": str(first)}}))
    assert allowed(bundles.box("exec", "--process", str(process), "one").stdout) == str(first)
    process.write_text(json.dumps({"args": look, "execCPUAffinity": {"initial": "no"}}))
    assert "process.execCPUAffinity.initial" in bundles.box("exec", "--process", str(process), "one", status=1).stderr


def test_scheduler_and_io_priority_are_the_process_s(bundles: Bundles) -> None:
    pid = bundles.make(
        "sleep",
        "100",
        process_scheduler={"policy": "SCHED_BATCH", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        process_ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 3},
    ).start()
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    assert _io_priority(pid) == 3 << 13 | 3


def _io_priority(pid: int) -> int:
    import ctypes

    number = {"x86_64": 252, "aarch64": 31}[os.uname().machine]
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, 1, pid))
