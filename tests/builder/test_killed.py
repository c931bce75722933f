"""Builds that are interrupted, killed or starved: what stays of them, and that the next build works."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.journal import reap
from store.errors import BoxError
from store.layout import Store
from tests.builder.building import Site, running
from tests.store import seen

pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("overlay")]

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("build_once.py")
HOST = "base: {host: [sh, sleep, touch, cat]}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)


def command(site: Site) -> list[str]:
    return [sys.executable, str(SCRIPT), str(site.context), str(site.root)]


ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}


def started(site: Site, steps: str, until: str) -> "subprocess.Popen[str]":
    """A build as a process of its own, which has printed `until`."""
    (site.context / "Boxfile").write_text(f"box: 1\nname: test\n{HOST}\nsteps:\n{steps}")
    process = subprocess.Popen(command(site), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.rstrip() == until:
            return process
    raise AssertionError(f"the build ended without {until!r}")


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def rest(site: Site) -> list[str]:
    """What is left after the next command came by."""
    Store.open(str(site.root))
    reap(str(site.root))
    return site.leftovers()


def test_a_build_killed_in_a_command_leaves_nothing_for_the_next(site: Site) -> None:
    before = mounts()
    process = started(site, "  - run: touch /x; echo ready; sleep 61235\n", "output ready")
    assert running(b"sleep\x0061235\0")
    process.kill()
    process.communicate()
    assert site.leftovers() != []  # so that the sweep has something to do
    assert rest(site) == []
    assert running(b"sleep\x0061235\0", patience=0) == []
    assert mounts() == before
    built = site.build("run: touch /x", base="{host: [sh, touch]}")
    assert site.layers(built)[1] == [".", "x"]


def test_a_build_killed_while_it_copies_leaves_nothing_for_the_next(site: Site) -> None:
    for number in range(2000):
        path = site.context / f"src/d{number % 20}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4000)
    swept = 0
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1):
        process = started(site, "  - copy: src/ -> /app\n", "missed 1")
        time.sleep(delay)
        process.kill()
        process.communicate()
        swept += bool(site.leftovers())
        assert rest(site) == []
    assert swept  # at least one of them was killed in the middle
    done = subprocess.run(command(site), env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("built sha256:")
    store = site.store
    layers = store.images.load(store.references.get("test")).layers
    with seen.shown(store, layers) as top:
        assert len(list((top / "app").rglob("*"))) == 2020


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing_at_once(site: Site, number: signal.Signals) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(step: int, line: str) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Interrupted

    site.watch = interrupt
    before = mounts()
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        site.build("run: echo ready; sleep 61236", base="{host: [sh, sleep]}")
    assert site.leftovers() == []
    assert running(b"sleep\x0061236\0", patience=0) == []
    assert mounts() == before


def test_a_terminated_build_leaves_nothing_for_the_next(site: Site) -> None:
    process = started(site, "  - run: echo ready; sleep 61237\n", "output ready")
    process.terminate()
    process.communicate()
    assert rest(site) == []
    assert running(b"sleep\x0061237\0", patience=0) == []


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["fsync", "rename", "linkat", "mkdir", "utimensat", "fchmod", "openat2", "flock"])
def test_a_build_killed_at_any_call_leaves_a_store_that_works(site: Site, call: str) -> None:
    site.fill(src__a_py="1", src__b_py="2")
    (site.context / "Boxfile").write_text("box: 1\nname: test\nbase: scratch\nsteps:\n  - copy: src/ -> /a\n  - mkdir: /b\n")
    whole = Site(site.context.parent / "other")
    whole.fill(src__a_py="1", src__b_py="2")
    expected = whole.build("copy: src/ -> /a", "mkdir: /b").descriptor.digest
    for number in range(1, 200):
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}",
             *command(site)],
            env=ENVIRONMENT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert rest(site) == []
        if done.returncode == 0:
            break
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    else:
        pytest.fail("the build never ran through")
    assert number > 1  # it was killed at least once
    assert site.store.references.get("test").digest == expected


@pytest.mark.needs("strace")
@pytest.mark.parametrize(("call", "error"), [("fsync", "EIO"), ("linkat", "ENOSPC"), ("mkdir", "EDQUOT"), ("openat2", "EMFILE")])
def test_a_failing_call_is_an_error_that_names_it_and_leaves_nothing(site: Site, call: str, error: str) -> None:
    site.fill(src__a_py="1", src__b_py="2")
    (site.context / "Boxfile").write_text("box: 1\nname: test\nbase: scratch\nsteps:\n  - copy: src/ -> /a\n  - mkdir: /b\n")
    site.build("mkdir: /b")
    for number in range(1, 60):
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
             "-e", f"inject={call}:error={error}:when={number}", *command(site)],
            env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert site.leftovers() == []
        if done.returncode == 0:
            break
        assert "store.errors." in done.stderr.splitlines()[-1], done.stderr
        assert os.strerror(getattr(errno, error)).lower() in done.stderr.lower()
    assert number > 1  # it failed at least once
    assert site.build("copy: src/ -> /a", "mkdir: /b").descriptor.digest


def test_a_full_file_system_is_an_error_that_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=True)
    try:
        site = Site(tmp_path)
        site.root = small / "store"
        (site.context / "big").write_bytes(os.urandom(2 << 20))
        site.build("mkdir: /a")
        with pytest.raises(BoxError, match="no space left on device"):
            site.build("mkdir: /a", "copy: big -> /big")
        assert site.leftovers() == []
        site.build("mkdir: /a")
        assert site.told.missed == {}
    finally:
        subprocess.run(["umount", str(small)], check=True)
