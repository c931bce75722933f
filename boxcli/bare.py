"""`--rootfs DIR`: a container of a directory, without an image."""

from __future__ import annotations

import os

from boxcli.table import Values
from store.errors import UsageError
from store.images import host_architecture
from store.layout import Store
from store.prepared import Prepared

OVERLAID = ":O"  # podman's: the directory stays as it is


def bare(values: Values) -> Prepared:
    """The directory that was named, as an image without a config; its trees are empty where it is to be written to. UsageError
    when there is none."""
    text = values.text("image")
    overlaid = text.endswith(OVERLAID)
    path = os.path.realpath(text.removesuffix(OVERLAID))
    if not os.path.isdir(path):
        raise UsageError(f"there is no directory {path}", hint="--rootfs takes a directory with a root file system in it")
    Store.open(values.root, values.driver)  # where containers are kept, there need not be an image
    return Prepared(
        reference=path, manifest_digest="", config_digest="", architecture=host_architecture(), os="linux", workdir="", user="",
        stop_signal="", env=[], entrypoint=[], cmd=[], volumes=[], labels={}, trees=[path] if overlaid else [],
    )  # fmt: skip
