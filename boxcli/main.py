"""From the command line to one verb: `box [--root DIR] [--driver NAME] VERB ...`.

This module is on the hot path of `box run`. It knows the names of the verbs; each lies in boxcli/verbs/ with its table of options
(`VERB`) and its `main(values) -> exit status`, and is imported only when it is called.
"""

import gc
import posix as os
import sys

from boxcli import table
from store.syscalls import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn

    from boxcli.preload import Preload

# In the order of `box help`.
VERBS = (
    "build", "run", "exec", "create", "start", "restart", "ps", "logs", "attach", "stop", "kill", "pause", "unpause",
    "rename", "rm", "wait", "inspect", "top", "stats", "update", "commit",
    "volume",
    "images", "tag", "rmi", "history", "save", "load", "import",
    "df", "gc", "prune", "fsck",
    "diff", "blame", "cp", "export", "mount", "umount",
    "version", "info", "completion",
)  # fmt: skip

ANYBODYS = ("ps", "logs", "wait", "images", "history", "tag", "version", "info", "completion")  # no rights are needed for these

DRIVERS = ("erofs", "overlay", "copy")  # store.probe's

OFF_THE_HOT_PATH = ("os", "runtime.seccomp")  # a run that loads one had something to make that the next finds made
# What a container of an engine needs that most do not, or that the first one makes for the others.
UNUSUAL = (
    "runtime.seccomp", "runtime.seccomp_listener", "runtime.bundle_users", "runtime.joining_aside", "runtime.terminal",
    "store.copies",
)  # fmt: skip
COMPLETION_VARIABLE = "_BOX_COMPLETE"  # set by the shells' completion scripts
DEPENDENCIES = ("click", "yaml", "requests", "zstandard", "isal")


class _SiteLater:
    """Asked last for a module that was not found: one of box's dependencies may lie where only `site` looks (Debian's own
    packages under a `pip install --user`, an editable dependency), so `site` is run then, and only then."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name not in DEPENDENCIES or "site" in sys.modules:
            return None
        import site
        from importlib.machinery import PathFinder

        site.main()
        return PathFinder.find_spec(name)


def enter(program: str, argv: "Sequence[str]", preload: "Preload | None" = None) -> "NoReturn":
    """Be `program` (box or box-runtime) to the end of the process. `preload` is what box's own modules come from
    (boxcli.preload)."""
    for descriptor in (0, 1, 2):  # whatever is opened later must not become somebody's standard stream
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
    if sys.flags.no_site:
        sys.meta_path.append(_SiteLater)  # type: ignore[arg-type]  # a class with a static find_spec is finder enough
    if program == "box":
        status = main(argv)
        if preload is not None and not any(module in sys.modules for module in OFF_THE_HOT_PATH):
            try:
                preload.keep()
            except Exception:  # the command has done its work: what it says and its status are not to change
                pass
    else:
        from boxcli import runtime_main

        status = runtime_main.main(argv)
        # A container that is out of the ordinary does not say what the next ones need.
        if preload is not None and preload.stale and not status and not any(module in sys.modules for module in UNUSUAL):
            try:
                preload.keep()
            except Exception:  # as above
                pass
    os._exit(status)  # without the interpreter's own tidying, which costs a millisecond


def load(name: str) -> "ModuleType":
    """The module of a verb."""
    module: ModuleType = __import__("boxcli.verbs." + ("import_" if name == "import" else name), fromlist=("VERB",))
    return module


def default_root() -> str:
    """Where images and containers lie unless --root says otherwise: BOX_ROOT, /var/lib/box for root, else below XDG_DATA_HOME."""
    root = variable("BOX_ROOT")
    if root:
        return _absolute(root)
    if os.geteuid() == 0:
        return "/var/lib/box"
    data = variable("XDG_DATA_HOME") or ""
    if not data.startswith("/"):  # the specification: a relative one is ignored
        from os.path import expanduser

        data = expanduser("~/.local/share")
    return data + "/box"


def variable(name: str) -> str | None:
    """A variable of the environment: as it is now where somebody has loaded `os`, which can change it, else as it was at the
    start."""
    loaded = sys.modules.get("os")
    if loaded is not None:
        value: str | None = loaded.environ.get(name)
        return value
    data = os.environ.get(encode(name))
    return None if data is None else decode(data)


def _absolute(path: str) -> str:
    if path.startswith("/") and "/." not in path and "//" not in path:
        return path.rstrip("/") or "/"
    from os.path import abspath

    return abspath(path)


def main(argv: "Sequence[str]") -> int:
    """Run one command line: everything is said and flushed on return. The exit status."""
    failure_status = 0
    try:
        name, rest, root, driver = _split(argv)
        if not name:
            _collect_rarely()
            status = _click(argv)
        else:
            if name != "run":
                _collect_rarely()
            if os.geteuid() != 0 and name not in ANYBODYS:
                from runtime.rootless import enter

                failure_status = 125 if name in ("run", "create") else 0  # as the verb has it, which is not to be loaded yet
                enter(root)
            module = load(name)
            failure_status = module.VERB.failure
            values = table.parse(module.VERB, rest, root)
            if values is None:
                status = _click(argv)
            else:
                values.driver = driver
                status = module.main(values)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        from boxcli import failure

        return failure.report(error, failure_status)
    return status


def _collect_rarely() -> None:
    """Let the collector look for cycles again, which box-python stopped: seldom, since what a command makes it mostly keeps."""
    gc.set_threshold(100_000, 20, 20)
    gc.enable()


def default_driver() -> str:
    """The driver that BOX_DRIVER names, empty for none. UsageError when there is no such driver."""
    name = variable("BOX_DRIVER") or ""
    if name and name not in DRIVERS:
        from store.errors import UsageError

        raise UsageError(f"BOX_DRIVER names no driver: {name!r}", hint="there are: " + ", ".join(DRIVERS))
    return name


def _split(argv: "Sequence[str]") -> "tuple[str, Sequence[str], str, str]":
    """The verb, what follows it, the root directory and the driver; no verb when click has to look at it."""
    root = driver = ""
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        word, attached, text = argv[at].partition("=")
        if word not in ("--root", "--driver") or (not attached and at + 1 == len(argv)):
            return "", argv, "", ""
        if not attached:
            text = argv[at + 1]
        if word == "--root":
            root = text
        elif text in DRIVERS:
            driver = text
        else:
            return "", argv, "", ""
        at += 1 if attached else 2
    if at == len(argv) or argv[at] not in VERBS or variable(COMPLETION_VARIABLE) is not None:
        return "", argv, "", ""
    return argv[at], argv[at + 1 :], _absolute(root) if root else default_root(), driver or default_driver()


def _click(argv: "Sequence[str]") -> int:
    from boxcli import click_face

    return click_face.main(argv)
