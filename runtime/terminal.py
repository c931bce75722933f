"""A container's own terminal, made in its devpts; and the user's, which passes every key on to it meanwhile."""

import os
import termios
from fcntl import ioctl

TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441


def open_terminal(devpts: int) -> tuple[int, int]:
    """A new terminal of the devpts instance mounted at `devpts`: its master, and the slave that is /dev/pts/0 there."""
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=devpts)
    try:
        ioctl(master, TIOCSPTLCK, (0).to_bytes(4, "little"))
        # The other end comes from the master itself, not by a path that could be something else.
        return master, ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise


def size_of(*terminals: int) -> tuple[int, int]:
    """Rows and columns of the first of these descriptors (-1 for none) that is a terminal and has some; else zeros."""
    for fd in terminals:
        try:
            size = ioctl(fd, termios.TIOCGWINSZ, bytes(8)) if fd >= 0 else b""
        except OSError:
            continue
        if any(size[:4]):
            return int.from_bytes(size[:2], "little"), int.from_bytes(size[2:4], "little")
    return (0, 0)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Give the terminal so many rows and columns, unless both are 0."""
    if rows or columns:
        ioctl(terminal, termios.TIOCSWINSZ, rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4))


def copy_size(source: int, target: int) -> None:
    """Give the terminal `target` the rows and columns of the terminal `source`; nothing where `source` is none."""
    try:
        size = ioctl(source, termios.TIOCGWINSZ, bytes(8))
        if any(size[:4]):
            ioctl(target, termios.TIOCSWINSZ, size)
    except OSError:
        return


class Raw:
    """While it lasts, the user's terminal passes every key on: the container's own terminal gives them their meaning."""

    __slots__ = ("fd", "former")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.former = None
        try:
            self.former = termios.tcgetattr(fd)
        except termios.error:
            return
        mode = termios.tcgetattr(fd)
        # cfmakeraw(3), output processing kept off too: the container's terminal has done it.
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(fd, termios.TCSADRAIN, mode)

    def restore(self) -> None:
        """Give the terminal back as it was."""
        if self.former is not None:
            try:
                termios.tcsetattr(self.fd, termios.TCSADRAIN, self.former)
            except termios.error:
                pass  # its window was closed
            self.former = None
