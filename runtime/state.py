"""The containers of a store, read from their journals: what was asked for, whether it runs, how it ended. Not on the hot path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runtime.journal import chosen_name, reap
from runtime.records import read
from runtime.spec import Bind, ImageTree, Spec, Tmpfs
from store.errors import ContainerMissing, RunError
from store.format import check_format
from store.record import Record

STATUSES = ("created", "running", "stopped")


_NOTHING: Mapping[str, Any] = {}


class Container(Record):
    """A container as it was when it was read. Times are seconds since 1970, 0.0 for not yet; `exit_status` is None until it
    ended.

    `pid` is that of its first process, 0 when it does not run. `error` says what cannot be said by a status, and why a start
    failed; `reason` why it ended badly.
    """

    root: str
    id: str
    name: str
    image: str
    image_digest: str
    argv: list[str]
    created: float
    status: str
    pid: int = 0
    started: float = 0.0
    finished: float = 0.0
    exit_status: int | None = None
    signal: int | None = None
    oom: bool = False
    error: str = ""
    reason: str = ""
    labels: Mapping[str, str] = _NOTHING
    manifest_digest: str = ""
    record: Mapping[str, Any] = _NOTHING

    @property
    def path(self) -> str:
        """The container's directory."""
        return f"{self.root}/containers/{self.id}"

    @property
    def log_path(self) -> str:
        """Where its output is kept; there may be none."""
        return self.path + "/log"

    @property
    def health(self) -> Mapping[str, Any]:
        """What came of its health checks: status, streak (of failures), results; empty where it has none."""
        return (read(self.path + "/health") or {}) if self.record.get("health") else {}

    @property
    def restarting(self) -> bool:
        """Whether it has ended, and is to be started again after a while."""
        return self.status == "stopped" and bool(self.record.get("restarting"))

    @property
    def paused(self) -> bool:
        """Whether it stands still now."""
        if self.status != "running":
            return False
        from runtime.cgroups import Cgroup
        from runtime.freezer import frozen

        return frozen(Cgroup(self.id).paths)

    def spec(self) -> Spec:
        """What was asked for, as `run` got it."""
        record = self.record
        spec = Spec(self.root, list(record["argv"]), list(record["lowers"]))
        for name in Spec.__slots__:
            if name in record and name not in ("mounts", "root", "argv", "lowers"):
                setattr(spec, name, record[name])
        spec.id = self.id
        spec.ulimits = [(name, soft, hard) for name, soft, hard in record["ulimits"]]
        spec.mounts = [mount_of(mount) for mount in record["mounts"]]
        return spec


def mount_of(record: Mapping[str, Any]) -> Bind | Tmpfs | ImageTree:
    """A mount as its container's journal has it."""
    made: Bind | Tmpfs | ImageTree
    if record["kind"] == Bind.kind:
        made = Bind(record["source"], record["target"])
    else:
        made = Tmpfs(record["target"]) if record["kind"] == Tmpfs.kind else ImageTree(record["image"], record["target"])
    for name in made.__slots__:
        if name in record:
            setattr(made, name, record[name])
    return made


class Containers:
    """All containers of the store at `root`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def reap(self) -> None:
        """Clear up after every process of box that was killed while it looked after a container."""
        reap(self.root)

    def all(self) -> list[Container]:
        """Every container, the newest first, what was left behind cleared up before. FormatTooNew when a newer box wrote the
        store."""
        check_format(self.root)
        self.reap()
        return self.recorded()

    def recorded(self) -> list[Container]:
        """The same as they are recorded, at once: nothing is cleared up."""
        try:
            identities = os.listdir(self.root + "/containers")
        except FileNotFoundError:
            return []
        found = [self.read(identity) for identity in identities]
        return sorted((one for one in found if one is not None), key=lambda one: (-one.created, one.id))

    def find(self, name: str) -> Container:
        """The container called `name`, or whose id begins with it. Raises ContainerMissing, or RunError for an ambiguous id."""
        everyone = self.all()
        for one in everyone:
            if name in (one.name, one.id):
                return one
        fitting = [one for one in everyone if name and one.id.startswith(name)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise RunError(
                f"{name!r} begins the ids of {len(fitting)} containers",
                hint=f"{', '.join(one.id[:12] for one in fitting[:4])}: add letters",
            )
        from store.likeness import nearest

        near = nearest(name, [one.name for one in everyone])
        raise ContainerMissing(name, hint=f"did you mean {near!r}?" if near else "'box ps -a' lists them all")

    def read(self, identity: str) -> Container | None:
        """The container with this full id, or None where there is none, or not yet."""
        path = f"{self.root}/containers/{identity}"
        record = read(path + "/journal")
        if record is None:
            return None
        end = read(path + "/exit")
        if end is not None and end["status"] is None:  # it was only created
            end = None
            running = False
        else:
            running = end is None and bool(record.get("pid"))
        return Container(
            root=self.root,
            id=identity,
            name=record.get("name") or chosen_name(identity),
            image=record.get("image", ""),
            image_digest=record.get("image_digest", ""),
            argv=list(record.get("argv", [])),
            created=record.get("created", 0.0),
            status="running" if running else "stopped" if end is not None else "created",
            pid=record["pid"] if running else 0,
            started=record.get("started", 0.0),
            finished=end["finished"] if end else 0.0,
            exit_status=end["status"] if end else None,
            signal=end["signal"] if end else None,
            oom=bool(end and end["oom"]),
            error="" if running else (end or {}).get("error") or record.get("error", ""),
            reason=end.get("reason", "") if end else "",
            labels=dict(record.get("labels", {})),
            manifest_digest=record.get("manifest_digest", ""),
            record=record,
        )
