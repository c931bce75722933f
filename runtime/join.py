"""`exec`: one more program in a container that runs, in all its namespaces and as confined as its first."""

import os

from runtime import linux
from runtime.attach import Copies
from runtime.cgroups import Cgroup
from runtime.container import Forwarding, above, error_of
from runtime.entry import Command, emit_birth, emit_stdio
from runtime.lifecycle import not_running, process_of
from runtime.program import Program
from runtime.spawn import spawn
from runtime.spec import Outcome, Spec
from runtime.state import Container
from runtime.users import resolve
from store.errors import SetupFailed
from store.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2

_JOINED = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET | linux.CLONE_NEWCGROUP
_PTMX = os.makedev(5, 2)


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
) -> Outcome:
    """Run `argv` in the container to its end. `env` is added to the container's own; an empty `user` or `cwd` is the container's.

    The descriptors are handed on as `container.run` does. The program ends when this process does. Raises RunError when the
    container does not run, SetupFailed, CommandNotFound or CommandNotExecutable.
    """
    spec = container.spec()
    spec.env = [f"HOSTNAME={spec.hostname}", *(["TERM=xterm"] if terminal else []), *spec.env, *env]
    direct = not (terminal or os.isatty(stdin) or os.isatty(stdout) or os.isatty(stderr))
    copies = None if direct else Copies(terminal, stdin, stdout, stderr)
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
        if forwarding is not None:
            forwarding.to(pid)
        if copies is not None:
            copies.begin(master)
            copies.until_end(pid)
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
                root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.append(root)
                linux.pidfd_send_signal(pidfd, 0)  # alive after its root was opened: the root is its own, no later process'
            except (ProcessLookupError, FileNotFoundError) as err:
                raise not_running(container) from err
            command = Command(spec, resolve(root, user), argv, spec.env, cwd)
            program = Program()
            group = Cgroup(container.id)
            joined = group.open_to_join()
            opened += joined
            emit_birth(program, joined)
            program.call("setns", pidfd, _JOINED, action="join the container's namespaces")
            # setns enters the namespace's root, which is the container's only where box itself runs in no chroot.
            program.call("fchdir", root, action="enter the container's root")
            program.call("chroot", b".\0", action="enter the container's root")
            program.call("umask", 0o022)
            if terminal:
                from runtime.terminal import open_terminal

                devpts = openat2(root, "dev/pts", os.O_PATH | os.O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
                opened.append(devpts)
                if os.stat("ptmx", dir_fd=devpts, follow_symlinks=False).st_rdev != _PTMX:
                    raise SetupFailed("open a terminal", 0, "the container's /dev/pts is no devpts", path="/dev/pts/ptmx")
                master, slave = open_terminal(devpts)
                opened.append(slave)
                stdio = (slave, slave, slave)
            emit_stdio(program, above(stdio, opened), terminal=terminal)
            reader, writer = os.pipe2(os.O_CLOEXEC)
            opened += (reader, writer)
            command.emit(program, writer)
            directory = group.open_for_clone()
            if directory is not None:
                opened.append(directory)
            own = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            opened.append(own)
            linux.setns(pidfd, linux.CLONE_NEWPID)  # of the children to come
            try:
                pid, failure = spawn(program, 0, directory)
            finally:
                linux.setns(own, linux.CLONE_NEWPID)
            if failure is not None:
                os.waitpid(pid, 0)
                raise error_of(failure, command, root)
        except BaseException:
            if master >= 0:
                os.close(master)
            raise
        finally:
            for fd in opened:
                os.close(fd)
    return pid, master
