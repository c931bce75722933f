"""`box save`: images as one tar, which docker, podman, skopeo and box load."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from boxcli.table import Argument, Option, Values, Verb
from store.errors import UsageError

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

    path = values.text("output")
    if not path and sys.stdout.isatty():
        raise UsageError("a tar would not be readable on a terminal", hint="say -o FILE, or redirect the output")
    store = Store.open(values.root)
    with _whole(path) if path else open(1, "wb", closefd=False) as file:
        save(store, values.all("image", str), file)
        file.flush()
    return 0


@contextmanager
def _whole(path: str) -> Iterator[IO[bytes]]:
    """A file that replaces the one at `path` when the block ends well. What is there and no plain file is written to as it is."""
    try:
        plain = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        plain = True
    if not plain:
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)
    draft = f"{path}.{os.getpid()}.part"
    try:
        file = open(draft, "xb")  # noqa: SIM115  # closed below; only a failure to open it is answered here
    except FileNotFoundError as err:
        raise UsageError(f"there is no directory {os.path.dirname(path)}") from err
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
