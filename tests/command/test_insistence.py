"""What would otherwise never end: a command that heeds no signal, output that nobody reads, a container past recording."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.installed import BOX, Box
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_signal_ends_a_first_process_that_heeds_none(tiny: str, tmp_path: Path, number: signal.Signals) -> None:
    said = tmp_path / "said"
    with open(said, "wb") as file:
        command = [BOX, "run", "--rm", tiny, "sh", "-c", "echo begun; exec sleep 1000"]
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file)
    until(lambda: said.read_bytes() == b"begun\n")
    for _ in range(2):
        running.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):  # the control: one does not suffice, nor do two
            running.wait(0.3)
    running.send_signal(number)
    assert running.wait(20) == 137
    assert os.listdir(f"{os.environ['BOX_ROOT']}/containers") == []


READER_GONE = """
import os, pty, subprocess, sys
master, slave = pty.openpty()  # standard input is a terminal, so that the output is copied and not handed on
command = subprocess.Popen(sys.argv[1:], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
print(command.stdout.readline())
command.stdout.close()
print(command.wait(20))
"""


def test_a_container_whose_reader_went_away_ends(tiny: str) -> None:
    command = [str(BOX), "run", "--rm", tiny, "sh", "-c", "while echo y; do :; done"]
    done = subprocess.run([sys.executable, "-c", READER_GONE, *command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[0] == "b'y\\n'"


ENDLESS = "while :; do echo y; done"  # a shell that is process 1 gets EPIPE for ever, and heeds it not


def run_and_read_a_line(*arguments: str) -> tuple[bytes, int]:
    command = [BOX, "run", *arguments]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert running.stdout is not None
    line = running.stdout.readline()
    running.stdout.close()
    try:
        return line, running.wait(20)
    finally:
        running.kill()


@pytest.mark.parametrize("options", [["--rm"], ["--name", "logged"], ["--rm", "-t"]], ids=["handed on", "copied", "terminal"])
def test_a_first_process_that_writes_where_nobody_reads_ends_as_in_a_shell(tiny: str, options: list[str]) -> None:
    line, status = run_and_read_a_line(*options, tiny, "sh", "-c", ENDLESS)
    assert (line.rstrip(), status) == (b"y", 141)


@pytest.mark.parametrize("options", [["--rm"], ["--name", "logged"]], ids=["handed on", "copied"])
def test_only_who_writes_where_nobody_reads_ends(tiny: str, box: Box, options: list[str]) -> None:
    assert run_and_read_a_line(*options, tiny, "sh", "-c", f"sh -c '{ENDLESS}'; sleep 0.3; exit 7") == (b"y\n", 7)
    box("rm", "-f", "logged", status=None)
    assert run_and_read_a_line(*options, tiny, "sh", "-c", "echo y; sleep 0.5; exit 8") == (b"y\n", 8)


@pytest.mark.parametrize("options", [["--rm"], ["--name", "logged"]], ids=["handed on", "copied"])
def test_a_first_process_that_ignores_a_broken_pipe_goes_on(tiny: str, options: list[str]) -> None:
    script = "trap '' PIPE; echo y; sleep 0.3; i=0; while [ $i -lt 500 ]; do echo z; i=$((i + 1)); done; exit 9"
    assert run_and_read_a_line(*options, tiny, "sh", "-c", script) == (b"y\n", 9)


def test_a_full_disk_keeps_no_command_from_working_after_one_was_killed(tiny: str, tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", root], check=True)
    try:
        subprocess.run([BOX, "save", "-o", tmp_path / "tiny.tar", tiny], check=True)
        there = [BOX, "--root", root]
        subprocess.run([*there, "load", "-q", "-i", tmp_path / "tiny.tar"], check=True, capture_output=True)
        running = subprocess.Popen([*there, "run", "--name", "k", tiny, "sleep", "1000"], stdin=subprocess.DEVNULL)
        until(lambda: b"k" in subprocess.run([*there, "ps", "--format", "{{.Names}}"], capture_output=True, check=True).stdout)
        running.kill()
        running.wait()
        with open(root / "filler", "wb") as filler, pytest.raises(OSError, match="No space left"):
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        assert subprocess.run([*there, "ps", "-a"], capture_output=True, check=False).returncode == 0
        gone = subprocess.run([*there, "rm", "-f", "k"], capture_output=True, text=True, check=False)
        assert (gone.returncode, gone.stderr) == (0, "")
        assert os.listdir(root / "containers") == []
    finally:
        subprocess.run(["umount", "-l", root], check=True)
