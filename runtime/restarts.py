"""Whether and when a container that has ended is started again, and the start: docker's rules.

The first wait is a tenth of a second; each further one is twice as long, to a minute; whoever lived for ten seconds begins anew.
"""

from runtime.journal import Journal, amend, looked_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NO = "no"
FIRST, LONGEST, LONG_LIVED = 0.1, 60.0, 10.0  # seconds


def parse(text: str) -> str:
    """A policy, as it is kept: no, always, unless-stopped, on-failure or on-failure:N. ValueError for another text."""
    name, colon, most = text.partition(":")
    if name in (NO, "always", "unless-stopped") and not colon:
        return text
    if name == "on-failure" and (not colon or (most.isascii() and most.isdigit() and int(most) > 0)):
        return text
    raise ValueError(f"{text!r} is none of no, on-failure[:N], always, unless-stopped")


def wanted(policy: str, status: int, restarts: int) -> bool:
    """Whether one that ended with `status` by itself, and was started again `restarts` times, is to be so once more."""
    name, _, most = policy.partition(":")
    if name == "on-failure":
        return status != 0 and (not most or restarts < int(most))
    return name in ("always", "unless-stopped")


def pause(former: float, lived: float) -> float:
    """How long to wait, after `former` the last time."""
    return FIRST if lived >= LONG_LIVED or not former else min(2 * former, LONGEST)


def mark(journal: Journal, again: bool) -> None:
    """Record whether the container, which has ended, is to be started again."""
    amend(journal.path, {"restarting": again})


def start_again(root: str, identity: str) -> None:
    """Start it, unless somebody has stopped, started or removed it meanwhile. In a child of the monitor.

    BoxError when that failed: where the container is still `restarting`, somebody uses it, and it is to be tried again.
    """
    from runtime.detached import detach
    from runtime.lifecycle import wake
    from runtime.state import Containers
    from store.errors import BoxError

    container = Containers(root).read(identity)
    if container is None or not container.restarting:
        return
    restarts = int(container.record.get("restarts", 0)) + 1
    spec, journal = wake(container, restarts=restarts)
    try:
        detach(spec, journal)
    except BoxError:
        if not looked_after(container.path):
            amend(container.path, {"restarting": False})  # what it is there for is gone; journal.failed has said so
        raise


def of(record: "Mapping[str, Any]") -> str:
    """The policy in a container's record."""
    return str(record.get("restart") or NO)
