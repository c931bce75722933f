"""The whole file system of the virtual machine, as a cpio archive: this machine's Python with what the tests import, the project
as it lies here, some programs with their libraries, busybox for the rest, and the kernel's modules."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.containers import PROGRAMS

ROOT = Path(__file__).parents[2]
PACKAGES = ("boxfile", "builder", "runtime", "store", "boxcli", "tests")
# Of the standard library, what no test imports and takes much room.
_LEFT_OUT = {
    "test",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "tkinter",
    "turtledemo",
    "pydoc_data",
    "dist-packages",
    "distutils",
    "turtle.py",
}
# Of what is installed beside the project, the tools that no test imports.
_TOOLS = (
    "mypy",
    "mypyc",
    "ruff",
    "uv",
    "pip",
    "setuptools",
    "pkg_resources",
    "grimp",
    "importlinter",
    "rich",
    "hatchling",
    "xdist",
)
_INIT = b"#!/usr/bin/python3 -I\nimport runpy\nrunpy.run_path('/box/tests/vm/init.py', run_name='__main__')\n"


class Archive:
    """A cpio archive in the form `newc`, as the kernel unpacks it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._names: set[str] = set()

    def add(self, name: str, mode: int, content: bytes = b"", modified: int = 0) -> None:
        """One entry, and the directories that it is in; a name that is there already is passed over."""
        name = name.strip("/")
        if name in self._names or not name:
            return
        above = os.path.dirname(name)
        if above:
            self.add(above, stat.S_IFDIR | 0o755)
        self._names.add(name)
        self._put(name, mode, content, modified)

    def copy(self, source: Path, name: str | None = None) -> None:
        """A file of this machine, or a directory with all in it, at its own place or at `name`; a symlink as what it leads to."""
        target = name or str(source)
        if source.is_dir():
            for each in sorted(source.iterdir()):
                if each.name not in _LEFT_OUT and not each.name.startswith("config-3"):
                    self.copy(each, f"{target}/{each.name}")
        elif source.is_file():
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
            # The time decides whether the compiled form of a module is believed.
            self.add(target, stat.S_IFREG | mode, source.read_bytes(), int(source.stat().st_mtime))

    def link(self, name: str, target: str) -> None:
        """A symlink."""
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def close(self) -> None:
        """The archive is whole."""
        self._put("TRAILER!!!", 0, b"")
        self._file.close()

    def _put(self, name: str, mode: int, content: bytes, modified: int = 0) -> None:
        fields = (len(self._names), mode, 0, 0, 1, modified, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        self._file.write(header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4))


def make(path: Path, kernel: Path, modules: Iterable[str]) -> None:
    """Write the archive to `path`."""
    archive = Archive(path)
    archive.add("init", stat.S_IFREG | 0o755, _INIT)
    for name in ("proc", "sys", "dev", "tmp", "run", "mnt", "root", "etc", "var/tmp", "usr/sbin", "usr/lib64"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("etc/passwd", stat.S_IFREG | 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    archive.add("etc/group", stat.S_IFREG | 0o644, b"root:x:0:\nnogroup:x:65534:\n")
    for name in modules:
        archive.copy(kernel / f"{name}.ko", f"modules/{name}.ko")
    for place in ("bin", "sbin", "lib", "lib64"):  # Debian's merged /usr
        archive.link(place, f"usr/{place}")
    _add_python(archive)
    for name in PACKAGES:
        archive.copy(ROOT / name, f"box/{name}")
    archive.copy(ROOT / "pyproject.toml", "box/pyproject.toml")
    for name in ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"):
        archive.copy(Path(name))
    for program in (*PROGRAMS, "runc"):
        found = shutil.which(program)
        if found and program != "python3":
            _add_program(archive, Path(found), f"usr/bin/{program}")
    busybox = shutil.which("busybox")
    if busybox:
        archive.copy(Path(busybox), "usr/bin/busybox")
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            archive.link(f"usr/bin/{name}", "busybox")
    archive.close()


def _add_python(archive: Archive) -> None:
    executable = Path(sys.executable).resolve()
    _add_program(archive, executable, f"usr/bin/{executable.name}")
    archive.link("usr/bin/python3", executable.name)
    library = Path(os.__file__).parent
    archive.copy(library)
    for extension in library.glob("lib-dynload/*.so"):
        _add_libraries(archive, extension)
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    for each in site.iterdir():
        if each.name not in _TOOLS and not each.name.endswith((".dist-info", "-stubs", ".so", ".pth")):
            archive.copy(each, f"site/{each.name}")
            for extension in each.glob("**/*.so"):
                _add_libraries(archive, extension)


def _add_program(archive: Archive, path: Path, name: str) -> None:
    archive.copy(path.resolve(), name)
    _add_libraries(archive, path)


def _add_libraries(archive: Archive, path: Path) -> None:
    for library in _libraries(path):
        # Where the loader looks for it: /lib is a link to /usr/lib here.
        archive.copy(library, re.sub(r"^/(lib|lib64)/", r"/usr/\1/", str(library)))


def _libraries(path: Path) -> Iterator[Path]:
    """The shared libraries of a program, and its loader."""
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if match := re.search(r"(/\S+) \(0x", line):
            yield Path(match[1])
