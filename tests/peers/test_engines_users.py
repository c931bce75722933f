"""box-runtime under engines whose containers have user namespaces, and under podman of an ordinary user."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.docker import Docker
from bench.podman import LIMITS, Podman
from bench.timing import Failed
from tests.conftest import need
from tests.peers.conftest import refuse
from tests.peers.engine import BOX_RUNTIME, Engine, save_image, until

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup", "userns")]

FIRST, SIZE = 2_000_000, 200_000
LOOK = "cat /proc/self/uid_map; id -u; echo x > /dev/null && touch /made && stat -c %u /made /etc/passwd"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a short name that everybody may walk through."""
    with tempfile.TemporaryDirectory(prefix="box-users-", dir="/var/tmp") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)


@pytest.fixture(scope="module")
def subordinate(place: Path) -> dict[str, str]:
    """What lies over the machine's own files of ids: an ordinary user, and subordinate ids for it and for engines."""
    made = {}
    for name in ("passwd", "group", "subuid", "subgid"):
        text = Path(f"/etc/{name}").read_text() if os.path.exists(f"/etc/{name}") else ""
        if name == "passwd":
            text += f"boxer:x:7777:7777::{place}/home:/bin/sh\n"
        elif name == "group":
            text += "boxer:x:7777:\n"
        else:
            text += f"boxer:{FIRST}:{SIZE}\ncontainers:{FIRST + SIZE}:{10 * 65536}\n"
        (place / name).write_text(text)
        made[f"/etc/{name}"] = str(place / name)
    return made


@contextmanager
def lying_over(files: dict[str, str]) -> Iterator[list[str]]:
    """Words before a command, by which these files lie over the machine's for it: in one mount namespace for all such commands,
    since what one mounts of a store the next one needs."""
    binds = " && ".join(f"mount --bind {here} {there}" for there, here in files.items())
    command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", f"{binds} && echo ready && exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"]


def first_of(text: str) -> tuple[int, int]:
    """Whom root is outside, and how many ids there are, of what LOOK prints."""
    inside, outside, size = map(int, text.splitlines()[0].split())
    assert inside == 0
    return outside, size


@pytest.fixture(scope="module")
def remapped(place: Path, subordinate: dict[str, str], archive: Path) -> Iterator[Engine]:
    """A dockerd with --userns-remap."""
    need("dockerd")
    try:
        options = (f"--add-runtime=box={BOX_RUNTIME}", "--default-runtime=box", "--userns-remap=boxer:boxer")
        daemon = Docker(f"{place}/docker", *options, over=subordinate)
    except Failed as reason:
        refuse("dockerd", reason)
        raise
    try:
        engine = Engine(daemon.command, ("--network", "none"))
        engine("load", "-i", str(archive))
        yield engine
        engine("rm", "-f", *engine("ps", "-aq").out.split(), status=None)
    finally:
        daemon.close()


def test_docker_with_remapped_users(remapped: Engine) -> None:
    engine = remapped
    seen = engine.run("sh", "-c", LOOK).out
    assert first_of(seen) == (FIRST, SIZE)
    assert seen.splitlines()[1:] == ["0", "0", "0"]
    assert engine.run("--userns", "host", "--", "sh", "-c", "cat /proc/self/uid_map").out.split() == ["0", "0", "4294967295"]
    engine.start("one", "sh", "-c", 'trap "exit 3" TERM; while :; do sleep 0.05; done')
    pid = engine.state("one")["Pid"]
    assert f"\nUid:\t{FIRST}\t" in Path(f"/proc/{pid}/status").read_text()
    assert engine("exec", "one", "sh", "-c", LOOK).out == seen
    assert engine("exec", "-u", "app", "one", "id", "-u").out == "1000\n"
    engine("stop", "-t", "20", "one")
    assert engine.state("one")["ExitCode"] == 3
    said = engine.run(
        "-v", "named:/data", "--tmpfs", "/t", "--", "sh", "-c", "cat /data/kept; echo x > /data/new; touch /t/x; id"
    )
    assert said.out.splitlines()[0] == "of the image"
    device = ("--device", "/dev/loop-control:/dev/given")
    assert engine.run(*device, "--", "stat", "-c", "%t:%T", "/dev/given").out == "a:ed\n"


def test_docker_with_remapped_users_and_a_terminal(remapped: Engine) -> None:
    from tests.command.terminal import Terminal

    program, *words = remapped.command("run", "--rm", "-it", *remapped.placed(["sh"]))
    with Terminal(*words, program=program) as user:
        user.type(b"stty -echo; tty; stat -c owner-%u $(tty); exit 5\n")
        user.until(rb"/dev/pts/0\r\n")
        user.until(rb"owner-0\r\n")
        assert user.end() == 5


@pytest.fixture(scope="module")
def podman(place: Path, subordinate: dict[str, str], archive: Path) -> Iterator[Engine]:
    """podman of the machine's root."""
    need("podman")
    store = Podman(f"{place}/podman", isolated=False)
    store.runtime = BOX_RUNTIME
    with lying_over({name: path for name, path in subordinate.items() if name.startswith("/etc/sub")}) as inside:
        engine = Engine(lambda *words: [*inside, *store.command(*words)], ("--network", "none", *LIMITS))
        engine.is_docker = False
        engine("load", "-i", str(archive))
        yield engine
        engine("rm", "-fa", status=None)
    store.close()


