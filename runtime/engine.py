"""An OCI runtime's operations on containers of bundles, as engines call them: runtime-spec "Lifecycle". `box-runtime` is their
command line.

`create` makes all of the container but its command, in the order of the specification: the process in its namespaces (the hooks
prestart and createRuntime run now, in the machine's own), the mounts (createContainer), the root (pivot_root), and then the
process waits, without an interpreter (runtime.waiting). `start` lets it go on.
"""

import posix as os
import time

from runtime import linux, waiting
from runtime.bundle import Bundle, Process, load
from runtime.bundle_command import READY, candidates, emit_birth, emit_execution, emit_identity, not_executed
from runtime.bundle_namespaces import (
    clock_offsets,
    emit_clock,
    emit_entering_clock,
    emit_joining_by_path,
    made_at_birth,
    open_born_in,
    open_namespace,
)
from runtime.bundle_rootfs import BundleRootfs
from runtime.bundle_scheduling import emit_memory_policy
from runtime.engine_console import resize, send_terminal
from runtime.engine_failures import failure_of
from runtime.engine_filters import Filter, filter_of
from runtime.engine_state import EngineContainer, spell, started_at, timestamp
from runtime.hooks import run_hooks
from runtime.joining import spawn_in
from runtime.program import EACCES, ENOENT, ENOTDIR, Program
from runtime.records import write
from runtime.steps import emit_loopback, emit_stdio, give
from store.errors import RunError, SetupFailed
from store.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, encode, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.bundle_users import Users
    from runtime.container_cgroup import ContainerCgroup
    from runtime.program import Failure

_F_SETFD = 2
_LOOKING = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_AT_EMPTY_PATH = 0x1000
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}


class Options:
    """What `create` is told besides the bundle. With `terminal` "caller" its master is left in `master`, with "container" the
    container has it itself (nobody else wants it); else it goes to the console socket."""

    __slots__ = (
        "config",
        "console_socket",
        "listening",
        "manager",
        "master",
        "no_keyring",
        "no_pivot",
        "pid_file",
        "preserved",
        "rootless",
        "terminal",
    )

    def __init__(self) -> None:
        self.config = ""
        self.console_socket = ""
        self.pid_file = ""
        self.terminal = ""
        self.master = -1
        self.preserved = self.listening = 0  # descriptors behind the first three; of these, the first are systemd's sockets
        self.manager = "cgroupfs"
        self.no_pivot = self.no_keyring = False
        self.rootless = False  # what only the machine's root may limit is left out, with a warning


def create(root: str, identity: str, directory: str, options: Options, *, stdio: tuple[int, int, int] = (0, 1, 2)) -> list[str]:
    """Make the container `identity` of the bundle in `directory`, up to its command. Returns warnings; raises BoxError, and
    nothing is left then."""
    bundle = load(directory, options.config)
    if bundle.process is None:
        raise RunError("config.json has no process, so there is nothing to create", hint="add one: see `box-runtime spec`")
    if not waiting.available():
        raise RunError("box-runtime knows no code for this processor yet")
    if bundle.process.terminal and not options.console_socket and not options.terminal:
        raise RunError("process.terminal is set and there is no --console-socket", hint="engines give one; or set it to false")
    if options.console_socket and not bundle.process.terminal:
        raise RunError("there is a --console-socket, but process.terminal is not set")
    with EngineContainer.create(root, identity) as container:
        maker = _Maker(container, bundle, options)
        try:
            maker.make(stdio)
        except BaseException:
            maker.abandon()
            container.remove()
            raise
    return bundle.warnings


