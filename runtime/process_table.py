"""The processes of a container as this machine sees them, for `top`."""

from __future__ import annotations

import os
import time

from runtime.cgroup_files import read
from store.record import Record

_TICKS = os.sysconf("SC_CLK_TCK")


class Running(Record):
    """A process: ids as this machine counts, `cpu` in seconds, `started` as unix time, `terminal` such as pts/0 or ?."""

    uid: int
    pid: int
    parent: int
    cpu: float
    started: float
    terminal: str
    command: str

    @property
    def percent(self) -> int:
        """How much of one processor it has used since it was started, in percent."""
        return int(100 * self.cpu / max(time.time() - self.started, 0.01))


def running(pids: list[int]) -> list[Running]:
    """Those of `pids` that there still are, the oldest first: proc(5)."""
    boot = next(int(line.split()[1]) for line in read("/proc/stat").splitlines() if line.startswith("btime "))
    found = []
    for pid in sorted(pids):
        name, _, rest = read(f"/proc/{pid}/stat").partition("(")[2].rpartition(")")
        fields = rest.split()
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
        except FileNotFoundError:
            continue
        if len(fields) < 20:
            continue
        words = read(f"/proc/{pid}/cmdline").rstrip("\0").replace("\0", " ")
        found.append(
            Running(
                uid=uid,
                pid=pid,
                parent=int(fields[1]),
                cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
                started=boot + int(fields[19]) / _TICKS,
                terminal=_terminal(int(fields[4])),
                command=words or f"[{name}]",
            )
        )
    return sorted(found, key=lambda one: (one.started, one.pid))


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{(major - 136 << 8) + minor}"
    return "console" if (major, minor) == (5, 1) else f"tty{minor}" if major == 4 and minor < 64 else "?"
