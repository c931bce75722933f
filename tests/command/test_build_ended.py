"""A build that is told to end: it clears up before it goes, and its exit status says by what."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.command.installed import BOX, Box

pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("overlay")]

BOXFILE = "box: 1\nname: ended\nbase: {host: [sh, sleep]}\nsteps:\n  - run: echo ready; sleep 61238\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_build_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals, status: int) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    command = [BOX, "build", "--progress", "plain", tmp_path]
    # Whoever runs the tests in the background may have had SIGINT ignored, which is inherited.
    heed = partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as build:
        assert build.stderr is not None
        assert any(line.rstrip().endswith("| ready") for line in build.stderr)
        start = time.monotonic()
        build.send_signal(number)
        rest = build.stderr.read()
    assert build.returncode == status
    assert time.monotonic() - start < 10
    assert "Traceback" not in rest
    root = os.environ["BOX_ROOT"]
    assert os.listdir(f"{root}/drafts") == os.listdir(f"{root}/containers") == []


@pytest.mark.parametrize("verb", [("ps",), ("run", "--rm", "nothing")])
def test_the_next_command_of_any_kind_clears_up_after_a_killed_build(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    command = [BOX, "build", "--progress", "plain", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        assert any(line.rstrip().endswith("| ready") for line in build.stderr)
        build.kill()
    drafts = f"{os.environ['BOX_ROOT']}/drafts"
    assert os.listdir(drafts)
    subprocess.run([BOX, *verb], capture_output=True, check=False)
    assert os.listdir(drafts) == []


@pytest.mark.parametrize("place", ["nowhere/id", "directory"])
def test_a_place_where_the_id_cannot_be_written_is_told_before_anything_is_built(box: Box, tmp_path: Path, place: str) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    (tmp_path / "directory").mkdir()
    done = box("build", "--iidfile", tmp_path / place, tmp_path, status=2)
    assert done.stderr.startswith(f"box: cannot write the id to {tmp_path / place}: ")
    assert done.stderr.endswith("hint: name another file with --iidfile\n")
    assert len(done.stderr.splitlines()) == 2


def test_the_place_of_the_id_stays_as_it_was_when_a_build_fails(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text("box: 1\nbase: scratch\nsteps: [copy: nope -> /]\n")
    (tmp_path / "old").write_text("old")
    for name in ("old", "new"):
        box("build", "--iidfile", tmp_path / name, tmp_path, status=None)
    assert (tmp_path / "old").read_text() == "old"
    assert not (tmp_path / "new").exists()


def test_a_step_that_fails_is_shown_once_with_its_place(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text("box: 1\nbase: {host: [sh]}\nsteps:\n  - run: echo said; exit 3\n")
    plain = box("build", "--progress", "plain", ".", cwd=tmp_path, status=1).stderr
    assert plain.count("| said\n") == 1
    *_, place, gutter, line, caret, hint = plain.splitlines()
    assert place == "Boxfile:4:5: the command exited with status 3"
    assert (gutter, line, caret) == ("  |", "4 |   - run: echo said; exit 3", "  |     ^^^^^^^^^^^^^^^^^^^^^^")
    assert hint.startswith("hint: its whole output is in ")
    quiet = box("build", "-q", ".", cwd=tmp_path, status=1).stderr
    assert quiet.splitlines()[:2] == ["  | said", "Boxfile:4:5: the command exited with status 3"]


def test_ten_mistakes_of_a_boxfile_are_shown_and_the_others_counted(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text("box: 1\nbase: scratch\nsteps:\n" + "  - mkdir: x\n" * 12)
    said = box("build", ".", cwd=tmp_path, status=2).stderr
    assert said.count("'x' is not an absolute path") == 10
    assert said.endswith("and 2 more mistakes\n")


def test_a_directory_with_a_dockerfile_alone_is_told_so(box: Box, tmp_path: Path) -> None:
    assert "hint: make one" in box("build", ".", cwd=tmp_path, status=2).stderr
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    assert "hint: there is a Dockerfile, which box does not read" in box("build", ".", cwd=tmp_path, status=2).stderr
