"""The process that looks after a container in the background: its output to the log and to whoever is attached, their input to
it, and its end.

It listens at the socket `attach` in the container's directory, which only the store's owner can reach. One packet is one message:
a byte that says what it is, and what belongs to it (runtime.attaching is the other side).
"""

import os
import select
from _socket import AF_UNIX, SOCK_SEQPACKET, socket

from runtime import linux
from runtime.container import Process, launch
from runtime.journal import Journal
from runtime.logs import LogWriter
from runtime.spec import Outcome, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

SOCKET = "attach"
# From a client: to be sent the output; input; its end; the terminal's size (rows, columns; two bytes each); a signal; goodbye,
# and let the container go on; the container shall end now and not be started again.
JOIN, INPUT, END, SIZE, SIGNAL, LEAVE, STOP = b"j", b"i", b"e", b"w", b"s", b"l", b"q"
# To a client: output, errors, the end (exit status, whether memory ran out; a byte each; the reason); and the answers to INPUT,
# when the container has taken it (a client waits for that before it sends more), and to STOP.
OUTPUT, ERRORS, EXIT, TAKEN, DONE = b"o", b"r", b"x", b"t", b"k"

_PIECE = 1 << 16
_MOST_QUEUED = 1 << 20  # of output for one client that does not read; then the container waits for it
_TIOCSWINSZ = 0x5414
_ENTIRELY_GONE = select.POLLHUP | select.POLLERR


class Client:
    """Somebody who is connected; the `first` has started the container, and the end of its input is the container's. With
    `lifeline`, the container ends when it is gone without having said goodbye."""

    __slots__ = ("connection", "first", "joined", "lifeline", "queue", "queued", "typed")

    def __init__(self, connection: socket, *, first: bool = False, lifeline: bool = False) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.joined = self.first = first
        self.lifeline = lifeline
        self.typed = False  # it waits until its input is taken
        self.queue: list[bytes] = []
        self.queued = 0

    def say(self, message: bytes) -> None:
        """Send a message, or queue it until it can be sent."""
        self.queue.append(message)
        self.queued += len(message)
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as that goes now."""
        try:
            while self.queue:
                self.connection.send(self.queue[0])
                self.queued -= len(self.queue.pop(0))
        except BlockingIOError:
            pass
        except OSError:  # nobody listens any more, which reading will tell
            self.queue.clear()
            self.queued = 0


class Streams:
    """The ends of a container's input and output that its keeper has."""

    __slots__ = ("input", "interactive", "sources", "terminal", "theirs", "unwritten")

    def __init__(self, *, terminal: bool, interactive: bool) -> None:
        self.terminal = terminal
        self.interactive = interactive
        self.sources: dict[int, str] = {}  # descriptor read from -> stream
        self.theirs: list[int] = []
        self.input = -1
        self.unwritten = b""

    def ends(self) -> tuple[int, int, int]:
        """The container's own ends of three new pipes; with a terminal, three times -1."""
        if self.terminal:
            return (-1, -1, -1)
        if self.interactive:
            reader, self.input = os.pipe2(os.O_CLOEXEC)
        else:
            reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.theirs.append(reader)
        for stream in ("stdout", "stderr"):
            source, writer = os.pipe2(os.O_CLOEXEC)
            self.sources[source] = stream
            self.theirs.append(writer)
        return (self.theirs[0], self.theirs[1], self.theirs[2])

    def begin(self, master: int) -> None:
        """The container has been born: its ends are its own now. `master` is its terminal's, or -1."""
        self._close_theirs()
        if master >= 0:
            self.sources[master] = "stdout"
            self.input = os.dup(master) if self.interactive else -1
        for fd in (*self.sources, self.input):
            if fd >= 0:
                os.set_blocking(fd, False)  # a container that does not read must not keep its output from being copied

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
            self._close_input()

    def end_input(self) -> None:
        """There will be no more input; a terminal says that by a key."""
        if self.terminal:
            self.write(b"\x04")
        else:
            self._close_input()

    def _close_input(self) -> None:
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
        self._close_input()

    def _close_theirs(self) -> None:
        for fd in self.theirs:
            os.close(fd)
        self.theirs.clear()


