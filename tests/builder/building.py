"""Builds for tests: a store and a context of their own, and everything that a build told."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import boxfile
from builder.build import Built, build
from store.drafts import Drafts
from store.layout import Store


def drafts(top: Path) -> Drafts:
    """A place for unfinished files."""
    (top / "drafts").mkdir(exist_ok=True)
    return Drafts(str(top / "drafts"))


class Told:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.missed: dict[int, str] = {}
        self.cached: list[int] = []
        self.lines: list[str] = []
        self.started: list[str] = []
        self.done: list[int] = []
        self.watch: Callable[[int, str], None] | None = None

    def step_started(self, number: int, total: int, text: str) -> None:
        self.started.append(f"{number}/{total} {text}")

    def step_cached(self, number: int) -> None:
        self.cached.append(number)

    def step_missed(self, number: int, reason: str) -> None:
        self.missed[number] = reason

    def output(self, number: int, line: str) -> None:
        self.lines.append(line)
        if self.watch is not None:
            self.watch(number, line)

    def step_done(self, number: int, seconds: float) -> None:
        assert seconds >= 0
        self.done.append(number)


class Site:
    """A context directory and a store; `build` builds a Boxfile's text, its steps given as lines."""

    def __init__(self, top: Path) -> None:
        self.context = top / "context"
        self.root = top / "store"
        self.context.mkdir(parents=True, exist_ok=True)
        self.told = Told()
        self.watch: Callable[[int, str], None] | None = None

    @property
    def store(self) -> Store:
        return Store.open(str(self.root))

    def fill(self, **files: str) -> None:
        """Files of the context by name (`__` for a slash, `_py` for a suffix)."""
        for name, text in files.items():
            path = self.context / name.replace("__", "/").replace("_py", ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def build(
        self,
        *steps: str,
        base: str = "scratch",
        config: str = "",
        tag: str | None = "test",
        epoch: int | None = None,
        no_cache: bool = False,
    ) -> Built:
        text = f"box: 1\nbase: {base}\n"
        if steps:
            text += "steps:\n" + "".join(f"  - {step}\n" for step in steps)
        if config:
            text += f"config: {config}\n"
        self.told = Told()
        self.told.watch = self.watch
        plan = boxfile.parse(text, path=str(self.context / "Boxfile"))
        return build(self.store, plan, context=str(self.context), tag=tag, progress=self.told, epoch=epoch, no_cache=no_cache)

    def config(self, built: Built) -> dict[str, object]:
        """The image's `config`."""
        found = self.store.images.load(built.descriptor).config["config"]
        assert isinstance(found, dict)
        return found

    def layers(self, built: Built) -> list[list[str]]:
        """The members of each layer's tar."""
        import tarfile

        found = []
        for layer in self.store.images.load(built.descriptor).layers:
            with tarfile.open(self.store.blobs.path(layer.descriptor.digest)) as tar:
                found.append([member.name for member in tar])
        return found

    def read(self, built: Built, path: str) -> str:
        """A file of the image."""
        store = self.store
        view = store.snapshots.view(store.images.load(built.descriptor).layers)
        try:
            descriptor = os.open(path, os.O_RDONLY, dir_fd=view)
            with open(descriptor) as file:
                return file.read()
        finally:
            os.close(view)

    def leftovers(self) -> list[str]:
        """What lies in the store that no finished build leaves."""
        unfinished = [path for name in ("drafts", "containers") for path in (self.root / name).glob("*")]
        odd = [path for path in (self.root / "cache").rglob("*") if path.is_file() and not path.name.isalnum()]
        return [str(path) for path in unfinished + odd]


def running(command: bytes, *, patience: float = 5.0) -> list[int]:
    """Process ids of those with this command line (arguments end in NUL), as soon as there are any."""
    end = time.monotonic() + patience
    while True:
        found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _command_line(pid) == command]
        if found or time.monotonic() >= end:
            return found
        time.sleep(0.01)


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
