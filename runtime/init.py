"""The child's side: from the moment of its birth in new namespaces to the program's execve. It never returns.

What goes wrong is sent to the parent as one message down a pipe that closes on execve: its end without a message means that the
program runs. Everything is imported before the root changes, since an import after that would run the container's code as root of
the machine. The order of the last steps is that of runtime.privileges.
"""

import os
from _signal import SIG_DFL, SIG_SETMASK, pthread_sigmask, signal

from runtime import capabilities, linux
from runtime.cgroups import Cgroup
from runtime.command import execute_found
from runtime.effects import Effect
from runtime.linux import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, SIGKILL
from runtime.privileges import restrict
from runtime.rootfs import enter
from runtime.seccomp_cache import filter_bytes
from runtime.spec import DEFAULT_PATH, Spec
from runtime.users import resolve
from store.errors import BoxError, SetupFailed
from store.syscalls import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Program:
    """What is executed at last, in a container's root: `exec` starts one with the same care as `run`."""

    __slots__ = ("argv", "capabilities", "cwd", "env", "limits", "no_new_privileges", "seccomp", "user")

    def __init__(self, spec: Spec) -> None:
        """The container's own program. Reads the compiled filter, so it is made before the root changes."""
        self.argv = spec.argv
        self.env = spec.env
        self.user = spec.user
        self.cwd = spec.cwd or "/"
        self.capabilities = spec.capabilities if spec.capabilities is not None else capabilities.RUN_DEFAULT
        self.no_new_privileges = spec.no_new_privileges
        self.seccomp = filter_bytes(spec.root, self.capabilities) if spec.seccomp else b""
        self.limits = spec.ulimits

    def execute(self, messages: int, *, make_cwd: bool = False) -> "NoReturn":
        """The last act in the container's root. Raises SetupFailed, CommandNotFound or CommandNotExecutable."""
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        account = resolve(root, self.user or "0")
        os.close(root)
        environment: dict[str, str] = {}
        for entry in self.env:
            name, _, value = entry.partition("=")
            environment[name] = value
        environment.setdefault("PATH", DEFAULT_PATH)
        environment.setdefault("HOME", account.home)
        if make_cwd and not os.path.isdir(self.cwd):
            try:
                os.makedirs(self.cwd, 0o755)
            except OSError as err:
                raise SetupFailed("make the working directory", err.errno or 0, err.strerror or "", path=self.cwd) from err
        # Before the working directory is entered, so that one of /proc/self/fd/N has nothing of the machine to lead to.
        messages = _close_all_but(messages)
        restrict(
            account, self.capabilities, cwd=self.cwd, no_new_privileges=self.no_new_privileges, seccomp=self.seccomp, limits=self.limits
        )
        # Again: a change of identity clears it. If the parent died before, nobody holds the pipe's other end any more.
        linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
        if libc("poll", messages.to_bytes(4, "little") + bytes(4), 1, 0):
            os._exit(125)
        execute_found(self.argv, environment)


class Child:
    """What the child needs: `stdio` are the descriptors to become 0, 1 and 2 (unless it has a terminal: `terminal` is a socket that
    takes the terminal's master), `messages` the pipe to the parent."""

    __slots__ = ("group", "messages", "plan", "program", "spec", "stdio", "terminal")

    def __init__(
        self, spec: Spec, plan: list[Effect], group: Cgroup, program: Program, stdio: tuple[int, int, int], messages: int,
        terminal: int = -1,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.plan = plan
        self.group = group
        self.program = program
        self.stdio = stdio
        self.messages = messages
        self.terminal = terminal

    def become(self) -> "NoReturn":
        """Become the container's first process."""
        answer(self.messages, self._become)

    def _become(self) -> "NoReturn":
        spec = self.spec
        reset_signals()
        linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
        linux.prctl(PR_SET_DUMPABLE, 0)
        if not self.group.v2:
            self.group.join()
        # Only now, so that the container's own groups are the root of what it sees of them.
        linux.unshare(linux.CLONE_NEWCGROUP)
        os.setsid()
        linux.set_hostname(spec.hostname)
        if spec.network == "none":
            linux.loopback_up()
        enter(spec, self.plan)
        if spec.terminal:
            from runtime.terminal_child import give_terminal

            give_terminal(self.terminal)
        else:
            set_stdio(self.stdio)
        self.program.execute(self.messages, make_cwd=True)


def answer(messages: int, act: "Callable[[], NoReturn]") -> "NoReturn":
    """Do `act`, which ends in execve; what it raises becomes a message to the parent. Never returns, never unwinds into the caller."""
    try:
        act()
    except BoxError as err:
        fields = (type(err).__name__, err.message, err.hint)
    except OSError as err:
        fields = ("OSError", err.strerror or str(err), "")
    except BaseException as err:
        fields = ("bug", repr(err), "")
    try:
        os.write(messages, "\0".join(fields).encode("utf-8", "surrogateescape")[:4096])
    finally:
        os._exit(125)


def reset_signals() -> None:
    """Give every signal its default meaning and let it through: what Python or the caller changed must not outlive execve."""
    for number in range(1, 65):
        if number in (SIGKILL, 19, 32, 33):
            continue
        signal(number, SIG_DFL)
    pthread_sigmask(SIG_SETMASK, ())


def set_stdio(stdio: tuple[int, int, int]) -> None:
    """Make `stdio` descriptors 0, 1 and 2, whatever numbers they have."""
    copies = [os.dup(fd) for fd in stdio]  # above 2 already, or moved below: dup never returns one that is still needed
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)


def _close_all_but(kept: int) -> int:
    """Close every descriptor above 2 but the one; its new number."""
    if kept != 3:
        os.dup2(kept, 3, inheritable=False)
    linux.close_from(4)
    return 3
