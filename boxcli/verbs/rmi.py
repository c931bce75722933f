"""`box rmi`: delete images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

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
    from store.collect import delete_image
    from store.errors import ReferenceMissing
    from store.layout import Store

    store = Store.open(values.root)
    status = 0
    for text in values.all("image", str):
        try:
            gone = delete_image(store, text, force=values.flag("force"), used=lambda: chains_in_use(store.root))
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
            print(f"box: the bytes of {text} go later: a build is using the store", file=sys.stderr)
    return status


def chains_in_use(root: str) -> Iterable[str]:
    """The stacks of layers that containers stand on, the ended ones too."""
    from runtime.state import Containers

    for tree in Containers(root).trees_in_use():
        directory, _, name = tree.rpartition("/")
        if name == "tree" and os.path.dirname(directory) == f"{root}/snapshots":
            yield f"sha256:{os.path.basename(directory)}"
