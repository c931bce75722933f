"""Clearing up after a process of box that was killed while it looked after a container. Only imported when there is such a
one."""

import time

from runtime.cgroups import Cgroup
from runtime.journal import Journal
from runtime.records import read
from store.errors import BoxError

KILLED = "the box process that looked after it was killed"


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
            journal.remove()
        elif record["pid"] or not journal.put_back():
            journal.ended(137, 9, time.time(), False, KILLED)
    except (BoxError, OSError):
        pass
    finally:
        journal.close()
