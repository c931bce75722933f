"""`box pause`: containers stand still."""

from __future__ import annotations

from boxcli.each import for_each
from boxcli.table import Argument, Values, Verb

VERB = Verb(
    "pause",
    "Have all processes of containers stand still",
    Argument("CONTAINER", many=True, completes="container"),
    description="'box unpause' lets them go on. Meanwhile they heed no signal; 'box stop', 'box kill' and 'box rm -f' end them.",
)


def main(values: Values) -> int:
    """Pause each; print which."""
    from runtime.pausing import pause

    return for_each(values, pause)
