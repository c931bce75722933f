"""The first process of a container with `--init`: it reaps, forwards signals, ends as its command, and is nobody's file."""

import signal
import subprocess
from pathlib import Path

import pytest

from runtime import lifecycle, logs, stubs
from runtime.state import Container
from store.errors import CommandNotExecutable, CommandNotFound
from tests.containers import Site, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def text(one: Container) -> str:
    return b"".join(entry.text for entry in logs.read(one.log_path)).decode()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_its_status_is_the_command_s(site: Site, script: str, status: int) -> None:
    assert site.run("sh", "-c", script, init=True).status == status


def test_it_is_the_first_process_and_the_command_its_child(site: Site) -> None:
    def look() -> dict[str, object]:
        import os

        fds = sorted(os.listdir("/proc/self/fd"))
        with open("/proc/1/comm") as comm, open("/proc/1/cmdline") as line:
            return {
                "comm": comm.read(), "line": line.read().split("\0")[:3], "pid": os.getpid(), "parent": os.getppid(),
                "group": os.getpgrp(), "fds": fds, "exe": os.readlink("/proc/1/exe"),
            }  # fmt: skip

    found = site.probe(look, init=True)
    assert (found["comm"], found["line"]) == ("box-init\n", ["box-init", "--", "python3"])
    assert (found["pid"], found["parent"], found["group"]) == (2, 1, 2)
    assert found["fds"] == ["0", "1", "2", "3"]  # the last is the listing's own
    assert found["exe"] == "/memfd:box-init (deleted)"
    plain = site.probe(look)
    assert (plain["pid"], plain["comm"]) == (1, "python3\n")


def test_orphans_are_reaped(site: Site) -> None:
    def orphan() -> list[str]:
        import os
        import time

        for _ in range(20):
            if os.fork() == 0:
                if os.fork() == 0:
                    time.sleep(0.05)
                os._exit(0)
            os.wait()
        time.sleep(0.5)
        return [name for name in os.listdir("/proc") if name.isdigit()]

    assert site.probe(orphan, init=True) == ["1", "2"]

    def control() -> int:
        import os
        import time

        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        time.sleep(0.3)
        return len([name for name in os.listdir("/proc") if name.isdigit()])

    assert site.probe(control) > 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_signals_reach_the_command(site: Site, number: signal.Signals) -> None:
    code = "import signal, sys, time; signal.signal(int(sys.argv[1]), lambda n, f: sys.exit(40)); print('ready', flush=True)"
    code += "; time.sleep(60)"
    one = site.start("python3", "-I", "-S", "-c", code, str(int(number)), removed=False, init=True)
    until(lambda: text(one) == "ready\n")
    lifecycle.kill(one, number)
    assert lifecycle.wait(one) == 40
    lifecycle.remove(site.containers.find(one.id))


def test_a_command_that_handles_nothing_ends_at_a_signal(site: Site) -> None:
    """Without an init the kernel would spare it, as a first process."""
    one = site.start("sleep", "1000", removed=False, init=True)
    lifecycle.kill(one, signal.SIGTERM)
    assert lifecycle.wait(one) == 143
    lifecycle.remove(site.containers.find(one.id))
    one = site.start("sleep", "1000")
    lifecycle.kill(one, signal.SIGTERM)
    assert site.containers.find(one.id).status == "running"
    lifecycle.stop(one, 0)


def test_what_cannot_be_executed_is_said_as_without_it(site: Site, tmp_path: Path) -> None:
    for init in (False, True):
        with pytest.raises(CommandNotFound, match="command not found: none"):
            site.run("none", init=init)
        with pytest.raises(CommandNotExecutable, match="/etc/passwd"):
            site.run("/etc/passwd", init=init)
    assert site.containers.all() == []


def test_its_file_cannot_be_changed_from_inside(site: Site) -> None:
    """CVE-2019-5736: what a container can reach of its runtime."""

    def attack() -> list[int]:
        import os

        errnos = []
        for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            try:
                fd = os.open("/proc/1/exe", flags)
                os.write(fd, b"evil")
            except OSError as err:
                errnos.append(err.errno or 0)
        return errnos

    found = site.probe(attack, init=True, userns="host")
    assert len(found) == 2
    assert set(found) <= {1, 13, 26}  # EPERM, EACCES, ETXTBSY


def test_at_a_terminal_the_command_is_in_the_foreground(site: Site) -> None:
    def look() -> bool:
        import os

        return os.tcgetpgrp(0) == os.getpgrp()

    from tests.containers import probing

    one = site.start(*probing(look), removed=False, init=True, terminal=True, interactive=True)
    assert lifecycle.wait(one) == 0
    assert text(one) == "true\r\n"
    lifecycle.remove(site.containers.find(one.id))


def test_the_files_are_small_and_whole(tmp_path: Path) -> None:
    """By a judge of its own: readelf."""
    for data in (stubs.keeper(), stubs.init([b"/bin/sh"] * 9)):
        assert len(data) < 8192
        path = tmp_path / "stub"
        path.write_bytes(data)
        done = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True)
        assert "EXEC" in done.stdout
        assert not done.stderr
        segments = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("LOAD")]
        assert [segment[6:8] for segment in segments] == [["R", "E"], ["RW", "0x1000"]]
