"""`exec` in the background: a process of its own looks after the program, with no terminal and no open file of its starter."""

import os

from runtime import join, linux
from runtime.state import Container
from store.errors import BoxError, RunError

_FIELD = b"\0"


def run_detached(container: Container, argv: list[str], *, env: list[str], user: str, cwd: str, terminal: bool) -> None:
    """Start `argv` in the container, and return once it runs; what it writes is thrown away. Raises what `join.run` would."""
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def started() -> None:
        os.write(writer, b"ok")
        os.close(writer)

    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if not os.fork():  # nobody waits for the one that stays, but init
                _leave(writer)
                try:
                    join.run(
                        container, argv, env=env, user=user, cwd=cwd, terminal=terminal, stdin=-1 if terminal else 0,
                        forward=False, started=started,
                    )  # fmt: skip
                except BoxError as err:
                    parts = (str(err.exit_status), err.message, err.hint)
                    os.write(writer, _FIELD.join(part.encode("utf-8", "surrogateescape") for part in parts))
                except Exception as err:  # a bug: whoever started it says so
                    os.write(writer, _FIELD.join((b"125", f"{type(err).__name__}: {err}".encode("utf-8", "replace"), b"")))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    if answer == b"ok":
        return
    status, message, hint = [*answer.decode("utf-8", "surrogateescape").split("\0"), "", ""][:3]
    error = RunError(message or "the process that was to look after the program was killed", hint=hint)
    error.exit_status = int(status) if status.isdigit() else error.exit_status
    raise error


def _leave(kept: int) -> None:
    """Nothing of the starter stays open but `kept`, and its directory is not held."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, kept)
    linux.close_from(kept + 1)
    os.chdir("/")
