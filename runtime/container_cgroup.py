"""The control groups of a container of `box-runtime`: where its config says, limited as it says, on v1, hybrid and v2.

`box run` has runtime.cgroups, which makes the few groups that it needs; this makes one in every hierarchy, as engines expect,
which read the files themselves. The paths are all there is to be kept: `reopen` makes the same of them in another process.
"""

import posix as os
import time

from runtime import freezer
from runtime.cgroup_files import pids_in, read, table, walk, write
from runtime.cgroup_paths import UNIFIED, Hierarchies, below, hierarchies, place
from runtime.device_rules import DeviceRules
from runtime.linux import SIGKILL
from runtime.resource_fields import Fields, Write
from runtime.resources import FIELD, writes
from store.errors import RunError, SetupFailed
from store.syscalls import exists

_EPERM, _ENOENT, _ENXIO, _EACCES, _EBUSY, _ENODEV, _EINVAL, _EROFS, _EOPNOTSUPP = 1, 2, 6, 13, 16, 19, 22, 30, 95
_ENTITLED = (_EPERM, _EACCES, _EROFS)  # what somebody who is not entitled is answered with


class ContainerCgroup:
    """`paths` are the group's directories by controller (v2's is "unified", also beside v1's on a hybrid machine); none at all
    with the manager `disabled`. `off` are the fields of the config that were left out, where `rootless` allows that."""

    __slots__ = ("off", "paths", "rootless", "v2")

    def __init__(self, paths: dict[str, str], *, rootless: bool = False) -> None:
        self.paths = paths
        self.v2 = list(paths) == [UNIFIED]
        self.rootless = rootless
        self.off: list[str] = []

    @classmethod
    def create(
        cls,
        path: object,
        identity: str,
        resources: object,
        manager: str = "cgroupfs",
        *,
        rootless: bool = False,
        mounted: Hierarchies | None = None,
    ) -> "ContainerCgroup":
        """Make the groups at `path` (linux.cgroupsPath; None: box/IDENTITY) with `resources` (linux.resources) in force.

        A group that is there already is taken over if nothing runs in it. With `rootless`, what this process may not do is left
        out and named in `off`. On error nothing is left of what was made. Raises RunError, SetupFailed.
        """
        if manager == "disabled":
            return cls({}, rootless=rootless)
        where = place(path, identity, manager)
        mounted = mounted or hierarchies()
        group = cls({}, rootless=rootless)
        group.v2 = mounted.v2
        made: dict[str, str] = {}
        try:
            for controller, directory in mounted.paths(where).items():
                group._make(controller, directory, mounted.mount_point(controller), made, optional=not mounted.v2)
            if not group.paths:
                group._left_out("linux.cgroupsPath", "no control group could be made", "mount the cgroup file systems")
            group._check_free(made)
            group.apply(resources)
            group._set_devices(Fields(FIELD, resources), new=True)  # type: ignore[arg-type]  # checked there
        except BaseException:
            group.paths = made
            group.delete()
            raise
        return group

    @classmethod
    def reopen(cls, paths: dict[str, str], *, rootless: bool = False) -> "ContainerCgroup":
        """The groups that `create` made, by their `paths`."""
        return cls(paths, rootless=rootless)

    def sub_group(self, wanted: list[str]) -> "ContainerCgroup":
        """The groups that `exec --cgroup` means: each of `wanted` is `PATH` (of every controller) or `CONTROLLER[,...]:PATH`, an
        existing group below the container's."""
        paths = dict(self.paths)
        for each in wanted:
            names, colon, path = each.rpartition(":")
            chosen = names.split(",") if colon else [name for name in paths if self.v2 or name != UNIFIED]
            for name in chosen:
                if (self.v2 and colon) or name not in paths:
                    raise RunError(f"--cgroup: {each!r}: the container has no group of a controller {name!r}")
                paths[name] = below(self.paths[name], path)
        return ContainerCgroup(paths, rootless=self.rootless)

    # --- limits -------------------------------------------------------------------------------------------------------------

    def has(self, controller: str, file: str) -> bool:
        """Whether there is such a control file."""
        directory = self._directory(controller)
        return bool(directory) and exists(f"{directory}/{file}")

    def read(self, controller: str, file: str) -> str:
        """The text of a control file, empty where there is none."""
        directory = self._directory(controller)
        return read(f"{directory}/{file}") if directory else ""

    def _directory(self, controller: str) -> str:
        return self.paths.get(UNIFIED if self.v2 else controller, "")

    def apply(self, resources: object) -> None:
        """Bring the limits of `resources` about, which may be a part of all: what is unset stays as it is. Raises RunError that
        names the field; what was written before it stays."""
        if self.paths or self.rootless:
            for each in writes(resources, self):
                self._write(each)

    def update(self, resources: object) -> None:
        """`apply`, and the devices where `resources` speaks of them."""
        self.apply(resources)
        fields = Fields(FIELD, resources)  # type: ignore[arg-type]  # checked there
        if fields.values.get("devices"):
            self._set_devices(fields, new=False)

    def _write(self, wanted: Write) -> None:
        directory = self._directory(wanted.controller)
        if not directory or not exists(f"{directory}/{wanted.file}"):
            there = directory and (not self.v2 or wanted.controller in read(f"{directory}/cgroup.controllers").split())
            lack = f"this kernel's {wanted.controller} controller has no {wanted.file}"
            lack = lack if there else f"no {wanted.controller} controller here"
            hint = "" if there else "mount it, or on cgroup v2 let it be delegated to where box makes its groups"
            self._left_out(wanted.field, lack, hint)
            return
        try:
            write(f"{directory}/{wanted.file}", wanted.text)
        except OSError as err:
            errno = err.errno or 0
            if errno == _EOPNOTSUPP and ".rsvd" in wanted.file:
                return  # huge pages of that size are not reserved on this machine
            if self.rootless and errno in _ENTITLED:
                self.off.append(wanted.field)
                return
            why = {
                _EBUSY: "more than that is in use"
                if wanted.controller == "memory"
                else "a group below it uses what it would lose",
                _ENXIO: "no such device",
                _ENODEV: "no such device",
            }.get(errno, err.strerror or "")
            raise RunError(
                f"{wanted.field}: {why} (writing {wanted.text!r} to {directory}/{wanted.file})", hint=_hint(wanted, errno)
            ) from err

    def _left_out(self, field: str, why: str, hint: str) -> None:
        if not self.rootless:
            raise RunError(f"{field}: {why}", hint=hint)
        self.off.append(field)

    def _set_devices(self, resources: Fields, *, new: bool) -> None:
        rules = DeviceRules.of(resources)
        if not self.paths:
            return  # that no group could be made has been said
        if not self.v2:
            if "devices" not in self.paths:
                hint = "mount it: without it a container has every device"
                self._left_out(f"{FIELD}.devices", "no devices controller here", hint)
                return
            listed = self.read("devices", "devices.list")
            for each in rules.writes(None if new else DeviceRules.listed(listed)):
                self._write(each)
            return
        from runtime.device_filter import attach

        fd = os.open(self.paths[UNIFIED], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(fd, rules)
        except OSError as err:
            if self.rootless and err.errno in _ENTITLED:
                self.off.append(f"{FIELD}.devices")
                return
            raise SetupFailed("attach the device filter", err.errno or 0, err.strerror or "", path=self.paths[UNIFIED]) from err
        finally:
            os.close(fd)

    # --- making -------------------------------------------------------------------------------------------------------------

    def _make(self, controller: str, directory: str, top: str, made: dict[str, str], *, optional: bool) -> None:
        """Make one group and those above it, each with what those below need of it. That of v2 may be missing where it is
        `optional`."""
        optional = optional and controller == UNIFIED
        try:
            at = top
            for name in directory[len(top) + 1 :].split("/"):
                if controller == UNIFIED and not optional:
                    enable(at)
                at += "/" + name
                try:
                    os.mkdir(at, 0o755)
                except FileExistsError:
                    pass
                else:
                    if at == directory:
                        made[controller] = directory
                if controller == "cpuset":
                    inherit(at)
        except OSError as err:
            errno = err.errno or 0
            if optional or (self.rootless and errno in _ENTITLED):
                return
            hint = "box-runtime needs to be root, with the cgroup file system writable" if errno in _ENTITLED else ""
            raise SetupFailed("create cgroup", errno, err.strerror or "", path=directory, hint=hint) from err
        self.paths[controller] = directory

    def _check_free(self, made: dict[str, str]) -> None:
        """Refuse groups that are somebody's, and those in which nothing can start."""
        for directory in set(self.paths.values()) - set(made.values()):
            if running := pids_in(directory):
                raise RunError(
                    f"linux.cgroupsPath: {len(running)} processes run in {directory} already",
                    hint="a container needs groups of its own",
                )
        kind = read(self.paths.get(UNIFIED, "") + "/cgroup.type").strip()
        if kind not in ("", "domain"):
            raise RunError(
                f"linux.cgroupsPath: {self.paths[UNIFIED]} is {kind}, and a container needs a domain",
                hint="choose a path that is not below a group with threads or processes of its own",
            )
        if self.frozen():
            raise RunError(
                f"linux.cgroupsPath: {next(iter(self.paths.values()))} is frozen",
                hint="thaw it: what starts in it would wait for ever",
            )

    # --- joining ------------------------------------------------------------------------------------------------------------

    def open_for_clone(self, init: int | None = None) -> int | None:
        """The descriptor of the v2 directory that clone3 bears the child into (beside v1's groups, on a hybrid machine); None
        where there is none.

        `init` is the container's first process, for one that joins it: where it has moved on into a sub-group, since v2 has
        processes in leaves only, the child goes there.
        """
        directory = self.paths.get(UNIFIED)
        if directory is None:
            return None
        if init is not None and read(directory + "/cgroup.subtree_control").strip():
            directory = self._group_of(init) or directory
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _group_of(self, pid: int) -> str:
        """The v2 directory of a process, if it is in the container's group."""
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            found = hierarchies().unified + line[3:]
            if line.startswith("0::") and found.startswith(self.paths[UNIFIED] + "/") and "/../" not in found:
                return found
        return ""

    def open_to_join(self) -> list[int]:
        """The descriptors of v1 to which a task writes 0 to move itself in."""
        directories = dict.fromkeys([path for controller, path in self.paths.items() if controller != UNIFIED])
        opened: list[int] = []
        try:
            for path in directories:
                fd = os.open(path + "/tasks", os.O_WRONLY | os.O_CLOEXEC)
                opened.append(fd)
        except OSError as err:
            for fd in opened:
                os.close(fd)
            raise SetupFailed("open a cgroup to join", err.errno or 0, err.strerror or "", path=str(err.filename)) from err
        return opened

    # --- life ---------------------------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """The pids in the groups and in those that the container made below them, of this process' pid namespace."""
        found: dict[int, None] = {}
        for directory in dict.fromkeys(self.paths.values()):
            found.update((pid, None) for pid in pids_in(directory))
        return list(found)

    def frozen(self) -> bool:
        """Whether everything in the groups stands still, by `freeze` or by that of a group above."""
        return freezer.frozen(self.paths)

    def freeze(self, patience: float = 5.0) -> None:
        """On return everything in the groups stands still. Raises SetupFailed when something does not for `patience` seconds; it
        then goes on."""
        freezer.freeze(self.paths, patience)

    def thaw(self, patience: float = 5.0) -> None:
        """On return everything in the groups goes on. Raises SetupFailed when a group above is frozen."""
        freezer.thaw(self.paths, patience)

    def signal_all(self, number: int) -> None:
        """Send a signal to everything in the groups."""
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self, patience: float = 5.0) -> None:
        """Kill everything in the groups, frozen or not, and wait until it is gone. Raises SetupFailed when something stays for
        `patience` seconds."""
        deadline = time.monotonic() + patience
        at_once = self.paths.get(UNIFIED, "") + "/cgroup.kill"
        if UNIFIED in self.paths and exists(at_once):
            try:
                write(at_once, "1")
            except OSError:
                pass  # a threaded group cannot; what follows can
        while pids := self.processes():
            self._kill_standing(pids)
            if time.monotonic() > deadline:
                raise SetupFailed(
                    "kill the container's processes",
                    _EBUSY,
                    f"{len(pids)} of them do not end",
                    path=next(iter(self.paths.values()), ""),
                )
            time.sleep(0.001)

    def _kill_standing(self, pids: list[int]) -> None:
        """Kill what there is while it stands still, so that it can neither fork away nor have its pid become another's."""
        froze = False
        if len(pids) > 1 or self.frozen():
            try:
                self.freeze(0.1)
                froze = True
                pids = self.processes()
            except (SetupFailed, RunError):
                pass  # the loop comes again
        for pid in pids:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                continue
        if froze:
            try:
                self.thaw(0.1)  # v1 delivers the signal only then
            except SetupFailed:
                pass

    def delete(self, patience: float = 5.0) -> None:
        """Remove the groups, and those that the container made below them; what is gone already is no error."""
        for directory in dict.fromkeys(self.paths.values()):
            try:
                walk(directory, remove=True, patience=patience)
            except OSError as err:
                hint = "something still runs in it" if err.errno == _EBUSY else ""
                raise SetupFailed("remove cgroup", err.errno or 0, err.strerror or "", path=directory, hint=hint) from err

    def oom_kills(self) -> int:
        """How many processes the kernel killed because the group's memory ran out."""
        file = "memory.events" if self.v2 else "memory.oom_control"
        return table(self.read("memory", file)).get("oom_kill", 0)

    def pids_refused(self) -> int:
        """How many forks the pids limit refused."""
        return table(self.read("pids", "pids.events")).get("max", 0)

    def stats(self) -> "dict[str, object]":
        """What the container uses, as the data of `runc events --stats`."""
        from runtime.cgroup_stats import stats

        return stats(self)


