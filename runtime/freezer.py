"""Standing still and going on: the freezer controller of v1, cgroup.freeze of v2, for groups given by their paths.

Sources: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst.
"""

import time

from runtime.cgroup_files import read, write
from runtime.cgroup_paths import UNIFIED
from store.errors import RunError, SetupFailed

_EBUSY = 16
_AGAIN = 50  # attempts, a millisecond each, before a v1 group that does not freeze is thawed for a moment


def frozen(paths: dict[str, str]) -> bool:
    """Whether everything in the groups stands still, or is about to, by them or by a group above."""
    return _state(paths) in ("FROZEN", "FREEZING")


def freeze(paths: dict[str, str], patience: float) -> None:
    """On return everything stands still. Raises SetupFailed when something does not for `patience` seconds; it then goes on."""
    deadline = time.monotonic() + patience
    file, on, off = _freezer(paths, "pause")
    v1 = "freezer" in paths
    attempt = 0
    try:
        write(file, on)
        while _state(paths) != "FROZEN":
            if time.monotonic() > deadline:
                write(file, off)
                raise SetupFailed("pause the container", _EBUSY, "a process of it does not stop", path=file)
            attempt += 1
            if v1 and attempt % _AGAIN == 0:
                # What waits for something that is frozen already, in a vfork say, gets no further until that is thawed.
                write(file, off)
                time.sleep(0.001)
            if v1:
                write(file, on)  # the kernel looks again at what forked or joined meanwhile
            time.sleep(0.0002 if attempt < 10 else 0.001)
    except OSError as err:
        raise SetupFailed("pause the container", err.errno or 0, err.strerror or "", path=file) from err


def thaw(paths: dict[str, str], patience: float) -> None:
    """On return everything goes on. Raises SetupFailed when it does not, since a group above is frozen."""
    deadline = time.monotonic() + patience
    file, _, off = _freezer(paths, "resume")
    try:
        write(file, off)
    except OSError as err:
        raise SetupFailed("resume the container", err.errno or 0, err.strerror or "", path=file) from err
    while frozen(paths):
        if time.monotonic() > deadline:
            raise SetupFailed("resume the container", _EBUSY, "a group above it is frozen", path=file)
        time.sleep(0.0005)


def _state(paths: dict[str, str]) -> str:
    """FROZEN, FREEZING (v1), THAWED; empty where there is no freezer."""
    if "freezer" in paths:
        return read(paths["freezer"] + "/freezer.state").strip()
    if UNIFIED in paths:
        return "FROZEN" if "frozen 1" in read(paths[UNIFIED] + "/cgroup.events").splitlines() else "THAWED"
    return ""


def _freezer(paths: dict[str, str], verb: str) -> tuple[str, str, str]:
    """The file that freezes, and what to write to it."""
    if "freezer" in paths:
        return paths["freezer"] + "/freezer.state", "FROZEN", "THAWED"
    if UNIFIED in paths:
        return paths[UNIFIED] + "/cgroup.freeze", "1", "0"
    raise RunError(
        f"cannot {verb} the container: it has no group with a freezer", hint="mount the freezer controller, or cgroup v2"
    )
