"""diff, blame, export, mount, umount and cp, as a user types them."""

import io
import json
import os
import pty
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from boxcli.main import main
from store.collect import gc
from store.layout import Store
from store.lineage import Lineage
from tests.command.installed import BOX, Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

ABOVE = r"""box: 1
name: above
base: tiny
steps:
  - write: {to: /etc/motd, text: "hello\nthere\n"}
  - remove: [/made]
  - run: mkdir /data; echo x > /data/file; echo binary > /data/blob; touch "$(printf '/\033[31mred')"
"""


@pytest.fixture
def above(box: Box, tiny: str, tmp_path: Path) -> Path:
    """The image `above`, on top of `tiny`; its Boxfile."""
    path = tmp_path / "Boxfile"
    path.write_text(ABOVE)
    box("build", "-q", path)
    return path


LINES = [
    "A /\\x1b[31mred",
    "A /data",
    "A /data/blob",
    "A /data/file",
    "C /etc/motd  (size 6 -> 12)",
    "D /made",
]


class TestDiff:
    def test_two_images_by_names_and_respects(self, box: Box, above: Path) -> None:
        assert box("diff", "tiny", "above").stdout.splitlines() == LINES
        assert box("diff", "above", "tiny", "/data").stdout.splitlines() == ["D /data", "D /data/blob", "D /data/file"]
        assert box("diff", "tiny", "above", "/etc/", "/made").stdout.splitlines() == LINES[4:]
        assert box("diff", "--name-only", "tiny", "above", "/data/file").stdout == "/data/file\n"

    def test_one_image_against_what_it_was_built_on(self, box: Box, above: Path, tmp_path: Path) -> None:
        assert box("diff", "above").stdout.splitlines() == LINES
        box("save", "-o", tmp_path / "above.tar", "above")
        box("load", "-i", tmp_path / "above.tar", BOX_ROOT=str(tmp_path / "elsewhere"))
        done = box("diff", "above", status=1, BOX_ROOT=str(tmp_path / "elsewhere"))
        assert "it is not known what above was built on" in done.stderr
        assert "box diff BASE above" in done.stderr

    def test_the_exit_status_says_whether_something_differs_when_asked(self, box: Box, above: Path) -> None:
        box("diff", "tiny", "above", status=0)
        box("diff", "--exit-code", "tiny", "above", status=1)
        box("diff", "--exit-code", "tiny", "tiny", status=0)
        box("diff", "--exit-code", "tiny", "above", "/usr", status=0)

    def test_the_content_is_a_patch_that_patch_takes(self, box: Box, above: Path, tmp_path: Path) -> None:
        patch = box("diff", "-p", "tiny", "above", "/etc", "/data/file").stdout
        assert patch.splitlines() == [
            "diff --git a/data/file b/data/file", "new file mode 100644",
            "index 0000000000000000000000000000000000000000..587be6b4c3f93f93c489c0111bba5596147a26cb",
            "--- /dev/null", "+++ b/data/file", "@@ -0,0 +1 @@", "+x",
            "diff --git a/etc/motd b/etc/motd",
            "index ce013625030ba8dba906f756967f9e9ca394464a..c4c04173748f9107f27a8a2e4007ec50c88da299 100644",
            "--- a/etc/motd", "+++ b/etc/motd", "@@ -1 +1,2 @@", " hello", "+there",
        ]  # fmt: skip
        (tmp_path / "tree" / "etc").mkdir(parents=True)
        (tmp_path / "tree" / "etc" / "motd").write_text("hello\n")
        subprocess.run(["patch", "-p1", "-d", tmp_path / "tree"], input=patch, text=True, check=True, capture_output=True)
        assert (tmp_path / "tree" / "etc" / "motd").read_text() == "hello\nthere\n"
        assert (tmp_path / "tree" / "data" / "file").read_text() == "x\n"

    def test_what_is_no_text_is_told_by_its_size_and_an_unfinished_line_is_marked(
        self, box: Box, tiny: str, tmp_path: Path
    ) -> None:
        box("run", "--name", "one", tiny, "sh", "-c", "head -c 5 /dev/zero > /zeros; echo -n unfinished > /etc/motd")
        patch = box("diff", "-p", tiny, "one").stdout
        assert "binary files differ: nothing -> 5B\n" in patch
        assert "-hello\n+unfinished\n\\ No newline at end of file\n" in patch

    def test_the_statistics_count_lines(self, box: Box, above: Path) -> None:
        lines = box("diff", "--stat", "tiny", "above").stdout.splitlines()
        assert [line.split() for line in lines if "motd" in line] == [["C", "/etc/motd", "|", "+1", "-0"]]
        assert lines[-1] == "4 added, 1 changed, 1 deleted; 3 lines more, 1 fewer"

    def test_json_has_both_sides(self, box: Box, above: Path) -> None:
        (record,) = [json.loads(line) for line in box("diff", "--format", "json", "tiny", "above", "/etc").stdout.splitlines()]
        assert (record["Kind"], record["Path"], record["What"]) == ("C", "/etc/motd", ["size", "content"])
        assert (record["Old"]["Size"], record["New"]["Size"], record["New"]["Mode"]) == (6, 12, "0644")
        assert box("diff", "--format", "{{.Kind}}={{.Path}}", "tiny", "above", "/made").stdout == "D=/made\n"

    def test_a_container_as_docker_does(self, box: Box, tiny: str) -> None:
        box("run", "--name", "one", tiny, "sh", "-c", "mkdir /new; touch /new/file; echo x > /etc/motd")
        assert box("diff", "one").stdout.splitlines() == ["C /etc/motd", "A /new", "A /new/file"]
        assert box("diff", tiny, "one").stdout.splitlines() == ["C /etc/motd  (size 6 -> 2)", "A /new", "A /new/file"]
        assert box("diff", "one", "one").stdout == ""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["/etc"], "needs an image or a container"),
            (["a", "b", "c"], "takes one or two"),
            (["--stat", "-p", "tiny"], "exclude each other"),
        ],
    )
    def test_wrong_usage(self, box: Box, tiny: str, arguments: list[str], words: str) -> None:
        assert words in box("diff", *arguments, status=2).stderr

    def test_an_escape_in_a_file_s_name_or_text_does_not_reach_a_terminal(self, box: Box, above: Path) -> None:
        for option in ([], ["-p"], ["--stat"], ["--name-only"]):
            master, slave = pty.openpty()
            subprocess.run([BOX, "diff", *option, "tiny", "above"], stdout=slave, check=True)
            os.close(slave)
            seen = os.read(master, 1 << 16)
            os.close(master)
            assert b"red" in seen
            assert b"\033" not in seen


