"""`box info`: where things lie, what this machine can do, and how much there is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from boxcli.release import RELEASE
from boxcli.table import Option, Values, Verb
from store.errors import RunError

if TYPE_CHECKING:
    from store.layout import Store

VERB = Verb(
    "info",
    "Show where things lie and what there is",
    Option("--format", metavar="json|TEMPLATE", about="Print 'json' or a template."),
)


def main(values: Values) -> int:
    """Print it. Where there is no store yet, what works is tried in one beside it that is gone at the end."""
    from boxcli.stores import existing
    from boxcli.templates import compile_format
    from runtime.rootless import enter
    from runtime.state import Containers
    from store.probe import probe

    rootless = os.geteuid() != 0
    if rootless:
        try:
            enter(values.root)
        except RunError as err:
            print(f"box: {err.message}: containers cannot run", file=sys.stderr)
    store = existing(values)
    with nullcontext(store) if store is not None else _tried(values) as at:
        driver = at.snapshots.name if at is not None else ""
        drivers = list(probe(at.drafts)) if at is not None else []
    statuses = [container.status for container in Containers(values.root).all()]
    names = store.references.all() if store is not None else []
    system = os.uname()
    facts = {
        "Version": RELEASE,
        "Root": values.root,
        "Driver": driver,
        "Drivers": [{"Name": each.name, "StandsOn": each.how, "Reason": each.reason} for each in drivers],
        "Images": len({named.descriptor.digest for named in names}),
        "Containers": len(statuses),
        "ContainersRunning": statuses.count("running"),
        "CgroupVersion": _cgroup_version(),
        "Kernel": system.release,
        "Architecture": system.machine,
        "Processors": os.cpu_count() or 1,
        "Memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Rootless": rootless,
    }
    if values.text("format"):
        print(compile_format(values.text("format"))(facts))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = [_told(driver) for driver in value] if isinstance(value, list) else [value]
        for number, line in enumerate(lines):
            print(f"{('' if number else name).ljust(width)}  {line}")
    return 0


@contextmanager
def _tried(values: Values) -> Iterator[Store | None]:
    """An empty store on the same file system; None where none can be made there."""
    from tempfile import TemporaryDirectory

    from store.layout import Store

    above = os.path.dirname(values.root)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    if not os.access(above, os.W_OK):
        yield None
        return
    with TemporaryDirectory(prefix=".box-", dir=above) as place:
        yield Store.open(f"{place}/store", values.driver)


def _told(driver: dict[str, str]) -> str:
    """What there is to say of a driver: what it stands on, or why it does not work."""
    return f"{driver['Name']}: {driver['StandsOn'] or 'does not work: ' + driver['Reason']}"


def _cgroup_version() -> int:
    """2 where the one hierarchy has the controllers, 1 where each has its own."""
    try:
        with open("/sys/fs/cgroup/cgroup.controllers") as file:
            return 2 if file.read().split() else 1
    except FileNotFoundError:
        return 1
