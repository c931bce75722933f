"""podman and buildah on a store of our own, below one directory."""

import os
import shutil
import subprocess

from bench.timing import Failed

# podman asks for more files and processes than some machines allow.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private", "--")


class Podman:
    """A store for podman and buildah, with an OCI runtime that works here.

    `isolated` gives each command a mount namespace: podman leaves a mount of its store behind.
    """

    def __init__(self, directory: str, *, isolated: bool) -> None:
        self.directory = directory
        self._prefix = OWN_MOUNTS if isolated else ()
        self._store = ("--root", f"{directory}/root", "--runroot", f"{directory}/run")
        self.runtime = ""
        os.mkdir(directory)

    def command(self, *arguments: str) -> list[str]:
        """The command line of podman."""
        runtime = ("--runtime", self.runtime) if self.runtime else ()
        private = ("--tmpdir", f"{self.directory}/tmp", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
        return [*self._prefix, "podman", *self._store, *private, *runtime, *arguments]

    def buildah(self, *arguments: str) -> list[str]:
        """The command line of buildah, on the same store."""
        return [*self._prefix, "buildah", *self._store, *arguments]

    def run_command(self, image: str, *argv: str) -> list[str]:
        """The command line of a container without a network."""
        return self.command("run", "--rm", "--network", "none", *LIMITS, image, *argv)

    def choose_runtime(self, image: str, *argv: str) -> None:
        """Take podman's own choice of an OCI runtime if `argv` runs in it, else the first that does. Raises Failed.

        crun refuses a machine on which both versions of control groups have controllers.
        """
        reasons = []
        for runtime in ("crun", "runc"):
            if not shutil.which(runtime):
                continue
            self.runtime = runtime
            done = subprocess.run(self.run_command(image, *argv), capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            reasons.append((done.stderr.strip().splitlines() or ["no message"])[-1])
        raise Failed("; ".join(reasons) or "neither crun nor runc is installed")

    def close(self) -> None:
        """Remove the store."""
        if not self._prefix:
            for mounted in reversed(_mounts_below(self.directory)):
                subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def _mounts_below(directory: str) -> list[str]:
    with open("/proc/self/mounts", errors="surrogateescape") as mounts:
        points = [line.split(" ")[1] for line in mounts]
    return [point for point in points if point.startswith(directory + "/")]
