"""One container in the monitor's charge: its output to the log and to whoever is attached, their input to it, and its end.

Nothing here waits: what cannot be done now is done when the monitor says so again, and one piece at a time.
"""

import os
import select
import time
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_PEEK, SOCK_SEQPACKET, socket

from runtime import linux, stubs
from runtime.cgroups import Cgroup
from runtime.clients import (
    DONE,
    END,
    ERRORS,
    EXIT,
    INPUT,
    JOIN,
    LEAVE,
    MOST_QUEUED,
    OUTPUT,
    SIGNAL,
    SIZE,
    STOP,
    TAKEN,
    Client,
    drop_socket,
    socket_path,
)
from runtime.journal import Journal
from runtime.logs import LogWriter, open_log
from runtime.reaping import KILLED, anonymous_volumes
from runtime.restarts import NO, mark, of, wanted
from runtime.spec import Outcome
from runtime.streams import Streams
from store.errors import BoxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runtime.monitor import Monitor

_PIECE = 1 << 15  # read in one turn of one container
_LAST_PIECES = 64  # read after its end: more than a pipe holds; somebody outside may go on writing
_MOST_CLIENTS = 64
_PATIENCE = 5.0  # for what is killed to be gone
_TIOCSWINSZ = 0x5414
_BY_SIGNAL, _SIGSYS = 128, 31
_UNSAID = "does not say for which call"
_REASON = 4096  # bytes of one at most, which a pipe always takes
_GONE = select.EPOLLHUP | select.EPOLLERR


