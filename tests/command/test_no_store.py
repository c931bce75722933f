"""Where there is no store: commands that only look make none, and a root that cannot be one is told as it is."""

import os
import shutil
from pathlib import Path

import pytest

from tests.command.installed import Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

LISTS = ["images", "ps -a", "df", "df -v", "gc", "prune -f", "fsck", "mount", "umount --all", "info"]
NAMES = [
    "run x", "create x", "inspect --type image x", "save -o out x", "rmi x",
    "tag x y", "history x", "diff x", "blame x /a", "cp x:/a .",
    "export -o out x",
]  # fmt: skip


@pytest.mark.parametrize("line", LISTS)
def test_a_command_that_lists_finds_nothing_and_makes_no_store(box: Box, tmp_path: Path, line: str) -> None:
    box("--root", tmp_path / "typo", *line.split())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("line", NAMES)
def test_a_command_that_names_an_image_says_that_there_is_no_store(box: Box, tmp_path: Path, line: str) -> None:
    done = box("--root", tmp_path / "typo", *line.split(), status=None, cwd=tmp_path)
    assert done.returncode in (1, 125)
    assert f"there is no store at {tmp_path}/typo yet" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_command_that_brings_an_image_makes_the_store(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text("box: 1\nname: made\nbase: scratch\n")
    box("--root", tmp_path / "new", "build", "-q", tmp_path)
    assert "made" in box("--root", tmp_path / "new", "images").stdout


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize("line", ["images", "ps", "run x", "exec x y", "info", "fsck", "load -i archive"])
def test_a_root_that_is_a_file_or_below_one_is_told_as_it_is(box: Box, tmp_path: Path, line: str, below: str) -> None:
    for name in ("file", "archive"):
        (tmp_path / name).write_bytes(b"")
    done = box(*line.split(), status=None, cwd=tmp_path, BOX_ROOT=f"{tmp_path}/file{below}")
    assert done.returncode == (125 if line[:3] in ("run", "exe") else 1)
    assert done.stderr.splitlines() == [
        f"box: cannot open the store {tmp_path}/file{below}: not a directory",
        "hint: choose a directory with --root or BOX_ROOT",
    ]


def test_where_no_store_can_be_made_that_is_said(box: Box) -> None:
    done = box("load", "-i", "/etc/passwd", status=1, BOX_ROOT="/proc/self/nothing/box")
    assert done.stderr.splitlines() == [
        "box: cannot make the store /proc/self/nothing/box: no such file or directory",
        "hint: choose a directory of your own with --root or BOX_ROOT",
    ]


@pytest.mark.parametrize("name", ["prepared", "cache", "logs", "drafts", "indexes", "skeleton"])
def test_what_can_be_made_again_may_be_deleted_by_hand(box: Box, tiny: str, name: str) -> None:
    box("run", "--rm", tiny, "true")
    shutil.rmtree(f"{os.environ['BOX_ROOT']}/{name}")
    box("fsck", "--repair")
    assert box("run", "--rm", tiny).stdout == "hello\n"
