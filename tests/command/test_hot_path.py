"""What `box run` loads: the measured path. A module more is a tenth of a millisecond or ten of them, for each container."""

import os
import subprocess
import sys

import pytest

import boxcli
from tests.command.installed import BOX

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

# Compiled into the interpreter, frozen, or needed by it to start at all.
INTERPRETER = {
    "_abc",
    "_codecs",
    "_frozen_importlib_external",
    "_imp",
    "_io",
    "_signal",
    "_thread",
    "_warnings",
    "_weakref",
    "abc",
    "codecs",
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "gc",
    "io",
    "marshal",
    "posix",
    "time",
    "zipimport",
}

STANDARD = {"_ctypes", "_struct", "errno", "fcntl", "select"}

OURS = {
    "boxcli",
    "boxcli.main",
    "boxcli.preload",
    "boxcli.readers",
    "boxcli.table",
    "boxcli.verbs",
    "boxcli.verbs.run",
    "runtime",
    "runtime.capabilities",
    "runtime.cgroups",
    "runtime.confinement",
    "runtime.container",
    "runtime.entry",
    "runtime.id_maps",
    "runtime.journal",
    "runtime.linux",
    "runtime.native",
    "runtime.program",
    "runtime.records",
    "runtime.rootfs",
    "runtime.seccomp_cache",
    "runtime.spawn",
    "runtime.spec",
    "runtime.steps",
    "runtime.user_namespace",
    "runtime.users",
    "store",
    "store.clones",
    "store.erofs_mount",
    "store.errors",
    "store.overlay",
    "store.prepared",
    "store.syscalls",
}


START = """
import sys
program, directory, library, *argv = sys.argv[1:]
sys.path += [directory, library]
from boxcli import preload
from boxcli.main import main
status = main(argv)
import posix
posix.write(2, ("\\n" + " ".join(sys.modules)).encode())
posix._exit(status)
"""


def loaded_by(*arguments: str) -> set[str]:
    """The modules that are loaded when this command has ended; what box-python itself loads included."""
    library = f"{os.path.dirname(os.path.dirname(BOX))}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    directory = os.path.dirname(os.path.dirname(boxcli.__file__))
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", START, "box", directory, library, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {*done.stderr.splitlines()[-1].split(), "gc"} - {"__main__", "builtins", "sys", "_frozen_importlib", "_thread"}


def test_run_loads_nothing_that_is_not_on_the_list(tiny: str) -> None:
    loaded_by("run", "--rm", tiny, "true")  # the first run after a load prepares the image and compiles its filter
    loaded = loaded_by("run", "--rm", tiny, "true")
    assert loaded - INTERPRETER - STANDARD <= OURS
    assert "boxcli.verbs.run" in loaded


def test_the_list_has_nothing_that_run_does_not_load(tiny: str) -> None:
    loaded_by("run", "--rm", tiny, "true")
    assert loaded_by("run", "--rm", tiny, "true") >= OURS


def test_options_and_resource_limits_load_nothing_more(tiny: str) -> None:
    options = (
        "-e",
        "A=b",
        "--memory",
        "64m",
        "--pids-limit",
        "20",
        "--read-only",
        "-w",
        "/tmp",
        "-u",
        "1:1",
        "--label",
        "a=b",
        "--tmpfs",
        "/run",
    )
    loaded_by("run", "--rm", *options, tiny, "true")
    assert loaded_by("run", "--rm", *options, tiny, "true") - INTERPRETER - STANDARD <= OURS


def test_the_control_a_cold_command_loads_what_run_must_not() -> None:
    assert {"click", "json"} <= loaded_by("help")
