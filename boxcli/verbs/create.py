"""`box create`: a container that does not run yet."""

from __future__ import annotations

from boxcli.table import OPTIONS_FIRST, Values, Verb
from boxcli.verbs import run
from store.errors import RunError

VERB = Verb(
    "create",
    "Make a container, to be started later",
    *[option for option in run.VERB.options if option.key not in ("detach", "detach_keys")],
    *run.VERB.arguments,
    description="'box start' starts it.",
    options_anywhere=OPTIONS_FIRST,
    failure=RunError.exit_status,
)


def main(values: Values) -> int:
    """Make it; print its id."""
    from runtime.container import require_root
    from runtime.lifecycle import create

    require_root()
    spec = run.wanted(values)
    try:
        create(spec)
    except BaseException:
        run.forget_id(values)
        raise
    print(spec.id)
    return 0
