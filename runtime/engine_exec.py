"""`exec` of an OCI runtime: one more process in a container of a bundle, in all its namespaces and control groups."""

import posix as os

from runtime import linux
from runtime.bundle import Place, Process
from runtime.bundle_command import candidates, emit_birth, emit_execution, emit_identity, emit_limits, not_executed
from runtime.bundle_namespaces import BORN_IN, CLONE_FLAGS
from runtime.bundle_scheduling import emit_affinity, emit_memory_policy
from runtime.engine import write_whole
from runtime.engine_console import resize, send_terminal
from runtime.engine_filters import filter_of
from runtime.engine_operations import bundle_of, group_of
from runtime.engine_state import EngineContainer
from runtime.id_maps import IdMaps
from runtime.joining import JOINED, emit_joining, open_root, open_terminal_in, other_namespaces, spawn_in
from runtime.program import Program
from runtime.steps import emit_stdio, give
from store.errors import BoxError, RunError, SetupFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.seccomp_listener import Listener


class ExecOptions:
    """What `exec` is told besides the process."""

    __slots__ = ("cgroups", "console_socket", "detach", "listening", "pid_file", "preserved")

    def __init__(self) -> None:
        self.cgroups: list[str] = []
        self.console_socket = ""
        self.pid_file = ""
        self.preserved = self.listening = 0
        self.detach = False


def execute(root: str, identity: str, document: "dict[str, Any]", options: ExecOptions) -> int:
    """Run the process that `document` (config.json's `process`; what it leaves out is the container's own) describes. Its exit
    status; 0 at once with `detach`."""
    if options.detach:
        _begin(root, identity, document, options)
        return 0
    from runtime.container import Forwarding
    from runtime.engine_run import wait_for

    forwarding = Forwarding(patience=0)
    try:
        return wait_for(*_begin(root, identity, document, options), forwarding)
    finally:
        forwarding.stop()


def _begin(root: str, identity: str, document: "dict[str, Any]", options: ExecOptions) -> tuple[int, int]:
    """The process' pid, and its terminal's master where this command has it, else -1."""
    with EngineContainer.open(root, identity) as container:
        if container.status not in ("running", "created"):
            raise RunError(f"cannot exec in a container that is {container.status}: {identity}")
        if group_of(container).frozen():
            raise RunError(f"cannot exec in a paused container: {identity}", hint=f"box-runtime resume {identity}")
        pid, master = _bear(container, document, options)
    if options.pid_file:
        write_whole(options.pid_file, str(pid))
    if master >= 0 and options.console_socket:
        os.close(master)
        master = -1
    return pid, master


def _bear(container: EngineContainer, document: "dict[str, Any]", options: ExecOptions) -> tuple[int, int]:
    bundle = bundle_of(container)
    own = dict(bundle.raw.get("process") or {})
    added = document.pop("env+", []), document.pop("cap+", {})
    whole = {**own, "terminal": False, "consoleSize": None, **document}
    whole["env"] = [*(whole.get("env") or []), *added[0]]
    if added[1]:
        sets = whole.get("capabilities") or {}
        whole["capabilities"] = {**sets, **{name: [*(sets.get(name) or []), *names] for name, names in added[1].items()}}
    process = Process(Place(whole, "process"))
    process.listen(options.listening)
    if process.terminal and options.detach and not options.console_socket:
        raise RunError("process.terminal is set and there is no --console-socket", hint="engines give one; or leave out --tty")
    opened: list[int] = []
    master = -1
    target = container.pid
    pidfd = linux.pidfd_open(target)
    opened.append(pidfd)
    try:
        try:
            inside = open_root(target, pidfd)
        except ProcessLookupError as err:
            raise RunError(f"container not running: {container.identity}") from err
        opened.append(inside)
        group = group_of(container)
        if options.cgroups:
            group = group.sub_group(options.cgroups)
        program = Program()
        joined = group.open_to_join()
        opened += joined
        emit_affinity(program, process, "initial")
        emit_birth(program, process, joined)
        emit_affinity(program, process, "final")
        users = "user" in bundle.namespaces
        if users:  # which it may not raise there any more
            emit_limits(program, process)
        rootless = container.state.get("rootless")
        kinds = other_namespaces(target) if rootless else JOINED
        emit_joining(program, pidfd, inside, user_namespace=users, kinds=kinds)
        stdio = (0, 1, 2)
        if process.terminal:
            master, slave = open_terminal_in(inside)
            opened.append(slave)
            stdio = (slave, slave, slave)
            resize(master, process.console)
            if users:  # else its other end would be nobody's
                status = os.stat(f"/proc/{target}/root")
                os.chown(slave, status.st_uid, -1)
            if options.console_socket:
                send_terminal(options.console_socket, master)
        else:
            give(stdio, process, IdMaps.of(target) if users else None, terminal=False)
        emit_stdio(program, stdio, opened, terminal=process.terminal)
        seccomp = filter_of(bundle.linux.get("seccomp"), container.root)
        first, ready = 3 + options.preserved, None
        listener = seccomp.listener if seccomp else None
        if listener:
            from runtime.seccomp_listener import gate_pair

            listener.gate = first  # of what is in its place nothing is needed any more
            ours, theirs = gate_pair(first + 1)
            opened += (ours, theirs)
            program.call("dup3", theirs, first, os.O_CLOEXEC)
            ready = _handing_over(listener, container.described(), ours)
        program.call("close_range", first + bool(listener), 0xFFFFFFFF, 0, action="close descriptors")
        emit_memory_policy(program, bundle.linux.get("memoryPolicy"))
        emit_identity(program, process, seccomp, users=users)
        emit_execution(program, process, seccomp, first)
        directory = group.open_for_clone(target)
        if directory is not None:
            opened.append(directory)
        born_in = [(pidfd, CLONE_FLAGS[kind], "") for kind in BORN_IN if kind == "pid" or kind in bundle.namespaces]
        if rootless:
            from runtime.joining_aside import spawn_aside

            pid, failure = spawn_aside(born_in, program, 0, ready=ready)
        else:
            pid, failure = spawn_in(born_in, program, 0, directory, ready)
        if failure is not None:
            os.waitpid(pid, 0)
            raise _error(failure, process)
        return pid, master
    except BaseException:
        if master >= 0:
            os.close(master)
        raise
    finally:
        for fd in opened:
            os.close(fd)


def _handing_over(listener: "Listener", state: "dict[str, Any]", gate: int) -> "Callable[[int], None]":
    """What is done while the process waits at its gate."""

    def ready(pid: int) -> None:
        pidfd = linux.pidfd_open(pid)
        try:
            listener.hand_over(pid, pidfd, state, gate)
        except RunError:
            if not linux.ended(pidfd):  # else it tells itself what it could not do
                raise
        finally:
            os.close(pidfd)

    return ready


def _error(failure: "Any", process: Process) -> BoxError:
    if failure.call is None or failure.call.name == "execve":
        return not_executed(process, failure.executions or [failure.errno] * len(candidates(process)))
    return SetupFailed(failure.call.action, failure.errno, os.strerror(failure.errno), path=failure.call.path)
