"""`box run --rootfs DIR`: a container of a directory."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command.installed import Box
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@pytest.fixture
def directory(box: Box, tiny: str, tmp_path: Path) -> Path:
    """A root file system with nothing in the places of /proc, /dev and /sys."""
    box("export", "-o", tmp_path / "root.tar", tiny)
    top = tmp_path / "root"
    top.mkdir()
    subprocess.run(["tar", "-C", top, "-xf", tmp_path / "root.tar"], check=True)
    for name in ("proc", "dev", "sys"):
        (top / name).rmdir()
    return top


def test_what_is_written_is_in_the_directory_and_belongs_to_the_container_s_root_there(box: Box, directory: Path) -> None:
    done = box("run", "--rm", "--rootfs", directory, "sh", "-c", "echo x > /new; id -u; cat /etc/hostname; ls /proc/self/fd >&2")
    assert done.stdout.startswith("0\n")
    assert (directory / "new").read_text() == "x\n"
    for name in ("new", "proc", "dev", "sys"):
        status = (directory / name).stat()
        assert (status.st_uid, status.st_gid) == (0, 0)
    assert [os.listdir(directory / name) for name in ("proc", "dev", "sys")] == [[], [], []]


def test_laid_over_it_stays_as_it_is(box: Box, directory: Path) -> None:
    before = sorted(os.listdir(directory))
    assert box("run", "--rm", "--rootfs", f"{directory}:O", "sh", "-c", "echo x > /new; cat /new").stdout == "x\n"
    assert sorted(os.listdir(directory)) == before


def test_it_lives_as_any_other(box: Box, directory: Path, tmp_path: Path) -> None:
    script = "echo x >> /count; cat /count; test -e /wait && sleep 100; exit 3"
    box("create", "--name", "r", "-v", "v:/v", "-e", "A=b",
        "--rootfs", directory, "sh", "-c", script)  # fmt: skip
    assert box("start", "-a", "r", status=3).stdout == "x\n"
    (directory / "wait").touch()
    box("start", "r")
    until(lambda: box("exec", "r", "cat", "/count").stdout == "x\nx\n")
    box("stop", "-t", "0", "r")
    box("cp", "r:/count", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "x\nx\n"
    (tmp_path / "in").write_text("given\n")
    box("cp", tmp_path / "in", "r:/in")
    assert (directory / "in").read_text() == "given\n"
    box("export", "-o", tmp_path / "out.tar", "r")
    assert "of no image" in box("diff", "r", status=1).stderr
    assert "box import" in box("commit", "r", status=1).stderr
    assert json.loads(box("inspect", "r").stdout)[0]["ImageName"] == str(directory)
    box("prune", "-af")
    box("volume", "rm", "v")
    assert (directory / "count").exists()


def test_read_only_it_is_not_written_to(box: Box, directory: Path) -> None:
    assert "Read-only" in box("run", "--rm", "--read-only", "--rootfs", directory, "touch", "/x", status=1).stderr
    assert not (directory / "x").exists()


def test_what_is_no_directory_or_has_no_command_is_told(box: Box, directory: Path) -> None:
    assert "there is no directory" in box("run", "--rm", "--rootfs", directory / "etc/motd", "true", status=125).stderr
    assert "names no command" in box("run", "--rm", "--rootfs", directory, status=125).stderr


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the machine that must stay as it is."""
    place = tmp_path / "canary"
    place.mkdir()
    (place / "file").write_text("alive")
    before = place.stat()
    yield place
    after = place.stat()
    assert os.listdir(place) == ["file"]
    assert (before.st_mode, before.st_uid, before.st_mtime_ns, before.st_nlink) == (
        after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_links_in_the_places_of_its_own_file_systems_lead_nowhere(box: Box, directory: Path, canary: Path, name: str) -> None:
    (directory / name).symlink_to(canary)
    assert box("run", "--rm", "--rootfs", directory, "true", status=125).stderr.startswith("box: ")
    (directory / name).unlink()
    (directory / name).symlink_to("../" * 12 + str(canary)[1:])
    assert box("run", "--rm", "--rootfs", directory, "true", status=125).stderr.startswith("box: ")


def test_a_link_in_place_of_etc_leads_nowhere(box: Box, directory: Path, canary: Path) -> None:
    (directory / "etc").rename(directory / "real")
    (directory / "etc").symlink_to(canary)
    box("run", "--rm", "--rootfs", directory, "true")


def test_its_mounts_do_not_appear_on_the_machine(box: Box, directory: Path) -> None:
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "--make-shared", directory], check=True)
        box("run", "-d", "--name", "m", "--tmpfs", "/tmp", "--rootfs", directory, "sleep", "100")
        with open("/proc/self/mountinfo") as file:
            below = [line for line in file if f" {directory}/" in line]
        box("rm", "-f", "m")
        assert below == []
    finally:
        subprocess.run(["umount", directory], check=True)
