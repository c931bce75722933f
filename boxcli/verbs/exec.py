"""`box exec`: another command in a running container."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from boxcli import attached, readers
from boxcli.table import OPTIONS_FIRST, Argument, Option, Values, Verb
from boxcli.verbs.run import environment
from store.errors import RunError, UsageError

if TYPE_CHECKING:
    from runtime.spec import Outcome

VERB = Verb(
    "exec",
    "Run a command in a running container",
    Option("-i", "--interactive", about="Pass standard input on to the command."),
    Option("-t", "--tty", about="Give the command a terminal."),
    Option("-d", "--detach", about="Run in the background; what it writes is thrown away."),
    Option(
        "-e", "--env", metavar="KEY[=VALUE]", many=True, read=readers.variable, about="Set a variable, or pass on this shell's."
    ),
    Option(
        "--env-file", metavar="FILE", many=True, completes="file", about="Read variables from a file, one KEY[=VALUE] a line."
    ),
    Option("-w", "--workdir", metavar="DIR", read=readers.directory, about="The directory to start in (else the container's)."),
    Option("--detach-keys", metavar="KEYS", read=readers.keys, about="What to type to leave it running (else ctrl-p,ctrl-q)."),
    Option("-u", "--user", metavar="USER[:GROUP]", about="Run as this user (else the container's)."),
    Argument("CONTAINER", completes="container"),
    Argument("COMMAND", many=True),
    options_anywhere=OPTIONS_FIRST,
    failure=RunError.exit_status,
)


def main(values: Values) -> int:
    """Run it; the command's exit status."""
    from runtime import join
    from runtime.state import Containers

    interactive, terminal = values.flag("interactive"), values.flag("tty")
    if terminal and interactive and not values.flag("detach") and not os.isatty(0):
        raise UsageError("standard input is not a terminal", hint="leave out -t, or -i")
    container = Containers(values.root).find(values.text("container"))
    if values.flag("detach"):
        from runtime.join_detached import run_detached

        run_detached(
            container,
            values.all("command", str),
            env=environment([], values.all("env_file", str), values.all("env", str)),
            user=values.text("user"),
            cwd=values.text("workdir"),
            terminal=terminal,
        )
        return 0

    def run(keys: bytes, let_go: Callable[[], None] | None) -> Outcome:
        return join.run(
            container,
            values.all("command", str),
            env=environment([], values.all("env_file", str), values.all("env", str)),
            user=values.text("user"),
            cwd=values.text("workdir"),
            terminal=terminal,
            stdin=0 if interactive else -1 if terminal else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),
            detach_keys=keys,
            let_go=let_go,
        )

    keys = attached.detach_keys(values)
    if not (terminal and interactive and keys):
        return run(b"", None).status
    from runtime.leaving import run_to_leave

    return attached.status_of(run_to_leave(lambda let_go: run(keys, let_go)))
