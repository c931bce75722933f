"""A bundle's config.json, read and checked once: OCI runtime-spec 1.2, config.md and config-linux.md.

What is checked here is the form: types, ranges, what excludes what. Each error names the place, such as `process.user.uid`. What
the kernel has to say to a value is said when it is set.
"""

from runtime.jsontext import read
from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMESPACES = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time")
_ID_LIMIT = (1 << 32) - 2


class Place:
    """A value of the document and where it stands: `get` steps into an object, the others say what the value is."""

    __slots__ = ("path", "value")

    def __init__(self, value: "Any", path: str = "") -> None:
        self.value = value
        self.path = path

    def get(self, key: str) -> "Place":
        """What stands under `key`; a place of None when there is nothing, or the object itself is missing."""
        path = f"{self.path}.{key}" if self.path else key
        if self.value is None:
            return Place(None, path)
        if type(self.value) is not dict:
            raise self.wrong("an object")
        return Place(self.value.get(key), path)

    def wrong(self, wanted: str) -> RunError:
        """The error that says what was wanted here."""
        shown = repr(self.value)
        return RunError(f"config.json: {self.path} is {shown if len(shown) < 60 else type(self.value).__name__}, not {wanted}")

    def missing(self) -> bool:
        return self.value is None

    def text(self, default: str = "") -> str:
        """A string without NUL."""
        if self.value is None:
            return default
        if type(self.value) is not str:
            raise self.wrong("a string")
        if "\0" in self.value:
            raise RunError(f"config.json: {self.path} has a NUL character in it")
        return self.value

    def absolute(self) -> str:
        """A path from the root."""
        path = self.text()
        if not path.startswith("/"):
            raise self.wrong("an absolute path")
        return path

    def flag(self, default: bool = False) -> bool:
        if self.value is None:
            return default
        if type(self.value) is not bool:
            raise self.wrong("true or false")
        return self.value

    def number(self, default: int = 0, *, least: int = 0, most: int = (1 << 63) - 1) -> int:
        if self.value is None:
            return default
        value = self.value
        if type(value) is float and value.is_integer():  # some engines write 1e9
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(f"a number from {least} to {most}")
        return value

    def each(self) -> "list[Place]":
        """The items of a list."""
        if self.value is None:
            return []
        if type(self.value) is not list:
            raise self.wrong("a list")
        return [Place(item, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def texts(self) -> list[str]:
        return [item.text() for item in self.each()]

    def mapping(self) -> dict[str, str]:
        """An object whose values are strings."""
        if self.value is None:
            return {}
        if type(self.value) is not dict:
            raise self.wrong("an object")
        return {key: Place(value, f"{self.path}.{key}").text() for key, value in self.value.items()}

    def choice(self, *choices: str, default: str = "") -> str:
        found = self.text(default)
        if found != default and found not in choices:
            raise self.wrong("one of " + ", ".join(choices))
        return found


class Process:
    """`process`: what is executed, and as whom. Capability sets are masks, None where the document names none."""

    __slots__ = (
        "affinity", "argv", "capabilities", "console", "cwd", "env", "gid", "groups", "io_priority", "limits",
        "no_new_privileges", "oom_score_adj", "scheduler", "terminal", "uid", "umask", "warnings",
    )  # fmt: skip

    def __init__(self, place: Place) -> None:
        self.warnings: list[str] = []
        self.terminal = place.get("terminal").flag()
        size = place.get("consoleSize")
        self.console = (size.get("height").number(most=65535), size.get("width").number(most=65535))
        self.cwd = place.get("cwd").absolute()
        self.env = place.get("env").texts()
        for item in place.get("env").each():
            if "=" not in item.text() or item.text().startswith("="):
                raise item.wrong("NAME=VALUE")
        self.argv = place.get("args").texts()
        if not self.argv or not self.argv[0]:
            raise place.get("args").wrong("a command")
        user = place.get("user")
        self.uid = user.get("uid").number(most=_ID_LIMIT)
        self.gid = user.get("gid").number(most=_ID_LIMIT)
        umask = user.get("umask")
        self.umask = None if umask.missing() else umask.number(most=0o777)
        self.groups = [item.number(most=_ID_LIMIT) for item in user.get("additionalGids").each()]
        self.limits = _limits(place.get("rlimits"))
        self.no_new_privileges = place.get("noNewPrivileges").flag()
        adjusted = place.get("oomScoreAdj")
        self.oom_score_adj = None if adjusted.missing() else adjusted.number(least=-1000, most=1000)
        self.capabilities = _capabilities(place.get("capabilities"), self.warnings)
        for label in ("apparmorProfile", "selinuxLabel"):
            if place.get(label).text():
                self.warnings.append(f"process.{label} is not applied: box sets no labels of security modules")
        self.scheduler = place.get("scheduler")
        self.io_priority = place.get("ioPriority")
        self.affinity = place.get("execCPUAffinity")

    def listen(self, sockets: int) -> None:
        """Tell the process that so many descriptors behind its first three are sockets that started it: sd_listen_fds(3)."""
        if sockets and not any(item.startswith("LISTEN_FDS=") for item in self.env):
            self.env += [f"LISTEN_FDS={sockets}", "LISTEN_PID=1"]


def _limits(place: Place) -> list[tuple[str, int, int]]:
    found: dict[str, tuple[str, int, int]] = {}
    for item in place.each():
        name = item.get("type").text()
        if not name.startswith("RLIMIT_"):
            raise item.get("type").wrong("a limit, such as RLIMIT_NOFILE")
        if name in found:
            raise RunError(f"config.json: {item.path} sets {name} a second time")
        soft, hard = (item.get(key).number(most=(1 << 64) - 1) for key in ("soft", "hard"))
        if soft > hard:
            raise RunError(f"config.json: {item.path} has a soft limit above its hard one")
        found[name] = (name.removeprefix("RLIMIT_").lower(), soft, hard)
    return list(found.values())


SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def _capabilities(place: Place, warnings: list[str]) -> "dict[str, int] | None":
    if place.missing():
        return None
    from runtime.capabilities import NAMES

    masks = {}
    for name in SETS:
        mask = 0
        for item in place.get(name).each():
            known = item.text().upper().removeprefix("CAP_")
            if known not in NAMES:
                raise item.wrong("a capability")
            mask |= 1 << NAMES.index(known)
        masks[name] = mask
    return masks


class Hook:
    """A program that is told of the container's state: `path`, all its words, its environment and its time, 0.0 for any."""

    __slots__ = ("argv", "env", "path", "timeout")

    def __init__(self, place: Place) -> None:
        self.path = place.get("path").absolute()
        self.argv = place.get("args").texts() or [self.path]
        self.env = place.get("env").texts()
        seconds = place.get("timeout")
        self.timeout = 0.0 if seconds.missing() else float(seconds.number(least=1))


HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class Bundle:
    """A bundle: its directory, and its document in parts; `raw` is the document as it was."""

    __slots__ = (
        "annotations", "cgroups_path", "directory", "domainname", "hooks", "hostname", "linux", "mounts", "namespaces", "process",
        "raw", "read_only", "rootfs", "sysctl", "warnings",
    )  # fmt: skip

    def __init__(self, directory: str, raw: "Any") -> None:
        document = Place(raw)
        if type(raw) is not dict:
            raise RunError("config.json is not an object")
        version = document.get("ociVersion").text()
        if not version.startswith("1."):
            raise document.get("ociVersion").wrong("a version of the runtime-spec that begins with 1.")
        self.directory = directory
        self.raw = raw
        root = document.get("root")
        path = root.get("path").text()
        if not path:
            raise root.get("path").wrong("the root file system's path")
        self.rootfs = path if path.startswith("/") else f"{directory}/{path}"
        self.read_only = root.get("readonly").flag()
        self.hostname = document.get("hostname").text()
        self.domainname = document.get("domainname").text()
        for name in (self.hostname, self.domainname):
            if len(name.encode("utf-8", "surrogateescape")) > 64:
                raise RunError(f"config.json: the name {name[:20]}... is longer than 64 bytes")
        self.annotations = document.get("annotations").mapping()
        self.process = None if document.get("process").missing() else Process(document.get("process"))
        self.mounts = document.get("mounts").each()
        hooks = document.get("hooks")
        self.hooks = {name: [Hook(item) for item in hooks.get(name).each()] for name in HOOKS}
        self.linux = document.get("linux")
        self.namespaces = _namespaces(self.linux.get("namespaces"))
        self.sysctl = self.linux.get("sysctl").mapping()
        self.cgroups_path = self.linux.get("cgroupsPath").text()
        self.warnings: list[str] = [] if self.process is None else self.process.warnings
        if document.get("windows").value or document.get("vm").value or document.get("solaris").value:
            raise RunError("config.json is for another system than Linux")
        self._check()

    def _check(self) -> None:
        new = {kind for kind, path in self.namespaces.items() if not path}
        for text, kind in ((self.hostname, "uts"), (self.domainname, "uts")):
            if text and kind not in new:
                raise RunError("config.json sets a host name without a uts namespace of its own")
        if "mount" not in new:
            for place in (Place(self.mounts or None, "mounts"), *map(self.linux.get, ("maskedPaths", "readonlyPaths"))):
                if place.value:
                    raise RunError(f"config.json has {place.path} without a mount namespace of its own")
        if self.linux.get("intelRdt").value:
            raise RunError("linux.intelRdt is not supported", hint="box manages no cache or bandwidth allocation classes")
        if self.linux.get("netDevices").value:
            raise RunError("linux.netDevices is not supported", hint="a hook or the engine's network can move a device")
        for key, kind in (("uidMappings", "user"), ("gidMappings", "user"), ("timeOffsets", "time")):
            # Of a user namespace that is joined some engines say the maps, too.
            if self.linux.get(key).value and kind not in (self.namespaces if kind == "user" else new):
                raise RunError(f"config.json has linux.{key} without a {kind} namespace of its own")
        if self.linux.get("mountLabel").text():
            self.warnings.append("linux.mountLabel is not applied: box sets no labels of security modules")


def _namespaces(place: Place) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in place.each():
        kind = item.get("type").choice(*NAMESPACES)
        if not kind:
            raise item.get("type").wrong("a kind of namespace")
        if kind in found:
            raise RunError(f"config.json: {item.path} is a second {kind} namespace")
        found[kind] = item.get("path").absolute() if item.get("path").text() else ""
    return found


def load(directory: str, config: str = "") -> Bundle:
    """The bundle in `directory`; its document may be kept elsewhere. Raises RunError."""
    path = config or f"{directory}/config.json"
    try:
        raw = read(path, path)
    except OSError as err:
        raise RunError(f"cannot read {path}: {(err.strerror or '').lower()}", hint="--bundle names its directory") from err
    return Bundle(directory, raw)
