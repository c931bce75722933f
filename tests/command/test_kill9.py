"""kill -9 at any moment: of `box run`, of the process that looks after a container, of `box exec`, `rm`, `ps`. The next command
leaves nothing.

BOX_EXHAUSTIVE=1 kills at every system call; without it, at those that change something and at every so manieth of the rest.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import lifecycle
from runtime.journal import looked_after
from tests.command.installed import BOX
from tests.containers import IMAGE, Site, Traces, children, kill_monitor, parents, reap_orphans, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup", "strace")

EXHAUSTIVE = bool(os.environ.get("BOX_EXHAUSTIVE"))
EVERY = 24
CHANGES = {
    "mkdir", "mkdirat", "symlink", "rename", "rmdir", "unlink", "unlinkat", "clone3", "clone", "fork", "vfork", "fsmount",
    "flock", "wait4", "kill", "pidfd_send_signal", "exit_group", "setsid", "execve", "open_tree",
}  # fmt: skip

Point = tuple[str, int]


@contextmanager
def nothing_left(site: Site, traces: Traces, said: str) -> Iterator[None]:
    """After what is done in it, and the next command, there is nothing of a container."""
    yield
    assert site.containers.all() == [], said
    left = traces.left()
    assert not left, (said, left)


@pytest.fixture
def traces(site: Site) -> Iterator[Traces]:
    traces = Traces(site)
    yield traces
    traces.close()


def points(tmp_path: Path, *arguments: str, every: int = EVERY) -> list[Point]:
    """The system calls of a command from its first look at the containers on: each a name, and which of its name it is."""
    trace = tmp_path / "trace"
    subprocess.run(["strace", "-o", trace, BOX, *arguments], check=False, capture_output=True, timeout=60)
    counts: dict[str, int] = {}
    found: list[Point] = []
    for line in trace.read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match is None:
            continue
        counts[match[1]] = counts.get(match[1], 0) + 1
        if found or "/containers" in line:
            found.append((match[1], counts[match[1]]))
    assert len(found) > 20
    return found if EXHAUSTIVE else [point for index, point in enumerate(found) if point[0] in CHANGES or index % every == 0]


def killed_at(point: Point, *arguments: str, follow: bool = False) -> bool:
    """Run `box ARGUMENTS`, killed as it enters that call; with `follow`, whichever of its processes is the first to enter it.

    Whether it came to it: how often a call is made may change from one run to the next.
    """
    name, number = point
    done = subprocess.run(
        ["strace", *(["-f"] if follow else []), "-qqq", "-o", "/dev/null", "-e", f"trace={name}", "-e",
         f"inject={name}:signal=KILL:when={number}", BOX, *arguments],
        check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return done.returncode == -signal.SIGKILL


RUN = ("run", "--rm", "--name", "victim", "-v", "/usr:/shown:ro", IMAGE, "true")


@pytest.mark.parametrize("half", [0, 1])
def test_a_run_killed_at_a_call_leaves_nothing(site: Site, traces: Traces, tmp_path: Path, half: int) -> None:
    subprocess.run([BOX, *RUN], check=True)  # whatever is only done by the first is done
    found = points(tmp_path, *RUN)[half::2]
    killed = 0
    for point in found:
        with nothing_left(site, traces, f"killed at {point}"):
            killed += killed_at(point, *RUN)
    assert killed > len(found) * 0.5


CHILD = (
    "move_mount",
    "mount",
    "pivot_root",
    "umount2",
    "mknodat",
    "sethostname",
    "unshare",
    "dup3",
    "setresuid",
    "capset",
    "keyctl",
)


@pytest.mark.parametrize("name", CHILD)
def test_a_run_whose_child_is_killed_on_its_way_into_the_container_leaves_nothing(site: Site, traces: Traces, name: str) -> None:
    with nothing_left(site, traces, name):
        killed_at((name, 1), *RUN, follow=True)


@pytest.mark.parametrize("name", ["unshare", "pivot_root", "mount", "setresuid", "capset"])
def test_a_run_killed_while_its_child_is_on_its_way_takes_it_along(site: Site, traces: Traces, name: str) -> None:
    """The child is held up at the call; its parent, which waits for it, is killed meanwhile."""
    marker = f"{site.root}/containers"
    with nothing_left(site, traces, name):
        tracer = subprocess.Popen(
            ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:delay_enter=1500000:when=1",
             BOX, "run", "--rm", IMAGE, "sleep", "1000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: [identity for identity in os.listdir(marker) if os.path.exists(f"{marker}/{identity}/journal")])
        box = until(lambda: children(tracer.pid)).pop()
        until(lambda: children(box))
        assert not Path(f"{marker}/{os.listdir(marker)[0]}/journal").read_text().count('"pid"')
        os.kill(box, signal.SIGKILL)
        tracer.wait(30)


@pytest.mark.parametrize("removed", [True, False])
def test_a_run_killed_at_any_time_leaves_nothing(site: Site, traces: Traces, removed: bool) -> None:
    """Without --rm a container that had started is kept as one that was killed."""
    for step in range(24):
        process = subprocess.Popen(
            [BOX, "run", *(["--rm"] if removed else []), IMAGE, "sh", "-c", "sleep 1000 & sleep 1000"], stdin=subprocess.DEVNULL
        )
        time.sleep(0.004 * step)
        process.kill()
        process.wait()
        until(settled(site))
        with nothing_left(site, traces, f"killed after {4 * step} ms"):
            for one in site.containers.all():
                assert not removed
                assert (one.status, one.exit_status) == ("stopped", 137)
                lifecycle.remove(one)


def test_a_run_killed_while_it_runs_ends_its_container_at_once(site: Site) -> None:
    """Nobody needs to run another command for that."""
    process = subprocess.Popen([BOX, "run", "--rm", IMAGE, "sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    one = site.containers.all()[0]
    process.kill()
    process.wait()
    assert process.stdout.read() == b""  # the container held its other end
    process.stdout.close()

    def gone() -> bool:
        reap_orphans(set())
        return not os.path.exists(f"/proc/{one.pid}")

    until(gone)
    assert site.containers.all() == []


DETACHED = ("run", "-d", "--rm", "--name", "victim", IMAGE, "sleep", "1000")


def test_a_start_in_the_background_killed_at_a_call_leaves_a_container_that_runs_or_nothing(
    site: Site, traces: Traces, tmp_path: Path
) -> None:
    found = points(tmp_path, *DETACHED)
    lifecycle.stop(site.containers.find("victim"), 0)
    for point in found:
        with nothing_left(site, traces, f"killed at {point}"):
            killed_at(point, *DETACHED)
            until(settled(site))
            for one in site.containers.all():
                assert one.status == "running"
                lifecycle.stop(one, 0)


LOOKING_AFTER = (
    "setsid", "dup2", "close_range", "chdir", "pipe2", "fsopen", "fsmount", "openat2", "clone3", "pidfd_open", "poll", "wait4",
)  # fmt: skip


@pytest.mark.parametrize("name", LOOKING_AFTER)
def test_one_that_looks_after_a_container_killed_at_a_call_leaves_nothing(site: Site, traces: Traces, name: str) -> None:
    """Whichever process comes to the call is killed there: the one that stays, above all."""
    with nothing_left(site, traces, name):
        killed_at((name, 1), "run", "-d", "--rm", "--name", "victim", IMAGE, "sleep", "0.1", follow=True)
        until(settled(site))
        for one in site.containers.all():
            lifecycle.stop(one, 0)


def settled(site: Site) -> Callable[[], bool]:
    """Whether every container either runs or is looked after by nobody: no start is under way, and who was killed is gone."""

    def now() -> bool:
        for identity in os.listdir(f"{site.root}/containers"):
            one = site.containers.read(identity)
            if (one is None or one.status == "created") and looked_after(f"{site.root}/containers/{identity}"):
                return False
        return True

    return now


@pytest.mark.parametrize("removed", [True, False])
def test_a_killed_keeper_is_noticed_by_the_next_command(site: Site, removed: bool) -> None:
    script = "sleep 1000 & echo x > /written; sleep 1000"
    options = ["--rm"] if removed else []
    identity = subprocess.run(
        [BOX, "run", "-d", *options, "--name", "web", IMAGE, "sh", "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()
    one = site.containers.find(identity)
    os.kill(parents()[one.pid], signal.SIGKILL)
    until(lambda: not looked_after(one.path))
    shown = subprocess.run(
        [BOX, "ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}"], check=True, capture_output=True, text=True
    ).stdout
    assert shown.startswith("web exited Exited (137)") if not removed else shown == ""
    inspected = subprocess.run([BOX, "inspect", "web"], check=False, capture_output=True, text=True)
    assert inspected.returncode == (1 if removed else 0)
    if not removed:
        assert "the box process that looked after it was killed" in inspected.stdout
        subprocess.run([BOX, "rm", "web"], check=True, capture_output=True)


def test_an_exec_killed_at_a_call_leaves_the_container_as_it_was(site: Site, tmp_path: Path) -> None:
    one = site.start("sleep", "1000", name="host")
    mine = set(children())
    command = ("exec", "host", "true")
    for point in points(tmp_path, *command):
        killed_at(point, *command)

        def alone() -> bool:
            reap_orphans(mine)
            return children(one.pid) == set() and children() == mine

        until(alone)
        assert site.containers.find("host").status == "running", point
    lifecycle.stop(one, 0)


def test_a_removal_killed_at_a_call_can_be_repeated(site: Site, traces: Traces, tmp_path: Path) -> None:
    def start() -> None:
        one = site.start("sh", "-c", "mkdir -p /a/b/c && echo x > /a/b/c/d", name="old", removed=False)
        lifecycle.wait(one)

    start()
    for point in points(tmp_path, "rm", "old", every=100):
        if not site.containers.all():
            start()
        with nothing_left(site, traces, f"killed at {point}"):
            killed_at(point, "rm", "old")
            subprocess.run([BOX, "rm", "-f", "old"], check=True, capture_output=True)


def test_clearing_up_killed_at_a_call_is_done_by_the_next(site: Site, traces: Traces, tmp_path: Path) -> None:
    def orphan() -> None:
        one = site.start("sleep", "1000", name="old")
        keeper = parents()[one.pid]
        kill_monitor(site)
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not looked_after(one.path))

    orphan()
    for point in points(tmp_path, "ps", every=100):
        if not os.listdir(f"{site.root}/containers"):
            orphan()
        with nothing_left(site, traces, f"killed at {point}"):
            killed_at(point, "ps")
