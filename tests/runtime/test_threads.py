"""The library in programs of several threads, and after errors and interrupts."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from runtime import container, journal, lifecycle, native
from store.errors import CommandNotFound
from store.syscalls import libc
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def at_once(count: int, act: Callable[[int], None]) -> None:
    """Do it in so many threads, begun together; the first error is raised."""
    begin = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            begin.wait()
            act(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_run_containers_at_once(site: Site) -> None:
    ended: list[tuple[int, int, str]] = []

    def run(number: int) -> None:
        for each in range(4):
            ran = site.shell(f"echo {number} {each}; exit {number}")
            ended.append((number, ran.status, ran.out))

    at_once(6, run)
    assert sorted(ended) == sorted((number, number, f"{number} {each}\n") for number in range(6) for each in range(4))


def several(site: Site, count: int) -> None:
    for _ in range(count):
        assert site.run("true").status == 0


def test_this_process_may_be_traced_as_before_when_all_threads_have_borne_their_children(site: Site) -> None:
    """A child on shared memory takes that away from both; the last to be borne gives it back."""
    libc("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # whatever other tests made of this process
    at_once(6, lambda number: several(site, 5))
    assert libc("prctl", PR_GET_DUMPABLE, 0, 0, 0, 0) == 1


def test_threads_that_start_other_programs_meanwhile_do_not_keep_a_container_s_output_open(site: Site) -> None:
    """Every descriptor of the runtime is closed on exec."""
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            subprocess.run(["true"], check=True, close_fds=False)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(10):
            assert site.shell("echo x", removed=True).out == "x\n"
            ran = site.spec("sh", "-c", "echo y", removed=False)
            assert site.run_spec(ran).out == "y\n"
    finally:
        stop.set()
        thread.join()
    for one in site.containers.all():
        lifecycle.remove(one)


def test_a_thread_that_is_not_the_main_one_cannot_pass_signals_on_and_leaves_nothing(site: Site) -> None:
    def run(number: int) -> None:
        with pytest.raises(ValueError, match="main thread"):
            container.run(site.spec("true"), forward=True)

    at_once(1, run)


def test_an_interrupt_leaves_nothing(site: Site) -> None:
    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        site.run("sleep", "1000")
    timer.join()
    assert time.monotonic() - begin < 30
    assert os.listdir(f"{site.root}/containers") == []


class Failing:
    """A function that counts its calls, and fails at the one with the number `at`."""

    def __init__(self, original: Callable[..., object]) -> None:
        self.original = original
        self.calls = 0
        self.at = 0

    def __call__(self, *arguments: object, **fields: object) -> object:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(5, "Input/output error")
        return self.original(*arguments, **fields)


def test_a_failure_at_any_step_leaves_nothing_and_the_next_run_works(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that leaves the interpreter for the kernel fails once, by itself."""
    import runtime.cgroups
    import runtime.container
    import runtime.rootfs

    doors = [
        (runtime.rootfs, "mount_overlay"), (runtime.rootfs, "new_filesystem"), (runtime.rootfs, "openat2"),
        (runtime.container, "make_skeleton"), (runtime.container, "resolve"), (runtime.container, "spawn"),
        (runtime.cgroups, "_write"), (runtime.cgroups, "make"), (journal.Journal, "started"), (journal.Journal, "_append"),
    ]  # fmt: skip
    for owner, name in doors:
        failing = Failing(getattr(owner, name))
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, lambda *arguments, failing=failing, **fields: failing(*arguments, **fields))
            assert site.run("true").status == 0
            times = failing.calls
            assert times, name
            for failing.at in sorted({1, 2, times} & set(range(1, times + 1))):
                failing.calls = 0
                with pytest.raises(Exception, match="Input/output error"):
                    site.run("true")
                assert os.listdir(f"{site.root}/containers") == [], (name, failing.at)
    assert site.run("true").status == 0


@pytest.mark.skipif(not native.available(), reason="there is no native code for this machine")
def test_many_failures_in_a_row_leave_no_memory_mapped_and_no_descriptor(site: Site) -> None:
    def size() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0])

    def fail() -> None:
        with pytest.raises(CommandNotFound):
            site.run("none")

    for _ in range(3):
        fail()
    before = size()
    for _ in range(30):
        fail()
    assert size() - before < 512  # pages
