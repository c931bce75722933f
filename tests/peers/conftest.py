"""The peers, each with a store and a daemon of its own, and images to exchange with them.

All of this directory's tests are one group for xdist: they share one daemon.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.docker import Docker
from bench.podman import Podman
from bench.timing import Failed
from tests import machine
from tests.command import installed
from tests.conftest import need
from tests.peers import traveller

_HERE = Path(__file__).parent
_EXAMPLE = _HERE.parents[1] / "examples" / "debian"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("peers"))


class Peer:
    """A container engine, by its command line."""

    def __init__(self, engine: Docker | Podman) -> None:
        self.engine = engine

    def __call__(self, *arguments: str | os.PathLike[str], **environment: str) -> str:
        """What the engine prints; an error of it fails the test with what it said."""
        return say(self.engine.command(*(os.fspath(each) for each in arguments)), **environment)

    def run(self, image: str, *argv: str) -> str:
        """What a container without a network prints."""
        return say(self.engine.run_command(image, *argv))


def say(argv: list[str], **environment: str) -> str:
    """What a command prints; an error of it fails the test with what it said."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


def refuse(capability: str, reason: object) -> None:
    """The machine seemed to have it and has not."""
    if machine.required() & {capability, "all"}:
        pytest.fail(f"BOX_REQUIRE asks for {capability}: {reason}", pytrace=False)
    pytest.skip(f"needs {capability}: {reason}")


@pytest.fixture(scope="session")
def docker(_short: Path) -> Iterator[Peer]:
    """docker with a private daemon, which ends with the session."""
    need("dockerd")
    try:
        engine = Docker(f"{_short}/docker")
    except Failed as reason:
        refuse("dockerd", reason)
        raise
    yield Peer(engine)
    engine.close()


@pytest.fixture(scope="session")
def podman(_podman_store: Podman) -> Peer:
    """podman with a private store, which has the traveller."""
    return Peer(_podman_store)


@pytest.fixture(scope="session")
def build_by_buildah(_podman_store: Podman) -> Callable[[Path, str], str]:
    """Build a directory's Dockerfile by buildah, in podman's store, under this name."""
    need("buildah")
    options = ("--quiet", "--layers", "--network", "none", "--ulimit", "nofile=1024:1024", "--runtime", _podman_store.runtime)
    return lambda context, name: say(_podman_store.buildah("build", *options, "--tag", name, str(context)))


@pytest.fixture(scope="session")
def _podman_store(_short: Path, traveller_archive: Path) -> Iterator[Podman]:
    need("podman")
    engine = Podman(f"{_short}/podman", isolated=True)
    try:
        say(engine.command("load", "-i", str(traveller_archive)))
        try:
            engine.choose_runtime(traveller.NAME)
        except Failed as reason:
            refuse("podman", reason)
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session")
def _short() -> Iterator[Path]:
    """A directory on a disk, with a short name: a socket's has 108 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="box-peers-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store in which the images of this session were built."""
    return str(tmp_path_factory.mktemp("home-store") / "box")


@pytest.fixture(scope="session")
def traveller_archive(tmp_path_factory: pytest.TempPathFactory, home: str) -> Path:
    """What `box save` makes of the traveller."""
    context = traveller.lay_out(tmp_path_factory.mktemp("traveller"))
    installed.run("--root", home, "build", "-q", context)
    path = context / "traveller.tar"
    installed.run("--root", home, "save", traveller.NAME, "-o", path)
    return path


@pytest.fixture(scope="session")
def facts(home: str, traveller_archive: Path) -> str:
    """What the traveller says at home, with all users that there are: one of its files belongs to the 4,000,000,000th."""
    printed = installed.run("--root", home, "run", "--rm", "--userns", "host", traveller.NAME).stdout
    traveller.check_facts(printed)
    return printed


@pytest.fixture(scope="session")
def debian(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian example with its base, which is made once and kept in pytest's cache."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)  # there is none under -p no:cacheprovider
    kept = cache.mkdir("debian") / "debian.tar.zst" if cache else None
    context = tmp_path_factory.mktemp("debian") / "example"
    shutil.copytree(_EXAMPLE, context, ignore=shutil.ignore_patterns("debian.tar*", ".draft-*"))
    if kept is None or not kept.exists():
        made = subprocess.run(
            ["sh", context / "make-base.sh", kept or context / "debian.tar.zst"], capture_output=True, text=True, check=False
        )
        if made.returncode:
            refuse("mmdebstrap", (made.stderr.strip().splitlines() or [f"exit status {made.returncode}"])[-1])
    if kept is not None:
        shutil.copy(kept, context)
    return context
