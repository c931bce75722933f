"""A docker daemon of our own: its images, its sockets and its mounts are below one directory and in one mount namespace."""

import functools
import os
import shutil
import subprocess
import time

from bench.timing import Failed

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_STARTING, _ENDING = 60, 30  # seconds


class Docker:
    """A running dockerd. It ends with `close`, or with the thread that started it."""

    def __init__(self, directory: str, *options: str, own_network: bool = False, over: "dict[str, str] | None" = None) -> None:
        """Start it, with more `options`, and wait until it answers. `directory` is new, and short: a socket's path has 108 bytes.

        `over` are files that lie over the machine's for it, by the path of those. With `own_network` it has a network of its own,
        with a loopback device alone (a swarm makes bridges). Raises Failed.
        """
        self.directory = directory
        self.client = client()
        self.host = f"unix://{directory}/socket"
        os.mkdir(directory)
        with open(f"{directory}/daemon.json", "w") as file:
            file.write("{}")  # not the machine's own /etc/docker/daemon.json
        self._log = f"{directory}/log"
        binds = "".join([f"mount --bind {here} {there} && " for there, here in (over or {}).items()])
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation", "private", *(("--net",) if own_network else ()), "--"),
                    *(("sh", "-c", 'ip link set lo up && exec "$@"', "sh") if own_network else ()),
                    *("sh", "-c", f'{binds}exec "$@"', "sh"),
                    *("setpriv", "--pdeathsig", "TERM", "--"),
                    *("dockerd", f"--config-file={directory}/daemon.json", f"--data-root={directory}/data"),
                    *(f"--exec-root={directory}/exec", f"--pidfile={directory}/pid", f"--host={self.host}"),
                    # Nothing of the machine's network is touched; containers have none.
                    *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
                    # Its default, a million, is more than what some machines allow.
                    "--default-ulimit=nofile=1024:1024",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": _PATH},
                start_new_session=True,
            )
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def command(self, *arguments: str) -> list[str]:
        """The command line of the client."""
        return [self.client, "--host", self.host, *arguments]

    def run_command(self, image: str, *argv: str) -> list[str]:
        """The command line of a container without a network."""
        return self.command("run", "--rm", "--network", "none", image, *argv)

    def close(self) -> None:
        """End the daemon and remove what it had."""
        self._process.terminate()
        try:
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _await(self) -> None:
        deadline = time.monotonic() + _STARTING
        while subprocess.run(self.command("version"), capture_output=True, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                with open(self._log, errors="replace") as log:
                    last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
                raise Failed(f"dockerd does not start: {last[:200]}")
            time.sleep(0.05)


@functools.cache
def client() -> str:
    """The client that came with the daemon, where there are several: BuildKit needs no plugin of that one. Raises Failed."""
    if not shutil.which("dockerd", path=_PATH):
        raise Failed("dockerd is not installed")
    daemon = _version("dockerd")
    found = [f"{directory}/docker" for directory in _PATH.split(os.pathsep) if os.access(f"{directory}/docker", os.X_OK)]
    if not found:
        raise Failed("docker is not installed")
    return next((each for each in found if _version(each) == daemon), found[0])


@functools.cache
def version() -> str:
    """The daemon's version. Raises Failed."""
    client()
    return _version("dockerd")


def _version(program: str) -> str:
    # Docker version 20.10.24+dfsg1, build 5d6db84
    done = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": _PATH, "DOCKER_CONFIG": "/"},
    )
    return done.stdout.partition("version ")[2].partition(",")[0]
