"""df, gc, prune and fsck, as a user types them."""

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.command.installed import BOX, Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def root() -> str:
    return os.environ["BOX_ROOT"]


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def blobs() -> set[str]:
    return set(os.listdir(f"{root()}/blobs/sha256"))


def rebuilt(box: Box, tmp_path: Path, text: str, name: str = "tiny") -> None:
    (tmp_path / "Boxfile").write_text(
        f"box: 1\nname: {name}\nbase: {{host: [sh, cat]}}\nsteps:\n  - write: {{to: /x, text: {text}}}\n"
        "config: {cmd: [cat, /x]}\n"
    )
    box("build", "-q", tmp_path)


def test_gc_deletes_what_nothing_uses_and_says_how_much_that_was(box: Box, tiny: str, tmp_path: Path) -> None:
    box("save", "-o", tmp_path / "tiny.tar", tiny)
    rebuilt(box, tmp_path, "one", "other")
    box("rmi", "other")
    before = blobs()
    assert box("gc").stdout == "Freed 0B\n"
    (Path(root()) / "blobs/sha256" / ("0" * 64)).write_bytes(b"left by a killed build")
    dry = box("gc", "--dry-run").stdout.splitlines()
    assert dry[0].split() == ["KIND", "DIGEST", "SIZE"]
    assert dry[1].split() == ["blob", "sha256:" + "0" * 64, "22B"]
    assert dry[2] == "Would free 22B: 1 blob"
    assert rows(box("gc", "-n", "--format", "json").stdout)[0]["Bytes"] == 22
    assert box("gc").stdout == "Freed 22B: 1 blob\n"
    assert blobs() == before
    box("prune", "-af")  # the build cache, too
    assert blobs() == set()
    box("load", "-i", tmp_path / "tiny.tar")
    assert box("run", "--rm", tiny).stdout == "hello\n"


def test_prune_removes_stopped_containers_and_images_without_a_name_when_that_is_agreed_to(
    box: Box, tiny: str, tmp_path: Path
) -> None:
    rebuilt(box, tmp_path, "one")
    rebuilt(box, tmp_path, "two")
    box("run", "--name", "old", tiny)
    container = box("ps", "-aq", "--no-trunc").stdout.strip()
    done = box("prune", stdin="n\n")
    assert "all stopped containers" in done.stderr
    assert done.stdout == ""
    done = box("prune", stdin="", status=1)
    assert done.stdout == ""
    assert "cancelled" in done.stderr
    assert "hint: say -f" in done.stderr
    assert len(box("images", "-q").stdout.split()) == 3
    out = box("prune", stdin="y\n").stdout
    assert f"Deleted Containers:\n{container}\n" in out
    assert "deleted: sha256:" in out
    assert out.splitlines()[-1].startswith("Total reclaimed space: ")
    assert box("ps", "-aq").stdout == ""
    assert box("images", "--format", "{{.Repository}}").stdout == "tiny\n"
    assert box("run", "--rm", tiny).stdout == "two"


def test_prune_all_leaves_only_what_containers_use(box: Box, tiny: str, tmp_path: Path) -> None:
    rebuilt(box, tmp_path, "used", "used")
    box("run", "-d", "--name", "one", "used", "sh", "-c", "while :; do read x; done < /dev/zero")
    gone = rows(box("prune", "--all", "--force", "--format", "json").stdout)
    assert {"image"} <= {row["Kind"] for row in gone} <= {"image", "blob", "tree", "prepared", "tar"}
    assert box("images", "--format", "{{.Repository}}").stdout == "used\n"
    assert box("exec", "one", "cat", "/x").stdout == "used"
    box("rm", "-f", "one")
    assert "Total reclaimed space" in box("prune", "-af").stdout
    assert blobs() == set()


