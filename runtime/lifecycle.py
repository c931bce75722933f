"""Starting containers that rest, and ending, waiting for, renaming and removing those that another process looks after."""

import os
import select
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from runtime import linux
from runtime.cgroups import Cgroup
from runtime.clients import DONE, EXIT, STOP
from runtime.container import complete_environment, prepare, renew_work, require_root
from runtime.journal import RENAMED, Journal, amend, claim_name, looked_after, mark, monitor_died, reap, release_name
from runtime.reaping import anonymous_volumes
from runtime.restarts import NO, of
from runtime.spec import ImageTree, Spec
from runtime.state import Container, Containers
from store.errors import ContainerMissing, RunError

SIGTERM, SIGKILL = 15, 9


@contextmanager
def process_of(container: Container) -> Iterator[int]:
    """A pidfd of the container's first process, which is surely that one. Raises RunError when it does not run.

    The pid may long be another's: the pidfd is believed only if, with it open, the pid is in the container's control group, or,
    where it has none, was born when that process was.
    """
    if container.status != "running":
        raise not_running(container)
    try:
        pidfd = linux.pidfd_open(container.pid)
    except OSError as err:
        raise not_running(container) from err
    try:
        ticks = container.record.get("ticks")
        if ticks:
            from runtime.engine_state import started_at

            found = started_at(container.pid) == ticks
        else:
            found = container.pid in Cgroup(container.id).processes()
        if not found:
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


def create(spec: Spec) -> None:
    """Make a container that does not run yet."""
    prepare(spec).rest()


def wake(container: Container, *, restarts: int | None = None) -> tuple[Spec, Journal]:
    """What is to be launched of a container that does not run, and its directory, held. Whatever becomes of the launch, the
    container is there afterwards. `restarts` says that its policy wants it, for the so-manieth time. Raises RunError when it runs
    or is in use, or is not to be restarted any more."""
    require_root()
    journal = Journal.hold(container.path)
    if journal is None:
        raise RunError(f"container {container.name} runs, or is in use", hint="wait until it has ended: 'box wait'")
    try:
        now = Containers(container.root).read(container.id)
        if now is None or now.status == "running":  # gone; or its keeper was killed just now
            raise RunError(f"container {container.name} has just ended", hint="try again")
        if restarts is not None and not now.restarting:
            raise RunError(f"container {container.name} is not to be started again")
        check_not_mounted(container)
        spec = now.spec()
        spec.lowers = _trees(now)
        _find_images(spec)
        spec.upper, spec.work = journal.path + "/upper", journal.path + "/work"
        renew_work(spec)
        complete_environment(spec)
        journal.wake(restarts or 0)
    except BaseException:
        journal.close()
        raise
    return spec, journal


def _trees(container: Container) -> list[str]:
    """The trees of its image, made again where they are not to be believed any more, as after a power cut."""
    from store.layout import Store

    lowers: list[str] = container.record["lowers"]
    if not container.image_digest or not lowers:
        return lowers
    driver = "erofs" if lowers[0].endswith(".erofs") else "copy" if "/copies/" in lowers[0] else "overlay"
    store = Store.open(container.root, driver)
    with store.leased():
        trees = list(store.snapshots.trees(store.use_image(container.image_digest)[1].layers))
        if trees != lowers:
            amend(container.path, {"lowers": trees})
    return trees


def _find_images(spec: Spec) -> None:
    """The trees of the images that are mounted in it, made again as its own are."""
    for each in spec.mounts:
        if isinstance(each, ImageTree):
            from store.layout import Store

            store = Store.open(spec.root)
            with store.leased():
                each.trees = list(store.snapshots.trees(store.use_image(each.digest)[1].layers))


def start(container: Container) -> None:
    """Start a container that does not run, in the background; one that runs is fine as it is. Raises RunError for one that is
    paused."""
    check_not_paused(container, "start")
    if container.status == "running":
        return
    from runtime.detached import detach

    detach(*wake(container))


def restart(container: Container, timeout: float = 10.0) -> None:
    """End the container as `stop` does, and start it again."""
    if container.record.get("removed") and container.status == "running":
        raise RunError(
            f"container {container.name} is removed when it ends", hint="that is what --rm asks for: run it again instead"
        )
    stop(container, timeout)
    now = Containers(container.root).read(container.id)
    if now is None:
        raise ContainerMissing(container.name)
    start(now)


def rename(container: Container, name: str) -> None:
    """Give the container another name. Raises RunError when another container has it."""
    if name == container.name:
        raise RunError(f"container {container.name} has that name already", hint="choose another name")
    mark(container.path, RENAMED)
    claim_name(container.root, container.id, name)
    try:
        amend(container.path, {"name": name})
    except BaseException:
        os.unlink(f"{container.root}/names/{name}")
        raise
    release_name(container.root, container.id, but=name)


def kill(container: Container, signal: int) -> None:
    """Send `signal` to the container's first process. Raises RunError when it does not run."""
    if signal in (SIGKILL, _stop_signal(container)) and container.status == "running":
        _end_for_good(container)
    with process_of(container) as pidfd:
        try:
            linux.pidfd_send_signal(pidfd, signal)
        except ProcessLookupError as err:
            raise not_running(container) from err
        if signal in (SIGKILL, _stop_signal(container)):
            _thaw(container)


