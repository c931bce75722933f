"""How a build looks while it goes on: a live view on a terminal, plain lines elsewhere. All of it goes to standard error.

What steps are called and what their commands print is anybody's text: nothing of it reaches a terminal as a command.
"""

from __future__ import annotations

import os
import time

from boxcli import escapes
from boxcli.escapes import colors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

KINDS = ("auto", "plain", "tty")

_DIM, _GREEN, _RESET = "\033[2m", "\033[32m", "\033[0m"
_ERASE_BELOW = "\033[J"
_SHOWN = 6  # lines of the running command's output
_REDRAW = 0.05  # seconds between two pictures, at least: a terminal is slower than a command


def view(kind: str, stream: TextIO) -> Plain | Live:
    """The view for `kind` (of KINDS) on `stream`; `auto` is live where escape sequences are understood."""
    terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Live(stream) if kind == "tty" or (kind == "auto" and terminal) else Plain(stream)


class Plain:
    """One line for each thing that happens, in the order in which it does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._clean = escapes.cleaner(stream)
        self._head = ""
        self._text = ""

    def step_started(self, number: int, total: int, text: str) -> None:
        self._head = f"[{number}/{total}]"
        self._text = escapes.one_line(text)

    def step_cached(self, number: int) -> None:
        self._say(f"{self._head} {self._text}  cached")

    def step_missed(self, number: int, reason: str) -> None:
        self._say(f"{self._head} {self._text}" + (f"  ({escapes.one_line(reason)})" if reason else ""))

    def output(self, number: int, line: str) -> None:
        self._say(f"{self._head} | {self._clean(line)}")

    def step_done(self, number: int, seconds: float) -> None:
        self._say(f"{self._head} done in {seconds:.1f}s")

    def close(self) -> None:
        """Nothing more will come."""

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Live:
    """A line for each step that is done, and below them the running one with the last lines of its output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._color = colors(stream)
        self._drawn = 0  # lines of the picture that are on the screen, below the finished steps
        self._last = 0.0
        self._head = ""
        self._text = ""
        self._output: list[str] = []

    def step_started(self, number: int, total: int, text: str) -> None:
        self._head = f"[{number}/{total}]"
        self._text = escapes.one_line(text)
        self._output = []
        self._draw()

    def step_cached(self, number: int) -> None:
        self._finish("cached", _DIM)

    def step_missed(self, number: int, reason: str) -> None:
        self._text += f"  ({escapes.one_line(reason)})" if reason else ""
        self._draw()

    def output(self, number: int, line: str) -> None:
        self._output = [*self._output[1 - _SHOWN :], escapes.one_line(line.expandtabs())]
        if time.monotonic() - self._last >= _REDRAW:
            self._draw()

    def step_done(self, number: int, seconds: float) -> None:
        self._finish(f"{seconds:.1f}s", _GREEN)

    def close(self) -> None:
        """Take the picture of an unfinished step away, but for its name."""
        if self._drawn:
            self._output = []
            self._draw()
            self._drawn = 0

    def _finish(self, word: str, style: str) -> None:
        before, after = (style, _RESET) if self._color else ("", "")
        line = _cut(f"{self._head} {self._text}", self._width() - len(word) - 2)
        self._stream.write(f"{self._rewind()}{line}  {before}{word}{after}\n")
        self._stream.flush()
        self._drawn = 0

    def _draw(self) -> None:
        before, after = (_DIM, _RESET) if self._color else ("", "")
        width = self._width()
        lines = [_cut(f"{self._head} {self._text}", width)]
        lines += [f"{before}{_cut('  | ' + line, width)}{after}" for line in self._output]
        self._stream.write(self._rewind() + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)
        self._last = time.monotonic()

    def _rewind(self) -> str:
        return (f"\033[{self._drawn}A" if self._drawn else "") + "\r" + _ERASE_BELOW

    def _width(self) -> int:
        try:
            return max(20, os.get_terminal_size(self._stream.fileno()).columns)
        except OSError:
            return 80


def _cut(text: str, width: int) -> str:
    """`text` in less than `width` columns: a line that wrapped would put the picture out of step."""
    if text.isascii():
        return text if len(text) < width else text[: width - 2] + "…"
    from unicodedata import combining, east_asian_width

    columns = 0
    for at, character in enumerate(text):
        columns += 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1
        if columns >= width - 1:
            return text[:at] + "…"
    return text
