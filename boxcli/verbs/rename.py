"""`box rename`: another name for a container."""

from __future__ import annotations

from boxcli import readers
from boxcli.table import Argument, Values, Verb

VERB = Verb(
    "rename",
    "Give a container another name",
    Argument("CONTAINER", completes="container"),
    Argument("NAME", read=readers.name),
)


def main(values: Values) -> int:
    """Rename it."""
    from runtime.lifecycle import rename
    from runtime.state import Containers

    rename(Containers(values.root).find(values.text("container")), values.text("name"))
    return 0
