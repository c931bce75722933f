"""Clearing up after a process of box that was killed while it looked after a container. Only imported when there is such a
one."""

import time

from runtime.cgroups import Cgroup
from runtime.journal import Journal
from runtime.records import read
from store.errors import BoxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KILLED = "the box process that looked after it was killed"


def anonymous_volumes(record: "Mapping[str, Any]") -> list[str]:
    """The volumes that were made for the container of this record alone."""
    return [each["volume"] for each in record.get("mounts", []) if each.get("anonymous")]


def bury(journal: Journal, identity: str) -> None:
    """End what still runs of the container, remove its groups, and then its directory, or record its end.

    One that was to be removed, that never started, or whose record is not readable goes; any other is kept as stopped by SIGKILL.
    What cannot be cleared up now (a process that the kernel does not let go of, a full disk) is left to the next command.
    """
    try:
        group = Cgroup(identity)
        group.kill()
        group.delete()
        record = read(journal.path + "/journal")
        if record is None or record.get("removed") or "pid" not in record:
            if record is not None and (names := anonymous_volumes(record)):
                from runtime.volumes import discard

                discard(journal.path.rpartition("/containers/")[0], names, identity)
            journal.remove()
        elif record["pid"] or not journal.put_back():
            journal.ended(137, 9, time.time(), False, KILLED)
    except (BoxError, OSError):
        pass
    finally:
        journal.close()
