"""What the verbs for several containers share: each is tried, whatever became of those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from boxcli.failure import report
from boxcli.table import Values
from store.errors import BoxError, ContainerMissing

if TYPE_CHECKING:
    from runtime.state import Container


def for_each(values: Values, act: Callable[[Container], str | None], *, missing_is_fine: bool = False) -> int:
    """Do `act` with each container that was named, and print what it returns, or else the name as it was given.

    The exit status: 0, or that of the last error; each error is said, and the next container is tried.
    """
    from runtime.state import Containers

    containers = Containers(values.root)
    status = 0
    for name in values.all("container", str):
        try:
            said = act(containers.find(name))
            print(name if said is None else said, flush=True)
        except ContainerMissing as error:
            if not missing_is_fine:
                status = report(error)
        except BoxError as error:
            status = report(error)
    return status
