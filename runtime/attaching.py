"""Being attached to a container in the background: the caller's terminal, or descriptors, on one side; the monitor's socket
(runtime.clients) on the other. Not on the hot path.
"""

import os
import select
from _signal import signal as set_handler
from _socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair

from runtime.attach import write_all
from runtime.clients import END, ERRORS, EXIT, INPUT, JOIN, LEAVE, OUTPUT, SIGNAL, SIZE, TAKEN, socket_path
from runtime.container import ASKING, FORWARDED, PATIENCE
from runtime.journal import Journal
from runtime.linux import SIGKILL
from runtime.spec import Outcome, Spec
from runtime.state import Container
from store.errors import RunError

DETACH_KEYS = b"\x10\x11"  # ctrl-p,ctrl-q

_PIECE = 1 << 15
_SIGWINCH = 28

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def keys(text: str) -> bytes:
    """What a terminal sends for a sequence such as `ctrl-p,ctrl-q` or `a,ctrl-]`; empty for none. ValueError for another text."""
    found = b""
    for part in text.split(",") if text else []:
        name = part.removeprefix("ctrl-")
        if len(name) != 1 or not name.isascii() or not name.isprintable():
            raise ValueError(f"{text!r} is no sequence of keys such as ctrl-p,ctrl-q")
        if name == part:
            found += name.encode()
        elif name.isalpha() or name in "@[\\]^_":
            found += bytes((ord(name.upper()) - 64,))
        else:
            raise ValueError(f"{part!r} is no key: ctrl- goes with a letter or one of @[\\]^_")
    return found


def start_attached(
    spec: Spec,
    journal: Journal,
    *,
    stdin: int = -1,
    stdout: int = 1,
    stderr: int = 2,
    detach_keys: bytes = DETACH_KEYS,
    proxy: bool = True,
    lifeline: bool = False,
) -> Outcome | None:
    """Start the container and be attached to it from its first byte to its end; None when the user has detached.

    With `lifeline` it ends when this process does in any other way. Raises what `container.run` would.
    """
    from runtime.detached import detach

    ours, theirs = (socket(fileno=end.detach()) for end in socketpair(AF_UNIX, SOCK_SEQPACKET))
    attachment = Attachment(ours, spec.terminal, stdin, stdout, stderr, detach_keys)
    try:
        if proxy:
            attachment.forward()
        spec.window = attachment.size()  # before it is started: the first that it reads
        attachment.tell_size()
        detach(spec, journal, theirs, lifeline=lifeline)
        return attachment.follow()
    finally:
        attachment.close()


def attach(
    container: Container,
    *,
    stdin: int = -1,
    stdout: int = 1,
    stderr: int = 2,
    detach_keys: bytes = DETACH_KEYS,
    proxy: bool = True,
) -> Outcome | None:
    """Be attached to a running container to its end; None when the user has detached. Raises RunError where nobody listens."""
    attachment = Attachment(connect(container), bool(container.record.get("terminal")), stdin, stdout, stderr, detach_keys)
    try:
        attachment.say(JOIN)
        if proxy:
            attachment.forward()
        attachment.tell_size()
        return attachment.follow()
    finally:
        attachment.close()


