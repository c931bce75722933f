"""`box cp`: files into and out of containers, and out of images."""

from __future__ import annotations

import sys

from boxcli.escapes import one_line
from boxcli.outputs import check_not_a_terminal
from boxcli.table import Argument, Option, Values, Verb
from boxcli.unwinding import unwound
from store.errors import UsageError

VERB = Verb(
    "cp",
    "Copy files into and out of containers, and out of images",
    Option("-a", "--archive", about="Keep owners, set-id bits, extended attributes and devices."),
    Option("-L", "--follow-link", about="Of a symbolic link as SRC, copy what it means."),
    Argument("SRC", completes="end"),
    Argument("DST", completes="end"),
    description="Each is NAME:PATH of a container (or, as SRC, of an image), a path of this machine, or - for a tar on standard "
    "input or output. A directory is copied into DST where that is one; SRC/. means what is in it. Without -a, what is copied "
    "belongs to root in a container, and here to you.",
)


def main(values: Values) -> int:
    """Copy; 1 when something had to be left out."""
    from runtime.ends import STREAM, parse
    from runtime.transfer import Options, copy
    from store.drafts import write_all
    from store.layout import Store

    if values.text("dst") == STREAM:
        check_not_a_terminal()
    if values.text("src") == STREAM and sys.stdin.isatty():
        raise UsageError("standard input is a terminal", hint="pipe a tar into it: tar -c FILES | box cp - CONTAINER:DIR")
    left: list[str] = []

    def left_out(path: str, why: str) -> None:
        left.append(path)
        print(f"box: left out {one_line(path)}: {why}", file=sys.stderr)

    store = Store.open(values.root, values.driver, make=False)
    options = Options(archive=values.flag("archive"), follow=values.flag("follow_link"))
    with unwound(), store.leased(), open(0, "rb", buffering=0, closefd=False) as stdin:
        source, target = parse(store, values.text("src")), parse(store, values.text("dst"))
        copy(store, source, target, options, left_out, read=stdin, write=lambda piece: write_all(1, piece))
    return 1 if left else 0
