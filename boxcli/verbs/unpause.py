"""`box unpause`: paused containers go on."""

from __future__ import annotations

from boxcli.each import for_each
from boxcli.table import Argument, Values, Verb

VERB = Verb("unpause", "Let paused containers go on", Argument("CONTAINER", many=True, completes="container"))


def main(values: Values) -> int:
    """Let each go on; print which."""
    from runtime.pausing import unpause

    return for_each(values, unpause)
