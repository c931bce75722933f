"""`exec`: one more program in a container that runs, where and as the first one is."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import join, lifecycle
from runtime.capabilities import RUN_DEFAULT
from runtime.id_maps import IdMaps
from runtime.spec import Bind
from runtime.state import Container
from store.errors import CommandNotExecutable, CommandNotFound, RunError, SetupFailed
from store.record import fields_of
from tests.containers import Site, cgroups, children, probing, reap_orphans, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@pytest.fixture
def one(site: Site) -> Iterator[Container]:
    started = site.start("sleep", "1000", env=["OWN=yes", "SHARED=container"], hostname="joined", cwd="/home/app")
    yield started
    lifecycle.stop(started, 0)


def joined(one: Container, *argv: str, **fields: Any) -> tuple[int, str, str]:
    """The status and both outputs."""
    import tempfile

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as null:
        fields = {"env": [], "stdin": null.fileno(), "forward": False, **fields}
        outcome = join.run(one, list(argv), stdout=out.fileno(), stderr=err.fileno(), **fields)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return outcome.status, texts[0], texts[1]


def asked(one: Container, function: Any, **fields: Any) -> Any:
    status, out, err = joined(one, *probing(function), **fields)
    assert status == 0, err
    return json.loads(out)


def test_it_is_in_every_namespace_of_the_container(one: Container) -> None:
    def namespaces() -> dict[str, str]:
        import os

        return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}

    seen = asked(one, namespaces)
    assert seen == {name: os.readlink(f"/proc/{one.pid}/ns/{name}") for name in seen}


def test_it_sees_the_container_s_root_and_processes_and_is_not_its_first(one: Container) -> None:
    def seen() -> list[Any]:
        import os

        root, first = os.stat("/"), os.stat("/proc/1/root")
        with open("/proc/1/comm") as file:
            return [file.read(), os.getpid() > 1, os.getppid(), (root.st_dev, root.st_ino) == (first.st_dev, first.st_ino)]

    assert asked(one, seen) == ["sleep\n", True, 0, True]


def test_it_is_as_confined_as_the_first(one: Container) -> None:
    def status() -> dict[str, str]:
        with open("/proc/self/status") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}

    own = asked(one, status)
    with open(f"/proc/{one.pid}/status") as file:
        first = {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"):
        assert own[name] == first[name], name
    maps = IdMaps.of(one.pid)
    for name, ranges in (("Uid", maps.users), ("Gid", maps.groups)):
        assert [int(word) + ranges[0][1] for word in own[name].split()] == [int(word) for word in first[name].split()]
    assert int(own["CapBnd"], 16) == RUN_DEFAULT
    assert own["Seccomp"] == "2"


def test_it_is_in_the_container_s_groups(one: Container) -> None:
    def groups() -> str:
        with open("/proc/self/cgroup") as file:
            return file.read()

    seen = {line.split(":")[1]: line.split(":", 2)[2] for line in asked(one, groups).splitlines()}
    with open(f"/proc/{one.pid}/cgroup") as file:
        controllers = {line.split(":")[1] for line in file if one.id in line}
    assert controllers
    assert {seen[name] for name in controllers} == {"/"}  # the top of what it sees is the container's group


def test_its_environment_is_the_container_s_and_what_is_added(one: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the caller")
    status, out, _ = joined(one, "env", env=["SHARED=exec", "NEW=1"])
    assert status == 0
    assert set(out.split()) == {
        "OWN=yes", "SHARED=exec", "NEW=1", "HOSTNAME=joined", "HOME=/root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip


def test_user_and_directory_are_the_container_s_unless_said(one: Container) -> None:
    assert joined(one, "sh", "-c", "pwd; id -u; umask")[1].split() == ["/home/app", "0", "0022"]
    assert joined(one, "sh", "-c", "pwd; id -u; id -G", user="app", cwd="/tmp")[1].splitlines() == [
        "/tmp",
        "1000",
        "1001 1500 1600",
    ]
    assert joined(one, "sh", "-c", "id -u; id -g", user="7:8")[1].split() == ["7", "8"]
    with pytest.raises(RunError, match="no user 'nobody2'"):
        joined(one, "true", user="nobody2")
    with pytest.raises(SetupFailed, match="/missing"):
        joined(one, "true", cwd="/missing")


def test_its_mask_is_022_whatever_the_caller_s_is(one: Container) -> None:
    former = os.umask(0o077)
    try:
        assert joined(one, "sh", "-c", "umask")[1] == "0022\n"
    finally:
        os.umask(former)


def test_descriptors_of_the_caller_stay_its_own(one: Container) -> None:
    def descriptors() -> list[str]:
        import os

        return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]

    root = os.open("/", os.O_RDONLY)
    os.set_inheritable(root, True)
    os.dup2(root, 150)
    try:
        assert asked(one, descriptors) == ["0", "1", "2"]
        with pytest.raises(SetupFailed, match="there is no directory"):
            joined(one, "true", cwd="/proc/self/fd/150")
    finally:
        os.close(root)
        os.close(150)


@pytest.mark.parametrize("script", ["exit 0", "exit 9", "kill -TERM $$"])
def test_the_status_is_the_command_s(one: Container, script: str) -> None:
    expected = {"exit 0": 0, "exit 9": 9, "kill -TERM $$": 143}
    assert joined(one, "sh", "-c", script)[0] == expected[script]


def test_what_cannot_be_executed_says_why(one: Container) -> None:
    with pytest.raises(CommandNotFound):
        joined(one, "none")
    with pytest.raises(CommandNotExecutable, match="permission denied"):
        joined(one, "/etc/passwd")


def test_input_reaches_it(one: Container, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("typed")
    with (tmp_path / "in").open("rb") as given:
        assert joined(one, "cat", stdin=given.fileno())[1] == "typed"


def test_a_container_that_ended_cannot_be_joined(site: Site) -> None:
    ended = site.start("sh", "-c", "exit 4", removed=False)
    assert lifecycle.wait(ended) == 4
    now = site.containers.find(ended.name)
    for container in (ended, now):  # whether that was known when it was read, or not
        with pytest.raises(RunError, match="is not running") as caught:
            joined(container, "true")
        assert caught.value.exit_status == 1
    lifecycle.remove(now)


def test_a_pid_that_is_another_s_by_now_is_not_joined(site: Site) -> None:
    """The record says a pid; what has it must be in the container's group."""

    one = site.start("sleep", "1000")
    with pytest.raises(RunError, match="is not running"):
        joined(type(one)(**{**fields_of(one), "pid": os.getpid()}), "true")
    with pytest.raises(RunError, match="is not running"):
        lifecycle.kill(type(one)(**{**fields_of(one), "pid": os.getpid()}), signal.SIGKILL)
    lifecycle.stop(one, 0)


