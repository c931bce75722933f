"""`box start`: containers that were created, or have ended."""

from __future__ import annotations

import os

from boxcli import attached
from boxcli.each import for_each
from boxcli.table import Argument, Option, Values, Verb
from store.errors import UsageError

VERB = Verb(
    "start",
    "Start containers that do not run",
    Option("-a", "--attach", about="Show its output until it ends, and leave with its exit status."),
    Option("-i", "--interactive", about="Pass standard input on to it."),
    attached.KEYS,
    attached.SIG_PROXY,
    Argument("CONTAINER", many=True, completes="container"),
)


def main(values: Values) -> int:
    """Start each; print which. Attached, the exit status is the container's."""
    from runtime.lifecycle import start

    if values.flag("attach") or values.flag("interactive"):
        return _attached(values)
    return for_each(values, start)


def _attached(values: Values) -> int:
    from runtime.attaching import attach, start_attached
    from runtime.lifecycle import wake
    from runtime.state import Containers

    names = values.all("container", str)
    if len(names) > 1:
        raise UsageError("only one container can be attached to at a time", hint="leave out -a and -i")
    container = Containers(values.root).find(names[0])
    interactive, terminal = values.flag("interactive"), bool(container.record.get("terminal"))
    if interactive and terminal and not os.isatty(0):
        raise UsageError("standard input is not a terminal", hint="the container has one of its own: leave out -i")
    stdin = 0 if interactive else -1
    keys, proxy = attached.detach_keys(values), attached.proxied(values)
    if container.status == "running":
        return attached.status_of(attach(container, stdin=stdin, detach_keys=keys, proxy=proxy))
    spec, journal = wake(container)
    return attached.status_of(start_attached(spec, journal, stdin=stdin, detach_keys=keys, proxy=proxy))