def connect(container: Container) -> socket:
    """A connection to whoever looks after the container. Raises RunError where nobody listens."""
    try:
        directory = os.open(container.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise RunError(f"container {container.name} has just been removed") from err
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.connect(socket_path(directory))
    except OSError as err:
        connection.close()
        raise RunError(
            f"nobody listens for container {container.name}",
            hint="a command that runs it in the foreground has its input and output: 'box logs' and 'box exec' work",
        ) from err
    finally:
        os.close(directory)
    return connection


class Attachment:
    """Copies between the caller's descriptors (-1 for none) and a container's monitor, until the end or the detach keys."""

    def __init__(self, connection: socket, terminal: bool, stdin: int, stdout: int, stderr: int, detach_keys: bytes) -> None:
        self.connection = connection
        self.terminal = terminal
        self.stdin = stdin
        self.outputs = {OUTPUT: stdout, ERRORS: stderr}
        self.keys = Keys(detach_keys) if terminal and stdin >= 0 and os.isatty(stdin) else None
        self.taken = True  # the container has what came last
        self.former: list[tuple[int, object]] = []
        self.asked = 0

    def say(self, message: bytes) -> None:
        """Send a message: the monitor is always ready to read."""
        try:
            self.connection.send(message)
        except OSError:  # it has ended, which reading will tell
            pass

    def forward(self) -> None:
        """Pass the signals that reach this process on to the container, the third INT or TERM as KILL."""
        self.former += [(number, set_handler(number, self._pass_on)) for number in FORWARDED]

    def _pass_on(self, number: int, frame: "FrameType | None") -> None:
        if number in ASKING:
            self.asked += 1
        self.say(SIGNAL + bytes((SIGKILL if self.asked >= PATIENCE else number,)))

    def tell_size(self) -> None:
        """Give the container's terminal the size of the user's, now and whenever that changes."""
        if not self.terminal:
            return
        self._say_size()
        self.former.append((_SIGWINCH, set_handler(_SIGWINCH, lambda *_: self._say_size())))

    def _say_size(self) -> None:
        rows, columns = self.size()
        if rows or columns:
            self.say(SIZE + rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))

    def size(self) -> tuple[int, int]:
        """Rows and columns of the user's terminal; zeros where there is none."""
        from runtime.terminal import size_of

        return size_of(self.stdin, self.outputs[OUTPUT])

    def follow(self) -> Outcome | None:
        """Copy to the end; None when the user has detached. Raises RunError when the monitor was killed."""
        raw = None
        if self.terminal and self.stdin >= 0:
            from runtime.terminal import Raw

            raw = Raw(self.stdin)
        try:
            return self._copy()
        finally:
            if raw is not None:
                raw.restore()

    def _copy(self) -> Outcome | None:
        while True:
            watch = select.poll()
            watch.register(self.connection.fileno(), select.POLLIN)
            if self.stdin >= 0 and self.taken:
                watch.register(self.stdin, select.POLLIN)
            ready = [fd for fd, _ in watch.poll()]
            if self.connection.fileno() in ready:
                try:
                    message = self.connection.recv(1 << 17)
                except OSError:
                    message = b""
                if not message:
                    raise RunError(
                        "the process that looks after containers was killed",
                        hint="the container may still run: 'box attach' goes on",
                    )
                if message[:1] == EXIT:
                    return ended(message[1], bool(message[2]), "" if self.asked else message[3:].decode("utf-8", "replace"))
                if message[:1] == TAKEN:
                    self.taken = True
                else:
                    self._write(message[:1], message[1:])
            if self.stdin in ready and self._pass_input():
                self.say(LEAVE)
                return None

    def _write(self, kind: bytes, data: bytes) -> None:
        target = self.outputs.get(kind, -1)
        if target >= 0 and not write_all(target, data):
            self.outputs[kind] = -1  # nobody listens any more

    def _pass_input(self) -> bool:
        """Whether the user has detached."""
        try:
            data = os.read(self.stdin, _PIECE)
        except OSError:
            data = b""
        if not data:
            self.stdin = -1
            self.say(END)
            return False
        detached = False
        if self.keys is not None:
            data, detached = self.keys.feed(data)
        if data:
            self.taken = False
            self.say(INPUT + data)
        return detached

    def close(self) -> None:
        """Let go, and give every signal back its former meaning."""
        self.connection.close()
        for number, handler in reversed(self.former):
            set_handler(number, handler)
        self.former.clear()


class Keys:
    """Finds the detach keys in what a user types; their beginning is held back until it is clear that they are not meant."""

    __slots__ = ("held", "wanted")

    def __init__(self, wanted: bytes) -> None:
        self.wanted = wanted
        self.held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were pressed."""
        if not self.wanted:
            return data, False
        data = self.held + data
        at = data.find(self.wanted)
        if at >= 0:
            return data[:at], True
        most = min(len(data), len(self.wanted) - 1)
        kept = next((count for count in range(most, 0, -1) if data.endswith(self.wanted[:count])), 0)
        self.held = data[len(data) - kept :]
        return data[: len(data) - kept], False


def ended(status: int, oom: bool, reason: str) -> Outcome:
    """An Outcome of an exit status as a shell says it."""
    return Outcome(status - 128 if status > 128 else status << 8, oom, reason=reason)
