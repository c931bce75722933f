"""Looking after a container whose output is copied: to the caller, to the log, or both. Not on the hot path.

The loop ends when the container's first process has ended and everything it wrote has been copied. A process that it left behind
cannot hold the loop: it dies with its pid namespace.
"""

import os
import select
import time
from _signal import signal as set_handler  # the signal module would import enum

from runtime import linux
from runtime.container import Forwarding, launch, prepare
from runtime.logs import LogWriter, open_log
from runtime.spec import Outcome, Spec

_PIECE = 1 << 16
_SIGWINCH = 28

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.attaching import Keys
    from runtime.unread import Listener


def run_attached(spec: Spec, stdin: int, stdout: int, stderr: int, forward: bool) -> Outcome:
    """Run the container to its end, copying between it and the three descriptors. See container.run."""
    forwarding = Forwarding() if forward else None
    copies = Copies(spec.terminal, stdin, stdout, stderr)
    if spec.terminal:
        from runtime.terminal import size_of

        spec.window = size_of(stdin, stdout)
    try:
        journal = prepare(spec)
        try:
            if not spec.removed:
                copies.log = open_log(journal.path, spec.log_options)
            ends = copies.ends()
        except BaseException:
            journal.remove()
            raise
        process = launch(spec, journal, ends)
        try:
            copies.begin(process.master)
            if forwarding is not None:
                forwarding.to(process.pid)
            process.unread = copies.until_end(process.pid, first=True)
            copies.close()  # the log is whole before the container counts as ended
            outcome = process.finish()
            return outcome if forwarding is None else forwarding.judge(outcome)
        except BaseException:
            process.abandon()
            raise
    finally:
        copies.close()
        if forwarding is not None:
            forwarding.stop()


