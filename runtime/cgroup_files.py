"""Reading, writing and walking the files of control groups."""

import posix as os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_EBUSY = 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read(path: str) -> str:
    """The text of a control file; empty where there is none, or where it says nothing now (its group is going)."""
    try:
        return read_strictly(path)
    except OSError:
        return ""


def read_strictly(path: str) -> str:
    """The text of a control file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _all_of(fd)
    finally:
        os.close(fd)


def _all_of(fd: int) -> str:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def write(path: str, text: str) -> None:
    """Write `text` in one call, as the kernel wants it. Raises OSError with the path."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    except OSError as err:
        raise OSError(err.errno, err.strerror, path) from err
    finally:
        os.close(fd)


def table(text: str) -> dict[str, int]:
    """The lines `NAME NUMBER` of a control file such as memory.stat."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def number(text: str) -> int | None:
    """What a control file of one number says; None where there is no file; "max" is the largest number that there is."""
    text = text.strip()
    if text == "max":
        return (1 << 64) - 1
    return int(text) if text.removeprefix("-").isdigit() else None


def walk(path: str, visit: "Callable[[int], None] | None" = None, *, remove: bool = False, patience: float = 5.0) -> None:
    """Call `visit` with the descriptor of the group at `path` and of every group below it; with `remove`, take them all away,
    the innermost first. A group just left is busy for a moment: that is waited out until `patience` is over.

    One descriptor is open at any depth, and no path is ever put together: groups that a container nested beyond the longest path
    are found as well. What goes meanwhile is no error. Raises OSError.
    """
    deadline = time.monotonic() + patience
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    names: list[str] = []
    waiting: list[list[str]] = []
    try:
        while True:
            if len(waiting) == len(names):  # just arrived
                if visit is not None:
                    visit(fd)
                waiting.append(_groups_in(fd))
            elif waiting[-1]:
                name = waiting[-1].pop()
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    continue
                os.close(fd)
                fd = below
                names.append(name)
            elif names:
                above = os.open("..", _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                waiting.pop()
                name = names.pop()
                if remove:
                    _remove(name, fd, deadline)
            else:
                break
    finally:
        os.close(fd)
    if remove:
        _remove(path, None, deadline)


def _groups_in(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _remove(name: str, directory: int | None, deadline: float) -> None:
    while True:
        try:
            os.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError as err:
            if err.errno != _EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.0005)
        else:
            return


def pids_in(path: str) -> list[int]:
    """The pids in the group at `path` and below it, of this process' pid namespace, each once."""
    found: dict[int, None] = {}

    def visit(directory: int) -> None:
        try:
            fd = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return
        try:
            found.update((int(line), None) for line in _all_of(fd).split() if line != "0")
        except OSError:  # ENODEV: it went; EOPNOTSUPP: a threaded group of v2, whose processes its domain lists
            pass
        finally:
            os.close(fd)

    walk(path, visit)
    return list(found)
