"""The Debian example, as its README tells: built, run with a terminal, shared, and back."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from store.layers import import_layer
from tests.command.installed import BOX
from tests.command.installed import run as box
from tests.peers import traveller
from tests.peers.conftest import Peer, say
from tests.store import seen
from tests.store.drivers import DRIVERS, driver, open_store

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup", "mmdebstrap")]

NAME = "notes"
RUN = ("note one from outside; note", "     1\tbuilt on Debian ", "     2\tone from outside\n")


@pytest.fixture(scope="module")
def built(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the example's image."""
    root = tmp_path_factory.mktemp("debian-store") / "box"
    box("--root", root, "build", "-q", debian)
    return root


@pytest.fixture(scope="module")
def archive(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("debian-archive") / "notes.tar"
    box("--root", built, "save", NAME, "-o", path)
    return path


def check(printed: str) -> None:
    _, first, second = RUN
    assert printed.startswith(first), printed
    assert printed.endswith(second), printed


def test_the_image_is_what_its_boxfile_says(built: Path) -> None:
    def inside(command: str) -> str:
        return box("--root", built, "run", "--rm", NAME, "sh", "-c", command).stdout

    check(inside(RUN[0]))
    assert inside("id -un; pwd; echo $LANG; stat -c %a .") == "notes\n/var/lib/notes\nC.UTF-8\n700\n"
    assert inside("ls -A /usr/share/doc /usr/share/man") == "/usr/share/doc:\n\n/usr/share/man:\n"
    assert "ii  base-files " in inside("dpkg -l")


def test_a_second_build_does_nothing_and_a_change_only_what_follows_it(built: Path, debian: Path) -> None:
    before = traveller.digests(built, NAME)
    again = box("--root", built, "build", debian).stderr
    assert again.count(" cached\n") == 8, again
    assert traveller.digests(built, NAME) == before
    program = debian / "note"
    text = program.read_text()
    try:
        program.write_text(text.replace("cat -n", "cat -b"))
        changed = box("--root", built, "build", "-t", "changed", debian).stderr
    finally:
        program.write_text(text)
    assert changed.count(" cached\n") == 4, changed
    assert "note" in changed.partition("[5/9] copy:")[2].partition("\n")[0], changed
    assert traveller.digests(built, "changed") != before


def test_a_shell_in_it_has_a_terminal(built: Path) -> None:
    """What `box run --rm -it notes` gives somebody at a terminal: typed into, and read until it ends."""
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        [BOX, "--root", built, "run", "--rm", "-it", NAME],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, b"tty; note typed by hand; note; exit 7\n")
    printed = b""
    try:
        while piece := os.read(master, 4096):
            printed += piece
    except OSError:
        pass  # EIO: the last one who had the terminal open has gone
    finally:
        os.close(master)
    assert shell.wait(60) == 7, printed
    assert b"note TEXT keeps a note, note shows them.\r\n" in printed, printed
    assert b"notes:~$ " in printed, printed
    assert b"/dev/pts/0\r\n" in printed, printed
    assert b"     2\ttyped by hand\r\n" in printed, printed


@pytest.mark.needs("dockerd")
def test_docker_loads_and_runs_it(archive: Path, docker: Peer) -> None:
    docker("load", "-i", archive)
    check(docker.run(NAME, "sh", "-c", RUN[0]))


@pytest.mark.needs("podman")
def test_podman_loads_and_runs_it(archive: Path, podman: Peer) -> None:
    podman("load", "-i", archive)
    check(podman.run(NAME, "sh", "-c", RUN[0]))


@pytest.mark.needs("skopeo")
def test_it_comes_back_from_skopeo_with_the_same_digest(archive: Path, built: Path, tmp_path: Path) -> None:
    layout = f"oci:{tmp_path}/layout:{NAME}:latest"
    say(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-oci-accept-uncompressed-layers",
            f"oci-archive:{archive}",
            layout,
        ]
    )
    box("load", "-i", tmp_path / "layout")
    assert traveller.digests(os.environ["BOX_ROOT"], NAME) == traveller.digests(built, NAME)
    check(box("run", "--rm", NAME, "sh", "-c", RUN[0]).stdout)


@pytest.fixture(scope="module")
def of_gnu_tar(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, seen.Seen]]:
    """The base as a plain tar, and the tree that GNU tar makes of it."""
    top = tmp_path_factory.mktemp("gnu")
    subprocess.run(["zstd", "-dqf", debian / "debian.tar.zst", "-o", top / "plain.tar"], check=True)
    (top / "tree").mkdir()
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run(["tar", "-xpf", top / "plain.tar", "-C", top / "tree", *options], check=True)
    return top / "plain.tar", seen.tree(top / "tree")


@pytest.mark.parametrize("name", DRIVERS)
@pytest.mark.parametrize("compressor", [[], ["gzip", "-1"], ["zstd", "-1"]], ids=["plain", "gzip", "zstd"])
def test_the_base_unpacks_to_the_tree_that_gnu_tar_makes(
    of_gnu_tar: tuple[Path, dict[bytes, seen.Seen]], tmp_path: Path, compressor: list[str], name: str
) -> None:
    """Content, modes, owners, times to the nanosecond, links, devices and attributes, of some 8,000 entries."""
    source, expected = of_gnu_tar
    if compressor:
        with open(tmp_path / "compressed", "wb") as file:
            subprocess.run([*compressor, "-c", source], stdout=file, check=True)
        source = tmp_path / "compressed"
    with driver(name):
        store = open_store(tmp_path / "box", name)
        with open(source, "rb") as file, store.leased():
            layer = import_layer(store, file)
        assert len(expected) > 5000
        assert seen.image(store, [layer]) == expected
