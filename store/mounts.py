"""Trees that `box mount` shows at a directory of this machine, and the records of them.

    ROOT/mounts/NAME    one mount: a JSON object, written before the mount is made; flocked while one is made or taken away
    ROOT/mounted/NAME   the directory where it is shown, when none was named

A record keeps what it names from being deleted: `chains` of an image, or a `container`. It is believed while its mount is there,
and its mount is known by its number, its place, its mount namespace and the boot. Whatever was killed or unmounted by other
means, the next `Store.open` clears up: a record without its mount goes, a mount whose container is gone as well.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from store.errors import BoxError, StoreError, UsageError
from store.faults import Attempt
from store.locks import Lock
from store.prepared import boot_id
from store.record import Record, fields_of
from store.syscalls import (
    AT_EMPTY_PATH,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    OPEN_TREE_CLONE,
    mount_setattr,
    move_mount,
    open_tree,
    umount,
)

_ATTRIBUTES = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_UMOUNT_NOFOLLOW = 8


class Mounted(Record):
    """One mount. `subject` is the image or container as the user named it, `number` the mount's id (0: not made yet).

    Of an image, `image` is the id and `chains` are those of its layers, the lowest first; `container` is a container's id. `made`
    says that the directory is box's own.
    """

    name: str
    subject: str
    target: str
    made: bool
    image: str
    chains: tuple[str, ...]
    container: str
    boot: str
    namespace: int
    number: int


def all_mounts(root: str) -> list[Mounted]:
    """Every mount that is recorded in the store, those being made, too."""
    try:
        names = sorted(os.listdir(f"{root}/mounts"))
    except FileNotFoundError:
        return []
    return [found for name in names if (found := _read(f"{root}/mounts/{name}", name)) is not None]


def mount(
    root: str,
    subject: str,
    view: Callable[[], int],
    *,
    target: str = "",
    image: str = "",
    chains: Sequence[str] = (),
    container: str = "",
) -> Mounted:
    """Show the tree that `view` gives a descriptor of at the directory `target`, or at a new one: read-only, nosuid, nodev.

    The caller sees to it that nothing of it is deleted before this returns. On an error nothing is left.
    """
    name = os.urandom(6).hex()
    made = not target
    place = f"{root}/mounted/{name}" if made else os.path.realpath(target)
    if not made and not os.path.isdir(place):
        raise UsageError(f"there is no directory {target}", hint="make it first, or leave it out: box makes one and prints it")
    record = Mounted(name, subject, place, made, image, tuple(chains), container, boot_id(), _namespace(), 0)
    with Attempt(f"mount {subject}"):
        os.makedirs(f"{root}/mounts", 0o700, exist_ok=True)
        with _created(f"{root}/mounts/{name}") as file:
            try:
                _write(file, record)
                if made:
                    os.makedirs(place, 0o700)
                tree = view()
                try:
                    record = _show(root, tree, record, file)
                finally:
                    os.close(tree)
            except BaseException:
                if made:
                    with suppress(OSError):
                        os.rmdir(place)
                os.unlink(f"{root}/mounts/{name}")
                raise
    return record


def _show(root: str, tree: int, record: Mounted, file: int) -> Mounted:
    mount_fd = tree
    if _number(tree) == _number_of(f"{root}/snapshots"):  # a directory of the store itself: a copy of the mount it lies in
        mount_fd = open_tree(tree, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
    try:
        mount_setattr(mount_fd, _ATTRIBUTES, propagation=MS_PRIVATE)
        record = Mounted(**{**fields_of(record), "number": _number(mount_fd)})
        _write(file, record)
        target = os.open(record.target, _DIRECTORY)
        try:
            move_mount(mount_fd, target)
        finally:
            os.close(target)
    finally:
        if mount_fd != tree:
            os.close(mount_fd)
    return record


def unmount(root: str, mounted: Mounted, *, lazily: bool = False) -> None:
    """Take the mount away, and the directory if box made it. StoreError when something still uses it, unless `lazily`."""
    path = f"{root}/mounts/{mounted.name}"
    try:
        lock = Lock(path)
    except FileNotFoundError:
        return
    with lock:
        if _is_there(mounted):
            try:
                umount(mounted.target, _UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0))
            except OSError as err:
                if err.errno == errno.EBUSY:
                    raise StoreError(
                        f"{mounted.target} is in use", hint="leave it (cd, open files), or take it away at once with --force"
                    ) from err
                with Attempt(f"unmount {mounted.target}"):
                    raise
        _forget(path, mounted)


def sweep(root: str) -> None:
    """Clear up what killed commands, reboots and other programs left of mounts. What cannot be cleared up is left."""
    for name in os.listdir(f"{root}/mounts"):
        path = f"{root}/mounts/{name}"
        with suppress(OSError, BoxError):
            lock = Lock.attempt(path)
            if lock is None:
                continue  # being made, or taken away
            with lock:
                mounted = _read(path, name)
                if mounted is None:  # its maker was killed while it wrote: nothing was made yet
                    os.unlink(path)
                elif mounted.boot == boot_id() and mounted.namespace != _namespace():
                    continue  # in a mount namespace into which nobody sees from here
                elif not _is_there(mounted):
                    _forget(path, mounted)
                elif mounted.container and not os.path.isdir(f"{root}/containers/{mounted.container}"):
                    umount(mounted.target, _UMOUNT_NOFOLLOW | MNT_DETACH)
                    _forget(path, mounted)


def _forget(path: str, mounted: Mounted) -> None:
    if mounted.made:
        with suppress(OSError):
            os.rmdir(mounted.target)
    os.unlink(path)


def _is_there(mounted: Mounted) -> bool:
    """Whether the mount is where it was made, and the uppermost there."""
    if mounted.boot != boot_id() or not mounted.number:
        return False
    try:
        return _number_of(mounted.target) == mounted.number and mounted.namespace == _namespace()
    except OSError:
        return False


def _namespace() -> int:
    return os.stat("/proc/self/ns/mnt").st_ino


def _number_of(path: str) -> int:
    descriptor = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    try:
        return _number(descriptor)
    finally:
        os.close(descriptor)


def _number(descriptor: int) -> int:
    """The id of the mount that the descriptor is in: proc(5), fdinfo."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(errno.ENOSYS, "this kernel does not number mounts")


@contextmanager
def _created(path: str) -> Iterator[int]:
    """A new file, locked until the end of the block."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else swept between open and flock
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _write(descriptor: int, record: Mounted) -> None:
    """One line more; of several the last one counts, and one that was cut off counts for nothing."""
    os.write(descriptor, json.dumps(fields_of(record)).encode() + b"\n")


def _read(path: str, name: str) -> Mounted | None:
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            value: dict[str, Any] = json.loads(line)
            return Mounted(**{**value, "chains": tuple(value["chains"]), "name": name})
        except (ValueError, KeyError, TypeError):
            continue
    return None