def _end_for_good(container: Container) -> Container:
    """Have it not started again by its policy; the container as it is then."""
    if of(container.record) == NO:
        return container
    if container.status == "running":
        _tell_monitor(container)
        return container
    if container.restarting:
        amend(container.path, {"restarting": False})
        deadline = time.monotonic() + 10
        while looked_after(container.path) and time.monotonic() < deadline:  # it is being started just now
            now = Containers(container.root).read(container.id)
            if now is not None and now.status == "running":
                _tell_monitor(now)
                return now
            time.sleep(0.005)
    return container


def _tell_monitor(container: Container) -> None:
    from runtime.attaching import connect

    try:
        connection = connect(container)
    except RunError:
        return
    try:
        connection.send(STOP)
        while connection.recv(1 << 17)[:1] not in (DONE, EXIT, b""):
            pass
    except OSError:
        pass
    finally:
        connection.close()


def _stop_signal(container: Container) -> int:
    return int(container.record.get("stop_signal") or SIGTERM)


def _thaw(container: Container) -> None:
    """What is paused heeds no signal."""
    if container.paused:
        from runtime.pausing import thaw

        thaw(container)


def check_not_paused(container: Container, what: str) -> None:
    """Raise RunError where the container is paused, and `what` cannot be done with it therefore."""
    if container.paused:
        error = RunError(f"cannot {what} a paused container: {container.name}", hint=f"box unpause {container.name}")
        error.exit_status = 1
        raise error


def stop(container: Container, timeout: float = 10.0) -> None:
    """Ask the container to end by its stop signal, and after `timeout` seconds end it. On return it is stopped, or gone (`--rm`).

    A container that does not run is fine as it is.
    """
    container = _end_for_good(container)
    try:
        with process_of(container) as pidfd:
            linux.pidfd_send_signal(pidfd, _stop_signal(container))
            _thaw(container)
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
    now = Containers(container.root).read(container.id)
    if now is not None and now.restarting:  # it ended by itself just before
        stop(now, timeout)


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


def wait_for(container: Container, conditions: Collection[str], interval: float) -> int:
    """Return when the container is one of `conditions`: created, running, paused, stopped (or exited), removed, and of one that
    runs healthy or unhealthy. Its exit status, -1 where it has none. Raises ContainerMissing when it is removed and nobody waits
    for that, RunError where only its health is waited for and it has no checks."""
    if {"healthy", "unhealthy"} >= set(conditions) and not container.record.get("health"):
        error = RunError(f"container {container.name} has no health checks", hint="box run --health-cmd COMMAND gives it some")
        error.exit_status = 1
        raise error
    while True:
        now = Containers(container.root).read(container.id)
        if now is None:
            if "removed" in conditions:
                return -1
            raise ContainerMissing(container.name, hint="it has been removed")
        state = "paused" if now.paused else now.status
        health = now.health.get("status", "") if state == "running" else ""
        if state in conditions or (state == "stopped" and "exited" in conditions) or health in conditions:
            return -1 if now.exit_status is None else now.exit_status
        time.sleep(interval)
        Containers(container.root).reap()


def remove(container: Container, force: bool = False, *, volumes: bool = False) -> None:
    """Delete the container with all it wrote, and with `volumes` those that were made for it alone. Raises RunError when it runs
    or its files are mounted, unless `force` ends both."""
    if container.status == "running":
        if not force:
            raise RunError(f"container {container.name} is running", hint=f"stop it first, or 'box rm -f {container.name}'")
        stop(container, 0)
    if force:
        from store.mounts import all_mounts, unmount

        for mounted in all_mounts(container.root):
            if mounted.container == container.id:
                unmount(container.root, mounted, lazily=True)
    else:
        check_not_mounted(container)
    for _ in range(100):
        journal = Journal.hold(container.path)
        if journal is not None:
            group = Cgroup(container.id)
            group.kill()
            group.delete()
            if names := anonymous_volumes(container.record) if volumes or container.record.get("removed") else []:
                from runtime.volumes import discard

                discard(container.root, names, container.id)
            journal.remove()
            return
        if not os.path.isdir(container.path):
            return
        time.sleep(0.05)
    raise RunError(f"container {container.name} is still being looked after", hint="try again when it has ended")


def check_not_mounted(container: Container) -> None:
    from store.mounts import all_mounts

    for mounted in all_mounts(container.root):
        if mounted.container == container.id:
            raise RunError(
                f"the files of container {container.name} are mounted at {mounted.target}", hint=f"box umount {container.name}"
            )


def wait_released(container: Container) -> None:
    """Return when no process looks after the container any more: it has ended, or that process was killed."""
    from runtime.attaching import connect

    pause = 0.001
    while looked_after(container.path):
        if monitor_died(container.root):
            reap(container.root)
        try:
            connection = connect(container)
        except RunError:  # it runs in the foreground, or is about to be released
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
            continue
        try:
            while connection.recv(1 << 17)[:1] not in (EXIT, b""):
                pass
        except OSError:
            pass
        finally:
            connection.close()