def inherit(directory: str) -> None:
    """Give a new group of v1's cpuset the processors and memory of the one above, without which nothing can join it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not read(f"{directory}/{name}").strip():
            write(f"{directory}/{name}", read(f"{directory.rpartition('/')[0]}/{name}").strip())


def enable(directory: str) -> None:
    """Have the controllers of a v2 group in those below it, as far as they can be had: whether one is missing shows when a limit
    of it is written."""
    if exists(directory + "/cgroup.type") and read(directory + "/cgroup.procs").strip():
        return  # some could be, and would make a threaded tree of it: what is below could not have processes any more
    enabled = read(directory + "/cgroup.subtree_control").split()
    for name in read(directory + "/cgroup.controllers").split():
        if name not in enabled:
            try:
                write(directory + "/cgroup.subtree_control", "+" + name)
            except OSError:
                continue


def _hint(wanted: Write, errno: int) -> str:
    if wanted.controller == "memory" and "memsw" not in wanted.file and errno == _EINVAL:
        return "the limit of memory must not be over the one of memory and swap together: give both"
    if wanted.controller == "devices" and errno == _EPERM:
        return "the group that box runs in itself has not these devices"
    if wanted.file.startswith("cpu.rt") and errno == _EINVAL:
        return "the group above has no realtime to give"
    return ""
