"""Containers in the background: started, looked at, waited for, stopped, removed, and cleared up after."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import lifecycle, logs
from runtime.detached import run_detached
from runtime.journal import Journal, looked_after, reap
from runtime.reaping import KILLED
from runtime.state import Container
from store.errors import CommandNotFound, ContainerMissing, RunError
from tests.containers import Site, cgroups, parents, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def keeper(one: Container) -> int:
    """The pid of the process that looks after the container."""
    return parents()[one.pid]


def text(one: Container, stream: str = "stdout") -> bytes:
    return b"".join(entry.text for entry in logs.read(one.log_path) if entry.stream == stream)


def test_it_runs_when_the_start_returns_and_its_end_is_kept(site: Site) -> None:
    before = time.time()
    one = site.start("sh", "-c", "exit 5", removed=False, image="img:tag", created=before, labels={"a": "b"})
    assert lifecycle.wait(one) == 5
    now = site.containers.find(one.id)
    assert (now.status, now.pid, now.exit_status, now.signal, now.oom, now.error) == ("stopped", 0, 5, None, False, "")
    assert (now.image, now.argv, now.labels) == ("img:tag", ["sh", "-c", "exit 5"], {"a": "b"})
    assert before <= now.started <= now.finished <= time.time()
    assert os.listdir(now.path)
    assert cgroups(one.id) == []
    lifecycle.remove(now)
    with pytest.raises(ContainerMissing):
        site.containers.find(one.id)


def test_a_running_one_says_so(site: Site) -> None:
    one = site.start("sleep", "1000", name="named")
    assert one.status == "running"
    assert Path(f"/proc/{one.pid}/comm").read_text() == "sleep\n"
    for name in ("named", one.id, one.id[:6]):
        assert site.containers.find(name).pid == one.pid
    lifecycle.stop(one, 0)


def test_a_start_that_fails_raises_what_a_run_would_and_leaves_nothing(site: Site) -> None:
    with pytest.raises(RunError) as caught:
        run_detached(site.spec("none", removed=False, name="failing"))
    assert caught.value.exit_status == CommandNotFound.exit_status
    assert caught.value.message == "command not found: none"
    assert "there is no such file along the PATH" in caught.value.hint
    with pytest.raises(RunError, match="no user 'nobody2'"):
        run_detached(site.spec("true", user="nobody2"))
    assert site.containers.all() == []


def test_a_failure_that_nobody_foresaw_is_told_by_the_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import runtime.charge

    def full(path: str, options: object) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(runtime.charge, "open_log", full)
    with pytest.raises(RunError, match="No space left on device"):
        run_detached(site.spec("true"))
    assert site.containers.all() == []


def test_the_one_that_looks_after_it_holds_nothing_of_the_starter(site: Site) -> None:
    """Whoever waits for the end of the starter's pipes is not kept waiting for the container's."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    one = site.start("sleep", "1000")
    pid = keeper(one)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    targets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in ("0", "1", "2")}
    assert targets == {"/dev/null"}
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    lifecycle.stop(one, 0)


def test_it_has_no_input_and_its_output_goes_to_the_log(site: Site) -> None:
    one = site.start("sh", "-c", "cat; echo out; echo err >&2; printf partial", removed=False)
    assert lifecycle.wait(one) == 0
    assert (text(one), text(one, "stderr")) == (b"out\npartial", b"err\n")
    lifecycle.remove(site.containers.find(one.id))


def test_stop_asks_first(site: Site) -> None:
    one = site.start("sh", "-c", "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done", removed=False)
    until(lambda: text(one) == b"ready\n")
    lifecycle.stop(one, 30)
    now = site.containers.find(one.id)
    assert (now.status, now.exit_status, text(one)) == ("stopped", 3, b"ready\nasked\n")
    lifecycle.stop(now)  # it is stopped: nothing to do
    lifecycle.remove(now)


def test_stop_sends_the_container_s_own_signal(site: Site) -> None:
    script = "trap 'exit 4' USR1; trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    one = site.start("sh", "-c", script, removed=False, stop_signal=int(signal.SIGUSR1))
    until(lambda: text(one) == b"ready\n")
    lifecycle.stop(one, 30)
    assert site.containers.find(one.id).exit_status == 4
    lifecycle.remove(site.containers.find(one.id))


