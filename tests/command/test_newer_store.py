"""P8: whatever is typed, a store that a newer box wrote is refused and stays as it is, to the last mtime."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxcli.main import VERBS
from tests.command.installed import Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

WITHOUT_A_STORE = {"version", "completion"}
LINES = (
    "build {top}", "commit c1 made", "run --rm tiny true", "run -d tiny true", "run --rm --name c1 --replace tiny true",
    "exec c1 true", "create tiny", "create --name c1 --replace tiny", "start c1", "restart c1", "ps -a", "logs c1",
    "attach c1", "stop c1", "kill c1", "rename c1 c2", "rm c1", "rm -f c1 c2", "wait c1", "inspect tiny", "inspect c1",
    "images", "tag tiny again", "rmi tiny", "rmi -f tiny", "history tiny", "save -o {top}/saved tiny",
    "load -i {top}/archive", "import {top}/archive", "df", "df -v", "gc", "gc -n", "prune -f", "prune -a -f", "fsck",
    "fsck --repair", "diff tiny tiny", "diff c1", "blame tiny /etc/motd", "cp tiny:/etc/motd {top}/motd",
    "cp {top}/archive c1:/etc/motd", "export -o {top}/exported tiny", "mount", "mount tiny", "umount -a", "umount tiny",
    "info", "pause c1", "unpause c1", "update --pids-limit 9 c1", "stats --no-stream", "stats --no-stream c1", "top c1",
    "volume create v", "volume ls", "volume inspect v", "volume rm v", "volume prune -f", "run --rm -v v:/v tiny true",
)  # fmt: skip


def everything(root: str) -> dict[str, tuple[object, ...]]:
    """All below `root`: inode, size, times and bytes of each."""
    found = {}
    for directory, _, names in os.walk(root):
        for path in (directory, *(f"{directory}/{name}" for name in names)):
            status = os.lstat(path)
            data = b""
            if os.path.isfile(path) and not os.path.islink(path):
                data = hashlib.sha256(Path(path).read_bytes()).digest()
            found[path] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, data)
    return found


@pytest.fixture
def newer(box: Box, tiny: str, tmp_path: Path) -> Iterator[str]:
    """A store in which there is something to do for every verb, of a format that this box does not know."""
    box("save", "-o", tmp_path / "archive", tiny)
    (tmp_path / "Boxfile").write_text("box: 1\nname: built\nbase: tiny\nsteps:\n  - mkdir: /made\n")
    box("run", "--rm", tiny, "true")
    box("create", "--name", "c1", tiny)
    root = os.environ["BOX_ROOT"]
    Path(root, "drafts", "of-the-future").write_bytes(b"x")  # this box would sweep it
    Path(root, "format").write_text("2\n")
    yield root
    Path(root, "format").write_text("1\n")


def test_every_verb_refuses_a_newer_store_and_touches_nothing(box: Box, newer: str, tmp_path: Path) -> None:
    assert {line.split()[0] for line in LINES} == {*VERBS} - WITHOUT_A_STORE
    before = everything(newer)
    here = sorted(os.listdir(tmp_path))
    for line in LINES:
        done = box(*line.format(top=tmp_path).split(), status=None)
        assert done.returncode in (1, 125), (line, done)
        assert "has format 2; this box knows 1" in done.stderr, (line, done)
        assert done.stdout in ("", "[]\n"), line  # inspect says so of nothing
        now = everything(newer)
        assert now == before, (line, {path for path in {*before, *now} if before.get(path) != now.get(path)})
    assert sorted(os.listdir(tmp_path)) == here
