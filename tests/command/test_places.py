"""Mounts, working directories and limits that cannot be, or mean "none", as typed."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.command.installed import Box
from tests.containers import IMAGE, Site, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

NO_DIRECTORY = "hint: name one, or a place where nothing is yet"
MOUNTS = [
    (["-v", "{top}/file:/home"], "bind {top}/file at /home: /home is a directory, and what is to be shown there is none",
     "hint: name a file in it, or a directory of this machine"),
    (["-v", "{top}:/etc/passwd"], "bind {top} at /etc/passwd: /etc/passwd is no directory in the image", NO_DIRECTORY),
    (["-v", "{top}:/etc/passwd/x"], "bind {top} at /etc/passwd/x: /etc/passwd is no directory in the image", NO_DIRECTORY),
    (["--tmpfs", "/etc/passwd"], "tmpfs at /etc/passwd: /etc/passwd is no directory in the image", NO_DIRECTORY),
    (["-w", "/etc/passwd"], "make the working directory: /etc/passwd is no directory in the image", NO_DIRECTORY),
    (["-v", "{top}/nope:/x"], "there is no {top}/nope to show at /x",
     "hint: box does not make it, since a typing error would go unnoticed"),
    (["-v", "{top}:/x", "-v", "{top}/file:/x/"], "two mounts are at /x: bind {top} at /x, and bind {top}/file at /x/",
     "hint: leave one out"),
    (["-v", "{top}:/x", "--tmpfs", "/x"], "two mounts are at /x: tmpfs at /x, and bind {top} at /x", "hint: leave one out"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message", "hint"), MOUNTS)
def test_a_place_that_cannot_be_is_told_with_its_path(
    site: Site, box: Box, tmp_path: Path, options: list[str], message: str, hint: str
) -> None:
    (tmp_path / "file").write_text("")
    done = box("run", "--rm", *(option.format(top=tmp_path) for option in options), IMAGE, "true", status=125)
    assert done.stderr.splitlines() == [f"box: {message.format(top=tmp_path)}", hint]
    assert site.containers.all() == []


@pytest.mark.parametrize("place", ["/nope", "/etc/passwd"])
def test_exec_names_the_directory_that_is_not_there(site: Site, box: Box, place: str) -> None:
    one = site.start("sleep", "1000", removed=False)
    try:
        done = box("exec", "-w", place, one.id, "true", status=125)
        assert done.stderr.splitlines() == [
            f"box: there is no directory {place} in the container",
            "hint: name another with --workdir",
        ]
    finally:
        box("rm", "-f", one.id)


def test_limits_of_none_are_none(site: Site, box: Box) -> None:
    box("create", "--name", "free", "-m", "0", "--cpus", "0", "--pids-limit", "0", IMAGE, "true")
    limits = json.loads(box("inspect", "free").stdout)[0]["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (0, 0, -1)
    assert box("start", "-a", "free").stderr == ""
    box("update", "-m", "64m", "--cpus", "1", "free")
    box("update", "-m", "0", "--cpus", "0", "free")
    limits = json.loads(box("inspect", "free").stdout)[0]["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"]) == (0, 0)
    box("rm", "free")


def test_capabilities_may_stand_in_one_list(site: Site, box: Box) -> None:
    shown = ["sh", "-c", "while read -r line; do case $line in CapBnd*) echo $line; esac; done < /proc/self/status"]
    one = box("run", "--rm", "--cap-drop", "ALL", "--cap-add", "KILL,CAP_CHOWN", IMAGE, *shown).stdout
    several = box("run", "--rm", "--cap-drop", "ALL", "--cap-add", "KILL", "--cap-add", "CHOWN", IMAGE, *shown).stdout
    assert one == several != ""


def test_net_is_another_word_for_network(site: Site, box: Box) -> None:
    seen = box("run", "--rm", "--net", "host", IMAGE, "cat", "/proc/net/dev").stdout
    assert len(seen.splitlines()) >= len(os.listdir("/sys/class/net"))
    assert box("run", "--rm", "--net", "nope", IMAGE, "true", status=125).stderr.startswith("box: run: invalid value for '--net'")


def test_exec_in_the_background_returns_at_once_and_goes_on(site: Site, box: Box) -> None:
    one = site.start("sleep", "1000", removed=False)
    try:
        started = time.monotonic()
        done = box("exec", "-d", "-e", "A=b", "-w", "/tmp", one.id, "sh", "-c", "sleep 1; echo $A $PWD > /done; sleep 1000")
        assert (done.stdout, done.stderr) == ("", "")
        assert time.monotonic() - started < 0.9
        until(lambda: box("exec", one.id, "cat", "/done", status=None).stdout == "b /tmp\n")
        assert "command not found" in box("exec", "-d", one.id, "nonesuch", status=127).stderr
        assert box("exec", "-dt", one.id, "sh", "-c", "tty > /terminal").stdout == ""
        until(lambda: box("exec", one.id, "cat", "/terminal", status=None).stdout.startswith("/dev/pts/"))
    finally:
        box("rm", "-f", one.id)
    assert site.containers.all() == []