def test_the_program_ends_when_its_starter_is_killed(site: Site, one: Container) -> None:
    code = (
        "import sys\nfrom runtime import join\nfrom runtime.state import Containers\n"
        f"join.run(Containers({site.root!r}).find({one.id!r}), ['sh', '-c', 'echo in; sleep 2000'], env=[], stdin=0)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"in\n"
    assert len(processes(one)) > 1
    starter.kill()
    starter.wait()
    starter.stdout.close()

    # The shell dies with its starter; its own child is the container's, as any that is left alone.
    def gone() -> bool:
        reap_orphans(set())
        return "sh" not in {comm(pid) for pid in {*processes(one), *children()}}

    until(gone)
    assert comm(one.pid) == "sleep"


def processes(one: Container) -> list[int]:
    return [int(pid) for directory in cgroups(one.id)[:1] for pid in Path(f"{directory}/cgroup.procs").read_text().split()]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_a_program_that_is_joined_ends_with_the_container(site: Site) -> None:
    """And the caller gets its status."""
    import threading

    one = site.start("sleep", "1000")
    ends: list[int] = []
    thread = threading.Thread(target=lambda: ends.append(joined(one, "sleep", "1000")[0]))
    thread.start()
    until(lambda: len(processes(one)) == 2)
    lifecycle.stop(one, 0)
    thread.join()
    assert ends == [137]


def test_a_container_without_the_name_space_of_its_network_is_joined_too(site: Site) -> None:
    one = site.start("sleep", "1000", network="host")
    status, out, _ = joined(one, "sh", "-c", "cat /etc/hostname; ls -l /proc/self/ns/net")
    lifecycle.stop(one, 0)
    assert status == 0
    assert out.startswith(os.uname().nodename)
    assert os.readlink("/proc/self/ns/net") in out


def test_a_terminal_s_peer_that_the_container_replaced_is_not_opened(site: Site, tmp_path: Path) -> None:
    """/dev/pts of the container is where the terminal is made: it must be a devpts, whatever was mounted there."""
    from runtime.spec import Tmpfs

    one = site.start("sleep", "1000", mounts=[Tmpfs("/dev/pts")])
    with pytest.raises((SetupFailed, OSError)):
        joined(one, "true", terminal=True)
    lifecycle.stop(one, 0)


def test_what_the_container_did_to_its_files_is_there(site: Site, tmp_path: Path) -> None:
    one = site.start("sh", "-c", "echo made > /made; sleep 1000", mounts=[Bind(str(tmp_path), "/data")])
    until(lambda: joined(one, "cat", "/made")[1] == "made\n")
    assert joined(one, "sh", "-c", "echo x > /data/through")[0] == 0
    assert (tmp_path / "through").read_text() == "x\n"
    lifecycle.stop(one, 0)