class Charge:
    """A container, from the moment at which it was handed over. `held` are the descriptors of its keeper (a pid), by its numbers;
    they are this object's."""

    def __init__(
        self, monitor: "Monitor", journal: Journal, record: "Mapping[str, Any]", keeper: int, held: "Mapping[int, int]"
    ) -> None:
        self.monitor = monitor
        self.journal = journal
        self.record = record
        self.id: str = record["id"]
        self.removed = bool(record["removed"])
        self.keeper_pid = keeper
        self.keeper = linux.pidfd_open(keeper)
        self.status = socket(fileno=held[stubs.STATUS])
        self.streams = Streams.of(held, terminal=bool(record["terminal"]), interactive=bool(record["interactive"]))
        self.first_process = -1
        self.clients: list[Client] = []
        self.listener: socket | None = None
        self.log: LogWriter | None = None
        self.outcome: Outcome | None = None
        self.error = ""
        self.returns = False  # it is to be started again
        self.forced = False  # it is to be started again though no policy says so
        self.stopped = False  # somebody wants it to end for good
        self._until = 0.0
        try:
            self.log = open_log(journal.path, record.get("log_options", {}))
            self._find_process(record["pid"])
            self.listener = self._listen()
            self._on(self.status.fileno(), select.EPOLLIN, self._over)
            self._watch_sources()
            self._begin_checks()
        except BaseException:
            self._let_go()
            raise

    def _begin_checks(self) -> None:
        checks = self.record.get("health")
        if checks:
            from runtime.health import Health

            Health(self, checks)

    @property
    def over(self) -> bool:
        """Whether the container has ended."""
        return self.outcome is not None or bool(self.error) or self.keeper < 0

    def _find_process(self, pid: int) -> None:
        """A handle of the container's first process, which cannot be another's: its keeper has not waited for it yet."""
        try:
            handle = linux.pidfd_open(pid)
        except ProcessLookupError:
            return
        if self._wait_status() is None:
            self.first_process = handle
        else:
            os.close(handle)

    def _wait_status(self) -> bytes | None:
        """What the keeper says of the end: nothing yet (None), the wait status, or that it is gone itself (empty)."""
        try:
            return self.status.recv(4, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _on(self, fd: int, events: int, handler: "Any") -> None:
        self.monitor.on(fd, events, handler, self)

    def _off(self, fd: int) -> None:
        self.monitor.off(fd)

    # --- its end ------------------------------------------------------------------------------------------------------------

    def _over(self, events: int) -> None:
        status = self._wait_status()
        if status is None:
            return
        self._off(self.status.fileno())
        if len(status) == 4:
            self.outcome = Outcome(int.from_bytes(status, "little"))
        else:
            self.error = KILLED
        # All that it wrote; somebody outside may hold a pipe's other end open, so that there is no end to wait for.
        for source in list(self.streams.sources):
            for _ in range(_LAST_PIECES):
                if not self._read(source):
                    break
        self._close_streams()
        self._close_log()  # it is whole before the container counts as ended
        self._explain()

    def _explain(self) -> None:
        """Find out why it ended badly, where that can be known; in another process, since the kernel's log may let it wait."""
        outcome = self.outcome
        if outcome is not None and outcome.status:
            group = Cgroup(self.id)
            outcome.oom = group.oom_kills() > 0
            outcome.pids_refused = group.pids_refused()
            if outcome.oom or outcome.pids_refused or outcome.status > _BY_SIGNAL or self.record.get("log_refusals"):
                reader, writer = os.pipe2(os.O_CLOEXEC)

                def done(status: int) -> None:
                    os.set_blocking(reader, False)
                    try:
                        outcome.reason = os.read(reader, _REASON).decode()
                    except BlockingIOError:
                        pass  # the child was killed
                    finally:
                        os.close(reader)
                    self._end()

                try:
                    self.monitor.task(lambda: _tell_cause(writer, self.record, outcome, group), done, (writer,), self)
                finally:
                    os.close(writer)
                return
        self._end()

    def _end(self) -> None:
        self._until = time.monotonic() + _PATIENCE
        self._bury()

    def fail(self, error: Exception) -> None:
        """What a turn of this container's raised (a bug, the disk's failure): it ends, and nobody else has to."""
        if self.outcome is not None or self.error:
            self._give_up()
            return
        self.error = f"{type(error).__name__}: {error}"
        self.outcome = Outcome(linux.SIGKILL)
        self._off(self.status.fileno())
        self.signal(linux.SIGKILL)
        self._close_streams()
        self._close_log()
        self._end()

    def _give_up(self) -> None:
        """Let go of all as it is: the next command clears up."""
        self._close_listener()
        self._end_keeper()
        for client in list(self.clients):
            self._drop(client)
        self._let_go()
        self.journal.close()
        self.monitor.forget(self)

    def _bury(self) -> None:
        """Remove the control groups, when nothing runs in them any more, and write down how it ended."""
        group = Cgroup(self.id)
        try:
            group.kill(0)
            group.delete(0)
        except BoxError:
            if time.monotonic() < self._until:
                self.monitor.later(0.003, self._bury, self)
                return
        outcome = self.outcome or Outcome(linux.SIGKILL)
        self.outcome = outcome
        self._close_listener()
        if self.removed:
            self._remove()
            return
        self._see_to_restart(outcome.status)
        self.journal.ended(outcome.status, outcome.signal, time.time(), outcome.oom, self.error, reason=outcome.reason)
        self._end_keeper()

    def _see_to_restart(self, status: int) -> None:
        """Record whether it is to be started again: if its policy wants that."""
        policy, restarts = of(self.record), int(self.record.get("restarts", 0))
        if self.forced or (policy != NO and not self.stopped and wanted(policy, status, restarts)):
            mark(self.journal, True)
            self.returns = True

    def _remove(self) -> None:
        """Delete the directory; where that may take long, in another process."""
        health = [self.journal.path + "/health"] if self.record.get("health") else []
        for name in (*LogWriter.files(self.journal.path + "/log"), *health):
            os.unlink(name)
        if anonymous_volumes(self.record):
            self.monitor.task(self._remove_with_volumes, lambda status: self._end_keeper(), (self.journal.fd,), self)
        elif self.journal.remove_quickly():
            self._end_keeper()
        else:
            self.monitor.task(self.journal.remove, lambda status: self._end_keeper(), (self.journal.fd,), self)

    def _remove_with_volumes(self) -> None:
        from runtime.volumes import discard

        discard(self.journal.path.rpartition("/containers/")[0], anonymous_volumes(self.record), self.id)
        self.journal.remove()

    def _end_keeper(self) -> None:
        self._on(self.keeper, select.EPOLLIN, self._release)
        try:
            linux.pidfd_send_signal(self.keeper, linux.SIGKILL)
        except ProcessLookupError:
            pass

    def _release(self, events: int) -> None:
        """The keeper is gone, and with it all that it held: the last is the lock."""
        self._off(self.keeper)
        self._let_go()
        self.journal.close()
        if self.returns:
            self.monitor.restart(self.id, time.time() - float(self.record["started"]))
        outcome = self.outcome
        for client in list(self.clients):
            if outcome is not None:
                client.say(EXIT + bytes((outcome.status & 0xFF, outcome.oom)) + outcome.reason.encode())
            if client.queue:
                self._watch(client)
            else:
                self._drop(client)
        if self.clients:  # they are given time to read what is theirs, not for ever
            self.monitor.later(60.0, self._drop_all, self)
        self.monitor.forget(self)

    def _drop_all(self) -> None:
        for client in list(self.clients):
            self._drop(client)

    def _close_streams(self) -> None:
        for fd in (*self.streams.sources, self.streams.input):
            self._off(fd)
        self.streams.close()

    def _close_log(self) -> None:
        if self.log is not None:
            self.log.close()
            self.log = None

    def _let_go(self) -> None:
        self._close_streams()
        self._close_log()
        self._close_listener()
        if self.status.fileno() >= 0:
            self._off(self.status.fileno())
            self.status.close()
        for fd in (self.keeper, self.first_process):
            if fd >= 0:
                self._off(fd)
                os.close(fd)
        self.keeper = self.first_process = -1

    # --- output -------------------------------------------------------------------------------------------------------------

    def _watch_sources(self) -> None:
        """Read what the container writes, unless somebody attached is too far behind."""
        behind = any(client.queued > MOST_QUEUED for client in self.clients)
        for source in self.streams.sources:
            if behind:
                self._off(source)
            else:
                self._on(source, select.EPOLLIN, lambda events, fd=source: self._take_output(fd))

    def _take_output(self, fd: int) -> None:
        self._read(fd)
        if any(client.queue for client in self.clients):
            self._watch_sources()

    def _read(self, fd: int) -> bool:
        """Copy a piece of what came from `fd`; False when there is none now."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process that had the terminal open is gone
            data = b""
        if not data:
            self._off(fd)
            self.streams.forget(fd)
            return False
        stream = self.streams.sources[fd]
        if self.log is not None:
            try:
                self.log.feed(stream, data)
            except OSError:  # a full disk takes the log, not the container
                pass
        for client in self.clients:
            if client.joined:
                client.say((OUTPUT if stream == "stdout" else ERRORS) + data)
                self._watch(client)
        return True

    # --- clients ------------------------------------------------------------------------------------------------------------

    def _listen(self) -> socket:
        drop_socket(self.journal.fd)
        listener = socket(AF_UNIX, SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(socket_path(self.journal.fd))
        listener.listen(16)
        self._on(listener.fileno(), select.EPOLLIN, self._accept)
        return listener

    def _close_listener(self) -> None:
        if self.listener is not None:
            self._off(self.listener.fileno())
            self.listener.close()
            self.listener = None
            drop_socket(self.journal.fd)

    def _accept(self, events: int) -> None:
        if self.listener is None:
            return
        connection = self.monitor.accept(self.listener)
        if connection is None:
            return
        if len(self.clients) >= _MOST_CLIENTS:
            connection.close()
        else:
            self.add(Client(connection))

    def add(self, client: Client) -> None:
        """Somebody is connected."""
        self.clients.append(client)
        self._watch(client)

    def _watch(self, client: Client) -> None:
        """Listen to the client, and send it what is queued."""
        events = select.EPOLLIN | (select.EPOLLOUT if client.queue else 0)
        self._on(client.connection.fileno(), events, lambda events: self._serve(client, events))

    def _drop(self, client: Client) -> None:
        self._off(client.connection.fileno())
        client.connection.close()
        self.clients.remove(client)
        self.monitor.leave_if_done()

    def _serve(self, client: Client, events: int) -> None:
        if events & select.EPOLLOUT:
            client.flush()
        if events & (select.EPOLLIN | _GONE):
            try:
                message = client.connection.recv(1 << 17)
            except BlockingIOError:
                message = None
            except OSError:
                message = b""
            if message == b"":
                self._gone(client)
            elif message is not None:
                self._obey(client, message[:1], message[1:])
        if self.keeper < 0:  # the container has ended, and the client has all that is left
            if client in self.clients and not client.queue:
                self._drop(client)
            return
        if client in self.clients:
            self._watch(client)
        self._watch_sources()

    def _gone(self, client: Client) -> None:
        self._drop(client)
        if client.lifeline:
            try:
                Cgroup(self.id).kill(0)  # paused or not
            except BoxError:  # some are not gone yet
                pass

    def _obey(self, client: Client, kind: bytes, data: bytes) -> None:
        if kind == JOIN:
            client.joined = True
        elif kind == INPUT:
            client.typed = True
            self._write(data)
        elif kind == END and client.first:
            self._end_input()
        elif kind == SIZE and len(data) == 4:
            self._resize(data)
        elif kind == SIGNAL and len(data) == 1:
            self.signal(data[0])
        elif kind == LEAVE:
            client.lifeline = False
        elif kind == STOP:
            self.stopped = True
            client.say(DONE)

    def _write(self, data: bytes) -> None:
        """Pass on input; what is not taken now when the container reads. Tell those who wait for that."""
        self._off(self.streams.input)
        self.streams.write(data)
        if self.streams.unwritten:
            self._on(self.streams.input, select.EPOLLOUT, lambda events: self._write(b""))
            return
        for client in self.clients:
            if client.typed:
                client.typed = False
                client.say(TAKEN)
                self._watch(client)

    def _end_input(self) -> None:
        """There will be no more of it; a terminal says that by a key."""
        if self.streams.terminal:
            self._write(b"\x04")
            return
        self._off(self.streams.input)
        self.streams.close_input()
        linux.pidfd_send_signal(self.keeper, stubs.CLOSE_INPUT)

    def signal(self, number: int) -> None:
        """Send the container's first process a signal, if it runs."""
        if self.first_process >= 0:
            try:
                linux.pidfd_send_signal(self.first_process, number)
            except OSError:  # it has just ended; or no such signal
                pass

    def _resize(self, size: bytes) -> None:
        from fcntl import ioctl

        for source in self.streams.sources:
            if self.streams.terminal:
                try:
                    ioctl(source, _TIOCSWINSZ, size + bytes(4))
                except OSError:
                    pass


def _tell_cause(writer: int, record: "Mapping[str, Any]", outcome: Outcome, group: Cgroup) -> None:
    """Why it ended badly, in a child of the monitor."""
    from runtime.cause import cause
    from runtime.spec import Spec

    spec = Spec("", [], [], id=record["id"], pids_limit=record["pids_limit"], log_refusals=bool(record.get("log_refusals")))
    pid, since = record["pid"], record["started"]
    found = cause(spec, outcome, pid, since, group, filtered=outcome.signal == _SIGSYS)
    if _UNSAID in found:  # nor that it was the filter
        found = cause(spec, outcome, pid, since, group, filtered=False)
    os.write(writer, found.encode()[:_REASON])