def test_podman_gives_each_container_ids_of_its_own(podman: Engine) -> None:
    engine = podman
    seen = engine.run("--userns", "auto:size=4096", "--", "sh", "-c", LOOK).out
    first, size = first_of(seen)
    assert size == 4096
    assert FIRST + SIZE <= first < FIRST + SIZE + 10 * 65536
    assert seen.splitlines()[1:] == ["0", "0", "0"]
    seen = engine.run("--uidmap", f"0:{FIRST}:5000", "--gidmap", f"0:{FIRST}:5000", "--", "sh", "-c", LOOK).out
    assert first_of(seen) == (FIRST, 5000)


def test_podman_s_containers_share_a_user_namespace(podman: Engine) -> None:
    engine = podman
    engine.start("one", "--uidmap", f"0:{FIRST}:5000", "--", "sh", "-c", 'trap "exit 3" TERM; while :; do sleep 0.05; done')
    try:
        theirs = engine("exec", "one", "readlink", "/proc/self/ns/user").out
        assert theirs != os.readlink("/proc/self/ns/user") + "\n"
        assert engine.run("--userns", "container:one", "--", "readlink", "/proc/self/ns/user").out == theirs
    finally:
        engine("rm", "-f", "-t", "0", "one")


def test_podman_shows_a_volume_with_the_owners_of_the_container(podman: Engine, place: Path) -> None:
    engine = podman
    (place / "volume").mkdir()
    (place / "volume" / "file").write_text("")
    volume = ("-v", f"{place}/volume:/v:idmap", "--uidmap", f"0:{FIRST}:5000", "--")
    assert engine.run(*volume, "stat", "-c", "%u", "/v/file").out == "0\n"
    engine.run(*volume, "touch", "/v/made")
    assert (place / "volume" / "made").stat().st_uid == 0


@pytest.fixture(scope="module")
def rootless(place: Path, subordinate: dict[str, str], archive: Path) -> Iterator[Engine]:
    """podman of an ordinary user, who has subordinate ids."""
    need("podman")
    if not shutil.which("newuidmap"):
        pytest.skip("newuidmap is not installed")
    home, runtime = place / "home", place / "runtime"
    for directory in (home, runtime):
        directory.mkdir(mode=0o700)
        os.chown(directory, 7777, 7777)
    copied = place / "image.tar"
    shutil.copy(archive, copied)
    copied.chmod(0o644)
    options = [
        "--runtime", BOX_RUNTIME, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs",
    ]  # fmt: skip
    environment = [f"HOME={home}", f"XDG_RUNTIME_DIR={runtime}", "USER=boxer", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin"]
    becoming = ["setpriv", "--reuid", "7777", "--regid", "7777", "--clear-groups", "--"]
    with lying_over(subordinate) as inside:
        before = [*inside, *becoming, "env", "-C", str(home), "-i", *environment, "podman", *options]
        engine = Engine(lambda *words: [*before, *words], ("--network", "none", *LIMITS))
        engine.is_docker = False
        try:
            engine("load", "-i", str(copied))
            yield engine
        finally:
            engine("rm", "-fa", "-t", "0", status=None)
            engine("unshare", "rm", "-rf", str(home / ".local"), status=None)
            engine("system", "migrate", status=None)  # ends the process that keeps its user namespace


def test_podman_of_an_ordinary_user(rootless: Engine) -> None:
    engine = rootless
    seen = engine.run("sh", "-c", LOOK).out
    assert seen.splitlines()[0].split() == ["0", "7777", "1"]
    assert seen.splitlines()[1].split() == ["1", str(FIRST), str(SIZE)]
    assert seen.splitlines()[2:] == ["0", "0", "0"]
    assert engine.run("-i", "--", "sh", "-c", "cat; exit 7", status=7, stdin="through\n").out == "through\n"
    assert "executable file not found in $PATH" in engine.run("nosuch", status=127).err
    assert engine.run("-u", "app", "--", "id", "-u").out == "1000\n"


def test_podman_of_an_ordinary_user_keeps_its_id(rootless: Engine) -> None:
    seen = rootless.run("--userns", "keep-id", "--", "sh", "-c", "id -u; cat /proc/self/uid_map").out
    assert seen.splitlines()[0] == "7777"


def test_a_life_under_podman_of_an_ordinary_user(rootless: Engine) -> None:
    engine = rootless
    engine.start("one", "sh", "-c", 'trap "exit 3" TERM; echo ready; while :; do sleep 0.05; done')
    until(lambda: "ready" in engine("logs", "one").out)
    assert engine("exec", "one", "cat", "/proc/1/comm").out == "sh\n"
    assert engine("exec", "-u", "app", "one", "id", "-u").out == "1000\n"
    engine("exec", "one", "sh", "-c", "exit 9", status=9)
    engine("stop", "-t", "20", "one")
    assert engine.state("one")["ExitCode"] == 3
    engine("start", "one")
    engine("kill", "one")
    assert engine("wait", "one").out == "137\n"
    engine("rm", "one")
