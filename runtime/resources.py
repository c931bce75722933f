"""`linux.resources` of a config, as the writes that bring it about: decided first, to be shown or done.

Conventions of the engines, which send a whole object with nothing in it: null is unset everywhere, 0 is unset for shares,
weights, quotas, periods and limits that could not be 0, -1 is no limit. What a hierarchy does not have raises RunError only where
something of it is asked for. Source: OCI runtime-spec config-linux.md (Control groups).
"""

from runtime.resource_fields import I64, U32, U64, Fields, Write
from store.errors import RunError

FIELD = "linux.resources"
_SIZES = ("KB", "MB", "GB")
_THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Group(Protocol):
        """What is to be known of a group that there is already."""

        @property
        def v2(self) -> bool:
            """Whether one tree has all the controllers."""

        def has(self, controller: str, file: str) -> bool:
            """Whether there is such a control file."""

        def read(self, controller: str, file: str) -> str:
            """Its text, empty where there is none."""


def writes(resources: object, group: "Group") -> list[Write]:
    """What brings `resources` (parsed JSON, or None) about in `group`, in an order that the kernel accepts. Devices are not among
    it (runtime.device_rules). Raises RunError for what is wrong in itself or cannot be had here."""
    fields = Fields(FIELD, resources)  # type: ignore[arg-type]  # checked there
    if group.v2:
        from runtime.resources_v2 import controllers
    else:
        from runtime.resources_v1 import controllers
    found: list[Write] = []
    for controller in controllers:
        found += controller(fields, group)
    return found


def memory_limits(fields: Fields) -> tuple[int, int, int]:
    """limit, memory+swap and reservation in bytes: 0 is unset, -1 without limit."""
    limit = fields.integer("limit", -1, I64) or 0
    swap = fields.integer("swap", -1, I64) or 0
    reservation = fields.integer("reservation", -1, I64) or 0
    if limit == -1 and swap == 0:
        swap = -1  # or the limit of both would stay the limit of the one
    if limit > 0 and 0 < swap < limit:
        raise RunError(
            f"{fields.path}.swap: {swap} is less than the memory limit of {limit}",
            hint="swap is the limit of memory and swap together",
        )
    return limit, swap, reservation


def check_usage(fields: Fields, limit: int, used: int | None) -> None:
    """Refuse a limit that would end the container at once, where `checkBeforeUpdate` asks for that."""
    if fields.boolean("checkBeforeUpdate") and limit > 0 and used is not None and used > limit:
        raise RunError(f"{fields.path}.limit: {limit} bytes, and {used} are in use")


def processors(fields: Fields, name: str) -> str:
    """A list of processors or memory nodes such as `0-3,7`, checked; empty when unset."""
    text = (fields.text(name) or "").strip()
    for part in text.split(",") if text else []:
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or ("-" in part and (not last.isdigit() or int(last) < int(first))):
            raise RunError(f"{fields.path}.{name}: {text!r} is no list like 0-3,7")
    return text


def pids(fields: Fields, group: "Group") -> list[Write]:
    """The limit of processes."""
    limit = fields.object("pids").integer("limit", -1, I64)
    if not limit:
        return []
    return [Write("pids", "pids.max", str(limit) if limit > 0 else "max", f"{FIELD}.pids.limit")]


def huge_pages(fields: Fields, group: "Group") -> list[Write]:
    """Limits by page size, of pages in use and, where the kernel counts them, reserved."""
    found = []
    suffix = ".max" if group.v2 else ".limit_in_bytes"
    for each in fields.items("hugepageLimits"):
        size = each.text("pageSize") or ""
        if size[-2:] not in _SIZES or not size[:-2].isdigit() or size[0] == "0":
            raise RunError(f"{each.path}.pageSize: {size!r} is no size of huge pages like 2MB")
        limit = each.integer("limit", 0, U64)
        if limit is None:
            raise RunError(f"{each.path}.limit: not given")
        for kind in ("", ".rsvd"):
            file = f"hugetlb.{size}{kind}{suffix}"
            if not kind or group.has("hugetlb", file):
                found.append(Write("hugetlb", file, str(limit), f"{each.path}.limit"))
    return found


def rdma(fields: Fields, group: "Group") -> list[Write]:
    """Handles and objects of each RDMA device."""
    devices = fields.object("rdma")
    found = []
    for name in devices.values:
        each = devices.object(name)
        limits = [
            f"{key}={value}"
            for key, value in (
                ("hca_handle", each.integer("hcaHandles", 0, U32)),
                ("hca_object", each.integer("hcaObjects", 0, U32)),
            )
            if value is not None
        ]
        if not name or " " in name or "\n" in name:
            raise RunError(f"{devices.path}: {name!r} is not the name of a device")
        if limits:
            found.append(Write("rdma", "rdma.max", " ".join([name, *limits]), each.path))
    return found


def throttles(fields: Fields) -> list[tuple[str, str, int, str]]:
    """(which of linux.resources.blockIO.throttle*, MAJOR:MINOR, rate, field), in the order of the config; a rate of 0 takes the
    limit away."""
    found = []
    for name in _THROTTLES:
        for each in fields.items(name):
            rate = each.integer("rate", 0, U64)
            if rate is None:
                raise RunError(f"{each.path}.rate: not given")
            found.append((name, device_number(each), rate, f"{each.path}.rate"))
    return found


def weight(fields: Fields, name: str) -> int:
    """A weight of block IO, 10 to 1000; 0 when unset."""
    value = fields.integer(name, 0, 1000) or 0
    if 0 < value < 10:
        raise RunError(f"{fields.path}.{name}: {value} is not between 10 and 1000")
    return value


def device_number(fields: Fields) -> str:
    """MAJOR:MINOR of a block device."""
    numbers = [fields.integer(name, 0, U32) for name in ("major", "minor")]
    if None in numbers:
        raise RunError(f"{fields.path}: a device has a major and a minor number")
    return ":".join([str(number) for number in numbers])


def only_on_v1(field: str, instead: str = "") -> RunError:
    """What to raise for a limit that cgroup v2 has nothing for."""
    return RunError(f"{field}: cgroup v2 has no such limit", hint=instead)


def first_file(group: "Group", controller: str, *files: str) -> str:
    """The first of `files` that there is, or the first of all, whose absence the write then reports."""
    return next((file for file in files if group.has(controller, file)), files[0])
