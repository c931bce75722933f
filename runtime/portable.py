"""Performing a Program in a forked child, call by call from the interpreter: for machines on which runtime.native cannot be.

The list is the same, and so is what it does; only the copying of the pages that the child touches makes it slower.
"""

import os
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from fcntl import F_DUPFD_CLOEXEC, fcntl

from runtime.linux import SIGKILL, clone, close_from
from runtime.program import NUMBERS, Call, Failure, Program, Result
from store.syscalls import address_of, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.program import Structure

_UNUSED = 5  # the numbers below are given new meanings by programs


def perform(
    program: Program, namespaces: int, cgroup: int | None = None, ready: "Callable[[int], object] | None" = None
) -> "tuple[int, Failure | None]":
    """As runtime.native.perform."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    former = pthread_sigmask(SIG_BLOCK, valid_signals())
    try:
        pid = clone(namespaces, cgroup)
        if pid == 0:
            _perform(program, writer)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        pthread_sigmask(SIG_SETMASK, former)
    if ready is not None:
        try:
            ready(pid)
        except BaseException:
            os.close(reader)
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)
            raise
    message = b""
    while data := os.read(reader, 4096):
        message += data
    os.close(reader)
    if not message:
        return pid, None
    index, errno, *tried = [int(word) for word in message.split()]
    return pid, Failure(program.calls[index] if index < len(program.calls) else None, errno, tried)


def _structure(parts: "Structure", kept: list[bytes]) -> bytes:
    """The structure in this process' memory, which holds while `kept` does."""
    kept += [part[0] for part in parts if isinstance(part, list)]
    return b"".join([address_of(part[0]).to_bytes(8, "little") if isinstance(part, list) else part for part in parts])


def _perform(program: Program, messages: int) -> None:
    """In the child: never returns."""
    try:
        messages = fcntl(messages, F_DUPFD_CLOEXEC, _UNUSED)
        results: dict[Call, int] = {}
        tried: list[int] = []
        index = 0
        for index, call in enumerate([*program.calls, None]):
            if call is None:
                os.write(messages, f"{index} 38 {' '.join(map(str, tried))}".encode())
                break
            if call.name == "close_range":
                # The pipe to the parent stays, until execve closes it.
                first, last = call.arguments[:2]
                if isinstance(first, int) and isinstance(last, int):
                    if last < messages:
                        os.closerange(first, last + 1)
                    else:
                        os.closerange(first, messages)
                        close_from(messages + 1)
                continue
            kept: list[bytes] = []
            arguments = [
                results[each.call] if isinstance(each, Result) else _structure(each, kept) if isinstance(each, tuple) else each
                for each in call.arguments
            ]
            if call.name == "read":
                arguments[1] = bytes(8)  # the interpreter has but one of each byte, for all to share
            try:
                results[call] = syscall(call.name, NUMBERS[call.name], *arguments)
            except OSError as err:
                if call.name == "execve":
                    tried.append(err.errno or 0)
                if err.errno not in call.tolerated:
                    os.write(messages, f"{index} {err.errno} {' '.join(map(str, tried))}".encode())
                    break
    finally:
        os._exit(125)
