"""Leaving what `exec -it` runs, and waiting for containers to be something."""

import signal
import subprocess
import time

import pytest

from tests.command.installed import BOX, Box
from tests.command.terminal import Terminal
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

COUNT = "n=0; while :; do n=$((n+1)); echo line $n; echo $n > /count; sleep 0.02; done"


@pytest.fixture
def up(box: Box, tiny: str) -> str:
    box("run", "-d", "--name", "up", tiny, "sh", "-c", "while :; do sleep 1; done")
    return "up"


def count(box: Box) -> int:
    return int(box("exec", "up", "cat", "/count").stdout or 0)


class TestExec:
    @pytest.mark.parametrize(("options", "keys"), [([], b"\x10\x11"), (["--detach-keys", "ctrl-a,d"], b"\x01d")])
    def test_the_keys_leave_it_running_and_give_the_terminal_back(
        self, box: Box, up: str, options: list[str], keys: bytes
    ) -> None:
        with Terminal("exec", "-it", *options, up, "sh", "-c", COUNT) as terminal:
            terminal.until(rb"line 3\r\n")
            terminal.type(keys)
            assert terminal.end() == 0
        seen = count(box)
        until(lambda: count(box) > seen + 20)  # it writes on, though nobody reads
        box("kill", up)
        box("wait", up)

    def test_other_keys_than_the_wanted_ones_are_the_command_s(self, box: Box, up: str) -> None:
        with Terminal(
            "exec", "-it", "--detach-keys", "ctrl-x", up, "sh", "-c", "stty raw -echo; echo ready; head -c 3"
        ) as terminal:
            terminal.until(rb"ready")
            terminal.type(b"\x10\x11z")
            assert terminal.end() == 0
            assert b"\x10\x11z" in terminal.shown

    def test_it_ends_with_a_command_that_is_killed_before_it_was_left(self, box: Box, up: str) -> None:
        with Terminal("exec", "-it", up, "sh", "-c", f"trap '' HUP; {COUNT}") as terminal:
            terminal.until(rb"line 3\r\n")
            terminal.process.send_signal(signal.SIGKILL)
            terminal.process.wait()
        until(lambda: len(box("top", up, "-o", "pid,args").stdout.split("echo line")) == 1)

    def test_the_status_and_the_errors_are_as_ever(self, box: Box, up: str) -> None:
        with Terminal("exec", "-it", up, "sh", "-c", "exit 7") as terminal:
            assert terminal.end() == 7
        with Terminal("exec", "-it", up, "sh", "-c", "kill -KILL $$") as terminal:
            assert terminal.end() == 137
        with Terminal("exec", "-it", up, "nonesuch") as terminal:
            assert terminal.end() == 127
            assert b"box: command not found: nonesuch" in terminal.shown

    def test_a_signal_for_box_is_the_command_s(self, box: Box, up: str) -> None:
        script = "trap 'echo came; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
        with Terminal("exec", "-it", up, "sh", "-c", script) as terminal:
            terminal.until(rb"ready\r\n")
            terminal.process.send_signal(signal.SIGTERM)
            terminal.until(rb"came\r\n")
            assert terminal.end() == 5


class TestWait:
    def test_for_one_to_run(self, box: Box, tiny: str) -> None:
        box("create", "--name", "w", tiny, "sleep", "60")
        with subprocess.Popen([BOX, "wait", "--condition", "running", "w"], stdout=subprocess.PIPE, text=True) as waiting:
            time.sleep(0.3)
            assert waiting.poll() is None
            box("start", "w")
            assert waiting.communicate(timeout=20)[0] == "-1\n"
        assert box("wait", "--condition=created", "--condition=running", "w").stdout == "-1\n"

    def test_for_one_to_be_paused_stopped_and_removed(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "w", tiny, "sleep", "60")
        for condition, act, said in (
            ("paused", ["pause"], "-1\n"), ("running", ["unpause"], "-1\n"), ("exited", ["kill"], "137\n"),
            ("removed", ["rm"], "-1\n"),
        ):  # fmt: skip
            command = [BOX, "wait", "-i", "0.02", "--condition", condition, "w"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
                time.sleep(0.1)
                box(*act, "w")
                assert waiting.communicate(timeout=20)[0] == said

    def test_one_that_is_removed_is_nothing_else_any_more(self, box: Box, tiny: str) -> None:
        box("create", "--name", "w", tiny)
        with subprocess.Popen([BOX, "wait", "--condition", "running", "w"], stderr=subprocess.PIPE, text=True) as waiting:
            time.sleep(0.2)
            box("rm", "w")
            assert "no container named 'w'" in waiting.communicate(timeout=20)[1]
            assert waiting.returncode == 1

    def test_for_one_to_be_healthy(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "w", "--health-cmd", "cat /fine", "--health-interval", "0.1s", "--health-retries", "2", tiny,
            "sleep", "60")  # fmt: skip
        assert box("wait", "--condition", "unhealthy", "w").stdout == "-1\n"
        with subprocess.Popen([BOX, "wait", "--condition", "healthy", "w"], stdout=subprocess.PIPE, text=True) as waiting:
            time.sleep(0.3)
            assert waiting.poll() is None
            box("exec", "w", "touch", "/fine")
            assert waiting.communicate(timeout=20)[0] == "-1\n"

    def test_one_without_checks_is_never_healthy_and_says_so(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "w", tiny, "sleep", "60")
        assert "has no health checks" in box("wait", "--condition", "healthy", "w", status=1).stderr

    def test_nonsense_is_refused(self, box: Box) -> None:
        assert "'ready' is not one of" in box("wait", "--condition", "ready", "w", status=2).stderr
