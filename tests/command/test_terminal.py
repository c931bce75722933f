"""`box run -it` and `box exec -it` at a terminal, and what happens to the terminal without -t."""

import signal
import subprocess
import time

import pytest

from runtime import lifecycle
from tests.command.installed import BOX, Box
from tests.command.terminal import Terminal
from tests.containers import IMAGE, Site, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

RUN = ("run", "--rm", "-it", IMAGE, "sh", "-c")


def test_it_is_a_terminal_with_the_user_s_size(site: Site) -> None:
    script = "tty; stty size; echo term $TERM; ls -l /dev/console; cat /proc/self/fdinfo/0 >/dev/null && : > /dev/tty && echo own"
    with Terminal(*RUN, script) as terminal:
        assert terminal.end() == 0
        lines = terminal.shown.decode().splitlines()
    assert lines[:3] == ["/dev/pts/0", "33 111", "term xterm"]
    assert lines[3].startswith("crw")
    assert lines[4] == "own"


def test_it_follows_when_the_window_changes(site: Site) -> None:
    with Terminal(*RUN, "trap 'stty size' WINCH; trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done") as terminal:
        terminal.until(rb"ready\r\n")
        terminal.resize(44, 55)
        terminal.until(rb"44 55\r\n")
        terminal.resize(20, 30)
        terminal.until(rb"20 30\r\n")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0


def test_keys_are_typed_lines_are_edited_and_shown_once(site: Site) -> None:
    with Terminal(*RUN, "read x; echo got $x") as terminal:
        time.sleep(0.1)
        terminal.type(b"wrong\x7f\x7f\x7f\x7f\x7fright\r")
        terminal.until(rb"got right\r\n")
        assert terminal.end() == 0


def test_ctrl_c_reaches_the_command_not_box(site: Site) -> None:
    with Terminal(*RUN, "trap 'echo caught' INT; sh -c 'echo ready; exec sleep 1000'; echo after $?") as terminal:
        terminal.until(rb"ready\r\n")
        terminal.type(b"\x03")
        terminal.until(rb"caught\r\n")
        terminal.until(rb"after 130\r\n")
        assert terminal.end() == 0


def test_ctrl_d_ends_the_input(site: Site) -> None:
    with Terminal(*RUN, "cat; echo ended") as terminal:
        terminal.type(b"line\r")
        terminal.until(rb"line\r\nline\r\n")
        terminal.type(b"\x04")
        terminal.until(rb"ended\r\n")
        assert terminal.end() == 0


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$; sh -c 'kill -9 $$'", 137)])
def test_the_status_is_the_command_s_and_the_terminal_as_it_was(site: Site, script: str, status: int) -> None:
    with Terminal(*RUN, script) as terminal:
        assert terminal.end() == status
        assert terminal.settings() == terminal.before


def test_the_terminal_is_as_it_was_when_nothing_could_be_run(site: Site) -> None:
    with Terminal("run", "--rm", "-it", IMAGE, "none") as terminal:
        assert terminal.end() == 127
        assert b"box: command not found: none\r\n" in terminal.shown
        assert terminal.settings() == terminal.before


