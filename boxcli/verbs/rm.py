"""`box rm`: remove containers."""

from __future__ import annotations

from boxcli.each import for_each
from boxcli.table import Argument, Option, Values, Verb

VERB = Verb(
    "rm",
    "Remove containers",
    Option("-f", "--force", about="Kill one that runs; one that does not exist is no error."),
    Option("-v", "--volumes", about="Remove the volumes without a name that were made for it, too."),
    Argument("CONTAINER", many=True, completes="container"),
)


def main(values: Values) -> int:
    """Remove each; print which."""
    from runtime.lifecycle import remove

    force = values.flag("force")
    return for_each(values, lambda container: remove(container, force, volumes=values.flag("volumes")), missing_is_fine=force)
