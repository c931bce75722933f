"""Ending, waiting for and removing containers that another process looks after."""

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_SH, flock

from runtime import linux
from runtime.cgroups import Cgroup
from runtime.journal import Journal
from runtime.state import Container, Containers
from store.errors import ContainerMissing, RunError

SIGTERM, SIGKILL = 15, 9


@contextmanager
def process_of(container: Container) -> Iterator[int]:
    """A pidfd of the container's first process, which is surely that one. Raises RunError when it does not run.

    The pid may long be another's: the pidfd is believed only if, with it open, the pid is in the container's control group.
    """
    if container.status != "running":
        raise not_running(container)
    try:
        pidfd = linux.pidfd_open(container.pid)
    except OSError as err:
        raise not_running(container) from err
    try:
        if container.pid not in Cgroup(container.id).processes():
            raise not_running(container)
        yield pidfd
    finally:
        os.close(pidfd)


def not_running(container: Container) -> RunError:
    """The error that says so."""
    hint = "" if container.exit_status is None else f"it ended with status {container.exit_status}"
    error = RunError(f"container {container.name} is not running", hint=hint)
    error.exit_status = 1
    return error


def kill(container: Container, signal: int) -> None:
    """Send `signal` to the container's first process. Raises RunError when it does not run."""
    with process_of(container) as pidfd:
        try:
            linux.pidfd_send_signal(pidfd, signal)
        except ProcessLookupError as err:
            raise not_running(container) from err


def stop(container: Container, timeout: float = 10.0) -> None:
    """Ask the container to end by its stop signal, and after `timeout` seconds end it. On return it is stopped, or gone (`--rm`).

    A container that does not run is fine as it is.
    """
    try:
        with process_of(container) as pidfd:
            linux.pidfd_send_signal(pidfd, int(container.record.get("stop_signal") or SIGTERM))
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(max(timeout, 0) * 1000):
                linux.pidfd_send_signal(pidfd, SIGKILL)
                poll.poll()
    except ProcessLookupError:
        pass
    except RunError:
        if container.status == "running":
            wait_released(container)
        return
    wait_released(container)


def wait(container: Container) -> int:
    """The container's exit status, once it has ended. Raises ContainerMissing when it was removed with its record (`--rm`)."""
    while True:
        wait_released(container)
        now = Containers(container.root).read(container.id)
        if now is None:
            raise ContainerMissing(container.name, hint="it has ended, and was removed with its record, as --rm asks")
        if now.exit_status is not None:
            return now.exit_status
        Containers(container.root).reap()  # the one that looked after it was killed
        time.sleep(0.01)


def remove(container: Container, force: bool = False) -> None:
    """Delete the container with all it wrote. Raises RunError when it runs or its files are mounted, unless `force` ends both."""
    if container.status == "running":
        if not force:
            raise RunError(f"container {container.name} is running", hint=f"stop it first, or 'box rm -f {container.name}'")
        stop(container, 0)
    from store.mounts import all_mounts, unmount

    for mounted in all_mounts(container.root):
        if mounted.container == container.id:
            if not force:
                raise RunError(
                    f"the files of container {container.name} are mounted at {mounted.target}",
                    hint=f"box umount {container.name}",
                )
            unmount(container.root, mounted, lazily=True)
    for _ in range(100):
        journal = Journal.hold(container.path)
        if journal is not None:
            group = Cgroup(container.id)
            group.kill()
            group.delete()
            journal.remove()
            return
        if not os.path.isdir(container.path):
            return
        time.sleep(0.05)
    raise RunError(f"container {container.name} is still being looked after", hint="try again when it has ended")


def wait_released(container: Container) -> None:
    """Return when no process looks after the container any more: it has ended, or that process was killed."""
    try:
        fd = os.open(container.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        flock(fd, LOCK_SH)  # held exclusively by whoever looks after it
    finally:
        os.close(fd)
