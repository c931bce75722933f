"""`box stats`: what containers use."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from boxcli import amounts, listing
from boxcli.table import Argument, Option, Values, Verb

if TYPE_CHECKING:
    from runtime.state import Container, Containers
    from runtime.usage import Usage

INTERVAL = 1.0  # seconds

VERB = Verb(
    "stats",
    "Show what containers use, again and again",
    Option("-a", "--all", about="Show those that do not run, too."),
    Option("--no-stream", about="Show it once."),
    listing.NO_TRUNC,
    listing.FORMAT,
    Argument("CONTAINER", required=False, many=True, completes="container"),
    description="Without names, of all that run. 100% is one processor. Memory is without the cache of files that was not used "
    "lately.",
)
_COLUMNS = (
    ("CONTAINER ID", "ID"), ("NAME", "Name"), ("CPU %", "CPUPerc"), ("MEM USAGE / LIMIT", "MemUsage"), ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"), ("BLOCK I/O", "BlockIO"), ("PIDS", "PIDs"),
)  # fmt: skip
_CLEAR, _HOME, _REST = "\033[2J", "\033[H", "\033[J"


def main(values: Values) -> int:
    """Print it once a second, over what was printed before where that is a terminal. It ends with the last of those named."""
    from runtime.state import Containers

    containers = Containers(values.root)
    names = values.all("container", str)
    identities = [containers.find(name).id for name in names]
    live = sys.stdout.isatty() and not values.text("format") and not values.flag("no_stream")
    before: dict[str, Usage] = {}
    if live:
        print(_CLEAR, end="")
    _sample(_shown(containers, identities, everything=values.flag("all")), before)
    while True:
        time.sleep(INTERVAL)
        shown = _shown(containers, identities, everything=values.flag("all"))
        rows = _sample(shown, before)
        if live:
            print(_HOME + _REST, end="")
        if not values.flag("no_trunc"):
            for row in rows:
                row["ID"] = str(row["ID"])[:12]
        listing.show(values, rows, _COLUMNS)
        sys.stdout.flush()
        if values.flag("no_stream") or (identities and not any(one.status == "running" for one in shown)):
            return 0


def _shown(containers: Containers, identities: list[str], *, everything: bool) -> list[Container]:
    found = containers.all()
    if identities:
        return [one for one in found if one.id in identities]
    return [one for one in found if everything or one.status == "running"]


def _sample(shown: list[Container], before: dict[str, Usage]) -> list[dict[str, object]]:
    """A row for each; `before`, what each had used at the last time, becomes what it has used now."""
    from runtime.usage import usage

    rows = []
    for one in shown:
        now = usage(one) if one.status == "running" else None
        rows.append(_row(one, now, before.get(one.id)))
        if now is not None:
            before[one.id] = now
    return rows


def _row(one: Container, now: Usage | None, before: Usage | None) -> dict[str, object]:
    row: dict[str, object] = {"Container": one.id[:12], "ID": one.id, "Name": one.name}
    if now is None:
        return row | {
            "CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--",
        }  # fmt: skip
    passed = now.when - before.when if before else 0
    cpu = 100 * max(0, now.cpu - before.cpu) / passed if before and passed else 0.0
    memory = 100 * now.memory / now.memory_limit if now.memory_limit else 0.0
    return row | {
        "CPUPerc": f"{cpu:.2f}%",
        "MemUsage": f"{amounts.binary_size(now.memory)} / {amounts.binary_size(now.memory_limit)}",
        "MemPerc": f"{memory:.2f}%",
        "NetIO": f"{amounts.size(now.received)} / {amounts.size(now.sent)}",
        "BlockIO": f"{amounts.size(now.read)} / {amounts.size(now.written)}",
        "PIDs": str(now.processes),
    }