def test_stop_ends_what_does_not_listen_when_the_time_is_over(site: Site) -> None:
    one = site.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done", removed=False)
    until(lambda: text(one) == b"ready\n")
    begin = time.monotonic()
    lifecycle.stop(one, 0.3)
    assert time.monotonic() - begin >= 0.3
    now = site.containers.find(one.id)
    assert (now.exit_status, now.signal) == (137, 9)
    lifecycle.remove(now)


def test_kill_sends_a_signal_to_the_first_process(site: Site) -> None:
    one = site.start("sh", "-c", "trap 'echo got; exit 6' HUP; echo ready; while :; do sleep 0.01; done", removed=False)
    until(lambda: text(one) == b"ready\n")
    lifecycle.kill(one, signal.SIGHUP)
    assert lifecycle.wait(one) == 6
    with pytest.raises(RunError, match="is not running") as caught:
        lifecycle.kill(site.containers.find(one.id), signal.SIGHUP)
    assert caught.value.hint == "it ended with status 6"
    lifecycle.remove(site.containers.find(one.id))


def test_a_running_one_is_removed_only_by_force(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False, name="kept")
    with pytest.raises(RunError, match="is running") as caught:
        lifecycle.remove(one)
    assert "box rm -f kept" in caught.value.hint
    assert site.containers.find("kept").status == "running"
    lifecycle.remove(one, force=True)
    assert site.containers.all() == []


def test_one_that_removes_itself_is_gone_when_stop_returns(site: Site) -> None:
    one = site.start("sleep", "1000")
    lifecycle.stop(one, 0)
    assert not os.path.exists(one.path)
    with pytest.raises(ContainerMissing):
        lifecycle.wait(one)


def test_wait_returns_while_others_look(site: Site) -> None:
    one = site.start("sh", "-c", "sleep 0.3; exit 8", removed=False)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(lifecycle.wait(one))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [8, 8, 8]
    lifecycle.remove(site.containers.find(one.id))


# ---- names and ids


def test_a_name_is_taken_until_its_container_is_removed(site: Site) -> None:
    one = site.start("true", removed=False, name="mine")
    lifecycle.wait(one)
    with pytest.raises(RunError, match="the name 'mine' is taken by container") as caught:
        site.run("true", name="mine")
    assert "box rm mine" in caught.value.hint
    lifecycle.remove(site.containers.find("mine"))
    assert site.run("true", name="mine").status == 0
    assert site.run("true", name="mine").status == 0  # and one that removed itself gave it up


def test_a_name_that_a_vanished_container_held_is_free(site: Site) -> None:
    os.makedirs(f"{site.root}/names", exist_ok=True)
    os.symlink("ab" * 32, f"{site.root}/names/stale")
    assert site.run("true", name="stale").status == 0


def test_only_one_of_many_at_once_gets_a_name(site: Site) -> None:
    outcomes: list[str] = []

    def start() -> None:
        try:
            site.start("sleep", "1000", name="wanted")
            outcomes.append("got it")
        except RunError as error:
            outcomes.append(error.message.partition(" is taken")[0])

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["got it", *["the name 'wanted'"] * 5]
    lifecycle.stop(site.containers.find("wanted"), 0)


def test_an_id_that_begins_several_is_ambiguous(site: Site) -> None:
    ones = [site.start("true", removed=False, id=prefix + "0" * 62) for prefix in ("ab", "ac")]
    for one in ones:
        lifecycle.wait(one)
    with pytest.raises(RunError, match="'a' begins the ids of 2 containers"):
        site.containers.find("a")
    assert site.containers.find("ab").id == ones[0].id
    for one in ones:
        lifecycle.remove(site.containers.find(one.id))


def test_an_id_that_is_there_is_not_used_twice(site: Site) -> None:
    one = site.start("sleep", "1000", id="cd" * 32)
    with pytest.raises(RunError, match="the id cdcdcdcdcdcd is taken"):
        site.run("true", id="cd" * 32)
    assert site.containers.find(one.id).status == "running"
    lifecycle.stop(one, 0)


def test_a_mistyped_name_is_answered_with_a_like_one(site: Site) -> None:
    one = site.start("sleep", "1000", name="webserver")
    with pytest.raises(ContainerMissing) as caught:
        site.containers.find("webservr")
    assert caught.value.hint == "did you mean 'webserver'?"
    lifecycle.stop(one, 0)


# ---- what is cleared up after one that was killed


