"""Volumes: directories of the store that outlive the containers that use them.

    volumes/NAME/           flocked: shared by who mounts it, exclusively by who deletes it
      volume                when it was made, and its labels (JSON); flocked by who fills it
      data                  its files

A container names its volumes in its journal before it looks for them, and a volume is only deleted when, with nobody about to
mount it, no journal names it. An *anonymous* one was
named by nobody; made for one container, it goes with it where that is asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

from runtime.journal import make_directories
from runtime.records import encode, read
from runtime.spec import Bind, ImageTree
from runtime.state import Container, Containers
from store.copies import copy_tree
from store.drafts import Drafts
from store.errors import RunError, VolumeMissing
from store.faults import Attempt
from store.grave import Grave
from store.overlay import mount_overlay
from store.record import Record
from store.syscalls import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    libc,
    open_tree,
    openat2,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOKED_AT = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


class Volume(Record):
    """A volume as it was when it was read; `created` is unix time, an `anonymous` one was named by nobody."""

    root: str
    name: str
    created: float
    labels: Mapping[str, str]
    anonymous: bool = False

    @property
    def path(self) -> str:
        """The directory of its files."""
        return data_of(self.root, self.name)


def data_of(root: str, name: str) -> str:
    """Where the files of a volume are, or would be."""
    return f"{root}/volumes/{name}/data"


def all_volumes(root: str) -> list[Volume]:
    """Every volume, by name."""
    try:
        names = sorted(os.listdir(f"{root}/volumes"))
    except FileNotFoundError:
        return []
    return [found for name in names if (found := _read(root, name)) is not None]


def find(root: str, name: str) -> Volume:
    """The volume of this name. Raises VolumeMissing."""
    found = _read(root, name) if name and "/" not in name and name not in (".", "..") else None
    if found is None:
        from store.likeness import nearest

        near = nearest(name, [each.name for each in all_volumes(root)])
        raise VolumeMissing(name, hint=f"did you mean {near!r}?" if near else "'box volume ls' lists them all")
    return found


def _read(root: str, name: str) -> Volume | None:
    record = read(f"{root}/volumes/{name}/volume")
    if record is None:
        return None
    return Volume(root, name, record["created"], record.get("labels", {}), record.get("anonymous", False))


def create(
    root: str, name: str, labels: Mapping[str, str] | None = None, *, anonymous: bool = False, durable: bool = True
) -> bool:
    """Make an empty volume; False when there is one of this name. If `durable`, it survives a crash."""
    for directory in (f"{root}/volumes", f"{root}/drafts"):
        if not os.path.isdir(directory):
            make_directories(directory)
    with Attempt(f"create the volume {name}"), Drafts(f"{root}/drafts").directory("volume") as draft:
        os.mkdir(f"{draft.path}/data", 0o755)
        os.chmod(f"{draft.path}/data", 0o755)  # whatever the umask is
        fd = os.open(f"{draft.path}/volume", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            record = encode({"created": time.time(), "labels": dict(labels or {}), "anonymous": anonymous})
            os.write(fd, record.encode("utf-8", "surrogateescape") + b"\n")
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        if durable:
            _sync(draft.path)
        if not draft.publish(f"{root}/volumes/{name}"):
            return False
        if durable:
            _sync(f"{root}/volumes")
    return True


def _sync(path: str) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- use --------------------------------------------------------------------------------------------------------------------


def provide(root: str, wanted: Bind, lowers: Sequence[str]) -> int:
    """A detached clone of the volume that `wanted` names, made and filled where that is to be done; `lowers` are the image's
    trees.

    The journal of its container names the volume already. Raises RunError, StoreError.
    """
    with _held(root, wanted) as top:
        data = openat2(top, "data", os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE)
        try:
            if not wanted.no_copy and not os.listdir(data):
                os.close(data)
                data = -1
                _fill(root, wanted, lowers, top)
                data = openat2(top, "data", os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE)
            try:
                shown = openat2(data, wanted.subpath or ".", os.O_PATH, 0, _INSIDE)
            except OSError as err:
                raise RunError(
                    f"the volume {wanted.volume} has no {wanted.subpath}",
                    hint="a subpath is not made: create it in the volume first",
                ) from err
            try:
                return open_tree(shown, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH)
            finally:
                os.close(shown)
        finally:
            if data >= 0:
                os.close(data)


@contextmanager
def _held(root: str, wanted: Bind) -> Iterator[int]:
    """A volume's directory, made where it is missing, which nobody deletes in this block."""
    path = f"{root}/volumes/{wanted.volume}"
    while True:
        try:
            fd = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            create(root, wanted.volume, anonymous=wanted.anonymous, durable=not wanted.anonymous)
            continue
        flock(fd, LOCK_SH)
        if _is_there(path, fd):
            break
        os.close(fd)  # deleted before it was locked
    try:
        yield fd
    finally:
        os.close(fd)


