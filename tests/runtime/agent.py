"""A seccomp agent: it gets a container's listener at a socket, as config-linux.md has it, and answers what it is asked."""

import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.syscall_numbers import NUMBERS
from store.syscalls import MACHINE

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_NAMES = {number: name for name, number in NUMBERS[MACHINE].items()}


class Question:
    """A call that a process `pid` has made."""

    def __init__(self, request: bytes) -> None:
        self.number, self.pid, _, call = struct.unpack_from("<QIII", request)
        self.name = _NAMES[call]
        self.arguments = struct.unpack_from("<6Q", request, 32)

    def text(self, argument: int) -> str:
        """The string that an argument points to."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(self.arguments[argument])
            return memory.read(256).partition(b"\0")[0].decode()


class Agent:
    """Listens at `path`; `told` are the states that it was sent, `asked` all calls. `answer` says what a call's errno is: 0 for
    done, None to let the kernel go on with it."""

    def __init__(self, path: Path, answer: Callable[[Question], "int | None"]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._answer = answer
        self.told: list[dict[str, Any]] = []
        self.asked: list[Question] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop listening; those who ask end with their containers."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 4)
                while more := connection.recv(1 << 16):
                    data += more
            (listener,) = descriptors
            self.told.append(json.loads(data))
            self._threads.append(threading.Thread(target=self._serve, args=(listener,), daemon=True))
            self._threads[-1].start()

    def _serve(self, listener: int) -> None:
        import select

        waiting = select.poll()
        waiting.register(listener, select.POLLIN)
        try:
            while not any(event & select.POLLHUP for _, event in waiting.poll()):
                request = bytearray(80)  # struct seccomp_notif: id, pid, flags, seccomp_data
                try:
                    fcntl.ioctl(listener, _RECEIVE, request)
                    question = Question(bytes(request))
                    self.asked.append(question)
                    errno = self._answer(question)
                    flags = _CONTINUE if errno is None else 0
                    fcntl.ioctl(listener, _SEND, bytearray(struct.pack("<QqiI", question.number, 0, -(errno or 0), flags)))
                except FileNotFoundError:
                    continue  # who asked has died
        finally:
            os.close(listener)
