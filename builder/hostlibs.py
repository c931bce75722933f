"""Where this machine's dynamic loader finds libraries. Source: ld.so(8), "DESCRIPTION", and ldconfig(8) for ld.so.conf.

LD_LIBRARY_PATH does not count: the image will not have it.
"""

import glob
import os
from collections.abc import Callable

from builder.elf import Elf

_ALWAYS = (b"/lib64", b"/usr/lib64", b"/lib", b"/usr/lib")


class Libraries:
    """Looks libraries up. `machine_of` tells which machine a file is for, None for no library."""

    __slots__ = ("_configured", "_defaults", "_found", "_machine_of", "_real_defaults", "_rpaths")

    def __init__(self, machine_of: Callable[[bytes], int | None]) -> None:
        self._machine_of = machine_of
        self._configured: list[bytes] | None = None
        self._defaults: list[bytes] = list(_ALWAYS)
        self._real_defaults = {os.path.realpath(directory) for directory in _ALWAYS}
        self._rpaths: list[bytes] = []
        self._found: dict[tuple[bytes, int], tuple[bytes, bool] | None] = {}

    def learn_loader(self, path: bytes) -> None:
        """A loader is at `path`: the directory where it really is, is one where it looks (Debian's /lib/x86_64-linux-gnu)."""
        here = os.path.dirname(path)
        bare = here.removeprefix(b"/usr")
        for directory in (b"/usr" + bare, bare):
            if directory not in self._defaults and os.path.isdir(directory):
                self._defaults.insert(0, directory)
                self._real_defaults.add(os.path.realpath(directory))
                self._found.clear()

    def find(self, name: bytes, needed_by: bytes, needs: Elf) -> tuple[bytes, bool] | None:
        """Where the library `name` is, and whether a loader finds it there by itself, without a cache made by ldconfig.

        `needed_by` is the real path of the file that names it, `needs` what that file says.
        """
        if b"/" in name:
            return (name, True) if self._fits(name, needs) else None
        # DT_RPATH counts for what a library needs in turn, too, DT_RUNPATH only for the very file.
        own = [_expand(path, needed_by) for path in needs.runpath]
        if not own:
            self._rpaths += [path for path in (_expand(path, needed_by) for path in needs.rpath) if path not in self._rpaths]
            own = self._rpaths
        for directory in own:
            if self._fits(directory + b"/" + name, needs):
                return directory + b"/" + name, True
        if (name, needs.machine) not in self._found:
            self._found[name, needs.machine] = self._find_everywhere(name, needs)
        return self._found[name, needs.machine]

    def _find_everywhere(self, name: bytes, needs: Elf) -> tuple[bytes, bool] | None:
        if self._configured is None:
            self._configured = read_configuration(b"/etc/ld.so.conf")
        for directory in (*self._configured, *self._defaults):
            if self._fits(directory + b"/" + name, needs):
                return directory + b"/" + name, os.path.realpath(directory) in self._real_defaults
        return None

    def _fits(self, path: bytes, needs: Elf) -> bool:
        return os.path.exists(path) and self._machine_of(os.path.realpath(path)) == needs.machine


def _expand(path: bytes, needed_by: bytes) -> bytes:
    origin = os.path.dirname(needed_by)
    for word in (b"$ORIGIN", b"${ORIGIN}"):
        path = path.replace(word, origin)
    return os.path.normpath(path)


def read_configuration(path: bytes, depth: int = 0) -> list[bytes]:
    """The directories that ld.so.conf and the files it includes name, in their order."""
    directories: list[bytes] = []
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return directories
    for line in lines:
        words = line.partition(b"#")[0].split()
        if words[:1] == [b"include"] and depth < 8:
            for pattern in words[1:]:
                full = pattern if pattern.startswith(b"/") else os.path.dirname(path) + b"/" + pattern
                for included in sorted(glob.glob(full)):
                    directories += read_configuration(included, depth + 1)
        elif words and words[0] != b"hwcap":
            directories += [word.partition(b"=")[0].rstrip(b"/") for word in words if word.startswith(b"/")]
    return directories
