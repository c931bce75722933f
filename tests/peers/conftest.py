"""The real docker and podman, each with a storage and a daemon of the tests' own, and gone with them."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need


class Peer:
    """A container engine's command line."""

    def __init__(self, command: list[str], run_options: list[str]) -> None:
        self.command = command
        self.run_options = run_options

    def __call__(self, *arguments: str | os.PathLike[str]) -> str:
        """What the engine prints; an error of it fails the test with what it said."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def run(self, *arguments: str) -> str:
        """What a container of the engine prints."""
        return self("run", "--rm", "--network", "none", *self.run_options, *arguments)


@pytest.fixture(scope="session")
def _place() -> Iterator[str]:
    place = tempfile.mkdtemp(prefix="box-peer-", dir="/var/tmp")  # a short path: it holds a socket
    yield place
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(place):
            subprocess.run(["umount", "-l", mount], check=False)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def docker(_place: str) -> Iterator[Peer]:
    """docker, with a daemon that has no network and nothing of the machine's own docker."""
    need("dockerd")
    host = f"unix://{_place}/docker"
    command = [
        "dockerd", "--data-root", f"{_place}/data", "--exec-root", f"{_place}/exec", "--pidfile", f"{_place}/pid", "-H", host,
        "--iptables=false", "--ip6tables=false", "--bridge=none",
    ]  # fmt: skip
    with open(f"{_place}/dockerd.log", "w+") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            peer = Peer(["docker", "-H", host], [])
            for _ in range(600):
                if subprocess.run([*peer.command, "version"], capture_output=True, check=False).returncode == 0:
                    break
                if daemon.poll() is not None:
                    break
                time.sleep(0.1)
            else:
                pytest.fail("dockerd did not come up within a minute")
            if daemon.poll() is not None:
                log.seek(0)
                pytest.fail("dockerd ended: " + log.read()[-2000:])
            yield peer
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)


@pytest.fixture(scope="session")
def podman(_place: str) -> Iterator[Peer]:
    """podman, with a storage of its own; runc and low limits also work without CAP_SYS_RESOURCE and on hybrid cgroups."""
    need("podman")
    need("runc")
    command = [
        "podman", "--root", f"{_place}/podman", "--runroot", f"{_place}/podman-run", "--cgroup-manager", "cgroupfs",
        "--runtime", "runc",
    ]  # fmt: skip
    peer = Peer(command, ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=100:100"])
    yield peer
    subprocess.run([*command, "rm", "--all", "--force"], capture_output=True, check=False)
