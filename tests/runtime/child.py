"""What a process can no longer do after it gave something up, asked of a process of its own."""

import json
import os
from collections.abc import Callable
from typing import Any


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
