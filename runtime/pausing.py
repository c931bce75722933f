"""A container that stands still, and goes on: `pause` and `unpause` of `box run`'s containers."""

from runtime import freezer
from runtime.cgroups import Cgroup
from runtime.regroup import regroup
from runtime.state import Container
from store.errors import RunError

_PATIENCE = 5.0  # seconds


def pause(container: Container) -> None:
    """On return nothing of the container goes on. Raises RunError when it does not run or is paused already, SetupFailed."""
    if container.paused:
        raise RunError(f"container {container.name} is paused already")
    group = regroup(container, ["freezer"])
    freezer.freeze(group.paths, _PATIENCE)


def unpause(container: Container) -> None:
    """On return the container goes on. Raises RunError when it is not paused, SetupFailed."""
    if not container.paused:
        raise RunError(f"container {container.name} is not paused")
    thaw(container)


def thaw(container: Container) -> None:
    """Let the container go on if it is paused."""
    paths = Cgroup(container.id).paths
    if freezer.frozen(paths):
        freezer.thaw(paths, _PATIENCE)
