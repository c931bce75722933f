"""Hooks: programs of the machine that are told of a container's state on their standard input. OCI runtime-spec, "POSIX-platform
Hooks"."""

import posix as os
import time

from runtime import linux
from runtime.bundle import Hook
from store.errors import RunError

_POLL = 0.005


def run_hooks(hooks: list[Hook], state: str, *, pid: int = 0) -> None:
    """Run them in order, each with `state`; with `pid`, in the namespaces of that process. RunError for the first that fails."""
    for hook in hooks:
        _run(hook, state.encode("utf-8", "surrogateescape"), pid)


def _run(hook: Hook, state: bytes, pid: int) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    errors, said = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _execute(hook, reader, said, pid)
    os.close(reader)
    os.close(said)
    try:
        try:
            os.write(writer, state)  # of a few KB: a pipe holds 64
        except BrokenPipeError:
            pass  # it does not want to know
        finally:
            os.close(writer)
        status = _wait(child, hook, errors)
        if status:
            text = _read_all(errors).decode("utf-8", "replace").strip()
            raise RunError(f"hook {hook.path} failed: {_ended(status)}" + (f", and said: {text[-400:]}" if text else ""))
    finally:
        os.close(errors)


def _execute(hook: Hook, stdin: int, stderr: int, pid: int) -> None:
    try:
        os.dup2(stdin, 0)
        os.dup2(stderr, 1)
        os.dup2(stderr, 2)
        if pid:
            pidfd = linux.pidfd_open(pid)
            for kind in (linux.CLONE_NEWNS, linux.CLONE_NEWUTS, linux.CLONE_NEWIPC, linux.CLONE_NEWNET, linux.CLONE_NEWCGROUP):
                linux.setns(pidfd, kind)
        linux.close_from(3)
        environment = dict(entry.split("=", 1) for entry in hook.env if "=" in entry)
        os.execve(hook.path, hook.argv, environment)
    except OSError as err:
        os.write(2, f"{hook.path}: {os.strerror(err.errno or 0)}".encode())
    finally:
        os._exit(127)


def _wait(child: int, hook: Hook, errors: int) -> int:
    until = time.monotonic() + hook.timeout if hook.timeout else None
    while until is not None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > until:
            os.kill(child, linux.SIGKILL)
            os.waitpid(child, 0)
            raise RunError(f"hook {hook.path} did not end within {hook.timeout:g} seconds", hint="its timeout is in config.json")
        time.sleep(_POLL)
    return os.waitpid(child, 0)[1]


def _read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while len(data) < 65536 and (piece := os.read(fd, 4096)):
            data += piece
    except BlockingIOError:
        pass  # something that it left behind has the pipe open
    return data


def _ended(status: int) -> str:
    return f"signal {status & 0x7F}" if status & 0x7F else f"exit status {status >> 8}"
