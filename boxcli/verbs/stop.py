"""`box stop`: ask containers to end, and make them."""

from __future__ import annotations

from boxcli import readers
from boxcli.each import for_each
from boxcli.table import Argument, Option, Values, Verb

PATIENCE = 10.0

VERB = Verb(
    "stop",
    "Stop containers",
    Option("-t", "--time", metavar="SECONDS", read=readers.seconds, about="How long to wait before killing it (else 10)."),
    Argument("CONTAINER", many=True, completes="container"),
)


def main(values: Values) -> int:
    """Send each its stop signal, and SIGKILL if it has not ended in time; print what was stopped."""
    from runtime.lifecycle import stop

    patience = values.one("time", float)
    return for_each(values, lambda container: stop(container, PATIENCE if patience is None else patience))
