"""`box attach`: the input and output of a running container, here."""

from __future__ import annotations

import os

from boxcli import attached
from boxcli.table import Argument, Option, Values, Verb
from store.errors import RunError

VERB = Verb(
    "attach",
    "Show a running container's output here, and pass this input on to it",
    attached.KEYS,
    Option("--no-stdin", about="Pass no input on."),
    attached.SIG_PROXY,
    Argument("CONTAINER", completes="container"),
    description="What it wrote before is shown by 'box logs'. A container started with -i takes input; at a terminal of its own "
    "the detach keys leave it running.",
)


def main(values: Values) -> int:
    """Until it ends, whose exit status is then this command's, or the user detaches."""
    from runtime.attaching import attach
    from runtime.lifecycle import check_not_paused, not_running
    from runtime.state import Containers

    container = Containers(values.root).find(values.text("container"))
    if container.status != "running":
        raise not_running(container)
    check_not_paused(container, "attach to")
    takes_input = bool(container.record.get("interactive")) and not values.flag("no_stdin")
    if takes_input and container.record.get("terminal") and not os.isatty(0):
        error = RunError("standard input is not a terminal", hint="the container has one of its own: add --no-stdin")
        error.exit_status = 1
        raise error
    outcome = attach(
        container,
        stdin=0 if takes_input else -1,
        detach_keys=attached.detach_keys(values),
        proxy=attached.proxied(values),
    )
    return attached.status_of(outcome)
