"""`exec`: one more program in a container that runs, in all its namespaces and as confined as its first."""

import os

from runtime import linux
from runtime.attach import Copies
from runtime.cgroups import Cgroup
from runtime.container import Forwarding, error_of, indirect
from runtime.entry import Command, emit_birth
from runtime.id_maps import IdMaps
from runtime.joining import emit_joining, has_user_namespace, open_root, open_terminal_in, spawn_in
from runtime.lifecycle import check_not_paused, not_running, process_of
from runtime.program import Program
from runtime.spec import Outcome, Spec
from runtime.state import Container
from runtime.steps import emit_stdio, give
from runtime.users import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def run(
    container: Container,
    argv: list[str],
    *,
    env: list[str],
    user: str = "",
    cwd: str = "",
    terminal: bool = False,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    forward: bool = True,
    detach_keys: bytes = b"",
    let_go: "Callable[[], None] | None" = None,
    started: "Callable[[], object] | None" = None,
) -> Outcome:
    """Run `argv` in the container to its end. `env` is added to the container's own; an empty `user` or `cwd` is the container's.

    The descriptors are handed on as `container.run` does. The program ends when this process does. When the user types
    `detach_keys`, `let_go` is called, which is to give up the terminal, and it goes on with nobody attached. `started` is
    called once it runs. Raises RunError when the container does not run or is paused, SetupFailed, CommandNotFound or
    CommandNotExecutable.
    """
    check_not_paused(container, "execute in")
    spec = container.spec()
    spec.env = [f"HOSTNAME={spec.hostname}", *(["TERM=xterm"] if terminal else []), *spec.env, *env]
    direct = not (terminal or indirect(stdin, stdout, stderr, own_users=spec.userns != "host"))
    keys = None
    if let_go is not None and detach_keys and terminal and stdin >= 0:
        from runtime.attaching import Keys

        keys = Keys(detach_keys)
    copies = None if direct else Copies(terminal, stdin, stdout, stderr, keys=keys)
    forwarding = Forwarding() if forward else None
    pid = 0
    try:
        pid, master = _start(
            container,
            spec,
            argv,
            user or spec.user,
            cwd or spec.cwd,
            terminal,
            copies.ends() if copies else (stdin, stdout, stderr),
        )
        if started is not None:
            started()
        if forwarding is not None:
            forwarding.to(pid)
        if copies is not None:
            copies.begin(master)
            copies.until_end(pid)
            if copies.detached and let_go is not None:
                let_go()
                copies.drain(pid)
        _, status = os.waitpid(pid, 0)
        pid = 0
        return Outcome(status)
    finally:
        if pid:
            os.kill(pid, linux.SIGKILL)
            os.waitpid(pid, 0)
        if copies is not None:
            copies.close()
        if forwarding is not None:
            forwarding.stop()


def _start(
    container: Container, spec: Spec, argv: list[str], user: str, cwd: str, terminal: bool, stdio: tuple[int, int, int]
) -> tuple[int, int]:
    """The new process' pid, and its terminal's master or -1."""
    opened: list[int] = []
    master = -1
    with process_of(container) as pidfd:
        try:
            try:
                root = open_root(container.pid, pidfd)
            except ProcessLookupError as err:
                raise not_running(container) from err
            opened.append(root)
            command = Command(spec, resolve(root, user), argv, spec.env, cwd)
            program = Program()
            group = Cgroup.none() if container.record.get("ticks") else Cgroup(container.id)
            joined = group.open_to_join()
            opened += joined
            emit_birth(program, joined)
            maps = IdMaps.of(container.pid) if has_user_namespace(container.pid) else None
            emit_joining(program, pidfd, root, user_namespace=maps is not None)
            if terminal:
                master, slave = open_terminal_in(root)
                opened.append(slave)
                stdio = (slave, slave, slave)
            give(stdio, command.user, maps, terminal=terminal)
            emit_stdio(program, stdio, opened, terminal=terminal)
            reader, writer = os.pipe2(os.O_CLOEXEC)
            opened += (reader, writer)
            command.emit(program, writer)
            directory = group.open_for_clone()
            if directory is not None:
                opened.append(directory)
            pid, failure = spawn_in([(pidfd, linux.CLONE_NEWPID, "")], program, 0, directory)
            if failure is not None:
                os.waitpid(pid, 0)
                raise error_of(failure, command, lambda path: (root, path))
        except BaseException:
            if master >= 0:
                os.close(master)
            raise
        finally:
            for fd in opened:
                os.close(fd)
    return pid, master
