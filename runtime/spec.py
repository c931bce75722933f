"""What a container shall be: the one value that crosses from the caller (the `run` verb, the builder) into the runtime."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.id_maps import Ranges

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Bind:
    """A file or directory of this machine, seen in the container at `target` (an absolute path); with `read_only`, as all
    below it is, and with what is mounted below it if `recursive`.

    With a `volume` it is that volume of the store, made where it is missing (`anonymous`: for this container alone) and, unless
    `no_copy`, filled with what the image has at `target` where it is empty; `subpath` is the part of it that is shown, and
    `source` says where it lies. `propagation` is that of mounts: private when empty, or [r]private, [r]slave, [r]shared.
    """

    __slots__ = ("anonymous", "no_copy", "propagation", "read_only", "recursive", "source", "subpath", "target", "volume")
    kind = "bind"

    def __init__(self, source: str, target: str, read_only: bool = False, volume: str = "") -> None:
        self.source = source
        self.target = target
        self.read_only = read_only
        self.volume = volume
        self.anonymous = self.no_copy = False
        self.recursive = True
        self.subpath = self.propagation = ""

    def __str__(self) -> str:
        what = f"volume {self.volume}" if self.volume else f"bind {self.source}"
        return f"{what} at {self.target}" + (" (read-only)" if self.read_only else "")


class Tmpfs:
    """An empty file system in memory at `target`, of at most `size` bytes (None: half the memory), its root of `mode`; `options`
    are more of tmpfs' own (uid, gid, nr_inodes)."""

    __slots__ = ("executable", "mode", "options", "read_only", "size", "target")
    kind = "tmpfs"

    def __init__(self, target: str, size: int | None = None, mode: int = 0o1777) -> None:
        self.target = target
        self.size = size
        self.mode = mode
        self.read_only = False
        self.executable = True
        self.options: dict[str, str] = {}

    def __str__(self) -> str:
        return f"tmpfs at {self.target}"


class ImageTree:
    """The files of an image, read-only, at `target`: `trees`, the topmost first; `subpath` is the part that is shown."""

    __slots__ = ("digest", "image", "subpath", "target", "trees")
    kind = "image"

    def __init__(self, image: str, target: str, subpath: str = "") -> None:
        self.image = image
        self.target = target
        self.subpath = subpath
        self.digest = ""
        self.trees: list[str] = []

    def __str__(self) -> str:
        return f"image {self.image} at {self.target}"


class Spec:
    """A container to be run. Set what differs from the defaults; the runtime only reads it.

    `root` is the store's directory: `containers/ID` in it holds the container's state. `lowers` are directories, the topmost
    layer first; with `upper` and `work` (both or neither; neither: the runtime makes them in containers/ID) they become the root
    file system. A `rootfs` is a directory of this machine that is the root file system itself, in place of all these. `network`
    is "none" (an own namespace with loopback up) or "host". `memory` is in bytes, `cpus` in processors, None for no limit;
    `resources` are more limits, in the words of linux.resources of a bundle. `capabilities` is a mask (runtime.capabilities),
    None for the default. `guard` is a lock's descriptor (it keeps the image's trees from being deleted) or -1: it is closed once
    the journal is on disk, which keeps them from then on. `removed` means that nothing of the container stays once it ended
    (`--rm`), `restart` is a policy (runtime.restarts), `health` its checks (runtime.health). `interactive` means that its input
    stays open for whoever attaches to it. Its terminal has the rows and columns of `window`. With `init`, its first process is
    box's own (runtime.stubs), which bears the command. Its pid is written to `pid_file`, where that is named. `log_options` are
    max-size (bytes, 0 for no limit) and max-file. `userns` is "auto" (ids of its own) or "host", unless `id_maps` says which ids
    (runtime.id_maps); empty means auto where that can be. `warn` is told, in a line, what could not be.
    """

    __slots__ = (
        "add_hosts",
        "argv",
        "capabilities",
        "cpus",
        "created",
        "cwd",
        "env",
        "guard",
        "health",
        "hostname",
        "id",
        "id_maps",
        "image",
        "image_digest",
        "init",
        "interactive",
        "labels",
        "log_options",
        "log_refusals",
        "lowers",
        "manifest_digest",
        "memory",
        "mounts",
        "name",
        "network",
        "no_new_privileges",
        "pid_file",
        "pids_limit",
        "read_only",
        "removed",
        "resources",
        "restart",
        "root",
        "rootfs",
        "seccomp",
        "shm_size",
        "stop_signal",
        "terminal",
        "ulimits",
        "upper",
        "user",
        "userns",
        "warn",
        "window",
        "work",
    )

    def __init__(self, root: str, argv: list[str], lowers: list[str], **fields: "Any") -> None:
        self.root = root
        self.argv = argv
        self.lowers = lowers
        self.id = ""
        self.name = ""
        self.image = ""
        self.image_digest = ""
        self.manifest_digest = ""
        self.created = 0.0
        self.env: list[str] = []
        self.cwd = "/"
        self.user = ""
        self.userns = ""
        self.warn: Callable[[str], object] | None = None
        self.id_maps: tuple[Ranges, Ranges] | None = None
        self.hostname = ""
        self.guard = -1
        self.rootfs = ""
        self.network = "none"
        self.upper = ""
        self.work = ""
        self.read_only = False
        self.mounts: list[Bind | Tmpfs | ImageTree] = []
        self.add_hosts: list[str] = []
        self.pids_limit = 1024
        self.memory: int | None = None
        self.cpus: float | None = None
        self.resources: dict[str, Any] = {}
        self.shm_size = 64 << 20
        self.capabilities: int | None = None
        self.no_new_privileges = True
        self.seccomp = True
        self.log_refusals = False
        self.log_options: dict[str, int] = {}
        self.terminal = False
        self.window: tuple[int, int] | list[int] = (0, 0)
        self.ulimits: list[tuple[str, int, int]] = []
        self.labels: dict[str, str] = {}
        self.stop_signal = 15
        self.removed = False
        self.restart = "no"
        self.health: dict[str, Any] = {}
        self.interactive = False
        self.init = False
        self.pid_file = ""
        for name, value in fields.items():
            setattr(self, name, value)


class Outcome:
    """How a container ended: `status` as a shell would say it (128 + N for signal N), and what is known of the reason.

    `oom` says that the memory limit was hit and the kernel killed; `pids_refused` how many forks the pids limit refused;
    `reason` is a sentence for the user, empty where there is nothing to say.
    """

    __slots__ = ("oom", "pids_refused", "reason", "signal", "status")

    def __init__(self, wait_status: int, oom: bool = False, pids_refused: int = 0, reason: str = "") -> None:
        signal = wait_status & 0x7F
        self.signal: int | None = signal or None
        self.status = 128 + signal if signal else wait_status >> 8
        self.oom = oom
        self.pids_refused = pids_refused
        self.reason = reason
