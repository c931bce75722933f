"""`box mount`: the files of an image or a container at a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxcli import listing
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError, UsageError

if TYPE_CHECKING:
    from store.layout import Store
    from store.mounts import Mounted

VERB = Verb(
    "mount",
    "Show the files of an image or a container at a directory",
    Option("--format", metavar="json|TEMPLATE", about="Print the list as 'json' or by a template such as '{{.Target}}'."),
    Argument("NAME", required=False, completes="any"),
    Argument("DIR", required=False, completes="dir"),
    description="Read-only, with the container's own changes. Without DIR, box makes a directory and prints it; without NAME, it "
    "lists what is mounted. 'box umount' takes it away; nothing of it is deleted before.",
)


def main(values: Values) -> int:
    """Mount it and print where, or list what is mounted."""
    from boxcli.stores import existing
    from runtime import rootless
    from store.layout import Store

    name = values.text("name")
    if not name:
        existing(values)  # rid of mounts that are gone
        _list(values)
        return 0
    if rootless.entered:
        raise UsageError(
            "what an ordinary user's box mounts is seen by box alone", hint="'box export' and 'box cp' take files out"
        )
    store = Store.open(values.root, values.driver, make=False)
    if values.text("format"):
        raise UsageError("--format is for the list", hint="say box mount --format json, without a name")
    print(_mount(store, name, values.text("dir")).target)
    return 0


def _mount(store: Store, name: str, target: str) -> Mounted:
    from runtime.roots import find, open_merged
    from store.mounts import mount

    with store.leased():
        subject = find(store, name)
        if subject.container is not None:
            container = subject.container
            return mount(store.root, name, lambda: open_merged(container), target=target, container=container.id)
        image = subject.image
        if image is None:
            raise BoxError(f"no container or image named {name!r}")
        return mount(
            store.root,
            name,
            lambda: store.snapshots.view(image.layers),
            target=target,
            image=image.descriptor.digest,
            chains=[layer.chain_id for layer in image.layers],
        )


def _list(values: Values) -> None:
    from store.mounts import all_mounts

    rows = [
        {
            "ID": mounted.name,
            "Name": mounted.subject,
            "Type": "container" if mounted.container else "image",
            "Target": mounted.target,
        }
        for mounted in all_mounts(values.root)
    ]
    listing.show(values, rows, [("NAME", "Name"), ("TYPE", "Type"), ("TARGET", "Target")])