class Keeper:
    """Looks after one container: `start` it, and `keep` it to its end."""

    def __init__(self, spec: Spec, journal: Journal, first: Client | None = None) -> None:
        self.spec = spec
        self.journal = journal
        self.log = LogWriter(journal.path + "/log")
        self.watch = select.poll()
        self.handlers: dict[int, Handler] = {}
        self.clients: list[Client] = []
        self.streams = Streams(terminal=spec.terminal, interactive=spec.interactive)
        self.process: Process | None = None
        self.ended = -1  # the process' pidfd
        self.listener = self._listen()
        if first is not None:
            self._add(first)

    # --- the container ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it; on return its program runs. Raises BoxError, and nothing runs then."""
        self.process = launch(self.spec, self.journal, self.streams.ends())
        self.streams.begin(self.process.master)
        self.ended = linux.pidfd_open(self.process.pid)

    def keep(self) -> None:
        """Look after it to its end, and tell that to whoever is attached."""
        assert self.process is not None
        try:
            outcome = self._until_end(self.process)
            self.log.close()  # it is whole before the container counts as ended
            self._close_listener()
            self.process.record(outcome)
        except BaseException:
            self.process.abandon()
            raise
        for client in list(self.clients):
            client.say(EXIT + bytes((outcome.status & 0xFF, outcome.oom)) + outcome.reason.encode())
        self._deliver()

    def _until_end(self, process: Process) -> Outcome:
        running = True

        def over(events: int) -> None:
            nonlocal running
            running = False
            self._off(self.ended)

        self._on(self.ended, select.POLLIN, over)
        self._watch_sources()
        while running:
            self._turn(None)
        # All that it wrote; somebody outside may hold a pipe's other end open, so that there is no end to wait for.
        while any(self._read(source) for source in list(self.streams.sources)):
            pass
        for source in self.streams.sources:
            self._off(source)
        self._off(self.streams.input)
        self.streams.close()
        os.close(self.ended)
        return process.end()

    def _turn(self, patience: float | None) -> None:
        """Wait for something to happen, and do what is to be done."""
        for fd, events in self.watch.poll(None if patience is None else max(0, int(patience * 1000) + 1)):
            handler = self.handlers.get(fd)
            if handler is not None:
                handler(events)

    def _on(self, fd: int, events: int, handler: "Handler") -> None:
        self.handlers[fd] = handler
        self.watch.register(fd, events)

    def _off(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            self.watch.unregister(fd)

    # --- output -------------------------------------------------------------------------------------------------------------

    def _watch_sources(self) -> None:
        """Read what the container writes, unless somebody attached is too far behind."""
        behind = any(client.queued > _MOST_QUEUED for client in self.clients)
        for source in self.streams.sources:
            if behind:
                self._off(source)
            elif source not in self.handlers:
                self._on(source, select.POLLIN, lambda events, fd=source: self._take_output(fd))  # type: ignore[misc]

    def _take_output(self, fd: int) -> None:
        self._read(fd)
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
        self.log.feed(stream, data)
        for client in self.clients:
            if client.joined:
                client.say((OUTPUT if stream == "stdout" else ERRORS) + data)
                self._watch(client)
        return True

    def _deliver(self) -> None:
        """Wait until those who are attached have all that is theirs, or are gone."""
        while waiting := [client for client in self.clients if client.queue]:
            for client in [client for client in self.clients if not client.queue]:
                self._drop(client)
            for client in waiting:
                self._watch(client)
            self._turn(None)

    # --- clients ------------------------------------------------------------------------------------------------------------

    def _listen(self) -> socket:
        path = f"/proc/self/fd/{self.journal.fd}/{SOCKET}"  # short, whatever the store's path is
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        listener = socket(AF_UNIX, SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(16)
        self._on(listener.fileno(), select.POLLIN, self._accept)
        return listener

    def _close_listener(self) -> None:
        self._off(self.listener.fileno())
        self.listener.close()
        try:
            os.unlink(SOCKET, dir_fd=self.journal.fd)
        except FileNotFoundError:
            pass

    def _accept(self, events: int) -> None:
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]  # what socket.accept is made of
        except OSError:
            return  # it went again, or too many files are open
        self._add(Client(socket(fileno=descriptor)))

    def _add(self, client: Client) -> None:
        self.clients.append(client)
        self._watch(client)

    def _watch(self, client: Client) -> None:
        """Listen to the client, and send it what is queued."""
        events = select.POLLIN | (select.POLLOUT if client.queue else 0)
        self._on(client.connection.fileno(), events, lambda events: self._serve(client, events))

    def _drop(self, client: Client) -> None:
        self._off(client.connection.fileno())
        client.connection.close()
        self.clients.remove(client)

    def _serve(self, client: Client, events: int) -> None:
        if events & select.POLLOUT:
            client.flush()
        if events & (select.POLLIN | _ENTIRELY_GONE):
            try:
                message = client.connection.recv(_PIECE + 1)
            except BlockingIOError:
                message = None
            except OSError:
                message = b""
            if message == b"":
                self._gone(client)
            elif message is not None:
                self._obey(client, message[:1], message[1:])
        if client in self.clients:
            self._watch(client)
        self._watch_sources()

    def _gone(self, client: Client) -> None:
        self._drop(client)
        if client.lifeline:
            self._signal(linux.SIGKILL)

    def _obey(self, client: Client, kind: bytes, data: bytes) -> None:
        if kind == JOIN:
            client.joined = True
        elif kind == INPUT:
            client.typed = True
            self._write(data)
        elif kind == END and client.first:
            self._write(None)
        elif kind == SIZE and len(data) == 4:
            self._resize(data)
        elif kind == SIGNAL and len(data) == 1:
            self._signal(data[0])
        elif kind == LEAVE:
            client.lifeline = False
        elif kind == STOP:
            client.say(DONE)

    def _write(self, data: bytes | None) -> None:
        """Pass on input, or its end (None); what is not taken now when the container reads. Tell those who wait for that."""
        self._off(self.streams.input)
        if data is None:
            self.streams.end_input()
        else:
            self.streams.write(data)
        if self.streams.unwritten:
            self._on(self.streams.input, select.POLLOUT, lambda events: self._write(b""))
            return
        for client in self.clients:
            if client.typed:
                client.typed = False
                client.say(TAKEN)
                self._watch(client)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.pid:
            try:
                os.kill(self.process.pid, number)
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
