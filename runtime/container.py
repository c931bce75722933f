"""The parent's side of a container: everything is written down before it is done, and undone in reverse. Hot.

`launch` takes a Spec to a running Process; `finish` takes its end to an Outcome. `run` is both, in the foreground.
"""

import posix as os
import select
import time

from _signal import signal as set_handler  # isort: skip  # the signal module would import enum

from runtime import linux
from runtime.capabilities import SYS_CHROOT
from runtime.cgroups import Cgroup, Limits
from runtime.entry import Command, emit_birth, emit_identity, emit_user_namespace
from runtime.journal import REGROUPED, Journal, reap
from runtime.program import Failure, Program
from runtime.rootfs import MOUNT_TREE, Rootfs, make_skeleton
from runtime.spawn import spawn
from runtime.spec import DEFAULT_PATH, Bind, Outcome, Spec
from runtime.steps import ENTER, emit_stdio, give
from runtime.user_namespace import NoUserNamespace, UserNamespace, open_namespace
from runtime.users import resolve
from store.erofs_mount import root_of
from store.errors import BoxError, RunError, SetupFailed
from store.syscalls import encode, exists

# HUP INT QUIT USR1 USR2 TERM CONT: what a user may send to box and means for the container.
FORWARDED = (1, 2, 3, 10, 12, 15, 18)

ASKING, PATIENCE = (2, 15), 3  # INT and TERM: the third of them ends a container that did not heed the first two
_EINVAL, _SIGSYS, _BY_SIGNAL = 22, 31, 128
_S_IFMT, _S_IFIFO, _SIGPIPE = 0o170000, 0o010000, 13

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from runtime.diagnosis import Look


class Process:
    """A container that runs, looked after by this process."""

    __slots__ = ("born", "group", "journal", "master", "namespace", "outputs", "pid", "spec", "unread")

    def __init__(self, spec: Spec, journal: Journal) -> None:
        self.spec = spec
        self.journal = journal
        self.group: Cgroup | None = None
        self.pid = 0
        self.master = -1
        self.outputs: tuple[int, ...] = ()  # where it writes to by itself
        self.unread = False  # it was killed for writing where nobody reads
        self.born = 0.0
        self.namespace: UserNamespace | None = None

    def finish(self) -> Outcome:
        """Wait for the end, and leave nothing of the container but, unless it is `removed`, its record."""
        outcome = self.end()
        self.record(outcome)
        return outcome

    def end(self) -> Outcome:
        """The first half of `finish`: nothing of it runs any more, and its record does not say so yet."""
        if self.spec.removed:
            self.journal.trim()
        pipes = [fd for fd in self.outputs if os.fstat(fd).st_mode & _S_IFMT == _S_IFIFO]
        if pipes:
            self._watch(pipes)
        filtered = self._wait()
        _, wait_status = os.waitpid(self.pid, 0)
        pid, self.pid = self.pid, 0
        self.close_namespace()
        outcome = Outcome(_SIGPIPE if self.unread else wait_status)
        group = self._groups()
        if outcome.status:
            if group is not None:
                outcome.oom = group.oom_kills() > 0
                outcome.pids_refused = group.pids_refused()
            explicable = outcome.oom or outcome.pids_refused or outcome.status > _BY_SIGNAL or self.spec.log_refusals
            if explicable and not self.unread:
                from runtime.cause import cause

                outcome.reason = cause(self.spec, outcome, pid, self.born, group, filtered=filtered)
        if group is not None:
            group.delete()
        return outcome

    def _wait(self) -> bool:
        """Wait until it has ended, and leave it to be waited for: whether its system call filter killed it is known till then."""
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        if ended is None or ended.si_code == os.CLD_EXITED or ended.si_status != _SIGSYS:
            return False
        from runtime.refusals import KILLED, state_of

        return state_of(self.pid) == KILLED

    def _groups(self) -> Cgroup | None:
        """All its control groups, those too that somebody gave it while it ran (runtime.regroup)."""
        if self.group is not None and exists(f"{self.journal.path}/{REGROUPED}"):
            self.group = Cgroup(self.spec.id)
        return self.group

    def _watch(self, pipes: list[int]) -> None:
        """Return when it has ended; when nobody reads what it writes into `pipes`, it ends as in a shell."""
        ended = linux.pidfd_open(self.pid)
        try:
            watch = select.poll()
            watch.register(ended, select.POLLIN)
            for fd in pipes:
                watch.register(fd, 0)  # an error, which is what a pipe without a reader has, is told always
            if all(fd != ended for fd, _ in watch.poll()):
                from runtime.unread import follow

                self.unread = follow(self.pid, ended, pipes)
        finally:
            os.close(ended)

    def record(self, outcome: Outcome) -> None:
        """The other half: leave its record, or with `removed` nothing."""
        if self.spec.removed:
            self._discard_volumes()
            self.journal.remove()
        else:
            self.journal.ended(outcome.status, outcome.signal, time.time(), outcome.oom, reason=outcome.reason)
            self.journal.close()

    def abandon(self) -> None:
        """Kill the container and leave nothing of it: what was interrupted counts as never run. Of one that has a record of
        earlier runs, the record stays."""
        if self.pid:
            try:
                os.kill(self.pid, linux.SIGKILL)
            except ProcessLookupError:
                pass
        group = self._groups()
        if group is not None:
            group.kill()  # before it is waited for: what is frozen does not die
        if self.pid:
            os.waitpid(self.pid, 0)
        if group is not None:
            group.delete()
        self.close_namespace()
        if not self.journal.woken:
            self._discard_volumes()
        self.journal.abandon()

    def _discard_volumes(self) -> None:
        """Nothing of the container stays: nor do the volumes that were made for it alone."""
        names = [each.volume for each in self.spec.mounts if isinstance(each, Bind) and each.anonymous]
        if names:
            from runtime.volumes import discard

            discard(self.spec.root, names, self.spec.id)

    def close_namespace(self) -> None:
        """Give the container's ids back, if it has its own."""
        if self.namespace is not None:
            self.namespace.close()
            self.namespace = None


