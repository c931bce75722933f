"""What an OCI runtime does with a container that was created: start, kill, delete, pause, resume, update, and what it says."""

import posix as os
import time

from runtime import linux
from runtime.bundle import Bundle, load
from runtime.container_cgroup import ContainerCgroup
from runtime.engine_failures import failure_of
from runtime.engine_state import EngineContainer, spell
from runtime.hooks import run_hooks
from runtime.jsontext import read
from store.errors import BoxError, RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEATH = 10.0  # seconds in which a killed process is expected to be gone


def group_of(container: EngineContainer) -> ContainerCgroup:
    """The container's control groups."""
    return ContainerCgroup.reopen(container.state.get("cgroups", {}), rootless=container.state.get("rootless", False))


def bundle_of(container: EngineContainer) -> Bundle:
    """The bundle that the container was made of, as it is now."""
    return load(container.state.get("bundle", ""), container.state.get("config", ""))


def start(root: str, identity: str) -> list[str]:
    """Let the container's command be executed. Returns warnings."""
    with EngineContainer.open(root, identity) as container:
        status = container.status
        if status != "created":
            raise RunError(f"cannot start a container that is {status}: {identity}")
        bundle = bundle_of(container)
        _hooks(container, bundle, "startContainer", pid=container.pid)
        try:
            writer = os.open(f"{container.path}/start", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as err:
            raise RunError(f"the process of container {identity} waits no more: {(err.strerror or '').lower()}") from err
        result = os.open(f"{container.path}/result", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(result, True)
        try:
            os.write(writer, b"1")
            # It has this FIFO open to write, too, until it executes its command or ends.
            message = os.read(result, 4096)
        finally:
            os.close(writer)
            os.close(result)
        if message:
            _await_end(container)
            steps = read(f"{container.path}/program", "the container's program")["steps"]
            raise failure_of(message, [(name, action, path) for name, action, path in steps], bundle)
        container.state["released"] = True
        container.save()
        for name in ("start", "result", "program"):
            os.unlink(f"{container.path}/{name}")
        return _warnings(container, bundle, "poststart")


def _await_end(container: EngineContainer) -> None:
    """An engine asks at once what became of a container whose start failed: it is stopped then, and has been for a moment, in
    which a parent hears of it."""
    deadline = time.monotonic() + 1
    while container.pid and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)


def kill(root: str, identity: str, number: int, *, everything: bool = False) -> None:
    """Send a signal to the container's process, or to all that it has."""
    with EngineContainer.open(root, identity) as container:
        pid = container.pid
        if everything:
            group_of(container).signal_all(number)
            return
        if not pid:
            raise RunError(f"container not running: {identity}")
        _signal(container, pid, number)


def _signal(container: EngineContainer, pid: int, number: int) -> None:
    try:
        pidfd = linux.pidfd_open(pid)
        try:
            if container.pid == pid:  # the descriptor is of this very process
                linux.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    except ProcessLookupError as err:
        raise RunError(f"container not running: {container.identity}") from err
    group = group_of(container)
    if number == linux.SIGKILL and group.frozen():
        group.thaw()  # what is frozen does not die


def delete(root: str, identity: str, *, force: bool = False) -> list[str]:
    """Leave nothing of the container. One that lives is refused without `force`. Returns warnings."""
    try:
        container = EngineContainer.open(root, identity)
    except RunError:
        if force:
            return []
        raise
    with container:
        pid = container.pid
        if pid and not force:
            raise RunError(
                f"cannot delete container {identity} that is not stopped: it is {container.status}",
                hint=f"box-runtime kill {identity} KILL, or delete --force",
            )
        group = group_of(container)
        if pid:
            _signal(container, pid, linux.SIGKILL)
        if group.paths:
            if group.frozen():
                group.thaw()
            group.kill()
        deadline = time.monotonic() + _DEATH
        while container.pid:
            if time.monotonic() > deadline:
                raise RunError(
                    f"the process {pid} of container {identity} does not end", hint="it may wait for a device; try again"
                )
            time.sleep(0.002)
        group.delete()
        warnings: list[str] = []
        if container.state:
            try:
                warnings = _warnings(container, bundle_of(container), "poststop")
            except BoxError as err:  # its engine may have taken the bundle away
                warnings = (
                    [f"poststop hooks were not run: {err.message}"] if os.access(container.state["bundle"], os.F_OK) else []
                )
        container.remove()
        return warnings


def state(root: str, identity: str) -> "dict[str, Any]":
    """The container's state."""
    with EngineContainer.open(root, identity) as container:
        return _described(container)


def everyone(root: str) -> "list[dict[str, Any]]":
    """The states of all containers, by id."""
    try:
        names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        try:
            found.append(state(root, name))
        except RunError:
            continue  # went meanwhile
    return found


def _described(container: EngineContainer) -> "dict[str, Any]":
    described = container.described()
    if described["status"] == "running" and group_of(container).frozen():
        described["status"] = "paused"
    return described


def pause(root: str, identity: str) -> None:
    """Freeze all that the container runs."""
    with EngineContainer.open(root, identity) as container:
        if container.status not in ("running", "created"):
            raise RunError(f"cannot pause a container that is {container.status}: {identity}")
        group_of(container).freeze()


def resume(root: str, identity: str) -> None:
    """Let it go on."""
    with EngineContainer.open(root, identity) as container:
        group = group_of(container)
        if not group.frozen():
            raise RunError(f"container not paused: {identity}")
        group.thaw()


def update(root: str, identity: str, resources: "dict[str, Any]") -> None:
    """Change its limits; what `resources` does not name stays."""
    with EngineContainer.open(root, identity) as container:
        if container.status == "stopped":
            raise RunError(f"container not running: {identity}")
        group_of(container).update(resources)


def processes(root: str, identity: str) -> list[int]:
    """The pids of all that it runs."""
    with EngineContainer.open(root, identity) as container:
        return group_of(container).processes()


def stats(root: str, identity: str) -> "dict[str, Any]":
    """What it has used, as `events --stats` says it."""
    with EngineContainer.open(root, identity) as container:
        if container.status == "stopped":
            raise RunError(f"container not running: {identity}")
        return {"type": "stats", "id": identity, "data": group_of(container).stats()}


def _hooks(container: EngineContainer, bundle: Bundle, name: str, *, pid: int = 0) -> None:
    if bundle.hooks[name]:
        run_hooks(bundle.hooks[name], spell(container.described()), pid=pid)


def _warnings(container: EngineContainer, bundle: Bundle, name: str) -> list[str]:
    """Run hooks whose failure changes nothing any more: it is told."""
    warnings = []
    for hook in bundle.hooks[name]:
        try:
            run_hooks([hook], spell(container.described()))
        except BoxError as err:
            warnings.append(err.message)
    return warnings
