"""The file tree of a container or an image, as a descriptor: to look at (`merged`), or to copy out of and into (`inside`).

A container that runs shows its own root: entered through its first process, which a pidfd proves to be that one. One that has
ended is mounted anew, detached, from its layers and its upper directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime import linux
from runtime.id_maps import IdMaps
from runtime.joining import has_user_namespace
from runtime.journal import Journal
from runtime.lifecycle import check_not_mounted, not_running, process_of
from runtime.state import Container, Containers
from store.clones import clone_tree
from store.errors import BoxError, ContainerMissing, ReferenceMissing, RunError
from store.faults import Attempt
from store.images import Image
from store.layout import Store
from store.overlay import mount_overlay
from store.private import is_whole
from store.record import Record
from store.syscalls import (
    AT_EMPTY_PATH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLONE,
    mount_setattr,
    open_tree,
)
from store.trees import delete_tree

LOOKED_AT = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID
_CLONE_FILES = 0x400
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Subject(Record):
    """What a name on the command line means: an image, or a container, whose `image` is then None."""

    name: str
    image: Image | None = None
    container: Container | None = None


def find(store: Store, name: str) -> Subject:
    """The container, or else the image, that `name` means, the image in the store's lease. BoxError when there is neither."""
    try:
        return Subject(name, container=Containers(store.root).find(name))
    except ContainerMissing:
        pass
    try:
        return Subject(name, image=store.use_image(name)[1])
    except ReferenceMissing as missing:
        raise BoxError(f"no container or image named {name!r}", hint="'box ps -a' and 'box images' list them") from missing


@contextmanager
def merged(store: Store, subject: Subject) -> Iterator[int]:
    """A descriptor of the whole tree, read-only, without what is mounted in it; the mount goes when the block ends."""
    if subject.image is not None:
        descriptor = store.snapshots.view(subject.image.layers)
    else:
        assert subject.container is not None
        descriptor = open_merged(subject.container)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_merged(container: Container) -> int:
    """`merged` of a container: a detached mount, set read-only, nosuid and nodev."""
    if container.status == "running":
        try:
            descriptor = _clone_root(container)
        except RunError:
            container = _now(container)
            if container.status == "running":
                raise
        else:
            mount_setattr(descriptor, LOOKED_AT)
            return descriptor
    _check_ended(container)
    with Attempt(f"mount the files of container {container.name}"):
        if container.record.get("rootfs"):
            return clone_tree(container.record["rootfs"], LOOKED_AT)
        if is_whole(upper_of(container)):
            return clone_tree(upper_of(container), LOOKED_AT)
        return mount_overlay([upper_of(container), *_lowers(container)], attributes=LOOKED_AT)


@contextmanager
def inside(container: Container) -> Iterator[int]:
    """A descriptor of the container's root as its processes see it, mounts and all; what is written there is the container's.

    Of a container that has ended nothing is mounted in it, and nobody else may use it meanwhile. RunError when somebody does.
    """
    if container.status == "running":
        try:
            root = _enter(container)
        except RunError:
            container = _now(container)  # it may have ended just now
            if container.status == "running":
                raise
        else:
            try:
                yield root
            finally:
                os.close(root)
            return
    _check_ended(container)
    journal = Journal.hold(container.path)
    if journal is None:
        raise RunError(f"container {container.name} is in use", hint="another command looks after it; try again")
    try:
        check_not_mounted(container)
        with Attempt(f"mount the files of container {container.name}"):
            work = container.path + "/work"
            delete_tree(work)  # overlayfs refuses one that a volatile mount has used
            os.mkdir(work, 0o700)
            attributes = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID
            if container.record.get("rootfs"):
                root = clone_tree(container.record["rootfs"], attributes)
            else:
                root = mount_overlay(_lowers(container), upper_of(container), work, volatile=True, attributes=attributes)
        try:
            yield root
        finally:
            os.close(root)
    finally:
        journal.close()


def maps_of(container: Container) -> IdMaps | None:
    """The ids of a running container that has a user namespace: its files show those from outside."""
    if container.status != "running":
        return None
    try:
        return IdMaps.of(container.pid) if has_user_namespace(container.pid) else None
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return None  # it has ended; what is mounted then has its files' own


def upper_of(container: Container) -> str:
    """The directory that holds what the container changed."""
    return container.path + "/upper"


def lowers_of(container: Container) -> list[str]:
    """The trees of its image, the topmost first."""
    return list(container.record.get("lowers", []))


def _lowers(container: Container) -> list[str]:
    return [*lowers_of(container), container.root + "/skeleton"]


def _now(container: Container) -> Container:
    now = Containers(container.root).read(container.id)
    if now is None:
        raise ContainerMissing(container.name, hint="it has just ended, and was removed")
    return now


def _check_ended(container: Container) -> None:
    if container.status != "stopped" or not os.path.isdir(upper_of(container)):
        raise RunError(f"container {container.name} has no files yet, or none any more", hint="try again once it runs")


def _enter(container: Container) -> int:
    with process_of(container) as pidfd:
        return _root_of(container, pidfd)


def _root_of(container: Container, pidfd: int) -> int:
    try:
        root = os.open(f"/proc/{container.pid}/root", _DIRECTORY)
        try:
            linux.pidfd_send_signal(pidfd, 0)  # alive after its root was opened: the root is its own, no later process'
        except BaseException:
            os.close(root)
            raise
    except (ProcessLookupError, FileNotFoundError) as err:
        raise not_running(container) from err
    return root


def _clone_root(container: Container) -> int:
    """A detached copy of the mount that is the root of a running container, without those below it.

    Only a process in the mount's own namespace may copy it: a child goes there, and shares its descriptors with this process.
    """
    with process_of(container) as pidfd:
        root = _root_of(container, pidfd)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid = linux.clone(_CLONE_FILES)
            if not pid:
                status = 1
                try:
                    linux.setns(pidfd, linux.CLONE_NEWNS)
                    made = open_tree(root, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
                    os.write(writer, b"%d" % made)
                    status = 0
                except OSError as err:
                    status = err.errno or 1
                finally:
                    os._exit(status)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            if code:
                raise RunError(f"cannot copy the root mount of container {container.name}: {os.strerror(code).lower()}")
            return int(os.read(reader, 16))
        finally:
            for fd in (root, reader, writer):
                os.close(fd)
