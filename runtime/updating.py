"""New limits for a container that there is already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.journal import amend
from runtime.limits import apply, controllers_of
from runtime.regroup import regroup
from runtime.state import Container, Containers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.limits import Resources

PERIOD = 100_000  # microseconds in which a cpu quota is counted


def update(container: Container, resources: Resources) -> None:
    """Change the limits of a container, now where it runs, and for each time that it is started; what is not named stays.

    On cgroup v1, what it had allocated before it first got a memory limit is not counted. Raises RunError.
    """
    if container.status == "running":
        group = regroup(container, controllers_of(resources))
        apply(group.paths, resources)
    now = Containers(container.root).read(container.id)
    if now is not None:
        amend(container.path, _recorded(now.record, resources))


def _recorded(record: Mapping[str, Any], resources: Resources) -> dict[str, Any]:
    """What the container's spec becomes, where the commonest limits have fields of their own."""
    changed: dict[str, Any] = {}
    merged = {kind: dict(values) for kind, values in record.get("resources", {}).items()}
    for kind, values in resources.items():
        for key, value in values.items():
            if (kind, key) == ("memory", "limit"):
                changed["memory"] = value if value > 0 else None
            elif (kind, key) == ("pids", "limit"):
                changed["pids_limit"] = value
            elif (kind, key) == ("cpu", "quota"):
                changed["cpus"] = value / PERIOD if value > 0 else None
            elif (kind, key) != ("cpu", "period"):
                merged.setdefault(kind, {})[key] = value
    return {**changed, "resources": merged}
