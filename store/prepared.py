"""What `box run` needs of an image, read without json and in some tens of microseconds. HOT: imports nothing but `os`.

Two derived files, written by references.py and prepare.py, never synced, made again when they are missing or stale:

    ROOT/references     the signature of the index.json it was made from; then lines "NAME:TAG HEX", HEX the manifest's digest
    ROOT/prepared/HEX   fields that end in NUL: the form's version, the boot id, then Prepared's fields in order; a list is its
                        length and its items; trees lie below ROOT
"""

import posix as os

FORM = "box-prepared-2"
FORMAT = "1"  # of the store: what ROOT/format says (store/format.py)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Prepared:
    """An image that is ready to run: its config, and its trees, top first, which are all there."""

    __slots__ = (
        "architecture", "cmd", "config_digest", "entrypoint", "env", "healthcheck", "labels", "manifest_digest", "os",
        "reference", "stop_signal", "trees", "user", "volumes", "workdir",
    )  # fmt: skip

    def __init__(
        self, *, reference: str, manifest_digest: str, config_digest: str, architecture: str, os: str, workdir: str, user: str,
        stop_signal: str, env: "list[str]", entrypoint: "list[str]", cmd: "list[str]", volumes: "list[str]",
        labels: "dict[str, str]", trees: "list[str]", healthcheck: "Sequence[str]" = (),
    ) -> None:  # fmt: skip
        self.reference = reference
        self.manifest_digest = manifest_digest
        self.config_digest = config_digest
        self.architecture = architecture
        self.os = os
        self.workdir = workdir
        self.user = user
        self.stop_signal = stop_signal
        self.env = env
        self.entrypoint = entrypoint
        self.cmd = cmd
        self.volumes = volumes
        self.labels = labels
        self.trees = trees
        self.healthcheck = list(healthcheck)  # interval, timeout, start period (ns), retries; the test's words. Or nothing


def lookup(root: str, name: str) -> "Prepared | None":
    """The image `name` (`NAME` or `NAME:TAG`, exactly) of the store at `root`, or None.

    None says only that the short way is closed: the name is not known, or is an id, or a derived file is missing or stale, or the
    store is of another box. The caller then asks `prepare.prepare`, which knows why.
    """
    if ":" not in name[name.rfind("/") + 1 :]:
        name += ":latest"
    try:
        if read_text(root + "/format") != FORMAT + "\n":
            return None
        known = read_text(root + "/references")
        manifest = _find(known, name)
        if manifest is None or known[: known.find("\n")] != signature(os.stat(root + "/index.json")):
            return None
        fields = read_text(f"{root}/prepared/{manifest}").split("\0")
        if fields[0] != FORM or fields[1] != boot_id():
            return None
        prepared = parse_prepared(root, name, fields)
        for tree in prepared.trees:
            os.stat(tree)
    except (OSError, ValueError, IndexError):
        return None
    return prepared


def _find(known: str, name: str) -> "str | None":
    if "\n" in name:
        return None
    start = known.find(f"\n{name} ")
    if start < 0:
        return None
    start += len(name) + 2
    manifest = known[start : start + 64]
    return manifest if len(manifest) == 64 and known[start + 64] == "\n" else None


def parse_prepared(root: str, name: str, fields: "list[str]") -> Prepared:
    """The image of these fields, known by `name`. ValueError or IndexError when they are not whole."""
    manifest, config, architecture, system, workdir, user, stop_signal = fields[2:9]
    lists = []
    at = 9
    for _ in range(7):
        end = at + 1 + int(fields[at])
        items = fields[at + 1 : end]
        if end >= len(fields):  # a last, empty field follows the last NUL
            raise ValueError(FORM)
        lists.append(items)
        at = end
    env, entrypoint, cmd, volumes, labels, trees, healthcheck = lists
    return Prepared(
        reference=name, manifest_digest=manifest, config_digest=config, architecture=architecture, os=system, workdir=workdir,
        user=user, stop_signal=stop_signal, env=env, entrypoint=entrypoint, cmd=cmd, volumes=volumes,
        labels=dict(zip(labels[::2], labels[1::2], strict=True)), trees=[f"{root}/{tree}" for tree in trees],
        healthcheck=healthcheck,
    )  # fmt: skip


def spell(prepared: Prepared, boot: str, trees: "Sequence[str]") -> bytes:
    """The bytes of prepared/HEX; `trees` are relative to the store's root."""
    labels = [text for pair in prepared.labels.items() for text in pair]
    fields = [
        FORM, boot, prepared.manifest_digest, prepared.config_digest, prepared.architecture, prepared.os, prepared.workdir,
        prepared.user, prepared.stop_signal,
    ]  # fmt: skip
    for items in (prepared.env, prepared.entrypoint, prepared.cmd, prepared.volumes, labels, trees, prepared.healthcheck):
        fields += [str(len(items)), *items]
    return "".join(field + "\0" for field in fields).encode()


def signature(status: os.stat_result) -> str:
    """What tells one state of a replaced file from the next."""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def boot_id() -> str:
    """What tells one run of the kernel from the next."""
    return read_text(_BOOT_ID).rstrip()


def in_user_namespace() -> bool:
    """Whether this process has not all ids of the machine, and so is no root of it whatever its own id is."""
    return read_text("/proc/self/uid_map").split() != ["0", "0", "4294967295"]


def read_text(path: str) -> str:
    """A small text file, whole. `open` would cost four times as much."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, 1 << 16)
        while len(data) >= 1 << 16 and (more := os.read(descriptor, 1 << 20)):
            data += more
    finally:
        os.close(descriptor)
    return data.decode()
