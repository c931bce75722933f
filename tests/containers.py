"""Containers for tests: an image of this machine's own programs, probes that say what they see in it, and traces: whatever a
test left behind, on disk, among the mounts, the control groups and the processes.
"""

import glob
import inspect
import json
import os
import signal
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boxfile
from builder.build import build
from runtime import container, lifecycle
from runtime.detached import run_detached
from runtime.journal import monitor_died
from runtime.spec import Outcome, Spec
from runtime.state import Container, Containers
from store.layout import Store
from store.prepare import prepare
from store.syscalls import libc

IMAGE = "probe"
PROGRAMS = (
    "sh", "cat", "chroot", "echo", "env", "head", "id", "kill", "ls", "mkdir", "mount", "python3", "rm", "sleep", "stty", "touch",
    "true", "false", "tty", "umount",
)  # fmt: skip
USERS = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUPS = "root:x:0:\napp:x:1001:\nextra:x:1500:app\nother:x:1600:somebody,app\nnogroup:x:65534:\n"

_SET_CHILD_SUBREAPER = 36
_IN_CREATE, _IN_NONBLOCK = 0x100, os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a container: its end, and all that it wrote."""

    outcome: Outcome
    out: str
    err: str

    @property
    def status(self) -> int:
        return self.outcome.status


class Site:
    """A store with the image `probe`, and containers of it."""

    def __init__(self, root: str, trees: list[str]) -> None:
        self.root = root
        self.trees = trees
        self.containers = Containers(root)

    def spec(self, *argv: str, **fields: Any) -> Spec:
        """A container that leaves nothing behind, unless `fields` say otherwise."""
        return Spec(self.root, list(argv), fields.pop("lowers", self.trees), **{"removed": True, **fields})

    def run(self, *argv: str, stdin: bytes | None = None, **fields: Any) -> Ran:
        """Run it in the foreground, its descriptors handed to it."""
        return self.run_spec(self.spec(*argv, **fields), stdin)

    def run_spec(self, spec: Spec, stdin: bytes | None = None) -> Ran:
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin or b"")
            given.seek(0)
            outcome = container.run(spec, stdin=given.fileno(), stdout=out.fileno(), stderr=err.fileno())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "surrogateescape"))
        return Ran(outcome, *texts)

    def start(self, *argv: str, **fields: Any) -> Container:
        """Run it in the background."""
        spec = self.spec(*argv, **fields)
        run_detached(spec)
        started = self.containers.read(spec.id)
        assert started is not None
        return started

    def shell(self, script: str, **fields: Any) -> Ran:
        return self.run("sh", "-c", script, **fields)

    def probe(self, function: Callable[..., Any], *arguments: object, **fields: Any) -> Any:
        """What `function`, whose source alone is taken, returns in a container; it imports what it needs."""
        ran = self.run(*probing(function, *arguments), **fields)
        assert ran.status == 0, (ran.status, ran.err)
        return json.loads(ran.out)


def probing(function: Callable[..., Any], *arguments: object) -> list[str]:
    """The command that prints, as JSON, what `function` returns."""
    source = textwrap.dedent(inspect.getsource(function))
    call = f"{function.__name__}({', '.join(map(repr, arguments))})"
    return ["python3", "-I", "-S", "-c", f"from __future__ import annotations\n{source}\nimport json\nprint(json.dumps({call}))"]


def make_site(top: Path) -> Site:
    """Build the image once."""
    text = f"""\
box: 1
base: {{host: [{", ".join(PROGRAMS)}]}}
steps:
  - write: {{to: /etc/passwd, text: {json.dumps(USERS)}}}
  - write: {{to: /etc/group, text: {json.dumps(GROUPS)}}}
  - mkdir: {{path: /home/app, owner: "1000:1001"}}
config:
  env: {{FROM: image, SHARED: image}}
  cmd: [sh]
