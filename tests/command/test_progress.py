"""The views of a build."""

import io
import os
import pty
import re
import select

import pytest

from boxcli import progress


def play(view: progress.Plain | progress.Live) -> None:
    view.step_started(1, 3, "env: A=b")
    view.step_cached(1)
    view.step_started(2, 3, "run: make \033[2J")
    view.step_missed(2, "src/a.c changed")
    for number in range(20):
        view.output(2, f"line {number} \033[31mred\033]0;title\007")
    view.step_done(2, 1.25)
    view.step_started(3, 3, "copy: a -> b")
    view.close()


def on_a_terminal(kind: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What `play` writes to a terminal of 40 columns."""
    import fcntl
    import struct
    import termios

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(slave, "w") as stream:
        play(progress.view(kind, stream))
        written = b""
        while select.select([master], [], [], 0.2)[0]:
            written += os.read(master, 65536)
    os.close(master)
    return written.decode()


def test_plain_lines_say_what_was_cached_and_why_something_was_done() -> None:
    stream = io.StringIO()
    play(progress.view("auto", stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/3] env: A=b  cached"
    assert lines[1] == r"[2/3] run: make \x1b[2J  (src/a.c changed)"
    assert lines[2].startswith("[2/3] | line 0")
    assert lines[-1] == "[2/3] done in 1.2s"
    assert len(lines) == 2 + 20 + 1


def test_nothing_that_a_command_prints_is_obeyed_and_colours_pass_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    play(progress.view("plain", stream))
    assert "\\x1b[31mred" in stream.getvalue()
    assert "\033" not in stream.getvalue()
    written = on_a_terminal("plain", monkeypatch, TERM="xterm")
    assert "\033[31mred" in written
    assert set(re.findall(r"\033[^m]*m", written)) <= {"\033[31m", "\033[0m"}
    assert "\033" not in on_a_terminal("plain", monkeypatch, TERM="xterm", NO_COLOR="1")


def test_a_live_view_sends_the_terminal_nothing_but_its_own_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal("auto", monkeypatch, TERM="xterm")
    assert set(re.findall(r"\033\[[0-9;?]*[A-Za-z]", written)) <= {
        "\033[J",
        "\033[0m",
        "\033[2m",
        "\033[32m",
        *(f"\033[{n}A" for n in range(1, 9)),
    }
    assert "\033]" not in written
    assert "\007" not in written
    assert "1.2s" in written


def test_a_live_view_without_colours_still_moves_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal("auto", monkeypatch, TERM="xterm", NO_COLOR="1")
    assert "\033[J" in written
    assert not re.search(r"\033\[[0-9;]*m", written)


def test_no_line_of_a_live_view_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal("tty", monkeypatch, TERM="xterm")
    plain = re.sub(r"\033\[[0-9;]*[A-Za-z]|\r", "", written)
    assert max(map(len, plain.splitlines())) < 40


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\033" not in on_a_terminal("auto", monkeypatch, TERM="dumb")


def test_wide_characters_count_as_two_columns() -> None:
    assert progress._cut("漢" * 30, 20) == "漢" * 9 + "…"
    assert progress._cut("a" * 30, 20) == "a" * 18 + "…"
    assert progress._cut("short", 20) == "short"
