"""`box wait`: until containers have ended, or are what they are waited for to be."""

from __future__ import annotations

from boxcli import readers
from boxcli.each import for_each
from boxcli.table import Argument, Option, Values, Verb

CONDITIONS = ("stopped", "exited", "running", "healthy", "unhealthy", "paused", "created", "removed")
INTERVAL = 0.1  # seconds


def _condition(text: str) -> str:
    if text not in CONDITIONS:
        raise ValueError(f"{text!r} is not one of {', '.join(CONDITIONS)}")
    return text


VERB = Verb(
    "wait",
    "Wait until containers have ended",
    Option("--condition", metavar="CONDITION", many=True, read=_condition, about="Wait for one of these instead: see below."),
    Option("-i", "--interval", metavar="SECONDS", read=readers.seconds, about="How often to look, for these (else 0.1)."),
    Argument("CONTAINER", many=True, completes="container"),
    description=f"Conditions: {', '.join(CONDITIONS)}. With one that is no end, -1 is printed in place of an exit status.",
)


def main(values: Values) -> int:
    """Wait for each in turn; print their exit statuses."""
    from runtime.lifecycle import wait, wait_for

    conditions = values.all("condition", str)
    if set(conditions) <= {"stopped", "exited"}:
        return for_each(values, lambda container: str(wait(container)))
    interval = values.one("interval", float) or INTERVAL
    return for_each(values, lambda container: str(wait_for(container, conditions, interval)))
