"""`box tag`: another name for an image."""

from __future__ import annotations

from boxcli import readers
from boxcli.table import Argument, Values, Verb

VERB = Verb("tag", "Give an image another name", Argument("IMAGE", completes="image"), Argument("NAME", read=readers.image_name))


def main(values: Values) -> int:
    """Give it the name, taking it from the image that had it."""
    from store.layout import Store

    store = Store.open(values.root, values.driver, make=False)
    with store.shared():
        store.references.set(values.text("name"), store.references.resolve(values.text("image")).descriptor)
    return 0
