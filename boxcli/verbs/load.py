"""`box load`: the images of an archive."""

from __future__ import annotations

import os
import sys

from boxcli.table import Argument, Option, Values, Verb
from store.errors import UsageError

VERB = Verb(
    "load",
    "Load images from a tar",
    Option("-i", "--input", metavar="FILE", completes="file", about="Read a file instead of standard input."),
    Option("-q", "--quiet", about="Print only the ids of the images."),
    Argument("FILE", required=False, completes="file"),
    description="Reads what 'box save', 'docker save', 'podman save' and 'skopeo copy' write: gzip, zstd, xz and bzip2 too, "
    "and an OCI layout that is a directory.",
)


def main(values: Values) -> int:
    """Load them all, or none; print their names."""
    from store.archive import load, load_directory
    from store.layout import Store

    path = values.text("input") or values.text("file", "-")
    if values.text("input") and values.text("file"):
        raise UsageError("two files to load", hint="leave one of them out")
    if path == "-" and sys.stdin.isatty():
        raise UsageError("standard input is a terminal", hint="say box load -i FILE")
    if path != "-" and not os.path.exists(path):
        raise UsageError(f"there is no {path}")
    store = Store.open(values.root, values.driver)
    if path != "-" and os.path.isdir(path):
        loaded = load_directory(store, path)
    else:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            loaded = load(store, file, path="" if path == "-" else path)
    for named in loaded:
        identity = store.images.load(named.descriptor).id
        if values.flag("quiet"):
            print(identity)
        else:
            print(f"Loaded image: {named.name}" if named.name else f"Loaded image ID: {identity}")
    return 0
