"""Bundles for the tests of box-runtime, made by hand: a small root file system of this machine's programs, a config.json, and the
installed command."""

import copy
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.engine_features import example
from store.syscalls import libc
from tests import containers

BOX_RUNTIME = os.path.join(os.path.dirname(sys.executable), "box-runtime")
PROGRAMS = ("sh", "cat", "echo", "env", "grep", "id", "ls", "mkdir", "mount", "readlink", "sleep", "stat", "touch", "true")
_SET_CHILD_SUBREAPER = 36
_GROUPS = f"/box-tests-{os.getpid()}"


def make_rootfs(directory: Path, programs: tuple[str, ...] = PROGRAMS) -> Path:
    """A root file system of these programs and their libraries."""
    for name in programs:
        found = os.path.realpath(shutil.which(name) or name)
        _copy(found, directory / "bin" / name)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        for word in listed.split():
            if word.startswith("/"):
                _copy(word, directory / word.lstrip("/"))
    for name in ("etc", "tmp", "proc", "dev", "sys"):
        (directory / name).mkdir(exist_ok=True)
    return directory


def _copy(source: str, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


Done = subprocess.CompletedProcess[str]


class Bundles:
    """Bundles below `top`, and the containers that box-runtime keeps in `root`."""

    def __init__(self, top: Path, rootfs: Path) -> None:
        self.top = top
        self.root = str(top / "state")
        self._rootfs = rootfs
        self.counted = 0

    def make(self, *argv: str, own_root: bool = False, **parts: Any) -> "Bundle":
        """A bundle that executes `argv`; `parts` replace parts of config.json, by a name such as `process_user`. Unless
        `own_root`, its root is shared and read-only."""
        self.counted += 1
        directory = self.top / f"b{self.counted}"
        directory.mkdir()
        config = json.loads(example())
        config["process"]["terminal"] = False
        config["process"]["args"] = list(argv)
        config["linux"]["cgroupsPath"] = f"{_GROUPS}-{self.counted}"
        config["root"] = {"path": str(self._rootfs), "readonly": not own_root}
        if own_root:
            # Should a test ever leave device nodes in the shared one: some have no end.
            shutil.copytree(
                self._rootfs,
                directory / "rootfs",
                symlinks=True,
                ignore=lambda folder, names: names if folder.endswith("/dev") else [],
            )
            config["root"]["path"] = "rootfs"
        bundle = Bundle(self, directory, config)
        for name, value in parts.items():
            bundle.change(name, value)
        return bundle

    def box(
        self, *arguments: str, status: "int | None" = 0, before: tuple[str, ...] = (), **options: Any
    ) -> Done:  # fmt: skip
        """Run box-runtime; `status` is what it must end with (None: whatever), `before` global options."""
        options.setdefault("stdin", subprocess.DEVNULL)
        # Not a pipe for what a container inherits: it would be waited for.
        with open(self.top / "out", "w+b") as out, open(self.top / "err", "w+b") as err:
            ended = subprocess.run(
                [BOX_RUNTIME, "--root", self.root, *before, *arguments],
                stdout=out,
                stderr=err,
                timeout=60,
                check=False,
                **options,
            )
            out.seek(0)
            err.seek(0)
            done = Done(arguments, ended.returncode, *(file.read().decode("utf-8", "replace") for file in (out, err)))
        assert "Traceback" not in done.stderr, done.stderr
        assert status is None or done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def state(self, identity: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.box("state", identity).stdout)
        return state

    def status(self, identity: str) -> str:
        return str(self.state(identity)["status"])

    def ids(self) -> list[str]:
        return [name for name in containers._listing(self.root) if not name.startswith(".")]


class Bundle:
    """One bundle; `config` is what `write` makes the file of."""

    def __init__(self, bundles: Bundles, directory: Path, config: dict[str, Any]) -> None:
        self.bundles = bundles
        self.directory = directory
        self.config = config
        self.rootfs = directory / config["root"]["path"]

    def change(self, name: str, value: Any) -> "Bundle":
        """Set `process_user` and the like: the parts of a name lead into the document. A callable changes what is there."""
        at = self.config
        *above, last = name.split("_")
        for each in above:
            at = at.setdefault(each, {})
        at[last] = value(copy.deepcopy(at.get(last))) if callable(value) else value
        return self

    def write(self) -> str:
        (self.directory / "config.json").write_text(json.dumps(self.config))
        return str(self.directory)

    def create(self, identity: str = "one", *options: str, status: "int | None" = 0, **more: Any) -> Done:
        return self.bundles.box("create", "--bundle", self.write(), *options, identity, status=status, **more)

    def start(self, identity: str = "one", *options: str, **more: Any) -> int:
        """Create and start it; its pid."""
        self.create(identity, *options, **more)
        self.bundles.box("start", identity)
        return int(self.bundles.state(identity)["pid"])

    def run(self, identity: str = "one", *options: str, status: "int | None" = 0, **more: Any) -> Done:
        return self.bundles.box("run", "--bundle", self.write(), *options, identity, status=status, **more)

    def refused(self, *said: str, **more: Any) -> str:
        """What `create` says, which must be these words; nothing may be left of it."""
        error = self.create("refused", status=1, **more).stderr
        for each in said:
            assert each in error, error
        assert "refused" not in self.bundles.ids()
        return error


@contextmanager
def traceless(bundles: Bundles) -> Iterator[None]:
    """Fail where anything of a container is left at the end: a process, a mount, a group, a file."""
    before = containers.children()
    libc("prctl", _SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        for identity in bundles.ids():
            bundles.box("delete", "--force", identity)
        left = [f"container {identity}" for identity in bundles.ids()]
        left += containers._left_processes(before)
        left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(bundles.top) in line]
        left += groups()
        assert not left
    finally:
        libc("prctl", _SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for pid in containers.children() - before:
            os.kill(pid, signal.SIGKILL)


def groups() -> list[str]:
    """The control groups of this process' bundles that are there."""
    return [path for pattern in ("", "*/") for path in glob.glob(f"/sys/fs/cgroup/{pattern}{_GROUPS[1:]}-*")]


def until(condition: Callable[[], Any], patience: float = 20.0) -> Any:
    """What `condition` returns once that is true; fails when it does not become so."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)
    return value