def run(spec: Spec, *, stdin: int = 0, stdout: int = 1, stderr: int = 2, forward: bool = False) -> Outcome:
    """Run the container to its end. `forward` passes the signals that reach this process on to it (and is for the main thread).

    The container gets the three descriptors themselves, unless it has a terminal or a log, or they are not for it (`indirect`):
    it gets pipes or a terminal of its own, which are copied. On any error,
    KeyboardInterrupt too, nothing of the container is left.
    """
    if spec.terminal or not spec.removed or indirect(stdin, stdout, stderr, own_users=spec.userns != "host"):
        from runtime.attach import run_attached

        return run_attached(spec, stdin, stdout, stderr, forward)
    forwarding = Forwarding() if forward else None
    try:
        process = launch(spec, prepare(spec), (stdin, stdout, stderr))
        if forwarding is not None:
            forwarding.to(process.pid)
        process.outputs = (stdout, stderr)
        try:
            outcome = process.finish()
            return outcome if forwarding is None else forwarding.judge(outcome)
        except BaseException:
            process.abandon()
            raise
    finally:
        if forwarding is not None:
            forwarding.stop()


def indirect(stdin: int, stdout: int, stderr: int, *, own_users: bool) -> bool:
    """Whether a container must not be given these themselves: a terminal of the user's, which it could read from; or, since
    it has users of its own, who may not open the caller's files, a file that it could not open again as /dev/stdout."""
    if os.isatty(stdin) or os.isatty(stdout) or os.isatty(stderr):
        return True
    return own_users and any(os.fstat(fd).st_mode & 0o170000 == 0o100000 for fd in (stdout, stderr))


def require_root() -> None:
    """Raise RunError unless this process is root, if only of a user namespace (runtime.rootless)."""
    if os.geteuid() != 0:
        raise RunError("running a container takes root", hint="runtime.rootless.enter makes an ordinary user that")


def prepare(spec: Spec) -> Journal:
    """Clear up after the dead, complete `spec` with what depends on the container's id, and write it down."""
    require_root()
    reap(spec.root)
    make_skeleton(spec.root)
    spec.created = spec.created or time.time()
    if not spec.id:
        spec.id = os.urandom(32).hex()
    if not spec.hostname:
        spec.hostname = _host_name() if spec.network == "host" else spec.id[:12]
    journal = Journal.create(spec)
    if spec.guard >= 0:
        os.close(spec.guard)
        spec.guard = -1
    try:
        complete_environment(spec)
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