def test_the_terminal_is_as_it_was_when_box_is_told_to_end(site: Site) -> None:
    """It passes the signal on, as always; a command that ends by it gives the terminal back."""
    with Terminal(*RUN, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done") as terminal:
        terminal.until(rb"ready\r\n")
        raw = terminal.settings()
        assert raw != terminal.before
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 5
        assert terminal.settings() == terminal.before


def test_much_output_is_whole(site: Site) -> None:
    script = "import sys\nfor n in range(40000): print('line', n)\nsys.stdout.flush()"
    with Terminal("run", "--rm", "-it", IMAGE, "python3", "-I", "-S", "-c", script) as terminal:
        assert terminal.end(60) == 0
        assert terminal.shown == b"".join(b"line %d\r\n" % number for number in range(40000))


def test_much_input_is_whole_though_the_command_is_slow(site: Site) -> None:
    script = "stty raw -echo; echo ready; sleep 0.3; head -c 300000 > /tmp/x; ls -l /tmp/x"
    with Terminal(*RUN, script) as terminal:
        terminal.until(b"ready")
        terminal.type(bytes(range(255, -1, -1)) * 1172)  # without ctrl-p ctrl-q in it
        terminal.until(rb"300000 .*/tmp/x")
        assert terminal.end() == 0


def test_a_window_that_is_closed_ends_an_interactive_shell_and_leaves_nothing(site: Site) -> None:
    with Terminal("run", "--rm", "-it", IMAGE, "sh") as terminal:
        terminal.until(rb"# ")
        terminal.type(b"echo up\r")
        terminal.until(rb"\nup\r\n")
        terminal.hang_up()
        assert terminal.process.wait(20) in (0, 1, 2, 129)
    assert site.containers.all() == []


# ---- without -t


def test_without_t_the_user_s_terminal_is_not_handed_over(site: Site) -> None:
    """A container that held it could read what is typed afterwards, and put words into it."""
    script = (
        "import os\nfor fd in (0, 1, 2): print(fd, os.isatty(fd), os.readlink(f'/proc/self/fd/{fd}').split(':')[0])\n"
        "print(os.path.exists('/dev/pts/0'))\ntry: open('/dev/tty'); print('a tty')\nexcept OSError as e: print(e.errno)"
    )
    for options in (["--rm"], ["--rm", "-i"], ["-i"]):
        with Terminal("run", *options, IMAGE, "python3", "-I", "-S", "-c", script) as terminal:
            assert terminal.end() == 0
            lines = terminal.shown.decode().splitlines()
        assert [line.split()[1] for line in lines[:3]] == ["False"] * 3, lines
        assert {line.split()[2] for line in lines[:3]} <= {"pipe", "/dev/null"}, lines
        assert lines[3:] == ["False", "6"]
        for one in site.containers.all():
            lifecycle.remove(one)


def test_without_t_input_is_passed_on_by_lines_and_ended_by_ctrl_d(site: Site) -> None:
    with Terminal("run", "--rm", "-i", IMAGE, "cat") as terminal:
        terminal.type(b"typed\n")
        terminal.until(rb"typed\r\ntyped\r\n")  # the terminal's own echo, then cat's
        terminal.type(b"\x04")
        assert terminal.end() == 0


def test_without_t_ctrl_c_is_a_signal_that_box_passes_on(site: Site) -> None:
    with Terminal(
        "run", "--rm", IMAGE, "sh", "-c", "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.02; done"
    ) as terminal:
        terminal.until(rb"ready\r\n")
        terminal.type(b"\x03")
        terminal.until(rb"caught\r\n")
        assert terminal.end() == 3


def test_t_without_i_shows_and_takes_nothing(site: Site) -> None:
    with Terminal("run", "--rm", "-t", IMAGE, "sh", "-c", "tty; stty size; sleep 0.2") as terminal:
        assert terminal.end() == 0
        # The user's terminal, which nobody made raw, puts a carriage return of its own before each line feed.
        assert terminal.shown.replace(b"\r", b"") == b"/dev/pts/0\n33 111\n"


def test_t_and_i_need_a_terminal_and_t_alone_does_not(site: Site, box: Box) -> None:
    assert "standard input is not a terminal" in box("run", "--rm", "-it", IMAGE, "true", status=125).stderr
    assert box("run", "--rm", "-t", IMAGE, "tty").stdout == "/dev/pts/0\n"


def test_in_the_background_a_terminal_s_output_is_in_the_log(site: Site, box: Box) -> None:
    box("run", "-d", "-t", "--name", "tty", IMAGE, "sh", "-c", "tty; echo out; echo err >&2; exit 4")
    assert box("wait", "tty").stdout == "4\n"
    assert box("logs", "tty").stdout == "/dev/pts/0\nout\nerr\n"
    box("rm", "tty")


# ---- exec


def test_exec_makes_a_terminal_in_the_container(site: Site) -> None:
    one = site.start("sleep", "1000", name="host")
    with Terminal("exec", "-it", "host", "sh", "-c", "tty; stty size; read x; echo got $x; exit 6") as terminal:
        terminal.until(rb"/dev/pts/0\r\n")
        terminal.until(rb"33 111\r\n")
        terminal.type(b"typed\r")
        terminal.until(rb"got typed\r\n")
        assert terminal.end() == 6
        assert terminal.settings() == terminal.before
    lifecycle.stop(one, 0)


def test_two_terminals_of_a_container_are_two(site: Site) -> None:
    with Terminal(*RUN, "tty; read x; echo first $x") as first:
        first.until(rb"/dev/pts/0\r\n")
        name = until(lambda: [one.name for one in site.containers.all() if one.status == "running"])[0]
        with Terminal("exec", "-it", name, "sh", "-c", "tty; read x; echo second $x", rows=10, columns=20) as second:
            second.until(rb"/dev/pts/1\r\n")
            second.type(b"b\r")
            second.until(rb"second b\r\n")
            assert second.end() == 0
        first.type(b"a\r")
        first.until(rb"first a\r\n")
        assert first.end() == 0


def test_exec_without_t_does_not_hand_the_user_s_terminal_over(site: Site) -> None:
    one = site.start("sleep", "1000", name="host")
    script = "import os\nprint([os.isatty(fd) for fd in (0, 1, 2)])"
    for options in ([], ["-i"]):
        with Terminal("exec", *options, "host", "python3", "-I", "-S", "-c", script) as terminal:
            assert terminal.end() == 0
            assert terminal.shown == b"[False, False, False]\r\n"
    lifecycle.stop(one, 0)


def test_an_image_s_own_ptmx_is_not_what_a_terminal_is_made_of(site: Site) -> None:
    """The container may have replaced its links in /dev: exec opens the devpts itself."""
    one = site.start("sh", "-c", "rm /dev/ptmx; echo trap > /dev/ptmx; exec sleep 1000", name="host")
    # While it is still the real one, reading it would wait for ever.
    look = [BOX, "exec", "host", "sh", "-c", "[ -f /dev/ptmx ] && cat /dev/ptmx"]
    until(lambda: subprocess.run(look, capture_output=True, check=False).stdout == b"trap\n")
    with Terminal("exec", "-it", "host", "tty") as terminal:
        assert terminal.end() == 0
        assert terminal.shown == b"/dev/pts/0\r\n"
    lifecycle.stop(one, 0)
