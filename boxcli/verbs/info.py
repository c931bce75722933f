"""`box info`: where things lie, what this machine can do, and how much there is."""

from __future__ import annotations

import os

from boxcli.release import RELEASE
from boxcli.table import Option, Values, Verb

VERB = Verb(
    "info",
    "Show where things lie and what there is",
    Option("--format", metavar="json|TEMPLATE", about="Print 'json' or a template."),
)


def main(values: Values) -> int:
    """Print it. Where there is no store yet, which drivers work in it is not known."""
    from boxcli.stores import existing
    from boxcli.templates import compile_format
    from runtime.state import Containers
    from store.probe import probe

    store = existing(values)
    statuses = [container.status for container in Containers(values.root).all()]
    names = store.references.all() if store is not None else []
    system = os.uname()
    facts = {
        "Version": RELEASE,
        "Root": values.root,
        "Driver": store.snapshots.name if store is not None else "",
        "Drivers": [
            {"Name": each.name, "StandsOn": each.how, "Reason": each.reason}
            for each in (probe(store.drafts) if store is not None else ())
        ],
        "Images": len({named.descriptor.digest for named in names}),
        "Containers": len(statuses),
        "ContainersRunning": statuses.count("running"),
        "CgroupVersion": _cgroup_version(),
        "Kernel": system.release,
        "Architecture": system.machine,
        "Processors": os.cpu_count() or 1,
        "Memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Rootless": os.geteuid() != 0,
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
