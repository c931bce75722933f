"""Deleting a tree whose names and links are hostile: by directory descriptors, following nothing, however deep it is.

On the hot path of `box run --rm`: imports nothing but `os`.
"""

import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def delete_tree(name: str | bytes, *, dir_fd: int | None = None) -> None:
    """Delete the file or directory `name`, below `dir_fd` where given; what is already gone is no error.

    Never follows a symbolic link, never leaves the tree, and holds a bounded number of descriptors: a directory deeper than
    PATH_MAX is taken apart as well as a flat one.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # unlink of a directory: EISDIR on Linux, EPERM by POSIX
        pass
    else:
        return
    try:
        os.rmdir(name, dir_fd=dir_fd)
        return
    except OSError:
        pass  # not empty; any other reason shows itself below
    parent = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        _empty(parent)
    finally:
        os.close(parent)
    os.rmdir(name, dir_fd=dir_fd)


def _empty(top: int) -> None:
    """Delete all that lies in the directory `top`, walking down one chain at a time and back up by `..`."""
    here = os.dup(top)
    # The names walked down through. Going up by `..` is safe only inside a tree that nobody else moves: a store's trees are
    # 0700 and their container is gone. The identity of each directory is checked all the same.
    path: list[tuple[str, int, int]] = []
    try:
        while True:
            below = _delete_files(here)
            if below is not None:
                status = os.fstat(here)
                path.append((below, status.st_dev, status.st_ino))
                down = os.open(below, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = down
            elif path:
                up = os.open("..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = up
                name, device, inode = path.pop()
                status = os.fstat(here)
                if (status.st_dev, status.st_ino) != (device, inode):
                    raise OSError(116, "directory moved while it was being deleted", name)  # ESTALE
                os.rmdir(name, dir_fd=here)
            else:
                return
    finally:
        os.close(here)


def _delete_files(directory: int) -> str | None:
    """Delete the files and empty directories in `directory`; the name of a directory that is not empty, or None."""
    below = None
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                try:
                    os.rmdir(entry.name, dir_fd=directory)
                except OSError:
                    below = entry.name
            else:
                os.unlink(entry.name, dir_fd=directory)
    return below