def complete_environment(spec: Spec) -> None:
    """Add the variables that every container has, which its own may replace."""
    spec.env = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={spec.hostname}", *(["TERM=xterm"] if spec.terminal else []), *spec.env]


def launch(spec: Spec, journal: Journal, stdio: tuple[int, int, int]) -> Process:
    """Bear the container's first process; on return it has been executed. On error nothing of the container is left.

    With a terminal, `stdio` is not used: the terminal's master is the process' `master`. The root is entered by pivot_root,
    and only where the kernel cannot do that (box's own root is an initramfs, or no mount point) by chroot.
    """
    process = Process(spec, journal)
    try:
        process.group = Cgroup.create(spec.id, Limits(spec.pids_limit, spec.memory, spec.cpus), spec.resources)
        if not process.group.paths:
            _do_without_groups(spec)
        try:
            process.namespace = open_namespace(spec)
            failed = _bear(process, process.group, stdio, by_chroot=False)
        except (NoUserNamespace, SetupFailed) as err:
            if not _can_do_without(spec, err):
                raise
            process.close_namespace()
            if spec.warn is not None:
                spec.warn(f"the container's users are this machine's: {err.message}")
            failed = _bear(process, process.group, stdio, by_chroot=False)
        if failed is not None and isinstance(failed, SetupFailed) and (failed.action, failed.errno) == ("pivot_root", _EINVAL):
            os.waitpid(process.pid, 0)
            process.pid = 0
            renew_work(spec)
            failed = _bear(process, process.group, stdio, by_chroot=True)
        if failed is not None:
            raise failed
        if spec.pid_file:
            write_pid(spec.pid_file, process.pid)
        process.born = time.time()
        journal.started(process.pid, process.born, _ticks(process))
    except BaseException as err:
        if isinstance(err, BoxError):
            journal.failed(err.message)
        if process.master >= 0:
            os.close(process.master)
        process.abandon()
        raise
    return process


def _ticks(process: Process) -> int:
    if process.group is not None and process.group.paths:
        return 0
    from runtime.engine_state import started_at

    return started_at(process.pid)


def _do_without_groups(spec: Spec) -> None:
    """The limit of processes is then its users'; others there are none."""
    if spec.pids_limit > 0 and all(name != "nproc" for name, _, _ in spec.ulimits):
        spec.ulimits = [*spec.ulimits, ("nproc", spec.pids_limit, spec.pids_limit)]
    asked = [name for name, value in (("memory", spec.memory), ("cpus", spec.cpus), ("others", spec.resources)) if value]
    if asked and spec.warn is not None:
        spec.warn(f"no control groups were delegated to this user, so these limits are off: {', '.join(asked)}")


def _can_do_without(spec: Spec, error: NoUserNamespace | SetupFailed) -> bool:
    """Whether it was the user namespace that could not be made, or shown the files, and nobody has asked for one."""
    if spec.userns or spec.id_maps:
        return False
    return isinstance(error, NoUserNamespace) or (error.action == MOUNT_TREE and error.errno in (1, _EINVAL, 75, 95))


