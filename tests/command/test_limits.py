"""pause, unpause, top, stats, update, and the limits of run, as a user types them."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from boxcli.table import parse
from boxcli.verbs import run
from tests.command.installed import BOX, Box
from tests.command.terminal import Terminal
from tests.containers import cgroups, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def setting(box: Box, name: str, *files: str) -> str:
    """The value of a container's control file, by its name on v1 or on v2."""
    identity = box("inspect", "-f", "{{.Id}}", name).stdout.strip()
    found = [path for group in cgroups(identity) for file in files if (path := Path(group, file)).exists()]
    assert found, (files, cgroups(identity))
    return found[0].read_text().strip()


class TestPause:
    def test_a_paused_container_is_shown_as_such_and_goes_on_when_it_may(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "p", tiny, "sleep", "100")
        assert box("pause", "p").stdout == "p\n"
        assert re.search(r"Up .* \(Paused\)", box("ps").stdout)
        assert box("ps", "--format", "{{.State}}").stdout == "paused\n"
        assert box("ps", "-qf", "status=running").stdout == ""
        assert len(box("ps", "-qf", "status=paused").stdout) == 13
        assert box("inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.Paused}}", "p").stdout == "paused true true\n"
        assert box("unpause", "p").stdout == "p\n"
        assert "Paused" not in box("ps").stdout
        assert box("exec", "p", "cat", "/etc/motd").stdout == "hello\n"

    def test_what_it_cannot_do_meanwhile_is_refused_clearly(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "p", tiny, "sleep", "100")
        assert "is not paused" in box("unpause", "p", status=1).stderr
        box("pause", "p")
        assert "paused already" in box("pause", "p", status=1).stderr
        done = box("exec", "p", "true", status=125)
        assert done.stderr == "box: cannot execute in a paused container: p\nhint: box unpause p\n"
        assert "paused container" in box("attach", "p", status=1).stderr
        assert "paused container" in box("start", "p", status=1).stderr

    @pytest.mark.parametrize("verb", [["stop", "-t", "5"], ["kill"], ["rm", "-f"]])
    def test_it_can_be_ended(self, box: Box, tiny: str, verb: list[str]) -> None:
        identity = box("run", "-d", "--name", "p", tiny, "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done")
        box("pause", "p")
        assert box(*verb, "p").stdout == "p\n"
        until(lambda: cgroups(identity.stdout.strip()) == [])
        if verb[0] == "stop":
            assert box("wait", "p").stdout == "4\n"

    def test_each_that_is_named_is_tried(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "one", tiny, "sleep", "100")
        box("create", "--name", "rests", tiny)
        done = box("pause", "rests", "nonesuch", "one", status=1)
        assert done.stdout == "one\n"
        assert "rests is not running" in done.stderr
        assert "nonesuch" in done.stderr


