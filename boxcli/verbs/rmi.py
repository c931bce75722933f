"""`box rmi`: delete images."""

from __future__ import annotations

import sys

from boxcli.failure import report
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError

VERB = Verb(
    "rmi",
    "Delete images",
    Option("-f", "--force", about="Delete an image with all its names; one that does not exist is no error."),
    Argument("IMAGE", many=True, completes="image"),
)


def main(values: Values) -> int:
    """Delete each; print what went. The first that cannot be deleted does not keep the others from it."""
    from boxcli.in_use import in_use
    from builder import retention
    from runtime.journal import reap
    from store.collect import delete_image
    from store.errors import ReferenceMissing
    from store.layout import Store

    store = Store.open(values.root, values.driver, make=False)
    reap(store.root)
    status = 0
    for text in values.all("image", str):
        try:
            gone = delete_image(
                store,
                text,
                force=values.flag("force"),
                keep=lambda: retention.kept(store),
                used=lambda: in_use(store.root),
            )
        except ReferenceMissing as error:
            status = status if values.flag("force") else report(error)
            continue
        except BoxError as error:
            status = report(error)
            continue
        for name in gone.names:
            print(f"Untagged: {name}")
        for digest in gone.images:
            print(f"Deleted: {digest}")
        if gone.deferred:
            print(f"box: a running command uses some of {text}: 'box gc' deletes that later", file=sys.stderr)
    return status
