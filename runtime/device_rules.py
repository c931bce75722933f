"""Which devices a container may use: `linux.resources.devices` as the devices controller of v1 understands it.

The controller has a default, allow or deny, and exceptions to it. Rules are taken in the order of the config; a later one takes
back what earlier ones said of its devices, and a rule that would cut a hole into a wider one is refused, since v1 would not do
it and say nothing. Source: Documentation/admin-guide/cgroup-v1/devices.rst, security/device_cgroup.c.
"""

from runtime.resource_fields import Fields, Write
from store.errors import RunError

ANY = -1
MKNOD, READ, WRITE = 1, 2, 4  # BPF_DEVCG_ACC_*
_LETTERS = (("r", READ), ("w", WRITE), ("m", MKNOD))
_LARGEST = (1 << 32) - 1

# Nodes can be made, for that is harmless where they cannot be opened; null zero full random urandom tty console ptmx, and the
# terminals of devpts (major 136).
DEFAULTS = (
    ("c", ANY, ANY, MKNOD), ("b", ANY, ANY, MKNOD),
    *(("c", major, minor, READ | WRITE | MKNOD) for major, minor in (
        (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, ANY),
    )),
)  # fmt: skip


class DeviceRules:
    """`allowing` is the default, `exceptions` the accesses (READ | WRITE | MKNOD) by (type c or b, major or ANY, minor or ANY)
    for which the opposite holds. A new one denies everything."""

    __slots__ = ("allowing", "exceptions")

    def __init__(self) -> None:
        self.allowing = False
        self.exceptions: dict[tuple[str, int, int], int] = {}

    @classmethod
    def of(cls, resources: Fields) -> "DeviceRules":
        """The rules of `linux.resources`, after deny-all, and the runtime's own default devices last. Raises RunError."""
        rules = cls()
        for rule in resources.items("devices"):
            allow = rule.boolean("allow") or False
            kind = rule.text("type") or "a"
            if kind == "a":
                rules.all(allow)
                continue
            if kind not in ("b", "c"):
                raise RunError(f"{rule.path}.type: {kind!r} is none of a, b, c")
            major, minor = (_number(rule, name) for name in ("major", "minor"))
            rules.add(allow, kind, major, minor, _access(rule), rule.path)
        for kind, major, minor, access in DEFAULTS:
            rules.add(True, kind, major, minor, access)
        return rules

    @classmethod
    def listed(cls, text: str) -> "DeviceRules":
        """What a group's devices.list says; of a default of allow it does not tell the exceptions."""
        rules = cls()
        for line in text.splitlines():
            kind, numbers, letters = line.split(" ")
            if kind == "a":
                rules.all(True)
                continue
            major, minor = (ANY if part == "*" else int(part) for part in numbers.split(":"))
            rules.exceptions[kind, major, minor] = sum([bit for letter, bit in _LETTERS if letter in letters])
        return rules

    def all(self, allow: bool) -> None:
        """The rule for every device: the new default."""
        self.allowing = allow
        self.exceptions = {}

    def add(self, allow: bool, kind: str, major: int, minor: int, access: int, field: str = "") -> None:
        """One rule for some devices. Where it would have to cut a hole into an exception, RunError names `field`; without a field
        the rule has no effect there."""
        key = (kind, major, minor)
        if allow != self.allowing:
            self.exceptions[key] = self.exceptions.get(key, 0) | access
            return
        for other, other_access in list(self.exceptions.items()):
            if other[0] != kind or not other_access & access or not _overlap(major, other[1]) or not _overlap(minor, other[2]):
                continue
            if major in (ANY, other[1]) and minor in (ANY, other[2]):
                if left := other_access & ~access:
                    self.exceptions[other] = left
                else:
                    del self.exceptions[other]
            elif field:
                raise RunError(
                    f"{field}: {_shown(key, access)} would cut a hole into {_shown(other, other_access)}",
                    hint="the devices controller cannot do that; give the rules for the single devices",
                )

    def writes(self, current: "DeviceRules | None") -> list[Write]:
        """What turns a v1 group that has `current` (None: unknown) into one that has these rules. Nothing that both allow is
        ever denied in between."""
        if current is None or self.allowing or current.allowing:
            former: dict[tuple[str, int, int], int] = {}
            found = [_write(self.allowing, "a")]
        else:
            former = current.exceptions
            found = []
        for key, access in self.exceptions.items():
            if more := access & ~former.get(key, 0):
                found.append(_write(not self.allowing, _shown(key, more)))
        for key, access in former.items():
            if less := access & ~self.exceptions.get(key, 0):
                found.append(_write(self.allowing, _shown(key, less)))
        return found

    def __str__(self) -> str:
        said = "allow" if self.allowing else "deny"
        return f"{said} all but " + ", ".join([_shown(key, access) for key, access in self.exceptions.items()])


def _write(allow: bool, text: str) -> Write:
    return Write("devices", "devices.allow" if allow else "devices.deny", text, "linux.resources.devices")


def _shown(key: tuple[str, int, int], access: int) -> str:
    kind, major, minor = key
    numbers = ":".join(["*" if number == ANY else str(number) for number in (major, minor)])
    return f"{kind} {numbers} " + "".join([letter for letter, bit in _LETTERS if access & bit])


def _overlap(one: int, other: int) -> bool:
    return one == other or ANY in (one, other)


def _number(rule: Fields, name: str) -> int:
    value = rule.integer(name, -1, _LARGEST)
    return ANY if value is None else value


def _access(rule: Fields) -> int:
    letters = rule.text("access") or ""
    known = dict(_LETTERS)
    if not letters or any(letter not in known for letter in letters):
        raise RunError(f"{rule.path}.access: {letters!r} is not made of r, w and m")
    access = 0
    for letter in letters:
        access |= known[letter]
    return access
