"""A filter that notifies: its listener reaches the agent before the process goes on, and the agent answers."""

import ctypes
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.seccomp_listener import deliver, process_state, take, waiting_call
from runtime.seccomp_oci import compile_policy
from runtime.seccomp_policy import Policy, read
from runtime.syscall_numbers import NUMBERS
from store.errors import RunError
from store.syscalls import MACHINE, address_of, libc, syscall

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
STATE = {"ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": 42, "bundle": "/bundle", "annotations": {"a": 'q"\n'}}


def notifying(*names: str, path: str = "/run/agent", default: str = "SCMP_ACT_ALLOW", allowed: tuple[str, ...] = ()) -> Policy:
    entries = [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}] if names else []
    if allowed:
        entries.append({"names": list(allowed), "action": "SCMP_ACT_ALLOW"})
    return read({"defaultAction": default, "syscalls": entries, "listenerPath": path})


class Agent:
    """Listens at a path; `told` is what it was sent, once it was; it answers one notification with this errno."""

    def __init__(self, path: Path, errno: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(path.parent, os.O_PATH)
        self._socket.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        self._socket.listen()
        self._socket.settimeout(20)
        self.told: dict[str, Any] = {}
        self.seen: tuple[int, int] = (0, 0)
        self._errno = errno
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(20)
        self._socket.close()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(20)
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            while more := connection.recv(1 << 16):
                data += more
        self.told = json.loads(data)
        (listener,) = descriptors
        request = bytearray(80)  # struct seccomp_notif: id, pid, flags, seccomp_data
        fcntl.ioctl(listener, _RECEIVE, request)
        number, pid, _, call = struct.unpack_from("<QIII", request)
        self.seen = (pid, call)
        fcntl.ioctl(listener, _SEND, bytearray(struct.pack("<QqiI", number, 0, -self._errno, 0)))
        os.close(listener)


def born(policy: Policy, gate: socket.socket, calls: str) -> int:
    """A child that installs the filter, waits at the gate, and ends with the errno of `calls`."""
    program = compile_policy(policy, MACHINE)
    waiting = waiting_call(policy, MACHINE, gate.fileno())
    pid = os.fork()
    if pid == 0:
        try:
            libc("prctl", 38, 1, 0, 0, 0)
            fprog = (len(program) // 8).to_bytes(8, "little") + address_of(program).to_bytes(8, "little")
            buffer = ctypes.create_string_buffer(8)
            syscall("seccomp", NUMBERS[MACHINE]["seccomp"], 1, policy.flags, fprog)
            if waiting == "ppoll":
                asked = struct.pack("<ihh", gate.fileno(), 1, 0)
                syscall("ppoll", NUMBERS[MACHINE]["ppoll"], asked, 1, None, None, 0)
            else:
                syscall(waiting, NUMBERS[MACHINE][waiting], gate.fileno(), buffer, 1, 0, 0, 0)
            try:
                syscall(calls, NUMBERS[MACHINE][calls], -100, b"/\0", 0)
            except OSError as error:
                os._exit(error.errno or 99)
            os._exit(0)
        finally:
            os._exit(98)
    return pid


@pytest.fixture
def gates() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("others", [(), ("read",), ("read", "recvfrom")])
@pytest.mark.parametrize("long", [False, True])
def test_the_agent_gets_listener_and_state_and_answers(
    tmp_path: Path, gates: tuple[socket.socket, socket.socket], others: tuple[str, ...], long: bool
) -> None:
    path = tmp_path / ("d" * 200 if long else "d") / "agent"
    path.parent.mkdir()
    policy = notifying("mkdirat", *others, path=str(path))
    agent = Agent(path, 77)
    ours, theirs = gates
    pid = born(policy, theirs, "mkdirat")
    pidfd = os.pidfd_open(pid)
    listener = take(pid, pidfd)
    deliver(policy.listener_path, process_state({**STATE, "pid": pid}, "meta", pid), listener)
    os.close(listener)
    ours.send(b"x")
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    agent.close()
    assert os.waitstatus_to_exitcode(status) == 77
    assert agent.seen == (pid, NUMBERS[MACHINE]["mkdirat"])
    assert agent.told == {
        "ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": pid, "metadata": "meta", "state": {**STATE, "pid": pid},
    }  # fmt: skip


def test_a_call_that_the_filter_allows_is_chosen_to_wait_with() -> None:
    assert waiting_call(notifying("mkdirat"), MACHINE, 5) == "read"
    assert waiting_call(notifying("read"), MACHINE, 5) == "recvfrom"
    assert waiting_call(notifying("read", "recvfrom"), MACHINE, 5) == "ppoll"
    assert waiting_call(notifying(default="SCMP_ACT_NOTIFY", allowed=("recvfrom",)), MACHINE, 5) == "recvfrom"
    conditional = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 5}]}
    policy = read({"defaultAction": "SCMP_ACT_NOTIFY", "syscalls": [conditional], "listenerPath": "/run/agent"})
    assert waiting_call(policy, MACHINE, 5) == "read"
    for refused in (
        lambda: waiting_call(policy, MACHINE, 6),
        lambda: waiting_call(notifying(default="SCMP_ACT_NOTIFY"), MACHINE, 5),
    ):
        with pytest.raises(RunError, match="could not wait"):
            refused()


def test_a_size_or_an_address_that_is_asked_about_does_not_count_as_allowed() -> None:
    conditional = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "op": "SCMP_CMP_EQ", "value": 1}]}
    policy = read({"defaultAction": "SCMP_ACT_NOTIFY", "syscalls": [conditional], "listenerPath": "/run/agent"})
    with pytest.raises(RunError, match="could not wait"):
        waiting_call(policy, MACHINE, 5)


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_ended_has_no_listener(reaped: bool) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    os.waitid(os.P_PID, pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    with pytest.raises(RunError, match="ended before its agent had the listener"):
        take(pid, pidfd)
    os.close(pidfd)
    if not reaped:
        os.waitpid(pid, 0)


def test_a_process_that_never_installs_it_is_not_waited_for_without_end() -> None:
    pidfd = os.pidfd_open(os.getpid())
    with pytest.raises(RunError, match="has installed no filter"):
        take(os.getpid(), pidfd, seconds=0.05)
    os.close(pidfd)


def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"the agent at {tmp_path}/agent cannot be reached: no such file"):
        deliver(f"{tmp_path}/agent", process_state(STATE, "", 42), 0)


def test_without_metadata_the_state_has_none() -> None:
    assert "metadata" not in process_state(STATE, "", 42)
