"""`box wait`: until containers have ended."""

from __future__ import annotations

from boxcli.each import for_each
from boxcli.table import Argument, Values, Verb

VERB = Verb("wait", "Wait until containers have ended", Argument("CONTAINER", many=True, completes="container"))


def main(values: Values) -> int:
    """Wait for each in turn; print their exit statuses."""
    from runtime.lifecycle import wait

    return for_each(values, lambda container: str(wait(container)))