class _Maker:
    """Makes one container."""

    def __init__(self, container: EngineContainer, bundle: Bundle, options: Options) -> None:
        from runtime.container_cgroup import ContainerCgroup

        self._container = container
        self._bundle = bundle
        self._options = options
        self._opened: list[int] = []
        self._filter: Filter | None = None
        self._users: Users | None = None
        self._pid = 0
        self._group: ContainerCgroup | None = None

    def make(self, stdio: tuple[int, int, int]) -> None:
        from runtime.container_cgroup import ContainerCgroup

        container, bundle, options = self._container, self._bundle, self._options
        container.state = {
            "bundle": bundle.directory,
            "rootfs": bundle.rootfs,
            "annotations": bundle.annotations,
            "created": timestamp(time.time()),
            "owner": "root" if os.geteuid() == 0 else str(os.geteuid()),
            "config": self._options.config,
        }
        container.save()  # from here on, `delete` finds what there is
        for name in ("start", "result"):
            os.mkfifo(f"{container.path}/{name}", 0o600)
        group = self._group = ContainerCgroup.create(
            bundle.cgroups_path or None,
            container.identity,
            bundle.linux.get("resources").value,
            options.manager,
            rootless=options.rootless,
        )
        if group.off:
            bundle.warnings.append(f"without rights to control groups these are off: {', '.join(dict.fromkeys(group.off))}")
        container.state["rootless"] = options.rootless
        container.state["cgroups"] = group.paths
        container.save()
        self._filter = filter_of(bundle.linux.get("seccomp"), container.root)
        if "user" in bundle.namespaces:
            from runtime.bundle_users import Users

            self._users = Users(bundle)
        rootfs = BundleRootfs(bundle, self._users)
        try:
            self._bear(rootfs, stdio)
        finally:
            rootfs.close()
            for fd in self._opened:
                os.close(fd)
            self._opened.clear()
            if rootfs.master >= 0 and options.master < 0:
                os.close(rootfs.master)
        container.state["pid"] = self._pid
        container.state["started"] = started_at(self._pid)
        container.save()
        if self._options.pid_file:
            write_whole(self._options.pid_file, str(self._pid))
        self._pid = 0

    def abandon(self) -> None:
        """Leave nothing of what was made so far."""
        if self._pid:
            try:
                os.kill(self._pid, linux.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(self._pid, 0)
        if self._group is not None:
            self._group.kill()
            self._group.delete()

    def _open(self, *descriptors: int) -> None:
        self._opened += descriptors

    def _bear(self, rootfs: BundleRootfs, stdio: tuple[int, int, int]) -> None:
        bundle, group, preserved = self._bundle, self._group, self._options.preserved
        process = bundle.process
        if process is None or group is None:
            raise ValueError("checked by `create`")
        process.listen(self._options.listening)
        go_reader, go_writer = os.pipe2(os.O_CLOEXEC)
        told, tell = os.pipe2(os.O_CLOEXEC)
        start = os.open(f"{self._container.path}/start", os.O_RDWR | os.O_CLOEXEC)
        result = os.open(f"{self._container.path}/result", os.O_RDWR | os.O_CLOEXEC)
        self._open(go_reader, go_writer, told, start, result)
        # Where the process finds them: above what the engine passes on, and above all that is opened here.
        base = max(3 + preserved, *self._opened, *rootfs.inherited, tell) + 64
        names = {name: base + number for number, name in enumerate(("go", "tell", "start", "result", "gate", "master", "slave"))}
        passed = {"go": go_reader, "tell": tell, "start": start, "result": result}
        listener = self._filter.listener if self._filter else None
        gate = -1
        if listener:
            from runtime.seccomp_listener import gate_pair

            gate, passed["gate"] = gate_pair()
            self._open(gate, passed["gate"])
            listener.gate, listener.tell = names["gate"], names["tell"]
        waits = Program()
        self._emit_waiting(waits, rootfs, names, process)
        steps = [[call.name, call.action, call.path] for call in waits.calls]
        write(f"{self._container.path}/program", {"steps": steps})
        binary = waiting.sealed(waiting.image(waits, names["tell"]), 0)
        self._open(binary)

        births = Program()
        joined = group.open_to_join()
        self._open(*joined)
        if self._users:
            self._users.emit_becoming_root(births, self._opened)
        emit_birth(births, process, joined, score=not self._users)
        emit_clock(births, bundle)
        emit_joining_by_path(births, bundle, self._opened)
        for name, fd in passed.items():
            births.call("dup3", fd, names[name], 0)
        if rootfs.slave >= 0:
            stdio = (rootfs.slave, rootfs.slave, rootfs.slave)
        else:
            give(stdio, process, self._users.maps if self._users else None, terminal=False)
        emit_stdio(births, stdio, self._opened, terminal=rootfs.slave >= 0)
        for fd in rootfs.inherited:
            births.call("fcntl", fd, _F_SETFD, 0)
        if rootfs.master >= 0 and self._holds_terminal(rootfs):
            births.call("fcntl", rootfs.master, _F_SETFD, 0)
        births.call(
            "execveat", binary, b"\0", ([b"box-init\0"], bytes(8)), (bytes(8),), _AT_EMPTY_PATH, action="execute what waits"
        )  # fmt: skip
        self._pid, failure = self._spawn(births, group, process)
        os.close(tell)
        if failure is not None and failure.call is not None:
            raise SetupFailed(failure.call.action, failure.errno, os.strerror(failure.errno), path=failure.call.path)
        self._hooks("prestart", "createRuntime")
        os.write(go_writer, b"1")
        if bundle.hooks["createContainer"]:
            self._await(told, waits)
            self._hooks("createContainer", pid=self._pid)
            os.write(go_writer, b"2")
        if listener:
            self._await(told, waits)
            pidfd = linux.pidfd_open(self._pid)
            self._open(pidfd)
            try:
                listener.hand_over(self._pid, pidfd, self._state(), gate)
            except RunError:
                if linux.ended(pidfd):
                    self._await(told, waits)  # what it says itself is why
                raise
        self._await(told, waits)
        self._find_command(process)
        if self._users:
            from runtime.bundle_users import set_limits

            set_limits(self._pid, process)
            if rootfs.has_terminal:  # the child has made it
                rootfs.master = self._take(names["master"])
        if rootfs.master >= 0:
            resize(rootfs.master, process.console)
            if self._options.console_socket:
                send_terminal(self._options.console_socket, rootfs.master)
            elif self._options.terminal == "caller":
                self._options.master = rootfs.master

    def _spawn(self, births: Program, group: "ContainerCgroup", process: Process) -> "tuple[int, Failure | None]":
        bundle, users = self._bundle, self._users
        flags = made_at_birth(bundle)
        born_in = open_born_in(bundle, self._opened)
        ready = None
        if users and not users.path:
            new_clocks = bundle.namespaces.get("time") == ""
            ready = users.telling(process, clock_offsets(bundle.linux.get("timeOffsets")) if new_clocks else b"")
        elif users:
            descriptor = open_namespace("user", users.path)
            self._open(descriptor)
            born_in.append((descriptor, linux.CLONE_NEWUSER, users.path))
        if born_in and (self._options.rootless or (users and users.path)):
            from runtime.joining_aside import spawn_aside

            score = process.oom_score_adj if users and users.path else None
            return spawn_aside(born_in, births, flags, group=group.paths.get("unified", ""), score=score, ready=ready)
        directory = group.open_for_clone()
        if directory is not None:
            self._open(directory)
        return spawn_in(born_in, births, flags, directory, ready)

    def _emit_waiting(self, program: Program, rootfs: BundleRootfs, names: "dict[str, int]", process: "Any") -> None:
        """All from the namespaces to the command, with the places where the process waits."""
        bundle, call = self._bundle, program.call
        new = {kind for kind, path in bundle.namespaces.items() if not path}
        call("prctl", linux.PR_SET_DUMPABLE, 0, 0, 0, 0)
        call("read", names["go"], b"\0", 1)
        emit_entering_clock(program, bundle)
        if "cgroup" in new:
            call("unshare", linux.CLONE_NEWCGROUP, action="make a cgroup namespace")
        for name, said in (("sethostname", bundle.hostname), ("setdomainname", bundle.domainname)):
            if said:
                call(name, encode(said), len(encode(said)), path=said)
        if "network" in new:
            emit_loopback(program)
        namespace = "mount" in new
        if namespace:
            paths = self._group.paths if self._group is not None else {}
            shown = paths if list(paths) == ["unified"] else {name: path for name, path in paths.items() if name != "unified"}
            rootfs.emit_mounts(program, self._container.path, shown, (names["master"], names["slave"]))
        else:
            call("fchdir", rootfs.tree, path="/")
        if bundle.hooks["createContainer"]:
            call("write", names["tell"], READY, len(READY))
            call("read", names["go"], b"\0", 1)
        rootfs.emit_root(program, pivot=not self._options.no_pivot, namespace=namespace)
        domain = bundle.linux.get("personality").get("domain").choice(*_PERSONALITIES)
        if domain:
            call("personality", _PERSONALITIES[domain])
        first, kept = 3 + self._options.preserved, names["tell"]
        if self._holds_terminal(rootfs):
            call("dup3", rootfs.master if rootfs.master >= 0 else names["master"], first, 0, action="hold the terminal")
            first += 1
        # Before any path is followed: a descriptor of the machine must lead nowhere (CVE-2024-21626).
        call("close_range", first, names["go"], 0, action="close descriptors")
        emit_memory_policy(program, bundle.linux.get("memoryPolicy"))
        emit_identity(program, process, self._filter, keyring=not self._options.no_keyring, users=bool(self._users))
        call("write", names["tell"], READY, len(READY))
        # Nobody waits for this pipe any more: what fails from here on is told to `start`.
        call("dup3", names["result"], names["tell"], os.O_CLOEXEC)
        call("read", names["start"], b"\0", 1, action="wait for start")
        call("close_range", first, kept - 1, 0, action="close descriptors")
        emit_execution(program, process, self._filter, kept + 1)

    def _take(self, number: int) -> int:
        """A descriptor of the child's, as one of our own."""
        pidfd = linux.pidfd_open(self._pid)
        try:
            return linux.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)

    def _holds_terminal(self, rootfs: BundleRootfs) -> bool:
        return rootfs.has_terminal and not self._options.console_socket and self._options.terminal == "container"

    def _await(self, told: int, program: Program) -> None:
        """Wait until the process is as far as it should be. Raises what it could not do."""
        message = os.read(told, 4096)
        if message == READY:
            return
        raise failure_of(message, [(call.name, call.action, call.path) for call in program.calls], self._bundle)

    def _find_command(self, process: Process) -> None:
        """Tell now what `start` could only tell later: that there is no such command, or none to execute. What of it the
        kernel will not let the container's user do is left to the kernel."""
        root = os.open(f"/proc/{self._pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open(root)
        errnos = []
        for path in candidates(process):
            try:
                found = openat2(root, path if path.startswith("/") else f"{process.cwd}/{path}", os.O_PATH, 0, _LOOKING)
            except OSError as err:
                if err.errno not in (ENOENT, ENOTDIR):
                    return  # through the container's /proc, perhaps
                errnos.append(err.errno)
                continue
            self._open(found)
            if os.fstat(found).st_mode & 0o170111 > 0o100000:  # a file that somebody may execute
                return
            errnos.append(EACCES)
        raise not_executed(process, errnos)

    def _hooks(self, *names: str, pid: int = 0) -> None:
        for name in names:
            if self._bundle.hooks[name]:
                run_hooks(self._bundle.hooks[name], spell(self._state()), pid=pid)

    def _state(self) -> "dict[str, Any]":
        return {**self._container.described(), "pid": self._pid, "status": "creating"}


def write_whole(path: str, content: str) -> None:
    """A file that nobody sees half of, as engines read it the moment that it is there."""
    draft = f"{path.rpartition('/')[0] or '.'}/.{path.rpartition('/')[2]}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)
    os.rename(draft, path)
