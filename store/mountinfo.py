"""The mounts that this process sees: proc(5), mountinfo."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Place(NamedTuple):
    """Where a mount is, and what it shows: the device of its file system and which directory of that."""

    path: str
    shows: str


def places() -> dict[int, Place]:
    """Every mount of this namespace that can be reached from this process' root, by its number (which the kernel gives again once
    the mount has gone)."""
    found = {}
    with open("/proc/self/mountinfo", "rb", buffering=0) as file:
        for line in file.readall().splitlines():
            number, _, device, top, path, _ = line.split(b" ", 5)
            found[int(number)] = Place(_plain(path), f"{device.decode()} {_plain(top)}")
    return found


def inhabitant(namespace: int) -> int:
    """The pid of a process in the mount namespace of this number, 0 when none can be seen."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}/ns/mnt").st_ino == namespace:
                return int(name)
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return 0


def _plain(text: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), text))
