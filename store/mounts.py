"""Trees that `box mount` shows at a directory of this machine, and the records of them.

    ROOT/mounts/NAME    one mount: a JSON object, written before the mount is made; flocked while one is made or taken away
    ROOT/mounted/NAME   the directory where it is shown, when none was named

A record keeps what it names from being deleted: `chains` of an image, or a `container`. It is believed while its mount is there,
wherever it was moved to and whatever lies over it: a mount is known by the boot, its mount namespace, its number and what it
shows. Whatever was killed or unmounted by other means, the next `Store.open` clears up: a record without its mount goes, a mount
whose container is gone as well. Of the mounts of another namespace nothing can be seen, so their records stay.
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
from store.mountinfo import Place, inhabitant, places
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
    """One mount. `subject` is the image or container as the user named it, `target` where it is now, as far as that can be seen,
    `number` the mount's id (0: not made yet) and `shows` what mountinfo says of it (empty: its maker did not come to that). `top`
    is the root directory that its maker had.

    Of an image, `image` is the manifest (the id, where an older box made it) and `chains` are those of its layers, the lowest
    first; `container` is a container's id. `made` says that the directory is box's own.
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
    shows: str = ""
    top: str = ""


def all_mounts(root: str) -> list[Mounted]:
    """Every mount that is recorded in the store, those being made, too."""
    try:
        names = sorted(os.listdir(f"{root}/mounts"))
    except FileNotFoundError:
        return []
    found = [mounted for name in names if (mounted := _read(f"{root}/mounts/{name}", name)) is not None]
    here = places() if found else {}
    return [_moved(mounted, place.path) if (place := _place(mounted, here)) is not None else mounted for mounted in found]


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

    The caller sees to it that nothing of it is deleted before this returns. On an error nothing is left; UsageError for a
    directory that is none, or that shows something of this store already.
    """
    name = os.urandom(6).hex()
    made = not target
    place = f"{root}/mounted/{name}" if made else os.path.realpath(target)
    if not made and not os.path.isdir(place):
        raise UsageError(f"there is no directory {target}", hint="make it first, or leave it out: box makes one and prints it")
    other = next((other for other in all_mounts(root) if other.target == place and _is_uppermost(other)), None)
    if other is not None:
        raise UsageError(f"{target} shows {other.subject} already", hint=f"box umount {target} first, or name another directory")
    record = Mounted(name, subject, place, made, image, tuple(chains), container, boot_id(), _namespace(), 0, top=_top())
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
        try:
            shown = places().get(record.number)
            if shown is not None:
                record = Mounted(**{**fields_of(record), "shows": shown.shows})
                _write(file, record)
        except BaseException:
            umount(record.target, _UMOUNT_NOFOLLOW | MNT_DETACH)
            raise
    finally:
        if mount_fd != tree:
            os.close(mount_fd)
    return record


def unmount(root: str, mounted: Mounted, *, lazily: bool = False) -> None:
    """Take the mount away, and the directory if box made it. StoreError when something still uses it, unless `lazily`; when
    something else is mounted over it; and when it is in another mount namespace."""
    path = f"{root}/mounts/{mounted.name}"
    try:
        lock = Lock(path)
    except FileNotFoundError:
        return
    with lock:
        if _is_elsewhere(mounted):
            _give_up(mounted, forget=lazily)
        else:
            place = _place(mounted, places())
            if place is not None:
                _take_away(_moved(mounted, place.path), lazily=lazily)
        _forget(root, mounted)


def _take_away(mounted: Mounted, *, lazily: bool) -> None:
    if not _is_uppermost(mounted):
        raise StoreError(
            f"something else is mounted over {mounted.target}", hint=f"take that away first: umount {mounted.target}"
        )
    try:
        umount(mounted.target, _UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0))
    except OSError as err:
        if err.errno == errno.EBUSY:
            raise StoreError(
                f"{mounted.target} is in use", hint="leave it (cd, open files), or take it away at once with --force"
            ) from err
        with Attempt(f"unmount {mounted.target}"):
            raise


def _give_up(mounted: Mounted, *, forget: bool) -> None:
    """StoreError for a mount that cannot be seen from here; where its namespace seems to be gone, it may be forgotten."""
    if mounted.namespace == _namespace():
        raise StoreError(
            f"{mounted.target} was mounted where this command's root directory does not reach",
            hint="take it away from outside of the chroot",
        )
    pid = inhabitant(mounted.namespace)
    if pid or not forget:
        raise StoreError(
            f"{mounted.target} is mounted in another mount namespace, {mounted.namespace}",
            hint=f"take it away from there: nsenter --mount=/proc/{pid}/ns/mnt box umount {mounted.target}"
            if pid
            else "no process is left in there that can be seen: --force forgets the mount",
        )


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
                elif _is_elsewhere(mounted):
                    continue
                elif (place := _place(mounted, places())) is None:
                    _forget(root, mounted)
                elif mounted.container and not os.path.isdir(f"{root}/containers/{mounted.container}"):
                    _take_away(_moved(mounted, place.path), lazily=True)
                    _forget(root, mounted)


def _forget(root: str, mounted: Mounted) -> None:
    if mounted.made:
        with suppress(OSError):
            os.rmdir(f"{root}/mounted/{mounted.name}")
    os.unlink(f"{root}/mounts/{mounted.name}")


def _is_elsewhere(mounted: Mounted) -> bool:
    """Whether it was made in this boot, in a mount namespace or from a root directory of which nobody sees from here."""
    return mounted.boot == boot_id() and (mounted.namespace != _namespace() or mounted.top not in ("", _top()))


def _place(mounted: Mounted, here: dict[int, Place]) -> Place | None:
    """Where the mount is now, of all that are `here`; None when it is not."""
    place = here.get(mounted.number)
    if place is None or mounted.boot != boot_id() or _is_elsewhere(mounted):
        return None
    right = place.shows == mounted.shows if mounted.shows else place.path == mounted.target
    return place if right else None


def _moved(mounted: Mounted, target: str) -> Mounted:
    return Mounted(**{**fields_of(mounted), "target": target})


def _is_uppermost(mounted: Mounted) -> bool:
    """Whether its path leads to it, not to something that is mounted over it."""
    try:
        return bool(mounted.number) and _number_of(mounted.target) == mounted.number
    except OSError:
        return False


def _namespace() -> int:
    return os.stat("/proc/self/ns/mnt").st_ino


def _top() -> str:
    return f"{_number_of('/')} {os.stat('/').st_ino}"


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
