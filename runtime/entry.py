"""The list of calls that takes a child from its birth to the container's program, for `run` and for `exec`. Hot.

The order of the last steps: working directory, groups and namespaces done, descriptors closed, keyring, limits, bounding set,
identity, capabilities, no_new_privs, filter, execve. Each takes away what the one before still needed.
"""

import posix as os
from fcntl import F_SETFD

from runtime import capabilities
from runtime.confinement import FILTER_FLAG_LOG, confine
from runtime.linux import (
    CLONE_NEWCGROUP,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    SIGKILL,
)
from runtime.program import EPERM, Program, strings
from runtime.seccomp_cache import filter_bytes
from runtime.spec import DEFAULT_PATH, Spec
from runtime.steps import emit_default_signals, emit_loopback, emit_root, emit_unblocked, emit_working_directory
from runtime.users import User
from store.syscalls import AT_EMPTY_PATH, encode

_FIRST_CLOSED = 4  # 0, 1, 2 are the program's, 3 is the lifeline


class Command:
    """What is executed at last, in a container's root."""

    __slots__ = ("argv", "capabilities", "cwd", "env", "filter_flags", "limits", "no_new_privileges", "seccomp", "user")

    def __init__(self, spec: Spec, user: User, argv: list[str], env: list[str], cwd: str) -> None:
        """`argv` as `user`, confined as `spec` says. Reads the compiled filter from the store."""
        self.argv = argv
        self.user = user
        self.cwd = cwd or "/"
        self.env: dict[str, str] = {}
        for entry in env:
            name, _, value = entry.partition("=")
            self.env[name] = value
        self.env.setdefault("PATH", DEFAULT_PATH)
        self.env.setdefault("HOME", user.home)
        self.capabilities = spec.capabilities if spec.capabilities is not None else capabilities.RUN_DEFAULT
        self.no_new_privileges = spec.no_new_privileges
        self.seccomp = filter_bytes(spec.root, self.capabilities) if spec.seccomp else b""
        self.filter_flags = FILTER_FLAG_LOG if spec.log_refusals else 0
        self.limits = spec.ulimits

    def candidates(self) -> list[str]:
        """The paths at which execvp(3) would look for the program."""
        name = self.argv[0]
        if "/" in name:
            return [name]
        return [f"{folder or '.'}/{name}" for folder in self.env["PATH"].split(":")] if name else []

    def emit(self, program: Program, lifeline: int, init: int = -1) -> None:
        """Add the last steps. `lifeline` is a pipe's end whose other end only the parent has: its death is noticed there. `init`
        is the descriptor of a program that is executed first, and executes the command (runtime.stubs); -1 for none."""
        call = program.call
        if lifeline != 3:
            call("dup3", lifeline, 3, os.O_CLOEXEC)
        if init >= 0:
            call("fcntl", 3, F_SETFD, 0)  # it says there that the command cannot be executed
            call("dup3", init, _FIRST_CLOSED, os.O_CLOEXEC)
        # Before the working directory is entered, so that one of /proc/self/fd/N has nothing of the machine to lead to.
        call("close_range", _FIRST_CLOSED + (init >= 0), 0xFFFFFFFF, 0, action="close descriptors")
        emit_working_directory(program, self.cwd)
        confine(
            program,
            self.user,
            self.capabilities,
            no_new_privileges=self.no_new_privileges,
            seccomp=self.seccomp,
            filter_flags=self.filter_flags,
            limits=self.limits,
        )
        # Again: a change of identity clears it. And if the parent died in between, nobody holds the pipe's other end any more.
        call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        call("write", 3, b"\0", 1, action="find the parent alive")
        emit_unblocked(program)
        environment = [encode(f"{name}={value}") for name, value in self.env.items()]
        argv = [encode(word) for word in self.argv]
        if init >= 0:
            words = strings([b"box-init", b"--", *argv])
            call("execveat", _FIRST_CLOSED, b"\0", words, strings(environment), AT_EMPTY_PATH, action="execute the init")
        else:
            program.execute(self.candidates(), argv, environment)


def emit_birth(program: Program, joined: list[int]) -> None:
    """Add the first steps: no signal ignored, no outliving the parent, no tracing by
    others, and into the control groups.

    `joined` are descriptors of the v1 `tasks` files: a task that writes 0 there moves itself, without the wait of any other way.
    """
    emit_default_signals(program)
    program.call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    program.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    program.call("setsid", tolerated=(EPERM,))
    for tasks in joined:
        program.call("write", tasks, b"0", 1, action="join the control group")


def emit_user_namespace(program: Program, gate: int, other_end: int) -> None:
    """Add, before all else, the wait for the maps of the new user namespace, and that the child becomes its root. The files by
    which it gets them are the machine's root's from when it cannot be traced any more."""
    program.call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    program.call("close_range", other_end, other_end, 0)
    program.call("read", gate, b"\0", 1, action="wait for the user namespace's ids")
    emit_root(program)


def emit_identity(program: Program, spec: Spec) -> None:
    """Add the container's own name, its network and, since it is in its control groups by now, its own view of them."""
    program.call("unshare", CLONE_NEWCGROUP, action="make a cgroup namespace")
    name = encode(spec.hostname)
    program.call("sethostname", name, len(name), path=spec.hostname)
    if spec.network == "none":
        emit_loopback(program)
