"""Looking after a container whose output is copied: to the caller, to the log, or both. Not on the hot path.

The loop ends when the container's first process has ended and everything it wrote has been copied. A process that it left behind
cannot hold the loop: it dies with its pid namespace.
"""

import os
import select
import time
from _signal import signal as set_handler  # the signal module would import enum

from runtime import linux
from runtime.container import Forwarding, Process, launch, prepare
from runtime.logs import LogWriter
from runtime.spec import Outcome, Spec

_PIECE = 1 << 16
_SIGWINCH = 28


def run_attached(spec: Spec, stdin: int, stdout: int, stderr: int, forward: bool) -> Outcome:
    """Run the container to its end, copying between it and the three descriptors, and its output into its log. See container.run."""
    journal = prepare(spec)
    forwarding = Forwarding() if forward else None
    log = None
    try:
        log = LogWriter(journal.path + "/log")
        keeper = Keeper(spec, log, stdin, stdout, stderr)
        process = keeper.launch(journal)
        if forwarding is not None:
            forwarding.to(process.pid)
        return keeper.keep(process)
    finally:
        if log is not None:
            log.close()
        if forwarding is not None:
            forwarding.stop()


class Keeper:
    """Copies between one container and the caller's descriptors (-1 for none) until the container has ended."""

    def __init__(self, spec: Spec, log: LogWriter | None, stdin: int, stdout: int, stderr: int) -> None:
        self.spec = spec
        self.log = log
        self.stdin = stdin
        self.outputs = {"stdout": stdout, "stderr": stderr}
        self.sources: dict[int, str] = {}  # descriptor read from -> stream
        self.input = -1  # descriptor that the container's input is written to
        self.unwritten = b""  # what the container has not taken in yet

    def launch(self, journal: "Journal") -> Process:
        """Start the container with a terminal or pipes of its own. On error nothing of it is left."""
        if self.spec.terminal:
            return self._launch_with_terminal(journal)
        theirs: list[int] = []
        try:
            try:
                if self.stdin >= 0:
                    reader, self.input = os.pipe2(os.O_CLOEXEC)
                else:
                    reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
                theirs.append(reader)
                for stream in ("stdout", "stderr"):
                    source, writer = os.pipe2(os.O_CLOEXEC)
                    self.sources[source] = stream
                    theirs.append(writer)
            except BaseException:
                journal.remove()
                raise
            return launch(self.spec, journal, (theirs[0], theirs[1], theirs[2]))
        except BaseException:
            self._close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def _launch_with_terminal(self, journal: "Journal") -> Process:
        from runtime.terminal import Handover

        process = launch(self.spec, journal, (0, 1, 2), Handover())
        self.sources[process.master] = "stdout"
        self.input = os.dup(process.master) if self.stdin >= 0 else -1
        return process

    def keep(self, process: Process) -> Outcome:
        """Copy until the container has ended. On any error it is killed, and nothing of it is left."""
        try:
            if process.master < 0:
                self._copy(process)
            else:
                self._copy_terminal(process)
            return process.finish()
        except BaseException:
            process.abandon()
            raise
        finally:
            self._close()

    def _copy_terminal(self, process: Process) -> None:
        from runtime.terminal import Raw, copy_size

        user = self.stdin if self.stdin >= 0 else self.outputs["stdout"]
        master = process.master
        copy_size(user, master)
        raw = Raw(self.stdin) if self.stdin >= 0 else None
        former = set_handler(_SIGWINCH, lambda *_: copy_size(user, master)) if user >= 0 else None
        try:
            self._copy(process)
        finally:
            if raw is not None:
                raw.restore()
            if former is not None:
                set_handler(_SIGWINCH, former)

    def _copy(self, process: Process) -> None:
        watch = select.poll()
        ended = linux.pidfd_open(process.pid)
        if self.input >= 0:
            os.set_blocking(self.input, False)  # a container that does not read must not keep its output from being copied
        try:
            watch.register(ended, select.POLLIN)
            for source in self.sources:
                watch.register(source, select.POLLIN)
            if self.stdin >= 0:
                watch.register(self.stdin, select.POLLIN)
            running = True
            while running or self.sources:
                ready = watch.poll(None if running else 0)
                if not running and not any(fd in self.sources for fd, _ in ready):
                    return  # all that it wrote has been read: somebody outside holds a pipe's other end open
                for fd, _ in ready:
                    if fd == ended:
                        running = False
                        watch.unregister(ended)
                    elif fd in self.sources:
                        if not self._take_output(fd):
                            watch.unregister(fd)
                            self._forget(fd)
                    elif running:
                        self._pass_input(fd, watch)
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
            self.unwritten = data
        else:
            watch.unregister(fd)
        try:
            self.unwritten = self.unwritten[os.write(self.input, self.unwritten) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the container has closed its input
            os.close(self.input)
            self.input = -1
            return
        if self.unwritten:
            watch.register(self.input, select.POLLOUT)
        else:
            watch.register(self.stdin, select.POLLIN)

    def _end_input(self) -> None:
        if self.spec.terminal:
            _write_all(self.input, b"\x04")  # the end of the input, as a terminal says it
        os.close(self.input)
        self.input = -1

    def _take_output(self, fd: int) -> bool:
        try:
            data = os.read(fd, _PIECE)
        except OSError:  # EIO: the last process that had the terminal open is gone
            return False
        if not data:
            return False
        stream = self.sources[fd]
        if self.log is not None:
            self.log.feed(stream, data)
        target = self.outputs[stream]
        if target >= 0 and not _write_all(target, data):
            self.outputs[stream] = -1  # nobody listens any more; the log still does
        return True

    def _forget(self, fd: int) -> None:
        del self.sources[fd]
        os.close(fd)

    def _close(self) -> None:
        for fd in list(self.sources):
            self._forget(fd)
        if self.input >= 0:
            os.close(self.input)
            self.input = -1


def _write_all(fd: int, data: bytes) -> bool:
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


TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.journal import Journal