class Copies:
    """Copies between one process of a container and the caller's descriptors (-1 for none), and its output into a log."""

    def __init__(
        self, terminal: bool, stdin: int, stdout: int, stderr: int, log: LogWriter | None = None, keys: "Keys | None" = None
    ) -> None:
        self.terminal = terminal
        self.keys = keys  # what the user types to leave
        self.detached = False
        self.stdin = stdin
        self.log = log
        self._outputs = {"stdout": stdout, "stderr": stderr}
        self._sources: dict[int, str] = {}  # descriptor read from -> stream
        self._theirs: list[int] = []
        self._input = -1  # descriptor that the process' input is written to
        self._listeners: dict[int, Listener] = {}  # descriptor -> output that has lost its reader
        self._unwritten = b""  # what the process has not taken in yet

    def ends(self) -> tuple[int, int, int]:
        """The process' own ends of three new pipes; with a terminal, three times -1."""
        if self.terminal:
            return (-1, -1, -1)
        if self.stdin >= 0:
            reader, self._input = os.pipe2(os.O_CLOEXEC)
        else:
            reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._theirs.append(reader)
        for stream in ("stdout", "stderr"):
            source, writer = os.pipe2(os.O_CLOEXEC)
            self._sources[source] = stream
            self._theirs.append(writer)
        return (self._theirs[0], self._theirs[1], self._theirs[2])

    def begin(self, master: int) -> None:
        """The process has been born: its ends are its own now. `master` is its terminal's, which becomes this object's, or -1."""
        self._close_theirs()
        if master >= 0:
            self._sources[master] = "stdout"
            self._input = os.dup(master) if self.stdin >= 0 else -1

    def until_end(self, pid: int, *, first: bool = False) -> bool:
        """Copy until the process has ended and all that it wrote has been copied. Whether it was killed for writing where nobody
        reads, as happens only to the `first` process of a container (runtime.unread)."""
        if not self.terminal:
            return self._copy(pid, first)
        from runtime.terminal import Raw, copy_size

        master = next(iter(self._sources))
        user = self.stdin if self.stdin >= 0 else self._outputs["stdout"]
        raw = former = None
        if user >= 0:
            copy_size(user, master)
            former = set_handler(_SIGWINCH, lambda *_: copy_size(user, master))
        try:
            raw = Raw(self.stdin) if self.stdin >= 0 else None
            return self._copy(pid, first)
        finally:
            if raw is not None:
                raw.restore()
            if former is not None:
                set_handler(_SIGWINCH, former)

    def drain(self, pid: int) -> None:
        """`until_end` for nobody: what the process writes is thrown away, and it has no input any more."""
        self.stdin = -1
        self._outputs = dict.fromkeys(self._outputs, -1)
        self.detached = False
        self._copy(pid, False)

    def close(self) -> None:
        """Close all that is still open of this object's own, the log too."""
        self._close_theirs()
        for fd in list(self._sources):
            self._forget(fd)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        if self._input >= 0:
            os.close(self._input)
            self._input = -1
        if self.log is not None:
            self.log.close()
            self.log = None

    def _copy(self, pid: int, first: bool) -> bool:
        watch = select.poll()
        ended = linux.pidfd_open(pid)
        if self._input >= 0:
            os.set_blocking(self._input, False)  # a container that does not read must not keep its output from being copied
        try:
            watch.register(ended, select.POLLIN)
            for source in self._sources:
                watch.register(source, select.POLLIN)
            if self.stdin >= 0:
                watch.register(self.stdin, select.POLLIN)
            running, unread = True, False
            while running or self._sources:
                ready = watch.poll(None if running else 0)
                if not running and not any(fd in self._sources for fd, _ in ready):
                    return unread  # all that it wrote has been read: somebody outside holds a pipe's other end open
                for fd, _ in ready:
                    if fd == ended:
                        running = False
                        watch.unregister(ended)
                    elif fd in self._sources:
                        if not self._take_output(fd):
                            watch.unregister(fd)
                            if first and self._outputs[self._sources[fd]] < 0 and not unread:
                                unread = self._listen(pid, fd, watch)
                            else:
                                self._forget(fd)
                    elif fd in self._listeners:
                        watch.unregister(fd)
                        unread = self._heard(pid, self._listeners.pop(fd), watch) or unread
                    elif running:
                        self._pass_input(fd, watch)
                        if self.detached:
                            return unread
            return unread
        finally:
            os.close(ended)

    def _pass_input(self, fd: int, watch: "select.poll") -> None:
        """Read from the caller, or write to the container: one of both is watched, never both."""
        if fd == self.stdin:
            watch.unregister(fd)
            try:
                data = os.read(fd, _PIECE)
            except OSError:
                data = b""
            if not data:
                self._end_input()
                return
            if self.keys is not None:
                data, self.detached = self.keys.feed(data)
            self._unwritten = data
        else:
            watch.unregister(fd)
        try:
            self._unwritten = self._unwritten[os.write(self._input, self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the container has closed its input
            os.close(self._input)
            self._input = -1
            return
        if self._unwritten:
            watch.register(self._input, select.POLLOUT)
        else:
            watch.register(self.stdin, select.POLLIN)

    def _end_input(self) -> None:
        if self.terminal:
            write_all(self._input, b"\x04")  # the end of the input, as a terminal says it
        os.close(self._input)
        self._input = -1

    def _take_output(self, fd: int) -> bool:
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last process that had the terminal open is gone
            return False
        if not data:
            return False
        stream = self._sources[fd]
        if self.log is not None:
            self.log.feed(stream, data)
        target = self._outputs[stream]
        if target >= 0 and not write_all(target, data):
            self._outputs[stream] = -1  # nobody listens any more, and the container shall learn of it
            return False
        return True

    def _listen(self, pid: int, fd: int, watch: "select.poll") -> bool:
        """What process 1 writes to `fd` is not read any more. Whether it was killed."""
        if self.terminal:
            self._forget(fd)
            os.kill(pid, linux.SIGKILL)  # a terminal that hangs up: a first process is spared that signal, too
            return True
        from runtime.unread import Listener

        listener = Listener(pid, fd)
        self._forget(fd)
        return self._heard(pid, listener, watch)

    def _heard(self, pid: int, listener: "Listener", watch: "select.poll") -> bool:
        if listener.heard():
            listener.close()
            os.kill(pid, linux.SIGKILL)
            return True
        if (reader := listener.listen()) >= 0:
            self._listeners[reader] = listener
            watch.register(reader, select.POLLIN)
        return False

    def _forget(self, fd: int) -> None:
        del self._sources[fd]
        os.close(fd)

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()


def write_all(fd: int, data: bytes) -> bool:
    """Write all of `data`; False when the other end is closed."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            time.sleep(0.001)  # a caller's descriptor that does not wait
        except OSError:
            return False
    return True
