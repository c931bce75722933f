"""Health checks: what they say, what they cost nobody else, and what follows when they fail."""

import time
from pathlib import Path
from typing import Any

import pytest

from runtime import lifecycle
from runtime.health import of_image, settle
from runtime.state import Container
from tests.command.installed import run as installed
from tests.containers import Site, monitors, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def checks(script: str, **fields: Any) -> dict[str, Any]:
    return {**settle(["CMD-SHELL", script], interval=0.05, timeout=5, retries=2), **fields}


def health(site: Site, one: Container) -> dict[str, Any]:
    found = site.containers.read(one.id)
    return dict(found.health) if found else {}


def started(site: Site, script: str, **fields: Any) -> Container:
    return site.start("sleep", "1000", removed=False, init=True, health=checks(script, **fields))


def test_what_an_image_or_a_user_leaves_out_is_docker_s() -> None:
    wanted = {"test": ["CMD", "true"], "interval": 30.0, "timeout": 30.0, "start_period": 0.0, "retries": 3, "on_failure": "none"}
    assert of_image(["0", "0", "0", "0", "CMD", "true"]) == wanted
    assert of_image(["5000000000", "0", "1500000000", "7", "CMD", "true"]) == wanted | {
        "interval": 5.0, "start_period": 1.5, "retries": 7,
    }  # fmt: skip
    assert of_image([]) == of_image(["0", "0", "0", "0", "NONE"]) == settle(["NONE"]) == {}


def test_one_that_is_well_says_so_and_keeps_the_last_five_outputs(site: Site) -> None:
    one = started(site, "echo fine; echo as ever >&2")
    assert health(site, one)["status"] in ("starting", "healthy")
    found = until(lambda: len(health(site, one)["results"]) == 5 and health(site, one))
    assert (found["status"], found["streak"]) == ("healthy", 0)
    assert {result["output"] for result in found["results"]} == {"fine\nas ever\n"}
    first = found["results"][0]["start"]
    until(lambda: health(site, one)["results"][0]["start"] > first)
    assert len(health(site, one)["results"]) == 5
    lifecycle.remove(one, force=True)


def test_one_that_fails_often_enough_is_unhealthy_until_it_succeeds(site: Site, tmp_path: Path) -> None:
    one = started(site, "test -e /tmp/well || { echo ill; exit 3; }", retries=3)
    found = until(lambda: health(site, one)["status"] == "unhealthy" and health(site, one))
    assert found["streak"] >= 3
    assert (found["results"][-1]["status"], found["results"][-1]["output"]) == (3, "ill\n")
    installed("exec", one.id, "touch", "/tmp/well", BOX_ROOT=site.root)
    until(lambda: health(site, one)["status"] == "healthy")
    assert health(site, one)["streak"] == 0
    lifecycle.remove(one, force=True)


def test_failures_do_not_count_in_the_start_period(site: Site) -> None:
    one = started(site, "false", start_period=1.0)
    until(lambda: len(health(site, one)["results"]) >= 3)
    assert (health(site, one)["status"], health(site, one)["streak"]) == ("starting", 0)
    until(lambda: health(site, one)["status"] == "unhealthy")
    assert time.time() - one.started >= 1.0
    lifecycle.remove(one, force=True)


def test_a_check_that_takes_too_long_is_ended_and_counts_as_failed(site: Site) -> None:
    one = started(site, "echo begun; exec sleep 1000", timeout=0.2)
    found = until(lambda: health(site, one)["status"] == "unhealthy" and health(site, one))
    assert found["results"][-1]["status"] == -1
    assert "exceeded timeout (0.2s)" in found["results"][-1]["output"]
    lifecycle.remove(one, force=True)


def test_a_check_that_cannot_be_executed_says_so(site: Site) -> None:
    one = site.start("sleep", "1000", removed=False, health=checks("", test=["CMD", "nonesuch"]))
    found = until(lambda: health(site, one)["status"] == "unhealthy" and health(site, one))
    assert "command not found: nonesuch" in found["results"][-1]["output"]
    lifecycle.remove(one, force=True)


def test_a_flood_of_output_is_cut_and_holds_nobody_up(site: Site) -> None:
    one = started(site, "python3 -c 'print(\"x\" * 3000000)'")
    found = until(lambda: health(site, one)["results"] and health(site, one))
    assert (found["results"][0]["status"], found["results"][0]["output"]) == (0, "x" * 4096)
    lifecycle.remove(one, force=True)


@pytest.mark.parametrize(("action", "status"), [("kill", 137), ("stop", 143)])
def test_an_unhealthy_one_is_ended_where_that_is_asked_for(site: Site, action: str, status: int) -> None:
    one = started(site, "false", on_failure=action)
    assert lifecycle.wait(one) == status
    until(lambda: monitors(site) == [])
    lifecycle.remove(site.containers.find(one.id))


def test_an_unhealthy_one_is_restarted_where_that_is_asked_for(site: Site) -> None:
    one = started(site, "false", on_failure="restart")
    until(lambda: (now := site.containers.read(one.id)) is not None and now.status == "running" and now.pid != one.pid)
    found = site.containers.find(one.id)
    assert found.record["restarts"] >= 1
    lifecycle.remove(site.containers.find(one.id), force=True)


def test_an_end_during_a_check_leaves_nothing(site: Site) -> None:
    one = site.start("sleep", "1000", health=checks("sleep 1000", timeout=60))
    time.sleep(0.3)
    lifecycle.stop(one, 0)
    until(lambda: monitors(site) == [])
    assert site.containers.all() == []