class TestBlame:
    def rows(self, box: Box, *arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in box("blame", "--format", "json", *arguments).stdout.splitlines()]

    def test_a_file_is_of_its_step_with_its_line(self, box: Box, above: Path) -> None:
        (row,) = self.rows(box, "above", "/etc/motd")
        assert (row["Path"], row["Change"], row["Step"], row["Line"], row["File"]) == ("/etc/motd", "content", 1, 5, str(above))
        assert str(row["CreatedBy"]).startswith("write: {to: /etc/motd")
        assert row["Layer"] == 4
        (row,) = self.rows(box, "above", "/usr/bin/cat")
        assert row["Layer"] == 1
        assert str(row["CreatedBy"]).startswith("base: host")
        assert row["Line"] == 0  # tiny was loaded, not built here

    def test_earlier_writers_and_deletions(self, box: Box, above: Path) -> None:
        rows = self.rows(box, "-a", "above", "/etc/motd", "/made")
        assert [(row["Path"], row["Kind"], row["Layer"]) for row in rows] == [
            ("/etc/motd", "C", 4), ("/etc/motd", "A", 2), ("/made", "D", 5), ("/made", "A", 3),
        ]  # fmt: skip
        (row,) = self.rows(box, "above", "/made")
        assert row["Change"] == "deleted"

    def test_all_below_a_directory(self, box: Box, above: Path) -> None:
        assert [row["Path"] for row in self.rows(box, "-r", "above", "/data")] == ["/data", "/data/blob", "/data/file"]
        table = box("blame", "-r", "above", "/data").stdout.splitlines()
        assert table[0].split() == ["PATH", "CHANGE", "LAYER", "DIGEST", "BY", "STEP"]
        assert f"{above}:7" in table[1]

    def test_links_on_the_way_are_followed_and_the_last_one_when_asked(self, box: Box, tiny: str) -> None:
        (link,) = self.rows(box, tiny, "/bin/sh")
        assert link["Path"] == "/usr/bin/sh"
        assert link["Link"]
        (file,) = self.rows(box, "-L", tiny, "/bin/sh")
        assert file["Path"] == "/usr/bin/" + str(link["Link"])

    def test_what_no_layer_has_is_an_error_and_the_rest_is_shown(self, box: Box, tiny: str) -> None:
        done = box("blame", tiny, "/none", "/made", status=1)
        assert "no layer of tiny has /none" in done.stderr
        assert "/made" in done.stdout


