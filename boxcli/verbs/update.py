"""`box update`: other limits for containers."""

from __future__ import annotations

from boxcli import limits
from boxcli.each import for_each
from boxcli.table import Argument, Values, Verb
from boxcli.verbs import run
from store.errors import UsageError

VERB = Verb(
    "update",
    "Change the limits of containers",
    *[option for option in run.VERB.options if option.key in limits.KEYS],
    Argument("CONTAINER", many=True, completes="container"),
    description="Now, where a container runs, and for each time that it is started. What is not named stays.",
)


def main(values: Values) -> int:
    """Change those of each; print which."""
    from runtime.updating import update

    wanted = limits.changes(values)
    if not wanted:
        raise UsageError("no limit is named", hint="such as --memory 512m, --cpus 2 or --pids-limit 100")
    return for_each(values, lambda container: update(container, wanted))
