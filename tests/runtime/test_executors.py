"""The two ways to bear a container's child, by machine code on shared memory and by a forked interpreter, come to the same."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime import join, lifecycle, native, portable
from runtime.capabilities import RUN_DEFAULT, adjust
from runtime.program import Program
from runtime.spec import Bind, Tmpfs
from store.errors import BoxError
from tests.containers import Site, probing

pytestmark = [
    pytest.mark.needs("root", "overlay", "cgroup"),
    pytest.mark.skipif(not native.available(), reason="there is no native code for this machine"),
]


def everything() -> dict[str, Any]:
    """What a process can tell of itself and its surroundings that does not change from run to run."""
    import os

    with open("/proc/self/status") as file:
        status = {key: value.split() for key, _, value in (line.partition(":") for line in file)}
    kept = (
        "Umask", "Uid", "Gid", "Groups", "NSpid", "NSsid", "Threads", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd",
        "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters",
    )  # fmt: skip
    with open("/proc/self/mountinfo") as file:
        mounts = sorted(" ".join(line.split()[4:6]) + line.partition(" - ")[2].split()[0] for line in file)
    with open("/proc/self/limits") as file:
        limits = file.read()
    return {
        "status": {name: status[name] for name in kept},
        "mounts": mounts,
        "limits": limits,
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "hostname": os.uname().nodename,
        "descriptors": [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")],
        "session": [os.getsid(0), os.getpgrp()],
        "dev": sorted(os.listdir("/dev")),
    }


SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "user": {"user": "app", "cwd": "/home/app"},
    "number": {"user": "4242:17"},
    "network": {"network": "host", "hostname": "other"},
    "terminal": {"terminal": True},
    "read-only": {"read_only": True, "mounts": [Tmpfs("/run", size=1 << 20)]},
    "volume": {"mounts": [Bind("/usr", "/shown", read_only=True), Tmpfs("/dev/shm", size=4096)]},
    "capabilities": {"capabilities": adjust(RUN_DEFAULT, ["NET_RAW"], ["CHOWN"])},
    "none": {"capabilities": 0, "no_new_privileges": False},
    "unconfined": {"seccomp": False, "no_new_privileges": False},
    "limits": {"pids_limit": 9, "memory": 64 << 20, "cpus": 0.5, "ulimits": [("nofile", 100, 200), ("core", 0, 0)]},
    "environment": {"env": ["A=1", "PATH=/nowhere:/usr/bin:/bin"]},
}


@pytest.mark.parametrize("name", SPECS)
def test_a_program_finds_the_same_whoever_bore_it(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fields = {"id": f"{os.getpid():08x}" * 8, "hostname": "same", **SPECS[name]}
    found = []
    for kind in (True, False):
        monkeypatch.setattr(native, "available", lambda kind=kind: kind)
        ran = site.run(*probing(everything), **fields)
        assert ran.status == 0, ran
        found.append(json.loads(ran.out))
    assert found[0] == found[1]


FAILURES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "missing": (["none"], {}),
    "missing path": (["/none"], {}),
    "file": (["/etc/passwd"], {}),
    "directory": (["/etc"], {}),
    "cwd": (["true"], {"cwd": "/proc/self/fd/200"}),
    "along the path": (["none"], {"env": ["PATH=/etc/passwd:/none:/usr"]}),
    "empty": ([""], {}),
    "link": (["true"], {"mounts": [Bind("/usr", "/etc/passwd")]}),
    "limit": (["true"], {"ulimits": [("nofile", 200, 100)]}),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_the_same_whoever_met_it(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    argv, fields = FAILURES[name]
    said = []
    for kind in (True, False):
        monkeypatch.setattr(native, "available", lambda kind=kind: kind)
        with pytest.raises(BoxError) as caught:
            site.run(*argv, **fields)
        said.append((type(caught.value), caught.value.message, caught.value.hint, caught.value.exit_status))
    assert said[0] == said[1]


@pytest.mark.parametrize("status", [0, 7])
@pytest.mark.parametrize("kind", [True, False])
def test_exec_works_by_either(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: bool, status: int) -> None:
    one = site.start("sleep", "1000", hostname="joined", user="app")
    monkeypatch.setattr(native, "available", lambda: kind)
    with open(os.devnull, "rb") as null, (tmp_path / "out").open("w+b") as out:
        outcome = join.run(
            one,
            ["sh", "-c", f"cat /etc/hostname; id -u; cd /proc && echo [0-9]*; exit {status}"],
            env=[],
            stdin=null.fileno(),
            stdout=out.fileno(),
            stderr=2,
            forward=False,
        )
        out.seek(0)
        hostname, uid, pids = out.read().decode().splitlines()
    lifecycle.stop(one, 0)
    assert (outcome.status, hostname, uid) == (status, "joined", "1000")
    assert pids.split()[0] == "1"
    assert len(pids.split()) == 2


def test_what_a_program_reads_does_not_change_the_constants_of_the_interpreter(tmp_path: Path) -> None:
    """A single byte is one object wherever it is named: the next call had found there what was read."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    byte = bytes([0])
    program = Program()
    program.call("read", reader, byte, 1)
    program.call("mkdirat", -100, os.fsencode(tmp_path) + b"/made\0", 0o700)
    program.call("write", writer, byte, 1)
    program.execute(["/bin/true"], [b"true"], [])
    pid, failure = portable.perform(program, 0)
    assert failure is None
    os.waitpid(pid, 0)
    assert os.read(reader, 2) == b"\0"
    os.close(reader)
    os.close(writer)
