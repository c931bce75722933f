"""The ends of a container's input and output that do not go into it: its keeper holds them, and the monitor copies."""

import os

from runtime import stubs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Streams:
    """`sources` are read from, by stream; `input` is written to (-1: it takes none); `unwritten` is what it has not taken yet."""

    __slots__ = ("input", "sources", "terminal", "theirs", "unwritten")

    def __init__(self, *, terminal: bool) -> None:
        self.terminal = terminal
        self.sources: dict[int, str] = {}
        self.theirs: list[int] = []
        self.input = -1
        self.unwritten = b""

    @classmethod
    def of(cls, held: "Mapping[int, int]", *, terminal: bool, interactive: bool) -> "Streams":
        """Those that a keeper holds, by its numbers of them (runtime.stubs)."""
        streams = cls(terminal=terminal)
        streams.sources = {held[number]: name for number, name in _NAMES if number in held}
        if terminal and interactive:
            streams.input = os.dup(held[stubs.OUTPUT])
        else:
            streams.input = held.get(stubs.INPUT, -1)
        return streams

    def ends(self, *, interactive: bool) -> tuple[int, int, int]:
        """The container's own ends of three new pipes; with a terminal, three times -1."""
        if self.terminal:
            return (-1, -1, -1)
        if interactive:
            reader, self.input = os.pipe2(os.O_CLOEXEC)
        else:
            reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.theirs.append(reader)
        for _, stream in _NAMES:
            source, writer = os.pipe2(os.O_CLOEXEC)
            self.sources[source] = stream
            self.theirs.append(writer)
        return (self.theirs[0], self.theirs[1], self.theirs[2])

    def begin(self, master: int) -> None:
        """The container has been born: its ends are its own now. `master` is its terminal's, or -1."""
        self._close_theirs()
        if master >= 0:
            self.sources[master] = "stdout"
        for fd in (*self.sources, self.input):
            if fd >= 0:
                os.set_blocking(fd, False)  # one that does not read must not keep its output from being copied

    def held(self) -> dict[int, int]:
        """What a keeper is to hold, by the number that it shall have."""
        numbers = {name: number for number, name in _NAMES}
        held = {numbers[stream]: fd for fd, stream in self.sources.items()}
        if self.input >= 0:
            held[stubs.INPUT] = self.input
        return held

    def write(self, data: bytes) -> None:
        """Give the container `data`; what it does not take now stays in `unwritten`."""
        if self.input < 0:
            return
        self.unwritten += data
        try:
            self.unwritten = self.unwritten[os.write(self.input, self.unwritten) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the container has closed its input
            self.close_input()

    def close_input(self) -> None:
        """There will be no more input from here."""
        if self.input >= 0:
            os.close(self.input)
            self.input = -1
        self.unwritten = b""

    def forget(self, fd: int) -> None:
        """A source is at its end."""
        del self.sources[fd]
        os.close(fd)

    def close(self) -> None:
        """Close all that is still open."""
        self._close_theirs()
        for fd in list(self.sources):
            self.forget(fd)
        self.close_input()

    def _close_theirs(self) -> None:
        for fd in self.theirs:
            os.close(fd)
        self.theirs.clear()


_NAMES = ((stubs.OUTPUT, "stdout"), (stubs.ERRORS, "stderr"))
