"""What is said at the socket `attach` in a container's directory, which only the store's owner can reach, and whoever says it.

One packet is one message: a byte that says what it is, and what belongs to it. runtime.attaching is the other side.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

SOCKET = "attach"
# From a client: to be sent the output; input; its end; the terminal's size (rows, columns; two bytes each); a signal; goodbye,
# and let the container go on; the container shall end now and not be started again.
JOIN, INPUT, END, SIZE, SIGNAL, LEAVE, STOP = b"j", b"i", b"e", b"w", b"s", b"l", b"q"
# To a client: output, errors, the end (exit status, whether memory ran out; a byte each; the reason); and the answers to INPUT,
# when the container has taken it (a client waits for that before it sends more), and to STOP.
OUTPUT, ERRORS, EXIT, TAKEN, DONE = b"o", b"r", b"x", b"t", b"k"

MOST_QUEUED = 1 << 20  # bytes for one client that does not read; then its container, and nobody else, waits for it


class Client:
    """Somebody who is connected; the `first` has started the container, and the end of its input is the container's. With
    `lifeline`, the container ends when it is gone without having said goodbye."""

    __slots__ = ("connection", "first", "joined", "lifeline", "queue", "queued", "typed")

    def __init__(self, connection: "socket", *, first: bool = False, lifeline: bool = False) -> None:
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


def socket_path(directory: int) -> str:
    """The socket's, by the container's open directory: short, whatever the store's path is."""
    return f"/proc/self/fd/{directory}/{SOCKET}"


def drop_socket(directory: int) -> None:
    """Delete it, if it is there."""
    try:
        os.unlink(SOCKET, dir_fd=directory)
    except FileNotFoundError:
        pass
