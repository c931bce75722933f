"""Where archives go: a file appears whole or not at all, whatever ends the command, and what cannot be written to is said."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boxcli import outputs
from boxcli.outputs import output
from store.drafts import FileDraft
from tests.command.installed import BOX, Box

VERBS = (["export"], ["save"])


@pytest.mark.needs("root", "overlay", "cgroup")
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_place_where_no_file_can_be_is_a_mistake(box: Box, tiny: str, tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    for place, said, status in (
        (f"{tmp_path}", "is a directory", 2),
        (f"{tmp_path}/new/", "names a directory", 2),
        (f"{tmp_path}/file/below", "is not a directory", 2),
        (f"{tmp_path}/none/below", "there is no directory", 2),
        (f"{tmp_path}/loop", "cannot write", 1),
        (f"{tmp_path}/{'n' * 300}", "cannot write", 1),
    ):
        assert said in box(*verb, "-o", place, tiny, status=status).stderr, place
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.needs("root", "overlay", "cgroup")
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_reader_that_goes_away_ends_the_command_as_in_any_pipe(tiny: str, verb: list[str]) -> None:
    with subprocess.Popen([BOX, *verb, tiny], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writing:
        assert writing.stdout is not None
        assert writing.stderr is not None
        writing.stdout.read(1)
        writing.stdout.close()
        assert writing.stderr.read() == b""
        assert writing.wait(60) == 141


@pytest.mark.needs("root", "overlay", "cgroup")
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_full_disk_under_the_output_is_not_taken_for_the_store_s(tiny: str, verb: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([BOX, *verb, tiny], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "box: cannot write the output: no space left on device\n")
    done = subprocess.run([BOX, *verb, "-o", "/dev/full", tiny], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "box: cannot write /dev/full: no space left on device\n")


def in_a_child(act: Callable[[], None]) -> int:
    """How a child ends that does it."""
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("nameless", [True, False], ids=["nameless", "named"])
@pytest.mark.parametrize("there", [True, False], ids=["over another", "new"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_whatever_ends_the_command_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, there: bool, nameless: bool
) -> None:
    if not nameless:  # as on NFS; of those, kill -9 leaves one
        monkeypatch.setattr(outputs, "FileDraft", lambda directory, mode: FileDraft(directory, mode, "part"))
    if there:
        (tmp_path / "to").write_text("old")

    def act() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with output(str(tmp_path / "to")) as file:
            file.write(b"x" * 1_000_000)
            os.kill(os.getpid(), number)

    assert in_a_child(act) == -number
    left = [name for name in os.listdir(tmp_path) if name != "to"]
    assert len(left) == (number == signal.SIGKILL and not nameless)
    assert (tmp_path / "to").exists() == there
    if there:
        assert (tmp_path / "to").read_text() == "old"


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    def act() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with output(str(tmp_path / "to")) as file:
            os.kill(os.getpid(), signal.SIGHUP)
            file.write(b"whole")

    assert in_a_child(act) == 0
    assert (tmp_path / "to").read_bytes() == b"whole"


def test_the_name_is_synced_and_a_link_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/file")
    for text in (b"one", b"two"):
        synced.clear()
        with output(str(tmp_path / "link")) as file:
            file.write(text)
        assert (tmp_path / "real" / "file").read_bytes() == text
        assert synced[-1] == str(tmp_path / "real")
    assert os.listdir(tmp_path / "real") == ["file"]
    assert (tmp_path / "link").is_symlink()
