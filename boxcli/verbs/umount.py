"""`box umount`: take away what `box mount` shows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from boxcli.failure import report
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError, UsageError

if TYPE_CHECKING:
    from store.layout import Store
    from store.mounts import Mounted

VERB = Verb(
    "umount",
    "Take away what 'box mount' shows",
    Option("-a", "--all", about="Take away all of them."),
    Option("-f", "--force", about="Do not wait for programs that still use it: they keep what they have open."),
    Argument("NAME", required=False, many=True, completes="mount"),
    description="NAME is the directory, or the image or container whose mounts are all taken away.",
)


def main(values: Values) -> int:
    """Unmount each; print where it was."""
    from boxcli.stores import existing
    from store.mounts import all_mounts, unmount

    store = existing(values)
    names = values.all("name", str)
    if bool(names) == values.flag("all"):
        raise UsageError("umount needs a name, a directory or --all" if not names else "--all takes no names")
    mounts = all_mounts(values.root)
    status = 0
    wanted: list[Mounted] = list(mounts) if not names else []
    for name in names:
        found = _meant(store, mounts, name) if store is not None else []
        if not found:
            status = report(BoxError(f"nothing is mounted by the name {name!r}", hint="'box mount' lists what is"))
        wanted += [mounted for mounted in found if mounted not in wanted]
    for mounted in wanted:
        try:
            unmount(values.root, mounted, lazily=values.flag("force"))
        except BoxError as error:
            status = report(error)
        else:
            print(mounted.target)
    return status


def _meant(store: Store, mounts: list[Mounted], name: str) -> list[Mounted]:
    """Those at this directory, or else of this image or container, by whatever name."""
    from runtime.roots import find

    here = [mounted for mounted in mounts if mounted.target == os.path.realpath(name)]
    if here:
        return here[-1:]
    found = [mounted for mounted in mounts if name in (mounted.subject, mounted.name)]
    if found:
        return found
    try:
        subject = find(store, name)
    except BoxError:
        return []
    if subject.container is not None:
        return [mounted for mounted in mounts if mounted.container == subject.container.id]
    return [
        mounted
        for mounted in mounts
        if subject.image is not None and mounted.image in (subject.image.descriptor.digest, subject.image.id)
    ]
