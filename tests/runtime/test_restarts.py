"""Restart policies: who comes back, when, how often, and who does not."""

import os
import time
from pathlib import Path

import pytest

from runtime import lifecycle, logs, restarts
from runtime.state import Container
from tests.command.installed import run as box
from tests.containers import Site, kill_monitor, monitors, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def now(site: Site, one: Container) -> Container:
    found = site.containers.read(one.id)
    assert found is not None
    return found


def count(site: Site, one: Container) -> int:
    return int(now(site, one).record.get("restarts", 0))


@pytest.mark.parametrize("text", ["no", "always", "unless-stopped", "on-failure", "on-failure:3"])
def test_policies_are_docker_s(text: str) -> None:
    assert restarts.parse(text) == text


@pytest.mark.parametrize(
    "text", ["", "never", "always:3", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:x", "Always"]
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is none of"):
        restarts.parse(text)


def test_who_is_started_again() -> None:
    assert [restarts.wanted("always", status, 99) for status in (0, 1)] == [True, True]
    assert [restarts.wanted("on-failure", status, 99) for status in (0, 1)] == [False, True]
    assert [restarts.wanted("on-failure:2", 1, done) for done in (0, 1, 2)] == [True, True, False]
    assert not restarts.wanted("no", 1, 0)


def test_the_pause_doubles_to_a_minute_and_begins_anew_after_ten_seconds_of_life() -> None:
    pauses = [0.0]
    for _ in range(12):
        pauses.append(restarts.pause(pauses[-1], 1.0))
    assert pauses[1:5] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 60.0
    assert restarts.pause(60.0, 10.0) == 0.1


def test_one_that_fails_comes_back_so_often_and_no_more(site: Site) -> None:
    one = site.start("sh", "-c", "echo run; exit 3", removed=False, restart="on-failure:2")
    until(lambda: count(site, one) == 2 and now(site, one).status == "stopped" and not now(site, one).restarting)
    assert b"".join(entry.text for entry in logs.read(one.log_path)) == b"run\n" * 3
    assert now(site, one).exit_status == 3
    until(lambda: monitors(site) == [])
    lifecycle.remove(now(site, one))


def test_one_that_succeeds_comes_back_only_if_always(site: Site) -> None:
    one = site.start("true", removed=False, restart="on-failure")
    other = site.start("true", removed=False, restart="always")
    until(lambda: count(site, other) >= 2)
    assert count(site, one) == 0
    lifecycle.stop(now(site, other), 0)
    for each in (one, other):
        assert not now(site, each).restarting
        lifecycle.remove(now(site, each))


def test_one_that_is_stopped_or_killed_stays_so(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False, restart="always")
    lifecycle.stop(one, 0)
    assert (now(site, one).status, now(site, one).restarting) == ("stopped", False)
    lifecycle.start(now(site, one))
    lifecycle.kill(now(site, one), 9)
    lifecycle.wait(now(site, one))
    assert not now(site, one).restarting
    time.sleep(0.3)
    assert now(site, one).status == "stopped"
    lifecycle.remove(now(site, one))


def test_one_that_is_killed_by_somebody_else_comes_back(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False, restart="unless-stopped")
    os.kill(one.pid, 9)
    until(lambda: count(site, one) == 1 and now(site, one).status == "running")
    assert now(site, one).pid != one.pid
    lifecycle.remove(now(site, one), force=True)
    assert site.containers.all() == []


def test_one_that_waits_for_its_turn_can_be_stopped_removed_and_followed(site: Site) -> None:
    one = site.start("sh", "-c", "echo run; exit 1", removed=False, restart="always")
    until(lambda: count(site, one) >= 3 and now(site, one).restarting)
    seen = []
    for entry in logs.follow(one.log_path):
        seen.append(entry.text)
        if len(seen) == 5:  # a run after the one that was under way
            break
    until(lambda: now(site, one).restarting)
    lifecycle.stop(now(site, one), 0)
    done = count(site, one)
    time.sleep(1.0)
    assert (now(site, one).status, now(site, one).restarting, count(site, one)) == ("stopped", False, done)
    lifecycle.remove(now(site, one))
    other = site.start("false", removed=False, restart="always")
    until(lambda: now(site, other).restarting)
    lifecycle.remove(now(site, other), force=True)
    until(lambda: monitors(site) == [])
    assert site.containers.all() == []


def test_one_that_cannot_be_started_again_stays_and_says_why(site: Site) -> None:
    one = site.start("sh", "-c", "sleep 0.1; exit 1", removed=False, restart="always")
    record = Path(f"{one.path}/journal")
    record.write_text(record.read_text().replace('"argv": ["sh"', '"argv": ["gone"'))
    until(lambda: now(site, one).error)
    until(lambda: monitors(site) == [])
    assert "command not found: gone" in now(site, one).error
    assert (now(site, one).status, now(site, one).restarting) == ("stopped", False)
    lifecycle.remove(now(site, one))


def test_a_monitor_that_was_killed_meanwhile_is_replaced_and_it_comes_back(site: Site) -> None:
    one = site.start("sh", "-c", "exit 1", removed=False, restart="always")
    until(lambda: count(site, one) >= 3 and now(site, one).restarting)
    kill_monitor(site)
    before = count(site, one)
    time.sleep(0.3)
    assert count(site, one) == before
    site.containers.reap()
    until(lambda: count(site, one) > before)
    lifecycle.stop(now(site, one), 0)
    lifecycle.remove(now(site, one))


def test_it_is_shown(site: Site) -> None:
    one = site.start("sh", "-c", "exit 4", removed=False, restart="always", name="again")
    until(lambda: count(site, one) >= 4 and now(site, one).restarting)
    assert "Restarting (4) " in box("ps").stdout
    shown = box("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}} {{.State.Status}} {{.RestartCount}}", "again").stdout.split()
    assert shown[0] == "always"
    assert int(shown[2]) >= 4
    assert box("stop", "-t", "0", "again").stdout == "again\n"
    assert "Exited (4)" in box("ps", "-a").stdout
    assert "--rm does not go with" in box("run", "-d", "--rm", "--restart", "always", "probe", status=125).stderr
    assert "goes with -d" in box("run", "--restart", "always", "probe", status=125).stderr
    lifecycle.remove(now(site, one))
