"""The one process that looks after all containers in the background: there is one, it is fair, and it can be replaced."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from runtime import detached, lifecycle, linux, logs, monitoring, stubs
from runtime.attaching import connect
from runtime.clients import INPUT, JOIN, OUTPUT, STOP
from runtime.journal import looked_after, monitor_died, reap
from runtime.reaping import KILLED
from runtime.state import Container
from tests.containers import Site, cgroups, kill_monitor, monitors, parents, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def keeper(one: Container) -> int:
    return parents()[one.pid]


def text(one: Container) -> str:
    return b"".join(entry.text for entry in logs.read(one.log_path)).decode()


def descriptors(pid: int) -> set[str]:
    return {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}


@contextmanager
def ended(*ones: Container) -> Iterator[None]:
    try:
        yield
    finally:
        for one in ones:
            lifecycle.stop(one, 0)


def test_one_looks_after_all_and_leaves_with_the_last(site: Site) -> None:
    ones = [site.start("sleep", "1000") for _ in range(4)]
    (pid,) = monitors(site)
    assert Path(f"/proc/{pid}/comm").read_text() == "box-monitor\n"
    for one in ones[:3]:
        lifecycle.stop(one, 0)
    assert monitors(site) == [pid]
    lifecycle.stop(ones[3], 0)
    until(lambda: monitors(site) == [])
    assert not os.path.exists(f"{site.root}/monitor/socket")
    assert not monitor_died(site.root)


def test_starts_at_once_make_one_monitor(site: Site) -> None:
    ones: list[Container] = []
    threads = [threading.Thread(target=lambda: ones.append(site.start("sleep", "1000"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ones) == 8
    assert len(monitors(site)) == 1
    assert len({keeper(one) for one in ones}) == 8
    with ended(*ones):
        pass


def test_starts_while_the_last_one_leaves_are_not_lost(site: Site) -> None:
    """Each finds a monitor that stays, that leaves, or none."""
    ones = [site.start("sh", "-c", "exit 3", removed=False) for _ in range(12)]
    assert [lifecycle.wait(one) for one in ones] == [3] * 12
    for one in ones:
        lifecycle.remove(site.containers.find(one.id))


def test_a_keeper_is_a_few_pages_that_hold_what_is_its_container_s(site: Site) -> None:
    one, other = site.start("sleep", "1000", interactive=True), site.start("sleep", "1000")
    with ended(one, other):
        pid = keeper(one)
        assert Path(f"/proc/{pid}/comm").read_text() == f"{stubs.KEEPER_NAME}\n"
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
        assert int(rollup[rollup.index("Rss:") + 1]) < 200
        of_one, of_other = descriptors(pid), descriptors(keeper(other))
        assert of_one & of_other <= {"/dev/null", "/run/box/ids"}  # the file in which each has locked its own ids
        assert one.path in of_one
        assert not any(target.startswith(("pipe:", "socket:")) for target in descriptors(one.pid) & of_other)
        assert not any(site.root in target or "socket:" in target for target in descriptors(one.pid))


@pytest.mark.parametrize("native", [True, False])
def test_an_end_of_the_input_reaches_the_container(site: Site, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.attaching import start_attached
    from runtime.container import prepare

    if not native:  # another machine's keeper
        monkeypatch.setattr(stubs, "available", lambda: False)
    given, out = os.pipe(), os.pipe()
    os.write(given[1], b"hello")
    os.close(given[1])
    spec = site.spec("sh", "-c", "cat; exit 9", interactive=True)
    outcome = start_attached(spec, prepare(spec), stdin=given[0], stdout=out[1])
    assert outcome is not None
    assert outcome.status == 9
    assert os.read(out[0], 100) == b"hello"
    for fd in (given[0], *out):
        os.close(fd)


def test_where_no_code_is_known_an_interpreter_keeps(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubs, "available", lambda: False)
    one = site.start("sh", "-c", "echo there; sleep 0.2; exit 7", removed=False)
    assert Path(f"/proc/{keeper(one)}/exe").resolve().name.startswith("python")
    assert lifecycle.wait(one) == 7
    assert text(one) == "there\n"
    lifecycle.remove(site.containers.find(one.id))


# ---- a monitor that was killed


def test_containers_live_on_and_the_next_command_takes_over(site: Site, tmp_path: Path) -> None:
    script = "echo first; read a; echo got $a; read a; echo got $a; exit 4"
    one = site.start("sh", "-c", script, removed=False, interactive=True, name="lives")
    until(lambda: text(one) == "first\n")
    kill_monitor(site)
    assert looked_after(one.path)
    assert os.path.exists(f"/proc/{one.pid}")
    assert site.containers.find("lives").status == "running"  # which was the next command
    assert len(monitors(site)) == 1
    with closing(connect(one)) as client:
        client.send(INPUT + b"it\n")
        until(lambda: text(one) == "first\ngot it\n")
        client.send(INPUT + b"more\n")
        assert lifecycle.wait(one) == 4
    assert text(one) == "first\ngot it\ngot more\n"
    assert site.containers.find("lives").error == ""
    lifecycle.remove(site.containers.find("lives"))


def test_a_terminal_is_taken_over_too(site: Site) -> None:
    one = site.start("sh", "-c", "tty; stty size; read a; stty size", removed=False, interactive=True, terminal=True)
    until(lambda: "/dev/pts/0" in text(one))
    kill_monitor(site)
    reap(site.root)
    with closing(connect(one)) as client:
        client.send(b"w" + (33).to_bytes(2, "little") + (44).to_bytes(2, "little"))
        client.send(INPUT + b"go\n")
        assert lifecycle.wait(one) == 0
    assert "33 44" in text(one)
    lifecycle.remove(site.containers.find(one.id))


def test_one_that_ends_while_there_is_no_monitor_keeps_its_status_and_its_last_words(site: Site, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    from runtime.spec import Bind

    one = site.start("sh", "-c", "read a < /go/go; echo last; exit 6", removed=False, mounts=[Bind(str(tmp_path), "/go")])
    gone = site.start("sh", "-c", "read a < /go/go", mounts=[Bind(str(tmp_path), "/go")])
    kill_monitor(site)
    (tmp_path / "go").write_text("x\ny\n")
    until(lambda: not os.path.exists(f"/proc/{one.pid}/root/go") or (tmp_path / "go").write_text("z\n"))
    until(lambda: not os.path.exists(f"/proc/{gone.pid}/root/go"))
    assert looked_after(one.path)
    now = site.containers.find(one.id)
    lifecycle.wait(now)
    now = site.containers.find(one.id)
    assert (now.status, now.exit_status, now.error, text(one)) == ("stopped", 6, "", "last\n")
    until(lambda: not os.path.exists(gone.path))
    assert cgroups(one.id) + cgroups(gone.id) == []
    lifecycle.remove(now)


def test_who_waits_and_who_follows_take_over_themselves(site: Site) -> None:
    one = site.start("sh", "-c", "echo on; sleep 1; echo off; exit 5", removed=False)
    killer = threading.Timer(0.2, kill_monitor, (site,))
    killer.start()
    seen: list[bytes] = []
    follower = threading.Thread(target=lambda: seen.extend(entry.text for entry in logs.follow(one.log_path)))
    follower.start()
    assert lifecycle.wait(one) == 5
    follower.join(20)
    killer.join()
    assert seen == [b"on\n", b"off\n"]
    lifecycle.remove(site.containers.find(one.id))


def test_a_monitor_and_a_keeper_killed_at_once_leave_a_dead_container(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False)
    kept = keeper(one)
    kill_monitor(site)
    os.kill(kept, signal.SIGKILL)
    until(lambda: not looked_after(one.path))
    now = site.containers.find(one.id)
    assert (now.status, now.exit_status, now.error) == ("stopped", 137, KILLED)
    lifecycle.remove(now)


def test_a_pid_that_is_another_s_by_now_is_not_taken_for_a_keeper(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False)
    kept = keeper(one)
    kill_monitor(site)
    bystander = os.fork()
    if bystander == 0:
        time.sleep(60)
        os._exit(0)
    try:
        record = Path(f"{one.path}/journal")
        before = record.read_text()
        record.write_text(before.replace(f'"keeper": {kept}', f'"keeper": {bystander}'))
        assert record.read_text() != before
        reap(site.root)
        assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
        assert site.containers.find(one.id).status == "running"
        record.write_text(before)
        until(lambda: monitors(site) == [])  # it has found nobody
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)
        os.kill(kept, signal.SIGKILL)
    until(lambda: not looked_after(one.path))
    lifecycle.remove(site.containers.find(one.id))


# ---- fairness


def test_a_flood_and_a_client_that_never_reads_delay_nobody_else(site: Site) -> None:
    flood = "import os\nwhile True: os.write(1, b'y\\n' * 30000)"
    noisy = [site.start("python3", "-I", "-S", "-c", flood) for _ in range(2)]
    quiet = site.start("cat", interactive=True)
    with ended(*noisy, quiet):
        deaf = connect(noisy[0])
        deaf.send(JOIN)  # and reads nothing
        with closing(connect(quiet)) as client:
            client.send(JOIN)
            worst = 0.0
            for _ in range(20):
                begin = time.monotonic()
                client.send(INPUT + b"x\n")
                while client.recv(1 << 17) != OUTPUT + b"x\n":
                    pass
                worst = max(worst, time.monotonic() - begin)
        assert worst < 1.0
        (pid,) = monitors(site)
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        first = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        assert resident < first + (32 << 20)  # of which it is a copy
        deaf.close()


def test_a_client_beyond_the_many_is_turned_away(site: Site) -> None:
    one = site.start("sleep", "1000")
    with ended(one):
        several = [connect(one) for _ in range(64)]
        until(lambda: len(os.listdir(f"/proc/{monitors(site)[0]}/fd")) > 64)
        late = connect(one)
        late.settimeout(10)
        assert late.recv(10) == b""
        several[0].send(STOP)
        assert several[0].recv(10) == b"k"
        for client in (*several, late):
            client.close()


def test_a_visitor_that_says_nothing_or_nonsense_harms_nobody(site: Site) -> None:
    one = site.start("sleep", "1000")
    with ended(one):
        silent, wrong = monitoring.reach(site.root), monitoring.reach(site.root)
        wrong.send(b"what is this")
        assert b"ValueError" in wrong.recv(1000)
        wrong.close()
        with closing(monitoring.reach(site.root)) as other:
            other.send(f"{'ab' * 32} 1 3,5 free".encode())
            assert b"is not there" in other.recv(1000)
        silent.close()
        assert site.containers.find(one.id).status == "running"


def test_it_may_have_as_many_files_open_as_containers_need_and_they_get_the_starter_s_limit(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        ones = [site.start("sleep", "1000") for _ in range(few // 6)]
        limits = [resource.prlimit(one.pid, resource.RLIMIT_NOFILE) for one in ones]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ended(*ones):
        assert set(limits) == {(few, hard)}


def test_a_hand_over_to_one_that_is_killed_is_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the connection and the answer."""
    original = detached.hand_over

    def hand_over(root: str, connection: "monitoring.socket", message: str, descriptors: list[int]) -> None:
        os.kill(monitors(site)[0], signal.SIGKILL)
        until(lambda: monitors(site) == [])
        original(root, connection, message, descriptors)

    monkeypatch.setattr(detached, "hand_over", hand_over)
    one = site.start("sh", "-c", "sleep 0.2; exit 2", removed=False)
    assert lifecycle.wait(one) == 2
    lifecycle.remove(site.containers.find(one.id))


def test_a_container_that_is_taken_over_before_it_is_handed_over_is_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor was killed after it had recorded the keeper, and before it could answer."""
    original = detached.hand_over

    def hand_over(root: str, connection: "monitoring.socket", message: str, descriptors: list[int]) -> None:
        original(root, connection, message, descriptors)
        os.kill(monitors(site)[0], signal.SIGKILL)
        until(lambda: monitors(site) == [])
        connection = monitoring.reach(root)
        original(root, connection, message, descriptors)

    monkeypatch.setattr(detached, "hand_over", hand_over)
    one = site.start("sleep", "1000", interactive=True)
    (pid,) = monitors(site)
    mine = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    with ended(one):
        assert len([target for target in mine if target.startswith("pipe:")]) == 3
        assert mine.count(one.path) == 1


def test_a_pidfd_of_the_monitor_s_says_when_it_was_born() -> None:
    assert monitoring.born(os.getpid()) > 0
    handle = linux.pidfd_open(os.getpid())
    twin = linux.pidfd_getfd(handle, handle)
    assert not os.get_inheritable(twin)
    assert os.fstat(twin).st_ino == os.fstat(handle).st_ino
    os.close(handle)
    os.close(twin)
    assert monitoring.born(1 << 22) == 0