def test_df_says_what_is_shared_and_what_gc_would_give_back(box: Box, tiny: str, tmp_path: Path) -> None:
    rebuilt(box, tmp_path, "one", "first")
    rebuilt(box, tmp_path, "two", "second")
    box("run", "--name", "old", "first")
    (Path(root()) / "blobs/sha256" / ("0" * 64)).write_bytes(b"x" * 1000)
    head, *lines = box("df").stdout.splitlines()
    assert head.split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert lines[-1].endswith("'box gc' would give back 1kB.")
    sums = {row["Type"]: row for row in rows(box("df", "--format", "json").stdout)}
    assert (sums["Images"]["TotalCount"], sums["Images"]["Active"]) == ("3", "1")
    assert (sums["Containers"]["TotalCount"], sums["Containers"]["Active"]) == ("1", "0")
    assert sums["Unused"]["ReclaimableBytes"] == 1000
    each = {row["Repository"]: row for row in rows(box("df", "-v", "--format", "json").stdout) if "Repository" in row}
    assert each["first"]["Containers"] == "1"
    assert each["first"]["SharedSize"] == each["second"]["SharedSize"] != "0B"
    assert each["first"]["UniqueSize"] != each["first"]["Size"]
    texts = box("df", "-v").stdout
    assert "UNIQUE SIZE" in texts
    assert "old" in texts


def test_fsck_names_what_is_damaged_and_repairs_what_it_can(box: Box, tiny: str, tmp_path: Path) -> None:
    rebuilt(box, tmp_path, "one")
    assert box("fsck").stdout.endswith(": nothing is damaged\n")
    box("run", "--rm", tiny)
    (prepared,) = (name for name in os.listdir(f"{root()}/prepared") if len(name) == 64)
    path = Path(root()) / "prepared" / prepared
    path.write_bytes(path.read_bytes().replace(b"/x\0", b"/y\0"))
    step = next((Path(root()) / "cache/steps").iterdir())
    step.write_text("nonsense")
    done = box("fsck", status=1)
    assert f"damaged: prepared/{prepared}: it is not what the image's config says\n  needed by tiny:latest\n" in done.stdout
    assert f"damaged: cache/steps/{step.name}: it is no result of a step" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": 2 damaged")
    found = rows(box("fsck", "--format", "json", status=1).stdout)
    assert [(row["Mended"], row["Images"]) for row in found] == [(False, ["tiny:latest"]), (False, [])]
    assert box("fsck", "--repair").stdout.splitlines()[-1].endswith(": nothing is damaged, 2 mended")
    assert box("fsck").stdout.endswith(": nothing is damaged\n")
    assert box("run", "--rm", tiny).stdout == "one"


def test_a_blob_that_is_lost_is_named_with_the_images_to_get_again(box: Box, tiny: str) -> None:
    lost = json.loads(box("inspect", tiny).stdout)[0]["RootFS"]["Layers"][0].removeprefix("sha256:")
    os.unlink(f"{root()}/blobs/sha256/{lost}")
    assert "box fsck --repair takes it again from" in box("fsck", status=1).stdout
    os.unlink(f"{root()}/sources")  # as if it had come through a pipe
    done = box("fsck", "--repair", status=1)
    assert f"damaged: blobs/sha256/{lost}: it is missing\n  needed by tiny:latest\n" in done.stdout
    assert "next: load or build tiny:latest again" in done.stdout