def _is_there(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _fill(root: str, wanted: Bind, lowers: Sequence[str], top: int) -> None:
    """Give the empty volume what the image has at its mount point, all or nothing."""
    lock = os.open("volume", os.O_RDONLY | os.O_CLOEXEC, dir_fd=top)
    try:
        flock(lock, LOCK_EX)
        tree = mount_overlay(
            [*lowers, _empty(root)], attributes=_LOOKED_AT
        )  # as the image has it, whoever its owners are in the container
        try:
            source = openat2(tree, wanted.target, os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE)
        except OSError:
            return  # the image has no directory there
        finally:
            os.close(tree)
        try:
            with Attempt(f"fill {wanted}"), Drafts(f"{root}/drafts").directory("volume") as draft:
                target = os.open(draft.path, _DIRECTORY)
                try:
                    copy_tree(source, target)
                    if not wanted.anonymous:
                        libc("syncfs", target)  # what appears at once must not be half of it after a power cut
                finally:
                    os.close(target)
                draft.publish(data_of(root, wanted.volume))  # which it cannot take the place of if it is not empty any more
        finally:
            os.close(source)
    finally:
        flock(lock, LOCK_UN)
        os.close(lock)


def _empty(root: str) -> str:
    """A directory without files: overlayfs stacks no fewer than two."""
    return f"{root}/skeleton/proc"


def open_image(root: str, wanted: ImageTree, mapping: int = -1) -> int:
    """A detached mount of an image's files, or of a part of them, for the user namespace `mapping` (store.overlay)."""
    tree = mount_overlay([*wanted.trees, _empty(root)], attributes=_LOOKED_AT, mapping=mapping)
    if not wanted.subpath:
        return tree
    try:
        shown = openat2(tree, wanted.subpath, os.O_PATH, 0, _INSIDE)
    except OSError as err:
        raise RunError(f"the image {wanted.image} has no {wanted.subpath}") from err
    else:
        try:
            return open_tree(shown, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
        except OSError as err:
            raise RunError(
                f"this kernel cannot show a part of an image: {os.strerror(err.errno or 0).lower()}",
                hint="that takes Linux 6.15: mount the whole image",
            ) from err
        finally:
            os.close(shown)
    finally:
        os.close(tree)


# --- deletion ---------------------------------------------------------------------------------------------------------------


def users(root: str) -> dict[str, list[Container]]:
    """The containers that use each volume, those too that do not run."""
    found: dict[str, list[Container]] = {}
    for container in Containers(root).recorded():
        for mount in container.record.get("mounts", []):
            if mount.get("volume"):
                found.setdefault(mount["volume"], []).append(container)
    return found


def remove(volume: Volume, *, but: str = "") -> None:
    """Delete a volume with all that is in it. Raises RunError when a container, other than `but`, uses it."""
    path = f"{volume.root}/volumes/{volume.name}"
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError as err:
        raise VolumeMissing(volume.name) from err
    try:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError as err:
            raise RunError(f"volume {volume.name} is being mounted", hint="try again") from err
        using = [one for one in users(volume.root).get(volume.name, []) if one.id != but]
        if using:
            error = RunError(
                f"volume {volume.name} is in use by {', '.join(one.name for one in using[:4])}",
                hint=f"remove the container first: box rm {using[0].name}",
            )
            error.exit_status = 1
            raise error
        if _is_there(path, fd):
            grave = Grave(Drafts(f"{volume.root}/drafts"))
            try:
                grave.take(path)
            finally:
                grave.close()
    finally:
        os.close(fd)


def prune(root: str, *, everything: bool = False) -> list[Volume]:
    """Delete the volumes that no container uses: those without a name, or all. Those that went."""
    gone = []
    for volume in all_volumes(root):
        if volume.anonymous or everything:
            try:
                remove(volume)
            except RunError:
                continue  # in use
            gone.append(volume)
    return gone


def discard(root: str, names: Collection[str], container: str) -> None:
    """Delete the anonymous volumes among `names` that only `container` uses, which is about to go."""
    for name in names:
        volume = _read(root, name)
        if volume is not None and volume.anonymous:
            try:
                remove(volume, but=container)
            except RunError:
                continue  # another container has taken it over
