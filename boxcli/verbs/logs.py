"""`box logs`: what a container wrote."""

from __future__ import annotations

import os

from boxcli import escapes, readers
from boxcli.table import Argument, Option, Values, Verb


def _tail(text: str) -> int:
    return -1 if text == "all" else readers.whole(text)


def _moment(text: str) -> str:
    from boxcli.moments import moment, stamp

    try:
        return stamp(moment(text))
    except (OverflowError, OSError):
        raise ValueError(f"{text!r} is no time of this world") from None


VERB = Verb(
    "logs",
    "Show what a container wrote",
    Option("-f", "--follow", about="Go on until the container ends."),
    Option("-n", "--tail", metavar="N", read=_tail, about="Show the last N lines ('all' is the default)."),
    Option("--since", metavar="TIME", read=_moment, about="Show what was written from then on: 10m ago, or 2026-01-31T12:00:00."),
    Option("--until", metavar="TIME", read=_moment, about="Show what was written before then."),
    Option("-t", "--timestamps", about="Show when each line was written."),
    Argument("CONTAINER", completes="container"),
)


def main(values: Values) -> int:
    """Write its output to standard output and its errors to standard error, as they came; to a terminal, text and colours."""
    from runtime.logs import follow, read
    from runtime.state import Containers

    container = Containers(values.root).find(values.text("container"))
    tail = values.one("tail", int)
    tail = None if tail == -1 else tail
    path = container.log_path
    shown = follow if values.flag("follow") else read
    entries = shown(path, tail=tail, since=values.text("since"), until=values.text("until"))
    fresh = {"stdout": True, "stderr": True}  # whether the stream is at the beginning of a line
    for entry in entries:
        stamp = entry.time.encode() + b" " if values.flag("timestamps") and fresh[entry.stream] else b""
        fresh[entry.stream] = entry.text.endswith(b"\n")
        _write(2 if entry.stream == "stderr" else 1, stamp + entry.text)
    return 0


def _write(descriptor: int, data: bytes) -> None:
    if os.isatty(descriptor):
        text = data.decode("utf-8", "replace").replace("\r\n", "\n")  # the container's own terminal ended its lines so
        data = escapes.coloured(text).encode()
    while data:
        data = data[os.write(descriptor, data) :]
