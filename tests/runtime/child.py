"""What a process can no longer do after it gave something up, asked of a process of its own."""

import json
import os
from collections.abc import Callable
from typing import Any

from runtime.capabilities import VERSION_3
from runtime.confinement import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
from store.syscalls import address_of, libc


def result_of(action: Callable[[], Any], *, expected_signal: int = 0) -> Any:
    """What `action` returns in a forked child, through JSON; an OSError comes back as (its errno, its text)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = action()
            except OSError as error:
                answer = {"errno": error.errno, "text": str(error)}
            os.write(writer, json.dumps(answer).encode())
        except BaseException as error:
            os.write(writer, json.dumps({"bug": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -expected_signal, status
    answer = json.loads(data) if data else None
    assert not (isinstance(answer, dict) and "bug" in answer), answer["bug"]
    return answer


def status() -> dict[str, str]:
    """/proc/self/status of the calling process."""
    with open("/proc/self/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def install(program: bytes) -> None:
    """Put the calling process behind the filter, as the runtime does: no_new_privs first."""
    libc("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    fprog = (len(program) // 8).to_bytes(8, "little") + address_of(program).to_bytes(8, "little")
    libc("prctl", PR_SET_SECCOMP, 2, fprog, 0, 0)


def keep(mask: int) -> None:
    """Give up every capability of the calling process but those of `mask`."""
    low, high = (mask & 0xFFFFFFFF).to_bytes(4, "little"), (mask >> 32).to_bytes(4, "little")
    libc("capset", VERSION_3.to_bytes(4, "little") + bytes(4), low + low + bytes(4) + high + high + bytes(4))
