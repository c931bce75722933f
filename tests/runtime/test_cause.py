"""Who ran out of memory: the container, a control group above it, or the machine. The kernel's words are made up where the
machine would have to suffer."""

import time
from collections.abc import Iterator

import pytest

from runtime import cause
from runtime.spec import Outcome
from tests.containers import Site, probing

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def line(**fields: str) -> tuple[str, str]:
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
    return f"6,1,{now},-", "oom-kill:" + ",".join(f"{key}={value}" for key, value in fields.items()) + "\n SUBSYSTEM=x"


def why(monkeypatch: pytest.MonkeyPatch, site: Site, *records: tuple[str, str], since: float | None = None) -> str:
    monkeypatch.setattr(cause, "log", lambda: iter(records))
    spec = site.spec("true", id="ab" * 32)
    return cause.cause(spec, Outcome(9), 4321, time.time() if since is None else since, None, filtered=False)


def test_the_machine_s_own_want_of_memory_is_told_from_a_plain_kill(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = line(constraint="CONSTRAINT_NONE", task_memcg="/", task="sh", pid="4321", uid="0")
    assert why(monkeypatch, site, machine) == "the container was killed because this machine ran out of memory"
    assert why(monkeypatch, site) == "the container was killed by SIGKILL"


def test_a_group_above_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    above = line(constraint="CONSTRAINT_MEMCG", oom_memcg="/box", task_memcg="/box/" + "ab" * 32, task="sh", pid="99")
    assert "the control group /box ran out of memory" in why(monkeypatch, site, above)


def test_another_process_an_older_line_and_a_forged_one_count_for_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = line(constraint="CONSTRAINT_NONE", task_memcg="/", task="sh", pid="4322")
    mine = line(constraint="CONSTRAINT_NONE", task_memcg="/", task="sh", pid="4321")
    forged = ("12" + mine[0][1:], mine[1])
    assert why(monkeypatch, site, other) == "the container was killed by SIGKILL"
    assert why(monkeypatch, site, forged) == "the container was killed by SIGKILL"
    assert why(monkeypatch, site, mine, since=time.time() + 60) == "the container was killed by SIGKILL"


def test_the_kernel_writes_what_is_read_here(site: Site) -> None:
    def take() -> None:
        taken = bytearray(1 << 20) * 256
        taken[::4096] = b"x" * len(taken[::4096])

    since = time.time()
    spec = site.spec(*probing(take), memory=48 << 20)
    assert site.run_spec(spec).status == 137

    def lines() -> Iterator[dict[str, str]]:
        return (each for each in cause._killings(since) if each.get("task_memcg", "").endswith(spec.id))

    found = next(lines())
    assert found["constraint"] == "CONSTRAINT_MEMCG"
    assert found["oom_memcg"].endswith(spec.id)
