"""The modules of `box run` in one file, and of each call of `box-runtime` that engines make for every container: made by one read
in place of thirty imports. Hot.

What the import system does for a module, besides running its code, costs some 100 us, and `box run` has thirty of box's own. The
file is derived, lies in __pycache__ as all bytecode does, and is written by the first `box run` that finds none, where it may. A
module whose source is not the one that the bytecode was made of is imported as ever, and the file is made again.
"""

import posix as os
import sys
from marshal import dumps, loads

FORM = b"box-hot-3\n"
PACKAGES = ("boxcli", "runtime", "store")
OF_ENGINES = ("create", "start", "state", "kill", "delete", "run", "exec")  # what box-runtime is called with most

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import NoReturn

    # Module -> its source, the source's mtime in ns and size, whether it is a package, its code as marshal writes it.
    Kept = dict[str, tuple[str, int, int, bool, bytes]]


class Preload:
    """The file at `path`. Each module stands in it after those that it imports."""

    __slots__ = ("kept", "path", "stale")

    def __init__(self, path: str) -> None:
        self.path = path
        self.stale = True
        self.kept: Kept = {}
        try:
            data = _read(path)
        except OSError:
            return
        # As with a .pyc, nobody waits for the disk: after a power cut its length is right or it is not.
        if data.startswith(FORM) and data[len(FORM) : len(FORM) + 8] == len(data).to_bytes(8, "little"):
            self.kept = loads(memoryview(data)[len(FORM) + 8 :])
            self.stale = False

    def load(self) -> None:
        """Make the modules, up to one whose source has changed: it, and what may import it, is left to the import system."""
        loaded = sys.modules
        kind = type(sys)
        for name, (source, modified, size, is_package, code) in self.kept.items():
            if name in loaded:
                continue
            try:
                status = os.stat(source)
            except OSError:
                self.stale = True
                return
            if status.st_mtime_ns != modified or status.st_size != size:
                self.stale = True
                return
            module = kind(name)
            package, _, last = name.rpartition(".")
            module.__file__ = source
            module.__package__ = name if is_package else package
            if is_package:
                module.__path__ = [source.rpartition("/")[0]]
            loaded[name] = module
            try:
                exec(loads(code), module.__dict__)  # noqa: S102  # which is what importing is
            except BaseException:
                del loaded[name]
                raise
            if package:
                setattr(loaded[package], last, module)

    def keep(self) -> None:
        """Write the file anew, of the modules that are loaded now, unless it is right as it is."""
        names = [name for name in sys.modules if name.partition(".")[0] in PACKAGES and name != __name__]
        if not self.stale and all(name in self.kept for name in names):
            return
        found: Kept = {}
        codes: dict[str, CodeType] = {}
        for name in names:
            source = sys.modules[name].__file__
            if source is None:
                continue
            status = os.stat(source)  # before the source is read: if it changes in between, the next run notices
            # Without docstrings and asserts (which only tell type checkers something), as with `python -OO`: a quarter less.
            codes[name] = compile(_read(source), source, "exec", dont_inherit=True, optimize=2)
            is_package = hasattr(sys.modules[name], "__path__")
            found[name] = (source, status.st_mtime_ns, status.st_size, is_package, dumps(codes[name]))
        body = dumps({name: found[name] for name in innermost_first(codes)})
        data = FORM + (len(FORM) + 8 + len(body)).to_bytes(8, "little") + body
        draft = f"{self.path}.{os.getpid()}"
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError:
            return  # no right to write there: every run is as slow as this one
        try:
            os.write(fd, data)
            os.rename(draft, self.path)
        except OSError:
            os.unlink(draft)
        finally:
            os.close(fd)


def innermost_first(codes: "dict[str, CodeType]") -> list[str]:
    """The modules in an order in which each comes after those that its code names, where there is no cycle."""
    ordered: dict[str, None] = {}
    begun: set[str] = set()

    def add(name: str) -> None:
        if name in begun or name not in codes:
            return
        begun.add(name)
        add(name.rpartition(".")[0])
        words = codes[name].co_names
        for word in words:
            add(word)  # import a.b
            for package in PACKAGES:
                add(f"{package}.{word}")  # from a import b
        ordered[name] = None

    for name in codes:
        add(name)
    return list(ordered)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def start(program: str, argv: "list[str]") -> "NoReturn":
    """Be `program` to the end of the process, its hot path's modules taken from the one file. What box-python calls."""
    preload = None
    name = "hot" if "run" in argv else ""
    if program == "box-runtime":
        name = next((f"runtime-{word}" for word in argv if word in OF_ENGINES), "")
    if name:
        folder = __file__[: -len("/preload.py")]
        preload = Preload(f"{folder}/__pycache__/{name}.{sys.implementation.cache_tag}.bin")
        preload.load()
    from boxcli.main import enter

    enter(program, argv, preload)
