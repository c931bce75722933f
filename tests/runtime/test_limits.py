"""Limits: processes, memory, processor time, and what the outcome says of them."""

import os
from pathlib import Path
from typing import Any

import pytest

from runtime import lifecycle
from tests.containers import Site, cgroups, probing

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def setting(identity: str, *names: str) -> str:
    """The value of a container's control file, by its name on v1 or on v2."""
    for directory in cgroups(identity):
        for name in names:
            if os.path.exists(f"{directory}/{name}"):
                return Path(f"{directory}/{name}").read_text().strip()
    raise AssertionError(f"no {names} among {cgroups(identity)}")


def fork_until_refused() -> list[Any]:
    """How many children there could be at once, and why there could not be one more."""
    import os
    import signal

    children: list[int] = []
    reason = 0
    while len(children) < 500:
        try:
            pid = os.fork()
        except OSError as error:
            reason = error.errno or 0
            break
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
    return [len(children), reason]


@pytest.mark.parametrize("limit", [2, 20])
def test_the_limit_of_processes_counts_the_first_one_and_refuses_the_rest(site: Site, limit: int) -> None:
    ran = site.run(*probing(fork_until_refused), pids_limit=limit)
    assert ran.out == f"[{limit - 1}, 11]\n"  # EAGAIN
    assert ran.status == 0


def test_a_fork_bomb_goes_out(site: Site) -> None:
    """It ends with process 1, by whichever way; the outcome of a bad end says that forks were refused."""
    ran = site.shell("bomb() { bomb | bomb & }; bomb; sleep 0.3; exit 3", pids_limit=20)
    assert ran.status in (2, 3)  # the shell's own end, when it is the one that cannot fork
    assert ran.outcome.pids_refused > 0
    assert not ran.outcome.oom


def test_a_limit_is_there_though_none_is_asked_for(site: Site) -> None:
    one = site.start("sleep", "1000")
    assert setting(one.id, "pids.max") == "1024"
    lifecycle.stop(one, 0)


def test_more_memory_than_the_limit_ends_the_command_and_the_outcome_says_why(site: Site) -> None:
    def take() -> None:
        taken = bytearray(1 << 20) * 256
        taken[::4096] = b"x" * len(taken[::4096])

    ran = site.run(*probing(take), memory=48 << 20)
    assert (ran.outcome.status, ran.outcome.signal, ran.outcome.oom) == (137, 9, True)
    # The control: the same with room enough.
    ran = site.run(*probing(take), memory=512 << 20)
    assert (ran.outcome.status, ran.outcome.oom) == (0, False)


def test_a_kill_that_the_memory_has_no_part_in_is_not_called_so(site: Site) -> None:
    ran = site.shell("sh -c 'kill -9 $$'; exit $?", memory=64 << 20)
    assert (ran.outcome.status, ran.outcome.oom, ran.outcome.pids_refused) == (137, False, 0)


def test_the_processor_s_share_is_a_quota(site: Site) -> None:
    one = site.start("sleep", "1000", cpus=0.5)
    quota = setting(one.id, "cpu.cfs_quota_us", "cpu.max")
    assert quota in ("50000", "50000 100000")
    lifecycle.stop(one, 0)


def test_a_program_executed_later_is_in_the_same_groups(site: Site) -> None:
    from runtime import join

    one = site.start("sleep", "1000", pids_limit=5, memory=64 << 20, cpus=1.0)
    with open(os.devnull, "r+b") as null, (Path(site.root) / "out").open("w+b") as out:
        fd = null.fileno()
        join.run(one, probing(fork_until_refused), env=[], stdin=fd, stdout=out.fileno(), stderr=fd, forward=False)
        out.seek(0)
        assert out.read() == b"[3, 11]\n"  # and the sleeping one, and the one that forks
    lifecycle.stop(one, 0)


def test_no_release_agent_is_ever_set(site: Site) -> None:
    """It would be run as root of this machine, by what a container can bring about."""
    one = site.start("sleep", "1000")
    for directory in cgroups(one.id):
        if os.path.exists(f"{directory}/notify_on_release"):
            assert Path(f"{directory}/notify_on_release").read_text() == "0\n"
            top = os.path.dirname(os.path.dirname(directory))
            assert Path(f"{top}/release_agent").read_text().strip() == ""
    lifecycle.stop(one, 0)
