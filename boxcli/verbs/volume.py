"""`box volume`: directories that outlive containers."""

from __future__ import annotations

from boxcli import table
from boxcli.table import OPTIONS_FIRST, Argument, Values, Verb
from store.errors import UsageError

VERB = Verb(
    "volume",
    "Create, list, show and remove volumes",
    Argument("ACTION", completes="volume action"),
    Argument("ARGUMENTS", required=False, many=True, completes="volume"),
    description="box volume create [NAME], ls, inspect NAME..., rm NAME..., prune; 'box volume ACTION --help' shows the options "
    "of each. A volume is used by 'box run -v NAME:/path', which makes it where there is none, and fills it, while it is empty, "
    "with what the image has there.",
    options_anywhere=OPTIONS_FIRST,
)


def main(values: Values) -> int:
    """Do one of these; its exit status. FormatTooNew in a store that a newer box wrote."""
    from boxcli.volumes import VERBS
    from store.format import check_format

    action = values.text("action")
    if action not in VERBS:
        from store.likeness import nearest

        near = nearest(action, VERBS)
        hint = f"did you mean 'box volume {near}'?" if near else f"there are: {', '.join(VERBS)}"
        raise UsageError(f"volume: unknown action {action!r}", hint=hint)
    check_format(values.root)
    verb, act = VERBS[action]
    argv = values.all("arguments", str)
    found = table.parse(verb, argv, values.root)
    if found is None:
        from boxcli.click_face import run_below

        return run_below(verb, act, argv, values.root, values.driver)
    return act(found)