def test_blame_reads_layers_that_are_deleted_meanwhile(
    box: Box, above: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = os.environ["BOX_ROOT"]
    resolve = Lineage.resolve

    def deleting(self: Lineage, path: bytes, *, last: bool) -> bytes:
        other = Store.open(root)
        other.references.forget([entry.descriptor.digest for entry in other.references.all()])
        gc(other)
        return resolve(self, path, last=last)

    monkeypatch.setattr(Lineage, "resolve", deleting)
    assert main(["--root", root, "blame", "above", "/etc/motd"]) == 0
    assert "/etc/motd" in capsys.readouterr().out


class TestExport:
    def test_the_tar_is_the_same_each_time_and_makes_the_same_image(self, box: Box, above: Path, tmp_path: Path) -> None:
        for name in ("a", "b"):
            box("export", "-o", tmp_path / name, "above")
        data = (tmp_path / "a").read_bytes()
        assert data == (tmp_path / "b").read_bytes()
        assert subprocess.run([BOX, "export", "above"], capture_output=True, check=True).stdout == data
        with tarfile.open(tmp_path / "a") as tar:
            assert tar.extractfile("etc/motd").read() == b"hello\nthere\n"  # type: ignore[union-attr]
            assert "made" not in tar.getnames()
        box("import", tmp_path / "a", "flat")
        assert box("diff", "above", "flat").stdout == ""

    def test_a_container_with_its_changes_running_and_ended(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("run", "-d", "--name", "one", tiny, "sh", "-c", "echo new > /new; echo ready; exec sleep 1000")
        while "ready" not in box("logs", "one").stdout:
            pass
        box("export", "-o", tmp_path / "running", "one")
        box("kill", "one")
        box("wait", "one")
        box("export", "-o", tmp_path / "ended", "one")
        assert (tmp_path / "running").read_bytes() == (tmp_path / "ended").read_bytes()
        with tarfile.open(tmp_path / "ended") as tar:
            assert tar.extractfile("new").read() == b"new\n"  # type: ignore[union-attr]

    def test_not_to_a_terminal_and_no_file_for_what_is_not_there(self, box: Box, tiny: str, tmp_path: Path) -> None:
        master, slave = pty.openpty()
        done = subprocess.run([BOX, "export", tiny], stdout=slave, stderr=subprocess.PIPE, text=True, check=False)
        os.close(slave)
        os.close(master)
        assert (done.returncode, "terminal" in done.stderr) == (2, True)
        assert "no container or image" in box("export", "-o", tmp_path / "x", "none", status=1).stderr
        assert not (tmp_path / "x").exists()


class TestMount:
    def test_shown_listed_and_taken_away(self, box: Box, above: Path, tmp_path: Path) -> None:
        (tmp_path / "at").mkdir()
        target = box("mount", "above").stdout.strip()
        assert box("mount", "above", tmp_path / "at").stdout.strip() == str(tmp_path / "at")
        for place in (target, tmp_path / "at"):
            assert Path(place, "etc/motd").read_text() == "hello\nthere\n"
        lines = box("mount").stdout.splitlines()
        assert lines[0].split() == ["NAME", "TYPE", "TARGET"]
        assert sorted(line.split() for line in lines[1:]) == sorted(
            [["above", "image", target], ["above", "image", str(tmp_path / "at")]]
        )
        assert box("umount", tmp_path / "at").stdout == f"{tmp_path}/at\n"
        assert [json.loads(line)["Target"] for line in box("mount", "--format", "json").stdout.splitlines()] == [target]
        assert box("umount", "above").stdout == f"{target}\n"
        assert not os.path.exists(target)
        assert "nothing is mounted by the name 'above'" in box("umount", "above", status=1).stderr
        assert box("umount", "--all").stdout == ""

    def test_an_image_that_is_mounted_is_not_deleted(self, box: Box, above: Path) -> None:
        target = box("mount", "above").stdout.strip()
        try:
            box("rmi", "above", status=None)
            box("rmi", "tiny", status=None)
            box("gc")
            assert Path(target, "etc/motd").read_text() == "hello\nthere\n"
            assert Path(target, "data/file").read_text() == "x\n"
        finally:
            box("umount", "--all")
        box("gc")

    def test_a_container_shows_its_changes_and_is_not_removed_under_it(self, box: Box, tiny: str) -> None:
        box("run", "--name", "one", tiny, "sh", "-c", "echo new > /new")
        target = box("mount", "one").stdout.strip()
        assert Path(target, "new").read_text() == "new\n"
        done = box("rm", "one", status=1)
        assert "are mounted at" in done.stderr
        assert "box umount one" in done.stderr
        box("umount", "one")
        box("rm", "one")

    def test_wrong_usage(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("umount", status=2)
        box("umount", "--all", "x", status=2)
        assert "there is no directory" in box("mount", tiny, tmp_path / "none", status=2).stderr
        assert box("mount").stdout.splitlines() == ["NAME   TYPE   TARGET"]


class TestCp:
    def test_in_and_out_and_through_pipes(self, box: Box, tiny: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine\n")
        box("run", "--name", "one", tiny, "true")
        assert box("cp", tmp_path / "file", "one:/etc/mine").stdout == ""
        box("cp", "one:/etc/mine", tmp_path / "back")
        assert (tmp_path / "back").read_text() == "mine\n"
        data = subprocess.run([BOX, "cp", "one:/etc", "-"], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert {"etc", "etc/mine", "etc/motd"} <= set(tar.getnames())
        subprocess.run([BOX, "cp", "-", "one:/usr"], input=data, check=True)
        box("cp", "one:/usr/etc/mine", tmp_path / "again")
        assert (tmp_path / "again").read_text() == "mine\n"
        box("cp", f"{tiny}:/etc/motd", ".", cwd=tmp_path)
        assert (tmp_path / "motd").read_text() == "hello\n"

    def test_what_is_left_out_is_said_and_makes_the_status_1(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("run", "--name", "one", tiny, "true")
        (tmp_path / "dir").mkdir()
        os.mknod(tmp_path / "dir" / "null", 0o020600, os.makedev(1, 3))
        done = box("cp", tmp_path / "dir", "one:/dir", status=1)
        assert done.stderr == "box: left out dir/null: a device, which only -a copies\n"
        box("cp", "-a", tmp_path / "dir", "one:/again")

    def test_every_name_of_a_device_is_left_out(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("run", "--name", "one", tiny, "true")
        (tmp_path / "dir").mkdir()
        os.mknod(tmp_path / "dir" / "null", 0o020600, os.makedev(1, 3))
        os.link(tmp_path / "dir" / "null", tmp_path / "dir" / "other")
        (tmp_path / "dir" / "plain").write_text("x")
        done = box("cp", tmp_path / "dir", "one:/dir", status=1)
        assert done.stderr.splitlines() == [
            f"box: left out dir/{name}: a device, which only -a copies" for name in ("null", "other")
        ]
        assert box("cp", "one:/dir/plain", tmp_path / "back").stderr == ""

    def test_not_into_a_container_whose_files_are_mounted(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("run", "--name", "one", tiny, "true")
        (tmp_path / "file").write_text("x")
        target = box("mount", "one").stdout.strip()
        for arguments in ((tmp_path / "file", "one:/file"), ("one:/etc/motd", tmp_path)):
            done = box("cp", *arguments, status=1)
            assert f"are mounted at {target}" in done.stderr
            assert "box umount one" in done.stderr
        box("umount", "one")
        box("cp", tmp_path / "file", "one:/file")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
    def test_a_copy_that_is_ended_leaves_no_part_of_a_file(self, box: Box, tiny: str, number: signal.Signals) -> None:
        box("run", "--name", "one", tiny, "true")
        (identity,) = box("ps", "-aq", "--no-trunc").stdout.split()
        upper = Path(os.environ["BOX_ROOT"], "containers", identity, "upper")
        member = tarfile.TarInfo("big")
        member.size = 16 << 20
        with subprocess.Popen([BOX, "cp", "-", "one:/etc"], stdin=subprocess.PIPE) as copying:
            assert copying.stdin is not None
            copying.stdin.write(member.tobuf() + bytes(8 << 20))
            copying.stdin.flush()
            deadline = time.monotonic() + 20
            while not list(upper.rglob(".box-*")) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert list(upper.rglob(".box-*"))
            copying.send_signal(number)
            assert copying.wait(20) == -number
        assert list(upper.rglob(".box-*")) == []

    def test_mistakes_say_what_to_do(self, box: Box, tiny: str, tmp_path: Path) -> None:
        done = box("cp", "tiny:latest:etc/motd", ".", status=2)
        assert "hint: say tiny:latest:/etc/motd" in done.stderr
        done = box("cp", "tiny:/nowhere/at/all", ".", status=1)
        assert "there is no directory tiny:/nowhere/at" in done.stderr
        assert "hint" not in done.stderr
        assert "cannot write /proc/motd: " in box("cp", "tiny:/etc/motd", "/proc/motd", status=1).stderr
        assert "use cp" in box("cp", "a", "b", status=2).stderr
        assert "images do not change" in box("cp", "/etc/hosts", f"{tiny}:/x", status=2).stderr
        assert "no container or image named 'none'" in box("cp", "none:/x", ".", status=1).stderr
        assert "there is no" in box("cp", f"{tiny}:/none", tmp_path, status=1).stderr
        master, slave = pty.openpty()
        for arguments in (["-", f"{tiny}:/"], [f"{tiny}:/etc", "-"]):
            done = subprocess.run(
                [BOX, "cp", *arguments], stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True, check=False
            )
            assert (done.returncode, "terminal" in done.stderr) == (2, True)
        os.close(slave)
        os.close(master)


def test_names_are_completed(box: Box, tiny: str) -> None:
    def answers(*words: str) -> list[str]:
        environment = {"COMP_WORDS": " ".join(["box", *words]), "COMP_CWORD": str(len(words))}
        lines = box(**environment, _BOX_COMPLETE="bash_complete").stdout.splitlines()
        return [line.partition(",")[2] for line in lines]

    box("run", "--name", "titan", tiny)
    for verb in ("diff", "export", "mount"):
        assert answers(verb, "ti") == ["titan", "tiny:latest"]
    assert answers("cp", "ti") == ["titan:", "tiny:latest:"]
    assert answers("blame", "ti") == ["tiny:latest"]
    target = box("mount", tiny).stdout.strip()
    assert answers("umount", target[:-3]) == [target]
    box("umount", "--all")
