"""`box restart`: end containers and start them again."""

from __future__ import annotations

from boxcli import readers
from boxcli.each import for_each
from boxcli.table import Argument, Option, Values, Verb
from boxcli.verbs.stop import PATIENCE

VERB = Verb(
    "restart",
    "Stop containers and start them again",
    Option("-t", "--time", metavar="SECONDS", read=readers.seconds, about="How long to wait before killing it (else 10)."),
    Argument("CONTAINER", many=True, completes="container"),
)


def main(values: Values) -> int:
    """Do so with each, also with one that does not run; print which."""
    from runtime.lifecycle import restart

    patience = values.one("time", float)
    return for_each(values, lambda container: restart(container, PATIENCE if patience is None else patience))
