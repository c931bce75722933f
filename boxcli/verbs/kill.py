"""`box kill`: a signal for containers."""

from __future__ import annotations

from boxcli import readers
from boxcli.each import for_each
from boxcli.table import Argument, Option, Values, Verb

SIGKILL = 9

VERB = Verb(
    "kill",
    "Send containers a signal",
    Option("-s", "--signal", metavar="SIGNAL", read=readers.signal, about="The signal, by name or number (else KILL)."),
    Argument("CONTAINER", many=True, completes="container"),
)


def main(values: Values) -> int:
    """Send each the signal; print to which it was sent."""
    from runtime.lifecycle import kill

    return for_each(values, lambda container: kill(container, values.one("signal", int) or SIGKILL))