def write_pid(path: str, pid: int) -> None:
    """Write the bare number to the file at `path`. Raises RunError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)
    except OSError as err:
        raise RunError(f"cannot write the pid to {path}: {os.strerror(err.errno or 0).lower()}") from err


def _bear(process: Process, group: Cgroup, stdio: tuple[int, int, int], *, by_chroot: bool) -> BoxError | None:
    """Bear the process; None once its program has been executed, else why that failed (it has ended, and is to be waited for)."""
    spec, namespace = process.spec, process.namespace
    rootfs = Rootfs(spec, namespace)
    descriptors: list[int] = []
    born = False
    try:
        command = Command(spec, resolve(rootfs.tree, spec.user), spec.argv, spec.env, spec.cwd)
        program = Program()
        joined = group.open_to_join()
        descriptors += joined
        if namespace is not None:
            emit_user_namespace(program, *namespace.gate())
        emit_birth(program, joined)
        emit_identity(program, spec)
        rootfs.emit(program, group.paths, by_chroot=by_chroot)
        if by_chroot:
            command.capabilities &= ~SYS_CHROOT  # with it, a chroot can be left
        if spec.terminal:
            stdio = (rootfs.slave, rootfs.slave, rootfs.slave)
        give(stdio, command.user, namespace.maps if namespace is not None else None, terminal=spec.terminal)
        emit_stdio(program, stdio, descriptors, terminal=spec.terminal)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        descriptors += (reader, writer)
        init = -1
        if spec.init:
            from runtime.stubs import open_init

            init = open_init([encode(path) for path in command.candidates()])
            descriptors.append(init)
        command.emit(program, writer, init)
        namespaces = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID
        if spec.network == "none":
            namespaces |= linux.CLONE_NEWNET
        if namespace is not None:
            namespaces |= linux.CLONE_NEWUSER
        directory = group.open_for_clone()
        if directory is not None:
            descriptors.append(directory)
        process.pid, failure = spawn(program, namespaces, directory, namespace.ready if namespace is not None else None)
        if failure is not None:
            return error_of(failure, command, rootfs.place)
        if init >= 0:
            descriptors.remove(writer)
            os.close(writer)
            failure = _told_by_init(reader)
            if failure is not None:
                return error_of(failure, command, rootfs.place)
        process.master = rootfs.master
        born = True
        return None
    finally:
        for fd in descriptors:
            os.close(fd)
        if namespace is not None:
            namespace.born()
        if rootfs.master >= 0 and not born:
            os.close(rootfs.master)
        rootfs.close()


def _told_by_init(reader: int) -> Failure | None:
    """None once the init's command has been executed, else why not. The first byte said that this process was found alive."""
    message = b""
    while data := os.read(reader, 4096):
        message += data
    errnos = [int.from_bytes(message[at : at + 8], "little") for at in range(1, len(message) - 7, 8)]
    return Failure(None, errnos[-1], errnos) if errnos else None


def error_of(failure: Failure, command: Command, look: "Look") -> BoxError:
    """What it means that a child failed: in its set-up, or because nothing could be executed in the root that `look` shows."""
    if failure.call is None or failure.call.name == "execve":
        from runtime.diagnosis import not_executed

        return not_executed(command, failure, look)
    call = failure.call
    if call.action == ENTER and failure.errno in (2, 20):  # ENOENT, ENOTDIR
        missing = f"there is no directory {call.path} in the container"
        return SetupFailed(call.action, failure.errno, "", path=call.path, message=missing, hint="name another with --workdir")
    return SetupFailed(call.action, failure.errno, os.strerror(failure.errno), path=call.path)


class Forwarding:
    """While it lasts, the signals that reach this process go to the container (with `patience`, that INT or TERM as KILL); one
    that comes before the container is kept for it."""

    __slots__ = ("asked", "early", "former", "patience", "pid")

    def __init__(self, patience: int = PATIENCE) -> None:
        self.pid = 0
        self.patience = patience
        self.early: list[int] = []
        self.asked = 0
        self.former = [(number, set_handler(number, self._handle)) for number in FORWARDED]

    def _handle(self, number: int, frame: "FrameType | None") -> None:
        if not self.pid:
            self.early.append(number)
            return
        if number in ASKING:
            self.asked += 1
        try:
            # The kernel keeps a first process from every signal that it does not handle itself: without this, Ctrl-C would
            # never end it.
            os.kill(self.pid, linux.SIGKILL if 0 < self.patience <= self.asked else number)
        except ProcessLookupError:
            pass

    def judge(self, outcome: Outcome) -> Outcome:
        """What somebody has asked for by a signal needs no explanation."""
        if self.asked and outcome.signal is not None:
            outcome.reason = ""
        return outcome

    def to(self, pid: int) -> None:
        """The container's process is `pid`."""
        self.pid = pid
        for number in self.early:
            self._handle(number, None)

    def stop(self) -> None:
        """Give every signal back its former meaning."""
        for number, handler in self.former:
            set_handler(number, handler)


def renew_work(spec: Spec) -> None:
    """overlayfs refuses a work directory that a volatile mount has used: give it another."""
    from store.trees import delete_tree

    delete_tree(spec.work)
    os.mkdir(spec.work)


def _match_root(spec: Spec) -> None:
    """The root directory of an overlay is its upper's: give it the image's mode and owner."""
    mode, uid, gid = root_of(spec.lowers[0]) if spec.lowers else (0o755, 0, 0)
    os.chmod(spec.upper, mode)
    if uid or gid:
        os.chown(spec.upper, uid, gid)


def _host_name() -> str:
    return os.uname().nodename
