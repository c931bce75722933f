"""How layers become file systems: chosen by what works, shown by `box info`, forced by --driver and BOX_DRIVER."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from boxcli import main
from store import probe
from tests.command.installed import BOX, Box

DRIVERS = ["erofs", "overlay", "copy"]

BOXFILE = """\
box: 1
base: {host: [sh, cat, ls, rm, ln, mkdir, "true"]}
steps:
  - copy: f -> /d/f
  - run: mkdir /e && echo 1 > /e/x && ln /e/x /e/y && rm /d/f && echo more >> /etc/passwd
  - remove: /e/x
  - run: echo 2 >> /e/y; rm -r /tmp; mkdir /tmp /tmp/new
"""


def lowers(box: Box, *options: str) -> list[str]:
    """Where the trees lie that a container of `tiny` is made of."""
    box(*options, "run", "--name", "looked-at", "tiny", "true")
    found = [record for record in Path(os.environ["BOX_ROOT"], "containers").glob("*/*") if record.is_file()]
    texts = [path.read_bytes() for path in found]
    box("rm", "looked-at")
    return [kind for kind in ("indexes", "snapshots", "copies") if any(f"/{kind}/".encode() in text for text in texts)]


def test_the_names_on_the_hot_path_are_the_drivers() -> None:
    assert main.DRIVERS == probe.DRIVERS


@pytest.mark.needs("root", "overlay", "erofs")
def test_info_shows_every_driver_what_it_stands_on_and_which_is_used(box: Box) -> None:
    facts = json.loads(box("info", "--format", "json").stdout)
    assert facts["Driver"] == "erofs"
    assert [(each["Name"], each["Reason"]) for each in facts["Drivers"]] == [(name, "") for name in DRIVERS]
    assert facts["Drivers"][0]["StandsOn"] in ("files", "loop devices")
    assert facts["Drivers"][1]["StandsOn"] == "trees"
    assert facts["Drivers"][2]["StandsOn"] in ("copies", "reflinks")
    assert "overlay: trees\n" in box("info").stdout
    for driver in DRIVERS:
        assert box("--driver", driver, "info", "--format", "{{.Driver}}").stdout == f"{driver}\n"
        assert box("info", "--format", "{{.Driver}}", BOX_DRIVER=driver).stdout == f"{driver}\n"
    assert box("--driver=copy", "info", "--format", "{{.Driver}}", BOX_DRIVER="overlay").stdout == "copy\n"


@pytest.mark.parametrize("verb", ["info", "run", "images"])
def test_a_driver_that_there_is_not_is_wrong_usage(box: Box, verb: str) -> None:
    done = box("--driver", "aufs", verb, status=2)
    assert "'aufs' is not one of 'erofs', 'overlay', 'copy'" in done.stderr
    done = box(verb, BOX_DRIVER="aufs", status=2)
    assert "BOX_DRIVER names no driver: 'aufs'\nhint: there are: erofs, overlay, copy" in done.stderr


def test_the_drivers_are_completed(box: Box) -> None:
    said = box(_BOX_COMPLETE="bash_complete", COMP_WORDS="box --driver ", COMP_CWORD="2").stdout
    assert said.split() == [f"plain,{driver}" for driver in DRIVERS]
    said = box(_BOX_COMPLETE="bash_complete", COMP_WORDS="box --driver copy imag", COMP_CWORD="3").stdout
    assert said.split() == ["plain,images"]


@pytest.mark.needs("root", "overlay", "erofs", "cgroup")
def test_a_forced_driver_s_trees_are_run_and_the_next_run_has_the_best_again(box: Box, tiny: str) -> None:
    assert lowers(box) == ["indexes"]
    assert lowers(box, "--driver", "overlay") == ["snapshots"]
    assert lowers(box, "--driver", "copy") == ["copies"]
    assert lowers(box) == ["indexes"]


@pytest.mark.needs("root", "overlay", "erofs", "cgroup")
def test_every_driver_builds_the_same_image(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    (tmp_path / "f").write_text("f\n")
    built = {}
    for driver in DRIVERS:
        root = str(tmp_path / driver)
        image = box("--driver", driver, "build", "-q", "-t", "app", str(tmp_path), BOX_ROOT=root).stdout
        seen = box("--driver", driver, "run", "--rm", "app", "sh", "-c", "ls -A / /d /e /tmp; cat /e/y", BOX_ROOT=root).stdout
        built[driver] = (image, seen)
        assert box("fsck", BOX_ROOT=root).returncode == 0
    assert built["overlay"] == built["erofs"] == built["copy"]
    assert built["copy"][1].endswith("/d:\n\n/e:\ny\n\n/tmp:\nnew\n1\n2\n")


# On overlayfs no upper directory can lie, nor a whiteout: what a container without volumes is.
ON_OVERLAYFS = """
set -e
mount -t tmpfs none "$1"
cd "$1"
mkdir lower upper work merged
mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged
export BOX_ROOT="$1/merged/store"
"$2" info --format '{{.Driver}}'
"$2" --driver overlay info --format . 2>&1 || echo "status $?"
"$2" build -q -t app "$3" >/dev/null
"$2" run --name one app sh -c 'ls -A /d /e /tmp; cat /e/y; rm /e/y; echo 3 > /new'
"$2" diff one
"$2" cp one:/new -
"$2" run --rm --read-only app sh -c 'cat /e/y'
"$2" fsck >/dev/null
"$2" rm one >/dev/null
"$2" rmi app >/dev/null
"$2" gc --all >/dev/null 2>&1 || "$2" gc >/dev/null
ls "$BOX_ROOT/copies" "$BOX_ROOT/containers"
"""


@pytest.mark.needs("root", "overlay", "cgroup", "unshare")
def test_a_store_on_overlayfs_is_kept_by_copies(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Boxfile").write_text(BOXFILE)
    (context / "f").write_text("f\n")
    (tmp_path / "place").mkdir()
    command = ["unshare", "-m", "sh", "-c", ON_OVERLAYFS, "sh", str(tmp_path / "place"), BOX, str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert said.startswith("copy\nbox: the driver overlay does not work here: ")
    assert "status 1\n" in said
    assert "/d:\n\n/e:\ny\n\n/tmp:\nnew\n1\n2\n" in said
    assert "D /e/y\n" in said
    assert "A /new\n" in said
    assert said.count("1\n2\n") == 2


FILES_ONLY = """\
box: 1
base: {host: [sh, cat]}
steps:
  - copy: f -> /d/f
  - write: {to: /e/x, text: "x\\n"}
  - remove: /d/f
"""


@pytest.mark.needs("root", "capsh")
def test_without_the_right_to_mount_images_are_made_looked_at_and_handed_on(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text(FILES_ONLY)
    (tmp_path / "f").write_text("f\n")
    with_the_right = box("build", "-q", "-t", "app", tmp_path, BOX_ROOT=str(tmp_path / "other")).stdout
    script = """
    set -e
    "$0" info --format '{{.Driver}}'
    "$0" build -q -t app "$1"
    "$0" export app | tar -tf - d e
    "$0" cp app:/e/x - | tar -xOf -
    "$0" save app >"$1/app.tar"
    "$0" fsck >/dev/null
    """
    command = ["capsh", "--drop=cap_sys_admin", "--", "-c", script, BOX, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"copy\n{with_the_right}d/\ne/\ne/x\nx\n"
    assert "app:latest" in box("load", "-i", tmp_path / "app.tar").stdout
