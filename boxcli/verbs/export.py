"""`box export`: all files of a container or an image as one tar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from boxcli.escapes import one_line
from boxcli.outputs import destination, output
from boxcli.table import Argument, Option, Values, Verb

if TYPE_CHECKING:
    from store.walk import Node

VERB = Verb(
    "export",
    "Write all files of a container or an image to a tar",
    Option("-o", "--output", metavar="FILE", completes="file", about="Write to a file instead of standard output."),
    Argument("NAME", completes="any"),
    description="The tar is flat: one root file system, for 'tar -x' or 'box import'. The same files give the same bytes. What "
    "is mounted in a container is not part of it.",
)


def main(values: Values) -> int:
    """Write it; a file appears whole, or not at all."""
    from runtime.roots import find, maps_of, merged
    from store.export import export
    from store.layout import Store

    path = destination(values)
    store = Store.open(values.root, values.driver, make=False)
    with store.leased():
        subject = find(store, values.text("name"))
        maps = maps_of(subject.container) if subject.container is not None else None
        with merged(store, subject) as tree, output(path) as file:
            export(tree, file.write, _skipped, maps.inside if maps is not None else None)
            file.flush()
    return 0


def _skipped(node: Node) -> None:
    print(f"box: left out {one_line('/' + node.path.decode('utf-8', 'backslashreplace'))}: a socket", file=sys.stderr)
