"""`linux.resources` as writes, on v1 and on v2: what goes into which file, in which order, and what is refused.

The v2 half is against files on paper here; tests/vm does the same to a kernel that has v2 alone.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.resources import writes
from runtime.resources_v2 import cpu_weight, io_weight
from store.errors import RunError

ENGINES = json.loads((Path(__file__).parent / "engine_resources.json").read_text())
UNLIMITED = "9223372036854771712\n"


class Paper:
    """A group on paper: the files that it has, with their texts."""

    def __init__(self, v2: bool, **files: str) -> None:
        self.v2 = v2
        self.files = {name.replace("__", "."): text for name, text in files.items()}

    def has(self, controller: str, file: str) -> bool:
        return file in self.files

    def read(self, controller: str, file: str) -> str:
        return self.files.get(file, "")


def v1(resources: Any, **files: str) -> list[str]:
    usual = {
        "memory__limit_in_bytes": UNLIMITED,
        "memory__memsw__limit_in_bytes": UNLIMITED,
        "cpu__cfs_quota_us": "-1\n",
        "cpu__cfs_period_us": "100000\n",
    }
    return [str(each) for each in writes(resources, Paper(False, **(usual | files)))]


def v2(resources: Any, **files: str) -> list[str]:
    usual = {"memory__swap__max": "max\n", "memory__max": "max\n", "cpu__max": "max 100000\n"}
    return [str(each) for each in writes(resources, Paper(True, **(usual | files)))]


@pytest.mark.parametrize(
    ("resources", "on_v1", "on_v2"),
    [
        ({}, [], []),
        (None, [], []),
        ({"memory": None, "cpu": {}, "pids": None, "blockIO": {"weight": 0, "weightDevice": None}}, [], []),
        ({"memory": {"limit": 0, "swap": None, "disableOOMKiller": False}, "cpu": {"shares": 0, "quota": 0, "cpus": ""}}, [], []),
        ({"pids": {"limit": 50}}, ["pids: pids.max = 50"], ["pids: pids.max = 50"]),
        ({"pids": {"limit": -1}}, ["pids: pids.max = max"], ["pids: pids.max = max"]),
        ({"pids": {"limit": 0}}, [], []),
        ({"memory": {"limit": 4096}}, ["memory: memory.limit_in_bytes = 4096"], ["memory: memory.max = 4096"]),
        (
            {"memory": {"limit": 4096, "swap": 12288, "reservation": 2048, "kernel": 1}},
            [
                "memory: memory.limit_in_bytes = 4096",
                "memory: memory.memsw.limit_in_bytes = 12288",
                "memory: memory.soft_limit_in_bytes = 2048",
            ],
            ["memory: memory.swap.max = 8192", "memory: memory.max = 4096", "memory: memory.low = 2048"],
        ),
        (
            {"memory": {"limit": 4096, "swap": 4096}},
            ["memory: memory.limit_in_bytes = 4096", "memory: memory.memsw.limit_in_bytes = 4096"],
            ["memory: memory.swap.max = 0", "memory: memory.max = 4096"],
        ),
        (
            {"memory": {"limit": 4096, "swap": -1}},
            ["memory: memory.memsw.limit_in_bytes = -1", "memory: memory.limit_in_bytes = 4096"],
            ["memory: memory.swap.max = max", "memory: memory.max = 4096"],
        ),
        (
            {"memory": {"limit": -1}},
            ["memory: memory.memsw.limit_in_bytes = -1", "memory: memory.limit_in_bytes = -1"],
            ["memory: memory.swap.max = max", "memory: memory.max = max"],
        ),
        (
            {"cpu": {"shares": 1024, "quota": 50000, "period": 200000}},
            ["cpu: cpu.shares = 1024", "cpu: cpu.cfs_period_us = 200000", "cpu: cpu.cfs_quota_us = 50000"],
            ["cpu: cpu.weight = 100", "cpu: cpu.max = 50000 200000"],
        ),
        ({"cpu": {"quota": -1}}, ["cpu: cpu.cfs_quota_us = -1"], ["cpu: cpu.max = max 100000"]),
        ({"cpu": {"period": 5000}}, ["cpu: cpu.cfs_period_us = 5000"], ["cpu: cpu.max = max 5000"]),
        (
            {"cpu": {"burst": 1000, "quota": 2000}},
            ["cpu: cpu.cfs_quota_us = 2000", "cpu: cpu.cfs_burst_us = 1000"],
            ["cpu: cpu.max = 2000 100000", "cpu: cpu.max.burst = 1000"],
        ),
        ({"cpu": {"idle": 1, "shares": 512}}, ["cpu: cpu.idle = 1"], ["cpu: cpu.idle = 1"]),
        (
            {"cpu": {"idle": 0, "shares": 2}},
            ["cpu: cpu.idle = 0", "cpu: cpu.shares = 2"],
            ["cpu: cpu.idle = 0", "cpu: cpu.weight = 1"],
        ),
        (
            {"cpu": {"cpus": "0-1", "mems": "0"}},
            ["cpuset: cpuset.cpus = 0-1", "cpuset: cpuset.mems = 0"],
            ["cpuset: cpuset.cpus = 0-1", "cpuset: cpuset.mems = 0"],
        ),
        (
            {"blockIO": {"weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}]}},
            ["blkio: blkio.weight = 10", "blkio: blkio.weight_device = 8:0 1000"],
            ["io: io.weight = 1", "io: io.weight = 8:0 10000"],
        ),
        (
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}],
                    "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2}],
                    "throttleReadIOPSDevice": [{"major": 8, "minor": 16, "rate": 3}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
                }
            },
            [
                "blkio: blkio.throttle.read_bps_device = 8:0 1048576",
                "blkio: blkio.throttle.write_bps_device = 8:0 2",
                "blkio: blkio.throttle.read_iops_device = 8:16 3",
                "blkio: blkio.throttle.write_iops_device = 8:16 0",
            ],
            [
                "io: io.max = 8:0 rbps=1048576",
                "io: io.max = 8:0 wbps=2",
                "io: io.max = 8:16 riops=3",
                "io: io.max = 8:16 wiops=max",
            ],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854771712}, {"pageSize": "1GB", "limit": 0}]},
            ["hugetlb: hugetlb.2MB.limit_in_bytes = 9223372036854771712", "hugetlb: hugetlb.1GB.limit_in_bytes = 0"],
            ["hugetlb: hugetlb.2MB.max = 9223372036854771712", "hugetlb: hugetlb.1GB.max = 0"],
        ),
        (
            {"rdma": {"mlx5_0": {"hcaHandles": 2, "hcaObjects": 2000}, "mlx4_1": {"hcaObjects": 1}, "none": {}}},
            ["rdma: rdma.max = mlx5_0 hca_handle=2 hca_object=2000", "rdma: rdma.max = mlx4_1 hca_object=1"],
            ["rdma: rdma.max = mlx5_0 hca_handle=2 hca_object=2000", "rdma: rdma.max = mlx4_1 hca_object=1"],
        ),
    ],
)
def test_each_limit_is_written_where_the_hierarchy_has_it(resources: Any, on_v1: list[str], on_v2: list[str]) -> None:
    assert v1(resources) == on_v1
    assert v2(resources) == on_v2


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"network": {"classID": 0x100001}}, ["net_cls: net_cls.classid = 1048577"]),
        ({"network": {"priorities": [{"name": "eth0", "priority": 5}]}}, ["net_prio: net_prio.ifpriomap = eth0 5"]),
        ({"memory": {"swappiness": 10}}, ["memory: memory.swappiness = 10"]),
        ({"memory": {"swappiness": -1}}, []),
        ({"memory": {"swappiness": (1 << 64) - 1}}, []),
        ({"memory": {"disableOOMKiller": True}}, ["memory: memory.oom_control = 1"]),
        ({"memory": {"kernelTCP": 1 << 20}}, ["memory: memory.kmem.tcp.limit_in_bytes = 1048576"]),
        ({"blockIO": {"leafWeight": 20}}, ["blkio: blkio.leaf_weight = 20"]),
        (
            {"cpu": {"realtimeRuntime": 950, "realtimePeriod": 1000}},
            ["cpu: cpu.rt_period_us = 1000", "cpu: cpu.rt_runtime_us = 950"],
        ),
    ],
)
def test_what_only_v1_has_is_refused_on_v2_by_its_name(resources: Any, expected: list[str]) -> None:
    assert v1(resources) == expected
    if expected and "leafWeight" not in str(resources) and "kernelTCP" not in str(resources):
        with pytest.raises(RunError, match=r"linux\.resources\.\w+\.\w+: cgroup v2 has no such limit"):
            v2(resources)
    else:
        assert v2(resources) == []


def test_unified_is_written_line_by_line_on_v2_and_refused_on_v1() -> None:
    unified = {"unified": {"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 wbps=2\n", "cgroup.max.depth": "3"}}
    assert v2(unified) == [
        "memory: memory.high = 1000",
        "io: io.max = 8:0 rbps=1",
        "io: io.max = 8:16 wbps=2",
        "cgroup: cgroup.max.depth = 3",
    ]
    assert v1({"unified": {}}) == []
    with pytest.raises(RunError, match=r"linux\.resources\.unified: only cgroup v2"):
        v1(unified)


@pytest.mark.parametrize(
    "file",
    [
        "cgroup.procs",
        "cgroup.threads",
        "cgroup.subtree_control",
        "cgroup.kill",
        "cgroup.freeze",
        "../memory.max",
        "memory",
        ".x",
        "",
    ],
)
def test_unified_cannot_move_processes_nor_leave_the_group(file: str) -> None:
    with pytest.raises(RunError, match=r"linux\.resources\.unified: .* is not a control file"):
        v2({"unified": {file: "1"}})


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ([], r"linux\.resources: not an object"),
        ({"memory": 7}, r"linux\.resources\.memory: not an object"),
        ({"memory": {"limit": "64m"}}, r"linux\.resources\.memory\.limit: not a whole number"),
        ({"memory": {"limit": True}}, r"linux\.resources\.memory\.limit: not a whole number"),
        ({"memory": {"limit": 1.5}}, r"linux\.resources\.memory\.limit: not a whole number"),
        ({"memory": {"limit": -2}}, r"linux\.resources\.memory\.limit: -2 is not between -1 and"),
        ({"memory": {"limit": 1 << 63}}, r"linux\.resources\.memory\.limit: \d+ is not between"),
        ({"memory": {"limit": 4096, "swap": 4095}}, r"linux\.resources\.memory\.swap: 4095 is less than"),
        ({"memory": {"disableOOMKiller": 1}}, r"linux\.resources\.memory\.disableOOMKiller: neither true nor false"),
        ({"pids": {"limit": -2}}, r"linux\.resources\.pids\.limit: -2 is not between"),
        ({"cpu": {"shares": -1}}, r"linux\.resources\.cpu\.shares: -1 is not between"),
        ({"cpu": {"idle": 2}}, r"linux\.resources\.cpu\.idle: 2 is not between"),
        ({"cpu": {"cpus": "a"}}, r"linux\.resources\.cpu\.cpus: 'a' is no list"),
        ({"cpu": {"cpus": "3-1"}}, r"linux\.resources\.cpu\.cpus"),
        ({"cpu": {"mems": "0\n1"}}, r"linux\.resources\.cpu\.mems"),
        ({"blockIO": {"weight": 5}}, r"linux\.resources\.blockIO\.weight: 5 is not between 10 and 1000"),
        ({"blockIO": {"weight": 1001}}, r"linux\.resources\.blockIO\.weight"),
        ({"blockIO": {"weightDevice": [None]}}, r"linux\.resources\.blockIO\.weightDevice\[0\]: not an object"),
        ({"blockIO": {"throttleReadBpsDevice": {}}}, r"linux\.resources\.blockIO\.throttleReadBpsDevice: not a list"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "rate": 1}]}}, r"throttleReadBpsDevice\[0\]: a device has"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}}, r"throttleReadBpsDevice\[0\]\.rate: not given"),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, r"linux\.resources\.hugepageLimits\[0\]\.pageSize"),
        ({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}, r"linux\.resources\.hugepageLimits\[0\]\.pageSize"),
        ({"hugepageLimits": [{"pageSize": "2MB"}]}, r"linux\.resources\.hugepageLimits\[0\]\.limit: not given"),
        ({"rdma": {"a b": {"hcaHandles": 1}}}, r"linux\.resources\.rdma: 'a b'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_place(resources: Any, words: str) -> None:
    for version in (v1, v2):
        with pytest.raises(RunError, match=words):
            version(resources)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"cpu": {"shares": 1}}, r"linux\.resources\.cpu\.shares: 1 is not between 2 and 262144"),
        ({"memory": {"swappiness": 101}}, r"linux\.resources\.memory\.swappiness"),
        ({"network": {"priorities": [{"name": "a b", "priority": 1}]}}, r"linux\.resources\.network\.priorities\[0\]\.name"),
    ],
)
def test_values_of_v1_alone_are_checked_as_well(resources: Any, words: str) -> None:
    with pytest.raises(RunError, match=words):
        v1(resources)


def test_swap_without_its_accounting_is_refused_unless_it_is_unlimited() -> None:
    without = Paper(False, memory__limit_in_bytes=UNLIMITED)
    with pytest.raises(RunError, match=r"linux\.resources\.memory\.swap: this kernel does not account swap"):
        writes({"memory": {"limit": 1, "swap": 2}}, without)
    assert [str(each) for each in writes({"memory": {"limit": -1}}, without)] == ["memory: memory.limit_in_bytes = -1"]


def test_a_limit_of_both_memory_and_swap_is_never_less_than_the_one_of_memory() -> None:
    grown = v1({"memory": {"limit": 200, "swap": 300}}, memory__limit_in_bytes="100", memory__memsw__limit_in_bytes="150")
    assert grown == ["memory: memory.memsw.limit_in_bytes = 300", "memory: memory.limit_in_bytes = 200"]
    shrunk = v1({"memory": {"limit": 50, "swap": 60}}, memory__limit_in_bytes="100", memory__memsw__limit_in_bytes="150")
    assert shrunk == ["memory: memory.limit_in_bytes = 50", "memory: memory.memsw.limit_in_bytes = 60"]


def test_a_share_of_time_is_never_more_than_the_old_one_and_the_new_one() -> None:
    files = {"cpu__cfs_quota_us": "50000", "cpu__cfs_period_us": "100000"}
    assert v1({"cpu": {"quota": 5000, "period": 10000}}, **files) == [
        "cpu: cpu.cfs_quota_us = 5000",
        "cpu: cpu.cfs_period_us = 10000",
    ]
    longer = v1({"cpu": {"quota": 250000, "period": 500000}}, **files)
    assert longer == ["cpu: cpu.cfs_period_us = 500000", "cpu: cpu.cfs_quota_us = 250000"]


def test_a_burst_is_never_more_than_the_quota() -> None:
    assert v1({"cpu": {"quota": 2000, "burst": 100}}, cpu__cfs_burst_us="5000") == [
        "cpu: cpu.cfs_burst_us = 100",
        "cpu: cpu.cfs_quota_us = 2000",
    ]
    assert v2({"cpu": {"quota": 2000, "burst": 100}}, cpu__max__burst="5000") == [
        "cpu: cpu.max.burst = 100",
        "cpu: cpu.max = 2000 100000",
    ]


def test_a_part_of_v2_s_joint_values_keeps_the_other_part() -> None:
    assert v2({"cpu": {"period": 50000}}, cpu__max="20000 100000\n") == ["cpu: cpu.max = 20000 50000"]
    assert v2({"cpu": {"quota": 30000}}, cpu__max="20000 50000\n") == ["cpu: cpu.max = 30000 50000"]
    assert v2({"memory": {"swap": 5000}}, memory__max="4096\n") == ["memory: memory.swap.max = 904"]
    with pytest.raises(RunError, match=r"linux\.resources\.memory\.swap: .* needs one of memory"):
        v2({"memory": {"swap": 5000}})


def test_a_limit_below_what_is_in_use_is_refused_only_where_that_is_asked_for() -> None:
    asked = {"memory": {"limit": 4096, "checkBeforeUpdate": True}}
    for version, used in ((v1, {"memory__usage_in_bytes": "8192"}), (v2, {"memory__current": "8192"})):
        with pytest.raises(RunError, match=r"linux\.resources\.memory\.limit: 4096 bytes, and 8192 are in use"):
            version(asked, **used)
        assert version({"memory": {"limit": 4096}}, **used)


def test_weights_go_to_bfq_where_it_is() -> None:
    block = {"blockIO": {"weight": 300, "weightDevice": [{"major": 8, "minor": 0, "weight": 400}]}}
    assert v1(block, blkio__bfq__weight="100") == ["blkio: blkio.bfq.weight = 300", "blkio: blkio.bfq.weight_device = 8:0 400"]
    assert v2(block, io__bfq__weight="100") == ["io: io.bfq.weight = 300", "io: io.bfq.weight = 8:0 400"]


def test_reserved_huge_pages_are_limited_where_the_kernel_counts_them() -> None:
    huge = {"hugepageLimits": [{"pageSize": "2MB", "limit": 7}]}
    assert v2(huge, hugetlb__2MB__rsvd__max="max") == ["hugetlb: hugetlb.2MB.max = 7", "hugetlb: hugetlb.2MB.rsvd.max = 7"]


def test_shares_become_weights_with_the_defaults_and_the_ends_in_their_places() -> None:
    assert [cpu_weight(shares) for shares in (1, 2, 1024, 262144, 1 << 40)] == [1, 1, 100, 10000, 10000]
    steps = [cpu_weight(2**power) for power in range(1, 19)]
    assert steps == sorted(set(steps))
    assert [io_weight(value) for value in (10, 100, 500, 1000)] == [1, 910, 4950, 10000]


@pytest.mark.parametrize("name", ENGINES)
def test_what_engines_send_is_understood_on_both(name: str) -> None:
    resources = ENGINES[name]["resources"]
    v1(resources)
    only = {"swappiness", "disableOOMKiller"}  # docker and podman themselves leave these away on v2
    if "memory" in resources:
        resources = resources | {"memory": {key: value for key, value in resources["memory"].items() if key not in only}}
    v2(resources)