def test_an_image_that_is_being_built_on_can_be_deleted_without_harm(box: Box, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text(
        "box: 1\nname: upper\nbase: tiny\nsteps:\n  - write: {to: /a, text: x}\n"
        "  - run: |\n      sh -c 'echo now; kill -STOP $$'\n      echo b > /b\nconfig: {cmd: [cat, /b]}\n"
    )
    build = subprocess.Popen([BOX, "build", str(tmp_path)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert build.stderr is not None
    for line in build.stderr:
        if line.split()[-1:] == ["now"]:
            break
    gone = box("rmi", tiny)
    assert "a running command uses some of tiny" in gone.stderr
    assert box("prune", "-af").stdout.splitlines()[-1] == "Total reclaimed space: 0B"
    assert "Freed 0B" in box("gc").stdout
    deadline = time.monotonic() + 20
    while build.poll() is None and time.monotonic() < deadline:
        for pid in stopped():
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
    build.stderr.close()
    assert build.wait() == 0
    assert box("run", "--rm", "upper").stdout == "b\n"
    assert box("fsck").stdout.endswith(": nothing is damaged\n")


def stopped() -> list[int]:
    """Shells of this test that have stopped themselves."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if state == "T" and b"echo now; kill -STOP" in command:
            found.append(int(name))
    return found


def test_an_image_that_is_mounted_stays(box: Box, tiny: str) -> None:
    place = box("mount", tiny).stdout.strip()
    try:
        assert f"image '{tiny}' is used by the mount {place}\n" in box("rmi", tiny, status=1).stderr
        box("create", "--name", "web", tiny)
        assert f"image '{tiny}' is used by container web, the mount {place}\n" in box("rmi", tiny, status=1).stderr
        box("rm", "web")
        box("prune", "-af")
        assert (Path(place) / "etc/motd").read_text() == "hello\n"
    finally:
        box("umount", tiny)
    box("prune", "-af")
    assert blobs() == set()


def test_fsck_looks_at_what_only_the_build_cache_has(box: Box, tmp_path: Path) -> None:
    """A build that failed at its second step left the tree of the first: damaged, it would get into the next build's layers."""
    boxfile = "box: 1\nname: app\nbase: {host: [sh, cp, cat]}\nsteps:\n  - run: echo right > /first\n"
    (tmp_path / "Boxfile").write_text(boxfile + "  - run: exit 3\n")
    box("build", "-q", tmp_path, status=1)
    assert box("fsck").stdout.endswith(": nothing is damaged\n")
    (first,) = (path for path in Path(root()).glob("snapshots/*/tree/first"))
    first.write_text("wrong\n")
    place = f"snapshots/{first.parts[-3]}"
    assert f"damaged: {place}: " in box("fsck", status=1).stdout
    assert f"mended: {place}: " in box("fsck", "--repair").stdout
    (tmp_path / "Boxfile").write_text(boxfile + "  - run: cp /first /second\nconfig: {cmd: [cat, /second]}\n")
    box("build", "-q", tmp_path)
    assert box("run", "--rm", "app").stdout == "right\n"


def test_fsck_names_a_snapshot_that_nothing_explains_and_repair_drops_it(box: Box, tiny: str) -> None:
    stray = Path(root()) / "snapshots" / ("5" * 64)
    (stray / "tree").mkdir(parents=True)
    done = box("fsck")
    assert f"unknown: the snapshot of sha256:{'5' * 64}: nothing says what it was made of\n" in done.stdout
    assert "1 could not be checked" in done.stdout
    assert f"mended: snapshots/{'5' * 64}: " in box("fsck", "--repair").stdout
    assert not stray.exists()
    assert box("fsck").stdout.endswith(": nothing is damaged\n")


def test_rmi_leaves_the_build_cache_as_it_is(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text(
        "box: 1\nname: app\nbase: {host: [sh, cat, date]}\nsteps:\n  - run: date +%N > /when\nconfig: {cmd: [cat, /when]}\n"
    )
    box("build", "-q", tmp_path)
    when = box("run", "--rm", "app").stdout
    box("rmi", "app")
    box("build", "-q", tmp_path)
    assert box("run", "--rm", "app").stdout == when


def test_df_promises_nothing_of_a_gc_that_would_refuse(box: Box, tiny: str) -> None:
    manifest = Path(root()) / "blobs/sha256" / box("inspect", tiny, "-f", "{{.Digest}}").stdout.strip().removeprefix("sha256:")
    manifest.write_bytes(b"{}")
    assert f"'box gc' would delete nothing, since image {manifest.name[:12]} is damaged" in box("df").stdout
    assert "nothing was deleted" in box("gc", status=1).stderr


@pytest.mark.parametrize("verb", [["gc"], ["prune", "-f"]], ids=" ".join)
def test_what_had_to_wait_makes_the_status_1(box: Box, tiny: str, verb: list[str]) -> None:
    (Path(root()) / "blobs/sha256" / ("0" * 64)).write_bytes(b"left")
    gate = os.open(f"{root()}/blobs", os.O_RDONLY)
    try:
        fcntl.flock(gate, fcntl.LOCK_SH)  # as a container that is being started
        assert "run 'box gc' again" in box(*verb, status=1).stderr
    finally:
        os.close(gate)
    box("gc")
    assert "0" * 64 not in blobs()


def test_an_index_json_that_cannot_be_read_says_how_to_get_it_back(box: Box, tiny: str) -> None:
    index = Path(root()) / "index.json"
    for number, text in enumerate((b"{", b"[]", b"\xff"), 1):
        index.write_bytes(text)
        assert "hint: box fsck --repair" in box("images", status=1).stderr
        box("fsck", "--repair")
        assert box("run", "--rm", tiny).stdout == "hello\n"
        assert (Path(root()) / f"index.json.damaged-{number}").read_bytes() == text
    index.unlink()
    assert "hint: box fsck --repair" in box("rmi", tiny, status=1).stderr
    box("fsck", "--repair")
    assert box("run", "--rm", tiny).stdout == "hello\n"
