"""What the tests of box-runtime under engines share: an image of this machine's programs, and commands that may fail."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.command import installed

BOX_RUNTIME = os.path.join(os.path.dirname(sys.executable), "box-runtime")
IMAGE = "engine"
BOXFILE = """\
box: 1
name: engine
base:
  host: [sh, cat, echo, env, grep, head, hostname, id, kill, ls, mkdir, mount, ps, python3, readlink, rm, sleep, stat, stty,
    touch, true, tty, umount]
steps:
  - write: {to: /etc/passwd, text: "root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1001::/:/bin/sh\\n"}
  - write: {to: /etc/group, text: "root:x:0:\\napp:x:1001:\\nextra:x:1500:app\\n"}
  - write: {to: /data/kept, text: "of the image\\n"}
  - write: {to: /not-executable, text: "text"}
config: {cmd: [sh]}
"""


def save_image(directory: Path) -> Path:
    """Build the image and save it below this directory; the archive's path."""
    (directory / "Boxfile").write_text(BOXFILE)
    installed.run("build", "-q", directory)
    installed.run("save", IMAGE, "-o", directory / "engine.tar")
    return directory / "engine.tar"


class Ended:
    """How a command of an engine ended."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def __repr__(self) -> str:
        return f"status {self.status}, printed {self.out!r}, said {self.err!r}"


class Engine:
    """An engine whose OCI runtime is box-runtime, by its command line; `running` are the options of a run that this machine asks
    for."""

    def __init__(self, command: "Callable[..., list[str]]", running: Sequence[str]) -> None:
        self.command = command
        self.running = running
        self.is_docker = os.path.basename(command()[0]) == "docker"

    def __call__(self, *arguments: str, status: int | None = 0, stdin: str = "") -> Ended:
        """Run the engine's command; `status` is what it must end with (None: whatever)."""
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=120, check=False, errors="replace"
        )
        ended = Ended(done)
        assert status is None or ended.status == status, (arguments, ended)
        return ended

    def run(self, *arguments: str, status: int | None = 0, stdin: str = "") -> Ended:
        """A container in the foreground: options of `run`, then the command."""
        return self("run", "--rm", *self.placed(arguments), status=status, stdin=stdin)

    def placed(self, arguments: Sequence[str]) -> list[str]:
        """Options and a command, with the image in between: `--` separates them, where there are options."""
        options: Sequence[str] = ()
        if "--" in arguments:
            at = arguments.index("--")
            options, arguments = arguments[:at], arguments[at + 1 :]
        return [*self.running, *options, IMAGE, *arguments]

    def start(self, name: str, *arguments: str) -> str:
        """A container in the background, by this name; its id."""
        return self("run", "-d", "--name", name, *self.placed(arguments)).out.strip()

    def state(self, name: str) -> dict[str, Any]:
        """What the engine knows of its state."""
        state: dict[str, Any] = json.loads(self("inspect", "--format", "{{json .State}}", name).out)
        return state


def until(condition: Callable[[], Any], patience: float = 30.0) -> Any:
    """What `condition` returns once that is true; fails when it does not become so."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)
    return value
