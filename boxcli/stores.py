"""The store that a command looks at, which it does not make."""

from __future__ import annotations

from boxcli.table import Values
from store.errors import StoreMissing
from store.layout import Store


def existing(values: Values) -> Store | None:
    """The store at the command's root; None where there is none, which is like an empty one."""
    try:
        return Store.open(values.root, values.driver, make=False)
    except StoreMissing:
        return None
