"""The modules of `box run` in one file: their bytecode is read by one call in place of some two hundred. Hot.

Importing a module from its own .pyc costs about 70 us more than running its code, and `box run` loads some thirty of box's
own. The file is derived, lies in __pycache__ as all bytecode does, and is written by the first `box run` that finds none,
where it may. A module whose source is not the one that the bytecode was made of is imported as ever, and the file is made
again.
"""

import posix as os
import sys
from _frozen_importlib import ModuleSpec
from marshal import dumps, loads

FORM = b"box-hot-2\n"
PACKAGES = ("boxcli", "runtime", "store")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

    # Module -> its source, the source's mtime in ns and size, whether it is a package, its code as marshal writes it.
    Kept = dict[str, tuple[str, int, int, bool, bytes]]


class Finder:
    """Answers for the modules that the file has, as an entry of sys.meta_path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stale = True
        self.kept: Kept = {}
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            data = os.read(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        # As with a .pyc, nobody waits for the disk: after a power cut its length is right or it is not.
        if data.startswith(FORM) and data[len(FORM) : len(FORM) + 8] == len(data).to_bytes(8, "little"):
            self.kept = loads(memoryview(data)[len(FORM) + 8 :])
            self.stale = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's spec, if its source is still what its bytecode was made of."""
        kept = self.kept.get(name)
        if kept is None:
            return None
        source, modified, size, is_package, _ = kept
        try:
            status = os.stat(source)
        except OSError:
            return None
        if status.st_mtime_ns != modified or status.st_size != size:
            self.stale = True
            return None
        loader: Any = self  # in all but its base class
        spec = ModuleSpec(name, loader, origin=source, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [source.rpartition("/")[0]]
        return spec

    @staticmethod
    def get_data(path: str) -> bytes:
        """A source, as it is."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual kind."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run its code."""
        exec(loads(self.kept[module.__name__][4]), module.__dict__)  # noqa: S102  # which is what importing is

    def keep(self) -> None:
        """Write the file anew, of the modules that are loaded now, unless it is right as it is."""
        loaded = [name for name in sys.modules if name.partition(".")[0] in PACKAGES and name != __name__]
        if not self.stale and all(name in self.kept for name in loaded):
            return
        kept: Kept = {}
        for name in loaded:
            spec: Any = sys.modules[name].__spec__
            if spec is None or spec.origin is None:
                continue
            status = os.stat(spec.origin)  # before the code is read: if it changes in between, the next run notices
            # Without docstrings and asserts (which only tell type checkers something), as with `python -OO`: a quarter less to
            # read.
            code = compile(self.get_data(spec.origin), spec.origin, "exec", dont_inherit=True, optimize=2)
            is_package = spec.submodule_search_locations is not None
            kept[name] = (spec.origin, status.st_mtime_ns, status.st_size, is_package, dumps(code))
        body = dumps(kept)
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


def install(directory: str) -> Finder:
    """Put the finder for the packages in `directory` before all others."""
    finder = Finder(f"{directory}/boxcli/__pycache__/hot.{sys.implementation.cache_tag}.bin")
    sys.meta_path.insert(0, finder)
    return finder


def start(program: str, argv: "list[str]") -> "NoReturn":
    """Be `program` to the end of the process, its hot path's modules taken from the one file. What box-python calls."""
    finder = install(__file__[: -len("/boxcli/preload.py")]) if "run" in argv else None
    from boxcli.main import enter

    enter(program, argv, finder)