def test_a_container_whose_keeper_was_killed_ends_and_is_recorded(site: Site) -> None:
    one = site.start("sh", "-c", "sleep 1000 & sleep 1000", removed=False, name="orphan")
    os.kill(keeper(one), signal.SIGKILL)
    until(lambda: not looked_after(one.path))
    now = site.containers.find("orphan")
    assert (now.status, now.exit_status, now.signal, now.error) == ("stopped", 137, 9, KILLED)
    assert cgroups(one.id) == []
    assert not [pid for pid, parent in parents().items() if parent == one.pid]
    lifecycle.remove(now)


def test_a_container_to_be_removed_whose_keeper_was_killed_is_removed(site: Site) -> None:
    one = site.start("sleep", "1000", name="orphan")
    os.kill(keeper(one), signal.SIGKILL)
    until(lambda: not looked_after(one.path))
    assert site.containers.all() == []
    assert not os.path.lexists(f"{site.root}/names/orphan")


def test_wait_is_not_kept_waiting_by_a_killed_keeper(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False)
    killer = threading.Timer(0.2, os.kill, (keeper(one), signal.SIGKILL))
    killer.start()
    assert lifecycle.wait(one) == 137
    killer.join()
    lifecycle.remove(site.containers.find(one.id))


def test_following_a_log_ends_with_a_killed_keeper(site: Site) -> None:
    one = site.start("sh", "-c", "echo before; sleep 1000", removed=False)
    until(lambda: text(one) == b"before\n")
    killer = threading.Timer(0.2, os.kill, (keeper(one), signal.SIGKILL))
    killer.start()
    assert [entry.text for entry in logs.follow(one.log_path)] == [b"before\n"]
    killer.join()
    lifecycle.remove(site.containers.find(one.id))


def test_a_directory_without_a_journal_is_a_dead_one_s(site: Site) -> None:
    os.makedirs(f"{site.root}/containers/{'ee' * 32}/upper/deep")
    Path(f"{site.root}/containers/{'ef' * 32}").mkdir()
    Path(f"{site.root}/containers/{'ef' * 32}/journal").write_text('{"id": "ef')  # killed while it wrote
    assert site.containers.all() == []


def test_a_reaper_does_not_take_one_that_has_just_been_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reaper may find a directory between its making and its locking; the maker then makes it again."""
    spec = site.spec("true")
    spec.id = "ba" * 32
    original = Journal.hold.__func__  # type: ignore[attr-defined]
    held: list[Journal] = []

    def hold(cls: type[Journal], path: str) -> Any:
        if path.endswith(spec.id) and not held:
            held.append(original(cls, path))  # the reaper was faster
            threading.Timer(0.1, lambda: held[0].remove()).start()
        return original(cls, path)

    monkeypatch.setattr(Journal, "hold", classmethod(hold))
    assert site.run_spec(spec).status == 0
    assert held


def test_a_reaper_does_not_rewrite_the_end_of_one_that_ended_under_its_eyes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = site.start("sh", "-c", "exit 11", removed=False)
    lifecycle.wait(one)
    original = Journal.hold.__func__  # type: ignore[attr-defined]
    os.rename(f"{one.path}/exit", f"{one.path}/exit.later")

    def hold(cls: type[Journal], path: str) -> Any:
        if os.path.exists(f"{path}/exit.later"):  # between the reaper's look and its lock
            os.rename(f"{path}/exit.later", f"{path}/exit")
        return original(cls, path)

    monkeypatch.setattr(Journal, "hold", classmethod(hold))
    reap(site.root)
    now = site.containers.find(one.id)
    assert (now.exit_status, now.error) == (11, "")
    lifecycle.remove(now)


def test_reaping_leaves_those_alone_that_are_looked_after(site: Site) -> None:
    one = site.start("sleep", "1000")
    for _ in range(3):
        site.containers.reap()
    assert site.containers.find(one.id).status == "running"
    lifecycle.stop(one, 0)


def test_a_machine_that_restarted_leaves_records_that_are_cleared_up(site: Site) -> None:
    """The pid in a journal is by then somebody else's, who must not be hurt."""
    one = site.start("true", removed=False)
    lifecycle.wait(one)
    os.unlink(f"{one.path}/exit")
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    record = Path(f"{one.path}/journal")
    record.write_text(record.read_text().replace(f'"pid": {one.record["pid"]}', f'"pid": {bystander.pid}'))
    assert f'"pid": {bystander.pid}' in record.read_text()
    now = site.containers.find(one.id)
    assert (now.status, now.exit_status) == ("stopped", 137)
    assert bystander.poll() is None
    bystander.communicate()
    lifecycle.remove(now)
