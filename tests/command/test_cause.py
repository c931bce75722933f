"""Why did it die? What `run` says on standard error after a bad end, and `inspect` afterwards; a good end says nothing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.command.installed import BOX, Box
from tests.command.terminal import Terminal
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

TAKE = "x = bytearray(b'x') * (128 << 20)"
# prctl(NO_NEW_PRIVS), then a filter that kills for getppid (110 on x86_64, 173 on aarch64), then that call.
FILTERED = """
import ctypes, os, struct
number = 110 if os.uname().machine == 'x86_64' else 173
code = b''.join(struct.pack('HBBI', *each) for each in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 4, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, program) == 0
os.getppid()
"""


@pytest.fixture
def python(box: Box, tmp_path: Path) -> str:
    (tmp_path / "Boxfile").write_text("box: 1\nname: py\nbase: {host: [sh, python3, sleep]}\nconfig: {cmd: [python3]}\n")
    box("build", "-q", tmp_path)
    return "py"


def reason(box: Box, name: str) -> str:
    return box("inspect", "-f", "{{.State.Reason}}", name).stdout.strip()


class TestMemory:
    def test_the_limit_that_was_reached_is_named(self, box: Box, python: str) -> None:
        done = box("run", "--name", "m", "-m", "48m", python, "python3", "-c", TAKE, status=137)
        said = "the container ran out of memory: the limit of 48 MiB (--memory) was reached, and the kernel killed a process"
        assert done.stderr == f"box: {said}\n"
        assert reason(box, "m") == said
        state = json.loads(box("inspect", "m").stdout)[0]["State"]
        assert (state["OOMKilled"], state["ExitCode"], state["Error"]) == (True, 137, "")
        box("rm", "m")

    def test_a_child_that_was_killed_is_told_though_the_command_ended_by_itself(self, box: Box, python: str) -> None:
        done = box("run", "--rm", "-m", "48m", python, "sh", "-c", f'python3 -c "{TAKE}"; exit 5', status=5)
        assert "the limit of 48 MiB (--memory) was reached" in done.stderr

    def test_a_command_that_did_well_in_spite_of_it_is_left_in_peace(self, box: Box, python: str) -> None:
        done = box("run", "--rm", "-m", "48m", python, "sh", "-c", f'python3 -c "{TAKE}" 2>/dev/null; exit 0')
        assert "box:" not in done.stderr


class TestProcesses:
    def test_how_often_the_limit_was_hit_is_said(self, box: Box, python: str) -> None:
        script = "import os\nfor _ in range(3):\n  try: os.fork()\n  except OSError: pass\nos._exit(4)"
        done = box("run", "--rm", "--pids-limit", "1", python, "python3", "-c", script, status=4)
        assert done.stderr == "box: the container was refused another process 3 times: its limit is 1 (--pids-limit)\n"


class TestSignals:
    def test_one_that_killed_the_command_is_named(self, box: Box, python: str) -> None:
        done = box("run", "--name", "s", python, "python3", "-c", "import ctypes; ctypes.string_at(0)", status=139)
        assert done.stderr == "box: the container was killed by SIGSEGV (segmentation fault)\n"
        assert reason(box, "s") == "the container was killed by SIGSEGV (segmentation fault)"
        box("start", "s")
        box("wait", "s")
        assert "segmentation" in box("start", "-a", "s", status=139).stderr
        box("rm", "s")

    def test_a_shell_s_word_for_it_is_explained(self, box: Box, python: str) -> None:
        done = box("run", "--rm", python, "sh", "-c", "python3 -c 'import os; os.abort()'; exit $?", status=134)
        assert "status 134, as a shell does when a program was killed by SIGABRT (aborted)" in done.stderr

    def test_what_the_user_asked_for_is_not(self, box: Box, python: str) -> None:
        with subprocess.Popen([BOX, "run", "--rm", "--name", "k", python, "sleep", "60"], stderr=subprocess.PIPE) as process:
            until(lambda: "k" in box("ps", "--format", "{{.Names}}").stdout)
            for _ in range(3):
                process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            assert process.communicate(timeout=20)[1] == b""
            assert process.returncode == 137

    def test_one_that_was_stopped_says_so_when_it_is_looked_at(self, box: Box, python: str) -> None:
        box("run", "-d", "--name", "d", python, "sleep", "60")
        box("kill", "d")
        box("wait", "d")
        assert reason(box, "d") == "the container was killed by SIGKILL"
        box("rm", "d")

    def test_at_a_terminal_it_is_said_too(self, box: Box, python: str) -> None:
        with Terminal("run", "--rm", "-it", python, "python3", "-c", "import ctypes; ctypes.string_at(0)") as terminal:
            terminal.until(rb"box: the container was killed by SIGSEGV")
            assert terminal.end() == 139

    @pytest.mark.parametrize("status", [0, 1, 2, 100, 127, 130, 143])
    def test_an_ordinary_end_says_nothing(self, box: Box, python: str, status: int) -> None:
        assert box("run", "--rm", python, "sh", "-c", f"exit {status}", status=status).stderr == ""


class TestFilter:
    def test_the_call_for_which_a_filter_killed_is_named(self, box: Box, python: str) -> None:
        done = box("run", "--rm", python, "python3", "-c", FILTERED, status=128 + signal.SIGSYS)
        assert done.stderr == "box: python3 was killed for getppid by its system call filter\n"

    def test_calls_that_box_s_own_filter_refuses_are_named_where_that_is_asked_for(self, box: Box, python: str) -> None:
        script = "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0"
        command = (python, "sh", "-c", f'python3 -c "{script}"; exit 1')
        assert "filter" not in box("run", "--rm", *command, status=1).stderr
        done = box("run", "--rm", "--security-opt", "seccomp=log", *command, status=1)
        assert "box: its system call filter refused unshare\n" in done.stderr
        fine = box("run", "--rm", "--security-opt", "seccomp=log", python, "python3", "-c", script.replace("== 0", "!= 0"))
        assert fine.stderr == ""


class TestNotExecuted:
    @pytest.fixture
    def programs(self, tmp_path: Path) -> Path:
        """Files that no kernel can execute, each for a reason of its own."""
        folder = tmp_path / "programs"
        folder.mkdir()
        native = Path("/bin/true").read_bytes()
        loader = next(name for name in (b"/lib64/ld-linux-x86-64.so.2", b"/lib/ld-linux-aarch64.so.1") if name in native)
        foreign = bytearray(native)
        foreign[18:20] = (8).to_bytes(2, "little")
        missing = b"/lib64/ld-nonesuch.so.2".ljust(len(loader), b"\0")
        for name, content, mode in (
            ("loader", native.replace(loader, missing), 0o755),
            ("foreign", bytes(foreign), 0o755),
            ("script", b"#!/bin/nosuchshell -x\n", 0o755),
            ("crlf", b"#!/bin/sh\r\n", 0o755),
            ("indirect", b"#!/programs/plain\n", 0o755),
            ("to-directory", b"#!/etc\n", 0o755),
            ("no-line", b"echo hello\n", 0o755),
            ("empty", b"", 0o755),
            ("plain", b"#!/bin/sh\n", 0o644),
            ("hostile", b"#!/bin/\x1b[31m\x07\n", 0o755),
        ):
            (folder / name).write_bytes(content)
            (folder / name).chmod(mode)
        os.mkfifo(folder / "fifo", 0o755)
        return folder

    @pytest.mark.parametrize(("name", "said"), [
        ("loader", "needs the loader /lib64/ld-nonesuch.so.2, which the image does not have"),
        ("foreign", f"is built for mips, and this machine is {os.uname().machine}"),
        ("script", "the first line of /programs/script asks for /bin/nosuchshell, which the image does not have"),
        ("crlf", "ends in a carriage return"),
        ("indirect", "/programs/plain is not marked as executable"),
        ("to-directory", "/etc is a directory"),
        ("no-line", "neither a program nor a script"),
        ("empty", "/programs/empty is empty"),
        ("plain", "/programs/plain is not marked as executable"),
        ("fifo", "/programs/fifo is no regular file"),
        ("", "/programs/ is a directory"),
    ])  # fmt: skip
    def test_the_reason_is_told(self, box: Box, tiny: str, programs: Path, name: str, said: str) -> None:
        done = box("run", "--rm", "-v", f"{programs}:/programs:ro", tiny, f"/programs/{name}", status=126)
        assert said in done.stderr, done.stderr

    def test_in_an_image_as_in_a_volume_and_by_exec_too(self, box: Box, tiny: str, programs: Path, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text(f"box: 1\nname: own\nbase: {tiny}\nsteps: [{{copy: programs/script -> /script}}]\n")
        box("build", "-q", tmp_path)
        assert "asks for /bin/nosuchshell" in box("run", "--rm", "own", "/script", status=126).stderr
        box("run", "-d", "--name", "e", "own", "sleep", "60")
        assert "asks for /bin/nosuchshell" in box("exec", "e", "/script", status=126).stderr
        box("rm", "-f", "e")

    def test_what_an_image_says_cannot_do_anything_to_a_terminal(self, box: Box, tiny: str, programs: Path) -> None:
        done = box("run", "--rm", "-v", f"{programs}:/programs", tiny, "/programs/hostile", status=126)
        assert "which the image does not have" in done.stderr
        assert not {"\x1b", "\x07"} & {*done.stderr}

    @pytest.mark.parametrize(("typed", "meant"), [("sleeep", "sleep"), ("/bin/slep", "/bin/sleep"), ("hostnam", "hostname")])
    def test_a_command_that_is_not_there_is_answered_with_the_nearest(self, box: Box, tiny: str, typed: str, meant: str) -> None:
        assert f"did you mean '{meant}'?" in box("run", "--rm", tiny, typed, status=127).stderr

    def test_nothing_near_is_nothing_said(self, box: Box, tiny: str) -> None:
        assert "did you mean" not in box("run", "--rm", tiny, "qqqqqq", status=127).stderr

    def test_a_start_that_failed_is_known_until_one_succeeds(self, box: Box, tiny: str, programs: Path) -> None:
        box("create", "--name", "c", "-v", f"{programs}:/programs", tiny, "/programs/plain")
        assert box("inspect", "-f", "{{.State.Error}}", "c").stdout == "\n"
        box("start", "c", status=1)
        assert "not marked as executable" in box("inspect", "-f", "{{.State.Error}}", "c").stdout
        (programs / "plain").chmod(0o755)
        box("start", "c")
        box("wait", "c")
        assert box("inspect", "-f", "{{.State.Error}}", "c").stdout == "\n"
        box("rm", "c")
