"""The agent of a filter that notifies: the listener is taken out of the container's process and handed over.

The kernel gives the listener to the process that installs the filter, and from then on every call of it may be one that waits
for the agent. So that process makes one more call, which the filter is known to allow and which blocks: it waits. Meanwhile the
runtime takes the listener from outside (pidfd_getfd(2)), sends it, and only then lets it go on; what it calls after that may be
the agent's affair, execve included. The descriptor in the process is closed by execve.

    program.call("seccomp", 1, policy.flags, ...)       the process: SECCOMP_SET_MODE_FILTER
    program.call(waiting_call(policy, MACHINE, gate), gate, ...)
    listener = take(pid, pidfd)                         the runtime
    deliver(policy.listener_path, process_state(...), listener)
    write to the gate

Sources: config-linux.md of runtime-spec 1.2, "The Container Process State"; seccomp_unotify(2).
"""

import posix as os

from runtime.linux import pidfd_getfd
from runtime.records import encode
from runtime.seccomp_policy import ALLOW, LOG, Policy, read
from store.errors import RunError
from store.syscalls import MACHINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.program import Program

_LINK = "anon_inode:seccomp notify"
_WAITING = ("read", "recvfrom", "ppoll")
_ENDED = "linux.seccomp: the container's process ended before its agent had the listener"
_MOST_PATH = 107  # sun_path, with its NUL


class Listener:
    """The agent's part of a filter: where it listens, and how a process behind the filter waits until it does.

    `gate` is the process' descriptor of the socket at which it waits: to be set before `emit_waiting`. `tell`, where it is not
    negative, is one on which it says before that it has come so far.
    """

    __slots__ = ("gate", "policy", "tell")

    def __init__(self, profile: object) -> None:
        self.policy = read(profile)
        self.gate = self.tell = -1

    def emit_waiting(self, program: "Program") -> None:
        """Add the wait, right behind the filter. Raises RunError if the filter leaves no way to."""
        gate = self.gate
        name = waiting_call(self.policy, MACHINE, gate)
        action = "wait for the seccomp agent"
        if name == "read":
            program.call(name, gate, b"\0", 1, action=action)
        elif name == "recvfrom":
            program.call(name, gate, b"\0", 1, 0, None, None, action=action)
        else:  # struct pollfd: POLLIN
            program.call(name, gate.to_bytes(4, "little") + b"\1\0\0\0", 1, None, None, 0, action=action)

    def hand_over(self, pid: int, pidfd: int, state: "dict[str, Any]", gate: int) -> None:
        """Take the listener from the process, give it to the agent with the container's `state`, and let the process go on by the
        other end of its `gate`. Raises RunError."""
        listener = take(pid, pidfd)
        try:
            deliver(self.policy.listener_path, process_state(state, self.policy.listener_metadata, pid), listener)
        finally:
            os.close(listener)
        os.write(gate, b"1")


def waiting_call(policy: Policy, machine: str, descriptor: int) -> str:
    """The name of a call by which a process behind the filter can wait for `descriptor`, a socket. Raises RunError if none can.

    read and recvfrom have the descriptor as their first argument, ppoll has it in memory, where no filter looks.
    """
    from runtime.seccomp_oci import explain
    from runtime.syscall_numbers import NUMBERS

    for name in _WAITING:
        first = 0x1000 if name == "ppoll" else descriptor
        number = NUMBERS[machine][name]
        # The other arguments are sizes and addresses that are not known yet: what is allowed must be so with any.
        if all(
            explain(policy, machine, machine, number, (first, *[value] * 5)).action in (ALLOW, LOG)
            for value in (0, 1, 0x7FFF0000000)
        ):
            return name
    raise RunError(
        "linux.seccomp: the container could not wait until its agent has the listener",
        hint=f"one of {', '.join(_WAITING)} has to be SCMP_ACT_ALLOW, with any arguments",
    )


def gate_pair(least: int = 3) -> tuple[int, int]:
    """The two ends of a gate, the runtime's and the process', the latter's number at least this."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socketpair
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        moved = fcntl(theirs.fileno(), F_DUPFD_CLOEXEC, least)
    finally:
        theirs.close()
    return ours.detach(), moved


def take(pid: int, pidfd: int, *, seconds: float = 10) -> int:
    """A descriptor of our own of the listener that process `pid` has, or is about to have. Raises RunError.

    It takes the right to trace the process: root's, or that of the owner of the user namespace in which it was executed.
    """
    import time
    from select import POLLIN, poll

    ended = poll()
    ended.register(pidfd, POLLIN)
    deadline = time.monotonic() + seconds
    while True:
        number = _listener_of(pid)
        if number >= 0:
            return pidfd_getfd(pidfd, number)
        if ended.poll(0):
            raise RunError(_ENDED)
        if time.monotonic() > deadline:
            raise RunError("linux.seccomp: the container's process has installed no filter that notifies")
        time.sleep(0.0002)


def process_state(state: "dict[str, Any]", metadata: str, pid: int) -> "dict[str, Any]":
    """The container process state of the process `pid`: `state` is the container's, as the runtime's `state` command tells it."""
    told: dict[str, Any] = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid}
    if metadata:
        told["metadata"] = metadata
    told["state"] = state
    return told


def deliver(path: str, told: "dict[str, Any]", listener: int) -> None:
    """Connect to the agent's socket, send it the state and the listener, and hang up. Raises RunError."""
    from _socket import AF_UNIX, SCM_RIGHTS, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

    directory = -1
    try:
        address = path
        if len(path.encode("utf-8", "surrogateescape")) > _MOST_PATH:
            parent, _, name = path.rpartition("/")
            directory = os.open(parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            address = f"/proc/self/fd/{directory}/{name}"
        agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            agent.setsockopt(SOL_SOCKET, SO_SNDTIMEO, (10).to_bytes(8, "little") + bytes(8))
            agent.connect(address)
            text = encode(told).encode("utf-8", "surrogateescape")
            sent = agent.sendmsg([text], [(SOL_SOCKET, SCM_RIGHTS, listener.to_bytes(4, "little"))])
            agent.sendall(text[sent:])
        finally:
            agent.close()
    except OSError as err:
        raise RunError(
            f"linux.seccomp.listenerPath: the agent at {path} cannot be reached: {os.strerror(err.errno or 0).lower()}",
            hint="is it running?",
        ) from err
    finally:
        if directory >= 0:
            os.close(directory)


def _listener_of(pid: int) -> int:
    """The number of the listener's descriptor in process `pid`; -1: it has none (yet)."""
    directory = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(directory):
            try:
                if os.readlink(f"{directory}/{name}") == _LINK:
                    return int(name)
            except FileNotFoundError:
                continue
    except (FileNotFoundError, ProcessLookupError) as err:
        raise RunError(_ENDED) from err
    return -1
