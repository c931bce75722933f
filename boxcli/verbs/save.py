"""`box save`: images as one tar, which docker, podman, skopeo and box load."""

from __future__ import annotations

from boxcli.outputs import destination, output
from boxcli.table import Argument, Option, Values, Verb

VERB = Verb(
    "save",
    "Save images to a tar",
    Option("-o", "--output", metavar="FILE", completes="file", about="Write to a file instead of standard output."),
    Argument("IMAGE", many=True, completes="image"),
    description="The same images give the same bytes, for 'docker load', 'podman load', 'skopeo copy' and 'box load'.",
)


def main(values: Values) -> int:
    """Write it; a file appears whole, or not at all."""
    from store.archive import save
    from store.layout import Store

    path = destination(values)
    store = Store.open(values.root, values.driver, make=False)
    with output(path) as file:
        save(store, values.all("image", str), file)
        file.flush()
    return 0