"""
    path = top / "Boxfile"
    path.write_text(text)
    store = Store.open(str(top / "root"))
    build(store, boxfile.parse(text, path=str(path)), context=str(top), tag=IMAGE, epoch=0)
    return Site(store.root, list(prepare(store, IMAGE).trees))


class Traces:
    """What there is of containers on the machine now, to be compared with what there is later."""

    def __init__(self, site: Site) -> None:
        self.site = site
        os.makedirs(f"{site.root}/containers", exist_ok=True)
        self.watch = libc("inotify_init1", _IN_NONBLOCK | os.O_CLOEXEC)
        libc("inotify_add_watch", self.watch, os.fsencode(f"{site.root}/containers"), _IN_CREATE)
        self.processes, self.mounts, self.descriptors = children(), _mounts(site.root), _descriptors()

    def close(self) -> None:
        os.close(self.watch)

    def left(self) -> list[str]:
        """What is new: processes, control groups of any container made meanwhile, mounts, directories, names, descriptors."""
        found = _left_processes(self.processes)
        found += [f"cgroup {path}" for each in _created(self.watch) for path in cgroups(each)]
        found += [f"mount {line}" for line in sorted(_mounts(self.site.root) - self.mounts)]
        for folder in ("containers", "names", "drafts"):
            found += [f"{folder}/{name}" for name in _listing(f"{self.site.root}/{folder}")]
        return found + [f"descriptor {each}" for each in sorted(_descriptors() - self.descriptors)]


@contextmanager
def traceless(site: Site) -> Iterator[None]:
    """Fail where anything of a container is left at the end."""
    traces = Traces(site)
    # What loses its parent becomes this process' child: nothing that a test started can hide.
    libc("prctl", _SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        left = traces.left()
    finally:
        libc("prctl", _SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        traces.close()
    for one in site.containers.all():  # so that the next test is not blamed for it
        lifecycle.remove(one, force=True)
    assert not left


def cgroups(identity: str) -> list[str]:
    """The directories of a container's control groups."""
    return glob.glob(f"/sys/fs/cgroup/box/{identity}") + glob.glob(f"/sys/fs/cgroup/*/box/{identity}")


def children(of: int = 0) -> set[int]:
    """The pids of the children of this process, or of `of`."""
    return {pid for pid, parent in parents().items() if parent == (of or os.getpid())}


def parents() -> dict[int, int]:
    """The parent's pid of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def monitors(site: Site) -> list[int]:
    """The pids of those that hold the lock of the store's monitor."""
    lock = os.stat(f"{site.root}/monitor/lock").st_ino
    found = []
    with open("/proc/locks") as file:
        for line in file:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{lock}"):
                found.append(int(fields[4]))
    return found


def kill_monitor(site: Site) -> None:
    """As a user or the kernel may at any moment."""
    (pid,) = monitors(site)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in monitors(site))
    assert monitor_died(site.root)


def until(condition: Callable[[], Any], patience: float = 20.0) -> Any:
    """What `condition` returns once that is true; fails when it does not become so."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)
    return value


def reap_orphans(known: set[int]) -> None:
    """Do what a machine's init does: wait for the children that lost their parents, all but the `known` ones."""
    for pid in children() - known:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _left_processes(before: set[int]) -> list[str]:
    deadline = time.monotonic() + 5
    while True:
        reap_orphans(before)
        left = children() - before
        if not left:
            return []
        if time.monotonic() > deadline:
            return [f"process {pid}: {_command(pid)}" for pid in sorted(left)]
        time.sleep(0.005)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "gone"


def _created(watch: int) -> list[str]:
    """The ids of all containers that were made while it was watched: struct inotify_event, inotify(7)."""
    found: list[str] = []
    while True:
        try:
            data = os.read(watch, 1 << 16)
        except BlockingIOError:
            return found
        while data:
            size = int.from_bytes(data[12:16], "little")
            found.append(data[16 : 16 + size].rstrip(b"\0").decode())
            data = data[16 + size :]


def _mounts(root: str) -> set[str]:
    """Those of this machine's mounts that box could have made; others work on the machine meanwhile."""
    found = set()
    with open("/proc/self/mountinfo") as file:
        for line in file:
            target = line.split()[4]
            if root in line or target == "/" or target.startswith(("/dev", "/proc", "/sys", "/etc")):
                found.add(line.rstrip("\n"))
    return found


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the one that the listing itself had
            continue
    return found


def _listing(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
