"""A container's terminal on its way to the engine."""

from store.errors import RunError


def resize(master: int, size: tuple[int, int]) -> None:
    if any(size):
        import termios
        from fcntl import ioctl

        height, width = size
        ioctl(master, termios.TIOCSWINSZ, height.to_bytes(2, "little") + width.to_bytes(2, "little") + bytes(4))


def send_terminal(path: str, master: int) -> None:
    """Give the terminal's master to whoever listens at the socket."""
    from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.connect(path)
        connection.sendmsg([b"/dev/ptmx"], [(SOL_SOCKET, SCM_RIGHTS, master.to_bytes(4, "little"))])
    except OSError as err:
        raise RunError(f"cannot send the terminal to {path}: {(err.strerror or str(err)).lower()}") from err
    finally:
        connection.close()
