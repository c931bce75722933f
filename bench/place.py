"""Where a benchmark works: a scratch directory with a store of box's, an image for all, and what is kept between runs."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TypeVar

from bench.docker import Docker
from bench.podman import Podman
from bench.timing import ENVIRONMENT, Failed

BOX = os.path.join(os.path.dirname(sys.executable), "box")
IMAGE = "bench"
_PROGRAMS = "sh, 'true', cat, sleep"
_SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_Peer = TypeVar("_Peer", Docker, Podman)


class Place:
    """A scratch directory; `close` ends what was started in it and removes it. What it offers is made when first asked for."""

    def __init__(self) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.kept = os.path.abspath(os.environ.get("BENCH_DIR") or f"{cache}/box-bench")
        os.makedirs(self.kept, exist_ok=True)
        # On a disk, which /tmp may not be, and with a short name: sockets are made in it.
        self.scratch = tempfile.mkdtemp(prefix="box-bench-", dir="/var/tmp")
        self.root = f"{self.scratch}/box"
        self._closers = contextlib.ExitStack()
        self._closers.callback(shutil.rmtree, self.scratch)

    def close(self) -> None:
        """End the peers and remove all that is not kept."""
        self._closers.close()

    def box(self, *arguments: str) -> list[str]:
        """The command line of the installed box on this place's store."""
        return [BOX, "--root", self.root, *arguments]

    @functools.cached_property
    def image(self) -> str:
        """The name of a small image of this machine's programs, in box's store."""
        path = f"{self.scratch}/Boxfile"
        with open(path, "w") as file:
            file.write(f"box: 1\nname: {IMAGE}\nbase: {{host: [{_PROGRAMS}]}}\n")
        run(self.box("build", "-q", "-f", path, self.scratch))
        return IMAGE

    @functools.cached_property
    def saved(self) -> str:
        """That image as an archive."""
        path = f"{self.scratch}/image.tar"
        run(self.box("save", self.image, "-o", path))
        return path

    @property
    def docker(self) -> Docker:
        """A daemon that has the image. Raises Failed, and each time again."""
        return _or_raise(self._docker)

    @property
    def podman(self) -> Podman:
        """podman's store with the image. Raises Failed, and each time again."""
        return _or_raise(self._podman)

    @functools.cached_property
    def _docker(self) -> Docker | Failed:
        try:
            docker = Docker(f"{self.scratch}/docker")
            self._closers.callback(docker.close)
            run(docker.command("load", "-i", self.saved))
        except Failed as reason:
            return reason
        return docker

    @functools.cached_property
    def _podman(self) -> Podman | Failed:
        if not shutil.which("podman"):
            return Failed("podman is not installed")
        podman = Podman(f"{self.scratch}/podman", isolated=False)
        self._closers.callback(podman.close)
        try:
            run(podman.command("load", "-i", self.saved))
            podman.choose_runtime(self.image, "/bin/true")
        except Failed as reason:
            return reason
        return podman

    def debian(self, suffix: str) -> str:
        """A Debian root file system's tar; `suffix` is tar, tar.gz or tar.zst. Made once, and kept. Raises Failed."""
        path = f"{self.kept}/debian.{suffix}"
        if os.path.exists(path):
            return path
        if suffix == "tar":
            say("making a Debian root file system, once: half a minute")
            run(["sh", f"{_SOURCES}/examples/debian/make-base.sh", path])
            return path
        plain = self.debian("tar")
        program = {"tar.gz": ["gzip", "-6"], "tar.zst": ["zstd", "-q", "-3"]}[suffix]
        with open(plain, "rb") as source, open(path + ".draft", "wb") as target:
            subprocess.run([*program, "-c"], stdin=source, stdout=target, check=True)
        os.rename(path + ".draft", path)
        return path


def _or_raise(found: _Peer | Failed) -> _Peer:
    if isinstance(found, Failed):
        raise found
    return found


def run(argv: list[str], **environment: str) -> str:
    """What a command printed. Raises Failed, with the last line of its errors."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **ENVIRONMENT, **environment},
        )
    except FileNotFoundError as err:
        raise Failed(f"{argv[0]} is not installed") from err
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Failed(f"{' '.join(argv[:2])}...: {lines[-1][:200]}")
    return done.stdout


def version(argv: list[str]) -> str:
    """The first line that a program says of its version, or nothing."""
    try:
        return run(argv).strip().partition("\n")[0]
    except Failed:
        return ""


def say(text: str) -> None:
    """Tell what is going on; the tables alone go to standard output."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
