"""Overlayfs on mounts that are nowhere, for kernels before 6.15: there, what is stacked has to be mounted in the namespace of who
does the stacking.

A thread gets a mount namespace of its own for that, which ends with the thread: the overlay has its own clones of all that it
stacks by then. Whatever is killed, nothing stays mounted anywhere.
"""

import posix as os
from _thread import allocate_lock, start_new_thread

from store.syscalls import AT_FDCWD, MS_PRIVATE, MS_REC, libc, mount, move_mount, new_filesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    Options = list[tuple[str, str | None]]

_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000


def mount_attached(paths: "dict[int, str | None]", options: "Options", attributes: int) -> int:
    """The descriptor of an overlay with these `options`, which name directories as /proc/self/fd/N: `paths` says of each N where
    it can be opened again, or, by an empty path, that it is a detached mount, or, by None, that it is in one of those. OSError
    as the kernel says it."""
    done: list[int | BaseException] = []
    ended = allocate_lock()
    ended.acquire()

    def work() -> None:
        try:
            done.append(_mount(paths, options, attributes))
        except BaseException as err:
            done.append(err)
        finally:
            ended.release()

    start_new_thread(work, ())
    ended.acquire()
    result = done[0]
    if isinstance(result, BaseException):
        raise result
    return result


def _mount(paths: "dict[int, str | None]", options: "Options", attributes: int) -> int:
    libc("unshare", _CLONE_FS | _CLONE_NEWNS)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    opened = [new_filesystem("tmpfs", [])]
    try:
        scratch = opened[0]
        move_mount(scratch, AT_FDCWD, "/")  # over the root that this thread goes on to see, so in nobody's way
        names = {}
        for descriptor, path in paths.items():
            if path:
                opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                names[f"/proc/self/fd/{descriptor}"] = f"/proc/self/fd/{opened[-1]}"
            elif path is not None:
                os.mkdir(str(descriptor), dir_fd=scratch)
                opened.append(os.open(str(descriptor), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=scratch))
                move_mount(descriptor, opened[-1])
        here = [(key, value if value is None else names.get(value, value)) for key, value in options]
        return new_filesystem("overlay", here, attributes)
    finally:
        for descriptor in opened:
            os.close(descriptor)
