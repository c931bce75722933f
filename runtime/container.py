"""The parent's side of a container: everything is written down before it is done, and undone in reverse. Hot.

`launch` takes a Spec to a running Process; `finish` takes its end to an Outcome. `run` is both, in the foreground.
"""

import os
import time

from _signal import signal as set_handler  # isort: skip  # the signal module would import enum

from runtime import linux
from runtime.cgroups import Cgroup, Limits
from runtime.init import Child, Program
from runtime.journal import Journal, reap
from runtime.rootfs import effects, make_skeleton
from runtime.spec import DEFAULT_PATH, Outcome, Spec
from store.errors import BoxError, CommandNotExecutable, CommandNotFound, RunError, SetupFailed

# HUP INT QUIT USR1 USR2 TERM CONT: what a user may send to box and means for the container.
FORWARDED = (1, 2, 3, 10, 12, 15, 18)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


class Process:
    """A container that runs, looked after by this process."""

    __slots__ = ("group", "journal", "master", "pid", "spec")

    def __init__(self, spec: Spec, journal: Journal, group: Cgroup, pid: int, master: int = -1) -> None:
        self.spec = spec
        self.journal = journal
        self.group = group
        self.pid = pid
        self.master = master

    def finish(self) -> Outcome:
        """Wait for the end, and leave nothing of the container but, unless it is `removed`, its record."""
        _, wait_status = os.waitpid(self.pid, 0)
        self.pid = 0
        outcome = Outcome(wait_status)
        if self.spec.memory is not None and outcome.signal == linux.SIGKILL:
            outcome.oom = self.group.oom_kills() > 0
        if outcome.status:
            outcome.pids_refused = self.group.pids_refused()
        self.group.delete()
        if self.spec.removed:
            self.journal.remove()
        else:
            self.journal.ended(outcome.status, outcome.signal, time.time(), outcome.oom)
            self.journal.close()
        return outcome

    def abandon(self) -> None:
        """Kill the container and leave nothing of it: what was interrupted counts as never run."""
        if self.pid:
            try:
                os.kill(self.pid, linux.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(self.pid, 0)
        self.group.kill()
        self.group.delete()
        self.journal.remove()


def run(spec: Spec, *, stdin: int = 0, stdout: int = 1, stderr: int = 2, forward: bool = False) -> Outcome:
    """Run the container to its end. `forward` passes the signals that reach this process on to it (and is for the main thread).

    A container that is `removed` and has no terminal gets the three descriptors themselves; any other one gets pipes or a terminal of
    its own, copied to and from them and into its log. On any error, KeyboardInterrupt too, nothing of the container is left.
    """
    with_copies = spec.terminal or not spec.removed
    if with_copies:
        from runtime.attach import run_attached

        return run_attached(spec, stdin, stdout, stderr, forward)
    journal = prepare(spec)
    forwarding = Forwarding() if forward else None
    try:
        process = launch(spec, journal, (stdin, stdout, stderr))
        if forwarding is not None:
            forwarding.to(process.pid)
        try:
            return process.finish()
        except BaseException:
            process.abandon()
            raise
    finally:
        if forwarding is not None:
            forwarding.stop()


def prepare(spec: Spec) -> Journal:
    """Clear up after the dead, complete `spec` with what depends on the container's id, and write it down."""
    reap(spec.root)
    make_skeleton(spec.root)
    journal = Journal.create(spec)
    try:
        if not spec.hostname:
            spec.hostname = _host_name() if spec.network == "host" else spec.id[:12]
        spec.env = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={spec.hostname}", *(["TERM=xterm"] if spec.terminal else []), *spec.env]
        if not spec.upper:
            spec.upper = journal.path + "/upper"
            spec.work = journal.path + "/work"
            os.mkdir(spec.upper)
            os.mkdir(spec.work)
            _match_root(spec)
    except BaseException:
        journal.remove()
        raise
    return journal


def launch(spec: Spec, journal: Journal, stdio: tuple[int, int, int], terminal: tuple[int, int] = (-1, -1)) -> Process:
    """Bear the container's first process; on return it has been executed. On error nothing of the container is left.

    `terminal` is a pair of connected socket descriptors, this process' and the child's, over which the terminal's master comes.
    """
    try:
        program = Program(spec)
        group = Cgroup.create(spec.id, Limits(spec.pids_limit, spec.memory, spec.cpus))
    except BaseException:
        journal.remove()
        raise
    process = Process(spec, journal, group, 0)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = Child(spec, effects(spec, group.paths), group, program, stdio, writer, terminal[1])
        namespaces = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID
        if spec.network == "none":
            namespaces |= linux.CLONE_NEWNET
        directory = group.open_for_clone()
        try:
            process.pid = linux.clone(namespaces, directory)
        except OSError as err:
            raise _clone_failed(err) from err
        if process.pid == 0:
            child.become()
        if directory is not None:
            os.close(directory)
        os.close(writer)
        writer = -1
        journal.started(process.pid, time.time())
        if terminal[0] >= 0:
            from runtime.terminal import receive

            process.master = receive(terminal[0])
        message = b""
        while data := os.read(reader, 4096):
            message += data
        if message:
            raise error_of(message)
    except BaseException:
        process.abandon()
        raise
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return process


def error_of(message: bytes) -> BoxError:
    """The error that a child sent (runtime.init.answer)."""
    kind, text, hint = (message.decode("utf-8", "surrogateescape").split("\0", 2) + ["", ""])[:3]
    error: BoxError = RunError(text, hint=hint)
    if kind == "CommandNotFound":
        error.exit_status = CommandNotFound.exit_status
    elif kind == "CommandNotExecutable":
        error.exit_status = CommandNotExecutable.exit_status
    elif kind == "bug":
        error.hint = "this is a bug in box: it should have said what is wrong"
    return error


class Forwarding:
    """While it lasts, the signals that reach this process go to the container; one that comes before the container is kept for it."""

    __slots__ = ("early", "former", "pid")

    def __init__(self) -> None:
        self.pid = 0
        self.early: list[int] = []
        self.former = [(number, set_handler(number, self._handle)) for number in FORWARDED]

    def _handle(self, number: int, frame: "FrameType | None") -> None:
        if not self.pid:
            self.early.append(number)
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def to(self, pid: int) -> None:
        """The container's process is `pid`."""
        self.pid = pid
        for number in self.early:
            self._handle(number, None)

    def stop(self) -> None:
        """Give every signal back its former meaning."""
        for number, handler in self.former:
            set_handler(number, handler)


def _match_root(spec: Spec) -> None:
    """The root directory of an overlay is its upper's: give it the image's mode and owner."""
    status = os.stat(spec.lowers[0]) if spec.lowers else None
    os.chmod(spec.upper, status.st_mode & 0o7777 if status else 0o755)
    if status and (status.st_uid or status.st_gid):
        os.chown(spec.upper, status.st_uid, status.st_gid)


def _host_name() -> str:
    return os.uname().nodename


def _clone_failed(err: OSError) -> SetupFailed:
    hint = {
        1: "box needs to be root to make namespaces",
        12: "the machine has no memory for one more process",
        11: "the machine's limit of processes is reached",
        28: "the machine's limit of namespaces is reached: sysctl user.max_pid_namespaces and its like",
        38: "box needs Linux 5.7 or later, and clone3 allowed where it runs",
    }.get(err.errno or 0, "")
    return SetupFailed("clone into new namespaces", err.errno or 0, os.strerror(err.errno or 0), hint=hint)
