"""`box import`: a root file system's tar as an image of one layer."""

from __future__ import annotations

import os
import sys

from boxcli import readers
from boxcli.table import Argument, Option, Values, Verb
from store.errors import UsageError

VERB = Verb(
    "import",
    "Make an image of a root file system's tar",
    Option("-m", "--message", metavar="TEXT", about="A comment for the image's history."),
    Argument("FILE", completes="file"),
    Argument("NAME", required=False, read=readers.image_name),
    description="FILE is a tar, plain or compressed (gzip, zstd, xz, bzip2), or - for standard input. The image has no command.",
)


def main(values: Values) -> int:
    """Import it; print the image's id."""
    from builder.epoch import epoch_of, written
    from store.images import host_architecture
    from store.layers import import_layer
    from store.layout import Store
    from store.references import Reference
    from store.sources import TAR, remember

    path, name = values.text("file"), values.text("name")
    full_name = Reference.parse(name).full_name if name else None
    if path != "-" and not os.path.isfile(path):
        raise UsageError(f"there is no file {path}")
    if path == "-" and sys.stdin.isatty():
        raise UsageError("standard input is a terminal", hint="say box import FILE")
    store = Store.open(values.root, values.driver)
    when = written(epoch_of(os.environ))
    with store.leased(), open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
        layer = import_layer(store, file, parents=())
        step = {"created": when, "created_by": f"box import {os.path.basename(path)}"}
        if values.text("message"):
            step["comment"] = values.text("message")
        config = {"architecture": host_architecture(), "os": "linux", "created": when, "config": {}, "history": [step]}
        descriptor = store.images.create(config, [layer])
        remember(store, TAR, "" if path == "-" else path, [layer.descriptor.digest])
        store.references.add([(full_name, descriptor)])
    print(store.images.load(descriptor).id)
    return 0