class TestTop:
    def test_it_shows_the_container_s_processes_and_no_others(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--init=false", "--name", "t", "-u", "7654", tiny, "sh", "-c", "sleep 1001; true")
        until(lambda: "sleep 1001" in box("top", "t").stdout)
        head, *lines = box("top", "t").stdout.splitlines()
        assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert sorted(line.split(None, 7)[7] for line in lines if "1001" in line)[-1] == "sleep 1001"
        assert len(lines) == 2
        assert {line.split()[0] for line in lines} == {"7654"}

    @pytest.mark.parametrize("options", [["-o", "pid,args"], ["-eo", "pid,args"], ["aux"], ["-ef"], ["u"]])
    def test_options_of_ps_are_taken(self, box: Box, tiny: str, options: list[str]) -> None:
        box("run", "-d", "--init=false", "--name", "t", tiny, "sleep", "1003")
        lines = box("top", "t", *options).stdout.splitlines()
        assert "PID" in lines[0]
        assert len(lines) == 2
        assert lines[1].endswith("sleep 1003")

    def test_what_ps_or_box_cannot_do_is_said(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--init=false", "--name", "t", tiny, "sleep", "100")
        assert "no PID" in box("top", "t", "-o", "args", status=2).stderr
        assert "ps: " in box("top", "t", "-o", "nonsense", status=2).stderr
        box("create", "--name", "rests", tiny)
        assert "not running" in box("top", "rests", status=1).stderr


class TestStats:
    def test_it_has_docker_s_columns_and_what_is_used(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--init=false", "--name", "busy", "-m", "64m", tiny, "sh", "-c", "while :; do :; done")
        head, line = box("stats", "--no-stream").stdout.splitlines()
        assert re.split(r"\s{3,}", head) == [
            "CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS",
        ]  # fmt: skip
        cells = re.split(r"\s{3,}", line)
        assert cells[1] == "busy"
        assert 30 < float(cells[2].removesuffix("%")) < 120
        assert cells[3].endswith(" / 64MiB")
        assert cells[7] == "1"

    def test_json_and_templates_have_docker_s_fields(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--init=false", "--name", "idle", tiny, "sleep", "100")
        box("create", "--name", "rests", tiny)
        record = json.loads(box("stats", "--no-stream", "--format", "json", "idle").stdout)
        assert {*record} == {"Container", "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"}
        assert box("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}").stdout == "idle 1\n"
        assert sorted(box("stats", "-a", "--no-stream", "--format", "{{.Name}} {{.PIDs}}").stdout.splitlines()) == [
            "idle 1", "rests --",
        ]  # fmt: skip

    def test_at_a_terminal_it_is_shown_again_and_again_until_it_is_interrupted(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--init=false", "--name", "idle", tiny, "sleep", "100")
        with Terminal("stats") as terminal:
            for _ in range(2):
                terminal.until(rb"CONTAINER ID.*\r\n.*idle")
            terminal.type(b"\x03")
            assert terminal.end() == 130

    def test_it_ends_with_the_last_that_was_named(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "brief", tiny, "sleep", "100")
        with subprocess.Popen([BOX, "stats", "brief"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            box("kill", "brief")
            process.communicate(timeout=20)
            assert process.returncode == 0


class TestUpdate:
    def test_limits_change_now_and_for_the_next_start(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "u", tiny, "sleep", "100")
        wanted = ("--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", "--cpus", "0.5", "-c", "512",
                  "--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "33")  # fmt: skip
        assert box("update", *wanted, "u").stdout == "u\n"
        for _ in range(2):
            assert setting(box, "u", "pids.max") == "33"
            assert setting(box, "u", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
            assert setting(box, "u", "cpu.shares", "cpu.weight") in ("512", "59")
            assert setting(box, "u", "cpuset.cpus") == "0"
            box("restart", "-t", "0", "u")
        shown = json.loads(box("inspect", "u").stdout)[0]["HostConfig"]
        keys = ("Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares", "PidsLimit")
        assert [shown[key] for key in keys] == [64 << 20, 96 << 20, 32 << 20, 500_000_000, 512, 33]
        assert (shown["CpusetCpus"], shown["CpusetMems"]) == ("0", "0")

    def test_mistakes_are_said(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "u", tiny, "sleep", "100")
        assert "no limit is named" in box("update", "u", status=2).stderr
        assert "--memory-swap is less" in box("update", "-m", "64m", "--memory-swap", "32m", "u", status=2).stderr
        assert "below 6 MiB" in box("update", "-m", "4k", "u", status=2).stderr
        assert "--cpuset-cpus: " in box("update", "--cpuset-cpus", "4000", "u", status=1).stderr
        assert "no container" in box("update", "--pids-limit", "3", "nonesuch", status=1).stderr

    def test_no_limit_of_processes_is_minus_one(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "u", "--pids-limit", "-1", tiny, "sleep", "100")
        assert setting(box, "u", "pids.max") == "max"
        box("update", "--pids-limit", "5", "u")
        assert setting(box, "u", "pids.max") == "5"
        box("update", "--pids-limit=-1", "u")
        assert setting(box, "u", "pids.max") == "max"


class TestRun:
    def test_the_limits_of_a_new_container_are_in_force(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "l", "-m", "64m", "--memory-reservation", "32m", "--memory-swap", "64m", "--cpu-shares", "256",
            "--cpuset-cpus", "0", "--cpuset-mems", "0", tiny, "sleep", "100")  # fmt: skip
        assert setting(box, "l", "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
        assert setting(box, "l", "cpu.shares", "cpu.weight") in ("256", "35")
        pid = int(box("inspect", "-f", "{{.State.Pid}}", "l").stdout)
        assert os.sched_getaffinity(pid) == {0}

    @pytest.mark.parametrize("wrong", [
        ["--memory-swap", "64m"], ["-m", "64m", "--memory-swap", "32m"], ["-m", "32m", "--memory-reservation", "64m"],
        ["--cpuset-cpus", "4000"],
    ])  # fmt: skip
    def test_contradictions_and_what_the_machine_has_not_are_told(self, box: Box, tiny: str, wrong: list[str]) -> None:
        assert "--" in box("run", "--rm", *wrong, tiny, "true", status=125).stderr
        assert os.listdir(f"{os.environ['BOX_ROOT']}/containers") == []

    @pytest.mark.parametrize("argv", [
        ["--cpuset-cpus", "3-1"], ["--cpuset-cpus", "a"], ["--cpuset-mems", ""], ["--cpu-shares", "0"], ["--pids-limit", "-2"],
        ["--pids-limit", "-2"], ["--memory-swap", "-2"],
    ])  # fmt: skip
    def test_nonsense_is_refused(self, argv: list[str]) -> None:
        assert parse(run.VERB, [*argv, "image"], "/nowhere") is None


def test_an_interrupted_run_of_a_paused_container_leaves_nothing(box: Box, tiny: str) -> None:
    """Its own process is killed while the container stands still: the next command clears up, though SIGKILL alone would not."""
    with subprocess.Popen([BOX, "run", "--name", "p", tiny, "sleep", "100"]) as process:
        until(lambda: "p" in box("ps", "--format", "{{.Names}}").stdout)
        identity = box("inspect", "-f", "{{.Id}}", "p").stdout.strip()
        box("pause", "p")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "Exited (137)" in box("ps", "-a").stdout
    assert cgroups(identity) == []
