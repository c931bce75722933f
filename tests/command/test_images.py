"""The verbs of images, as a user types them."""

import gzip
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from boxcli import amounts
from store.digest import OCI_LAYER_GZIP
from store.images import stack
from store.layout import Store
from tests.command.installed import BOX, Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def digest(box: Box, name: str) -> str:
    return box("inspect", name, "--format", "{{.Digest}}").stdout.strip()


def test_images_lists_them_as_docker_does(box: Box, tiny: str) -> None:
    head, line = box("images").stdout.splitlines()
    assert head.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert line.split()[:2] == ["tiny", "latest"]
    identity = box("images", "-q").stdout.strip()
    assert line.split()[2] == identity
    assert len(identity) == 12
    whole = box("images", "-q", "--no-trunc").stdout.strip()
    assert whole.startswith(f"sha256:{identity}")
    record = json.loads(box("images", "--format", "json").stdout)
    assert (record["Repository"], record["Tag"], record["ID"]) == ("tiny", "latest", identity)
    assert box("images", "--format", "{{.Repository}}:{{.Tag}}", "tiny").stdout == "tiny:latest\n"
    assert box("images", "-q", "other").stdout == ""
    assert digest(box, tiny) in box("images", "--digests").stdout


def test_an_image_is_found_by_name_digest_and_the_beginning_of_its_id(box: Box, tiny: str) -> None:
    identity = box("images", "-q", "--no-trunc").stdout.strip()
    for name in (tiny, "tiny:latest", identity, identity[7:], identity[7:12], digest(box, tiny)):
        assert box("inspect", name, "-f", "{{.Id}}").stdout.strip() == identity
        assert box("run", "--rm", name, "true").stdout == ""


def twin(name: str) -> tuple[str, str]:
    """The image `name` once more, as `twin`, its layers compressed: the id of both, and the digest of the new manifest."""
    store = Store.open(os.environ["BOX_ROOT"])
    image = store.images.load(store.references.get(name))
    layers = [
        (
            store.blobs.put_bytes(gzip.compress(store.blobs.read(layer.descriptor, limit=1 << 30), 1), OCI_LAYER_GZIP),
            layer.diff_id,
        )
        for layer in image.layers
    ]
    made = store.images.create({key: value for key, value in image.config.items() if key != "rootfs"}, stack(layers))
    store.references.set("twin", made)
    assert store.images.config_digest(made) == image.id
    return str(image.id), str(made.digest)


def test_an_id_that_two_manifests_share_is_as_good_as_either_but_for_deleting(box: Box, tiny: str) -> None:
    first = digest(box, tiny)
    identity, second = twin(tiny)
    for text in (identity, identity[7:19]):
        assert box("run", "--rm", text).stdout == "hello\n"
        assert json.loads(box("inspect", text).stdout)[0]["Id"] == identity
        assert box("cp", f"{text}:/etc/motd", "-", status=None).returncode == 0
        for force in ([], ["-f"]):
            done = box("rmi", *force, text, status=1)
            assert "2 images have the id" in done.stderr
            assert first in done.stderr
            assert second in done.stderr
    assert len(box("images", "--format", "{{.ID}}").stdout.split()) == 2
    box("rmi", second)
    assert box("images", "--format", "{{.Repository}}").stdout == "tiny\n"
    assert box("run", "--rm", identity).stdout == "hello\n"


def test_a_container_stands_on_the_manifest_it_was_made_of_and_on_no_other(box: Box, tiny: str) -> None:
    twin(tiny)
    box("run", "--name", "user", tiny)
    counts = {
        row["Repository"]: row["Containers"]
        for row in map(json.loads, box("df", "-v", "--format", "json").stdout.splitlines())
        if "Repository" in row
    }
    assert counts == {"tiny": "1", "twin": "0"}
    assert "is used by container" in box("rmi", tiny, status=1).stderr
    box("rmi", "twin")
    assert box("start", "-a", "user").stdout == "hello\n"


def test_a_damaged_image_is_listed_as_such_among_the_others(box: Box, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text("box: 1\nname: broken\nbase: tiny\nsteps:\n  - mkdir: /x\n")
    box("build", "-q", tmp_path)
    manifest = digest(box, "broken").removeprefix("sha256:")
    (Path(os.environ["BOX_ROOT"]) / "blobs/sha256" / manifest).write_bytes(b"{}")
    done = box("images", status=1)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["broken", "latest", "<damaged>"], ["tiny", "latest", rows[1][2]]]
    assert "image broken:latest is damaged" in done.stderr
    assert f"box rmi {manifest[:12]}" in done.stderr
    assert box("images", "-q", status=1).stdout.split() == [manifest[:12], rows[1][2]]
    box("rmi", manifest[:12])
    assert box("images").stderr == ""


def test_a_name_can_be_given_and_taken_and_the_last_takes_the_image_with_it(box: Box, tiny: str) -> None:
    box("tag", tiny, "team/other:1.2")
    assert sorted(box("inspect", tiny, "-f", "{{json .RepoTags}}").stdout.strip('[]"\n').split('","')) == [
        "team/other:1.2",
        "tiny:latest",
    ]
    assert box("rmi", tiny).stdout == "Untagged: tiny:latest\n"
    assert box("run", "--rm", "team/other:1.2").stdout == "hello\n"
    gone = box("rmi", "team/other:1.2").stdout.splitlines()
    assert gone[0] == "Untagged: team/other:1.2"
    assert gone[1].startswith("Deleted: sha256:")
    assert box("images", "-q").stdout == ""
    assert not os.listdir(f"{os.environ['BOX_ROOT']}/blobs/sha256")


def test_an_image_that_a_container_stands_on_is_not_deleted(box: Box, tiny: str) -> None:
    box("run", "--name", "user", tiny)
    assert "is used by container" in box("rmi", tiny, status=1).stderr
    assert box("run", "--rm", tiny).stdout == "hello\n"
    box("rm", "user")
    box("rmi", tiny)


def test_one_image_that_cannot_be_deleted_does_not_keep_the_others(box: Box, tiny: str) -> None:
    done = box("rmi", "nonesuch", tiny, status=1)
    assert "no image named 'nonesuch'" in done.stderr
    assert "Untagged: tiny:latest" in done.stdout
    assert box("rmi", "--force", "nonesuch").stderr == ""


def test_history_shows_the_last_step_first(box: Box, tiny: str) -> None:
    lines = box("history", tiny).stdout.splitlines()
    assert lines[0].split()[:2] == ["IMAGE", "CREATED"]
    assert lines[1].startswith(box("images", "-q").stdout.strip())
    steps = [json.loads(line) for line in box("history", "--no-trunc", "--format", "json", tiny).stdout.splitlines()]
    assert "made > /made" in steps[0]["CreatedBy"]
    assert steps[-1]["CreatedBy"].startswith("base: host: [sh, cat")
    assert all(step["ID"] == "<missing>" for step in steps[1:])


def test_what_is_saved_is_loaded_with_the_same_digest_and_saved_again_to_the_same_bytes(
    box: Box, tiny: str, tmp_path: Path
) -> None:
    before = digest(box, tiny)
    box("save", "-o", tmp_path / "a.tar", tiny)
    box("rmi", tiny)
    assert box("load", "-i", tmp_path / "a.tar").stdout == "Loaded image: tiny:latest\n"
    assert digest(box, tiny) == before
    box("save", "--output", tmp_path / "b.tar", tiny)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with open(tmp_path / "c.tar", "wb") as file:
        subprocess.run([BOX, "save", tiny], stdout=file, check=True)
    assert (tmp_path / "c.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()
    with open(tmp_path / "c.tar", "rb") as file:
        done = subprocess.run([BOX, "load", "-q"], stdin=file, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == box("images", "-q", "--no-trunc").stdout.strip()


def test_a_save_that_fails_leaves_the_old_file_and_no_part_of_a_new_one(box: Box, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("precious")
    box("save", "-o", tmp_path / "a.tar", tiny, "nonesuch", status=1)
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_text() == "precious"
    assert "there is no directory" in box("save", "-o", tmp_path / "none" / "a.tar", tiny, status=2).stderr


def test_an_archive_is_not_written_to_a_terminal_nor_read_from_one(tiny: str) -> None:
    import pty

    for verb in (["save", tiny], ["load"], ["import", "-"]):
        master, slave = pty.openpty()
        done = subprocess.run([BOX, *verb], stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True, check=False)
        os.close(slave)
        os.close(master)
        assert done.returncode == 2
        assert "terminal" in done.stderr


def test_a_root_file_system_s_tar_becomes_an_image_with_the_same_id_every_time(box: Box, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"hi\n"))
    first = box("import", "-m", "from a tar", tmp_path / "root.tar", "team/rootfs:1").stdout.strip()
    assert first.startswith("sha256:")
    assert box("import", "-m", "from a tar", tmp_path / "root.tar").stdout.strip() == first
    assert json.loads(box("history", "team/rootfs:1", "--format", "json").stdout)["Comment"] == "from a tar"
    assert "the image names no command" in box("run", "team/rootfs:1", status=125).stderr
    with open(tmp_path / "root.tar", "rb") as file:
        done = subprocess.run(
            [BOX, "import", "-m", "from a tar", "-", "piped"], stdin=file, capture_output=True, text=True, check=True
        )
    assert done.stdout.startswith("sha256:")


def test_inspect_prints_an_array_with_what_it_found_and_says_what_it_did_not(box: Box, tiny: str) -> None:
    done = box("inspect", tiny, "nonesuch", tiny, status=1)
    found = json.loads(done.stdout)
    assert len(found) == 2
    assert found[0]["Config"]["Cmd"] == ["cat", "/etc/motd"]
    assert found[0]["RootFS"]["Layers"]
    assert "nonesuch" in done.stderr
    assert "no container named" in box("inspect", "--type", "container", tiny, status=1).stderr


def test_labels_of_an_image_cannot_speak_to_the_terminal(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text('box: 1\nname: evil\nbase: scratch\nconfig: {labels: {x: "\\e]0;owned\\a"}}\nsteps: []\n')
    box("build", "-q", tmp_path)
    for arguments in (["-f", '{{index .Config.Labels "x"}}'], ["-f", "{{.Config}}"], []):
        assert not set("\033\007") & set(box("inspect", "evil", *arguments).stdout)


class TestBuild:
    def test_it_prints_the_id_on_standard_output_and_what_happens_on_standard_error(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text("box: 1\nname: from/file:2\nbase: scratch\nsteps:\n  - write: {to: /a, text: b}\n")
        done = box("build", tmp_path)
        assert done.stdout.strip() == box("images", "-q", "--no-trunc", "from/file").stdout.strip()
        assert "[1/1] write: {to: /a, text: b}" in done.stderr
        again = box("build", tmp_path)
        assert again.stdout == done.stdout
        assert "[1/1] write: {to: /a, text: b}  cached" in again.stderr
        quiet = box("build", "-q", tmp_path)
        assert (quiet.stdout, quiet.stderr) == (done.stdout, "")
        assert "cached" not in box("build", "--no-cache", tmp_path).stderr

    def test_it_takes_a_directory_a_file_standard_input_or_the_current_directory(self, box: Box, tmp_path: Path) -> None:
        text = "box: 1\nbase: scratch\nsteps:\n  - copy: data -> /data\n"
        (tmp_path / "data").write_text("x")
        (tmp_path / "Boxfile").write_text(text)
        (tmp_path / "other.yaml").write_text(text)
        ids = {
            box("build", "-q", tmp_path).stdout,
            box("build", "-q", tmp_path / "Boxfile").stdout,
            box("build", "-q", cwd=tmp_path).stdout,
            box("build", "-q", "-", stdin=text, cwd=tmp_path).stdout,
            box("build", "-q", "-f", tmp_path / "other.yaml", tmp_path).stdout,
        }
        assert len(ids) == 1

    def test_it_gives_every_name_that_was_asked_for_and_writes_the_id_to_a_file(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text(
            "box: 1\nname: own\nbase: scratch\nargs: {v: '1'}\nsteps:\n  - label: {v: '${{ v }}'}\n"
        )
        done = box("build", "-t", "a", "-t", "b:2", "--arg", "v=7", "--iidfile", tmp_path / "id", tmp_path)
        assert sorted(box("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()) == ["a:latest", "b:2"]
        assert (tmp_path / "id").read_text() == done.stdout.strip()
        assert box("inspect", "a", "-f", '{{index .Config.Labels "v"}}').stdout == "7\n"

    def test_a_failing_step_is_said_with_its_output_its_status_and_its_place(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text("box: 1\nname: f\nbase: {host: [sh]}\nsteps:\n  - run: echo before; exit 7\n")
        done = box("build", tmp_path, status=1)
        assert "[1/1] | before\n" in done.stderr
        assert "Boxfile:5:5: " in done.stderr
        assert "status 7" in done.stderr
        log = done.stderr.rpartition("output is in ")[2].strip()
        assert "before" in Path(log).read_text()
        assert box("images", "-q").stdout == ""

    def test_the_directory_without_a_boxfile_is_named(self, box: Box, tmp_path: Path) -> None:
        done = box("build", cwd=tmp_path, status=2)
        assert done.stderr == "box: there is no Boxfile\nhint: make one, or name another: box build PATH\n"


def _root_file_system(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        top = tarfile.TarInfo("./")
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        tar.addfile(tarfile.TarInfo("./etc/passwd"))


def test_what_is_no_image_archive_is_told_as_what_it_is(box: Box, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("just a text\n")
    (tmp_path / "directory").mkdir()
    _root_file_system(tmp_path / "rootfs.tar")
    for name, message, hint in (
        ("empty", "the archive is empty", "make it again, or fetch it again"),
        (
            "text",
            "this is no tar archive: it is shorter than a header",
            "a tar may be plain, or compressed by gzip, zstd, xz or bzip2",
        ),
        ("rootfs.tar", "this is a root file system, no image", "`box import` takes it"),
        ("directory", "directory is no OCI layout: it has not both index.json and blobs/sha256/", "name a directory that"),
    ):
        done = box("load", "-i", name, cwd=tmp_path, status=1)
        first, second = done.stderr.splitlines()
        assert (first, second[: len("hint: " + hint)]) == (f"box: {message}", f"hint: {hint}")
    assert box("images", "-q").stdout == ""


@pytest.mark.parametrize("verb", ["save", "export"])
def test_a_dash_means_standard_output_and_an_empty_name_nothing(tiny: str, tmp_path: Path, verb: str) -> None:
    plain, dash, empty = (
        subprocess.run([BOX, verb, *option, tiny], cwd=tmp_path, capture_output=True, check=False)
        for option in ([], ["-o", "-"], ["-o", ""])
    )
    assert (plain.returncode, dash.returncode, empty.returncode) == (0, 0, 2)
    assert dash.stdout == plain.stdout
    assert dash.stdout
    assert empty.stderr.startswith(b"box: the name of the output is empty\nhint: ")
    assert os.listdir(tmp_path) == []


def test_the_newest_containers_are_shown_whether_they_run_or_not(box: Box, tiny: str) -> None:
    for name in ("one", "two", "three"):
        box("create", "--name", name, tiny)
    shown = ["ps", "--format", "{{.Names}}"]
    assert box(*shown).stdout == ""
    assert box(*shown, "-n", "2").stdout.split() == ["three", "two"]
    assert box(*shown, "--last", "9").stdout.split() == ["three", "two", "one"]
    assert box(*shown, "-l").stdout.split() == ["three"]


def test_images_are_chosen_by_name_label_and_whether_they_have_a_name(box: Box, tiny: str) -> None:
    box("tag", tiny, "team/app:1")
    box("tag", tiny, "other:2")

    def found(*filters: str) -> list[str]:
        options = [word for text in filters for word in ("--filter", text)]
        return box("images", "-a", *options, "--format", "{{.Repository}}").stdout.split()

    assert found() == ["other", "team/app", "tiny"]
    assert found("reference=team/*") == ["team/app"]
    assert found("reference=*:2", "reference=tiny") == ["other", "tiny"]
    assert found("label=kind=sample", "reference=tiny") == ["tiny"]
    assert found("label=kind=else") == found("label=nope") == found("dangling=true") == []
    assert found("dangling=false") == found("label=kind") == found()
    assert "is not FIELD=VALUE" in box("images", "-f", "size=3", status=2).stderr


@pytest.mark.parametrize(
    "line",
    ["build -t 'A b' .", "tag x 'A b'", "import /dev/null 'A b'", "commit x 'A b'", "history 'A b'", "rmi 'A b'", "save 'A b'"],
)
def test_what_can_be_no_image_is_wrong_usage_wherever_it_is_said(box: Box, tiny: str, line: str) -> None:
    done = box(*shlex.split(line), status=2)
    first, hint = done.stderr.splitlines()
    assert first.endswith("not an image name: 'A b'")
    assert hint.startswith("hint: a name is like 'app'")


def test_the_size_of_an_image_is_the_same_wherever_it_is_shown(box: Box, tiny: str) -> None:
    # Its layers compressed, as others save them: blobs, and tars beside them.
    store = Store.open(os.environ["BOX_ROOT"])
    image = store.images.load(store.references.get(tiny))
    plain = box("images", "--format", "{{.Size}}", tiny).stdout
    for layer in image.layers:
        shutil.copy(store.blobs.path(layer.descriptor.digest), store.tars.path(layer.diff_id))
    listed = box("images", "--format", "{{.Size}}", tiny).stdout.strip()
    row = next(line for line in box("df", "-v").stdout.splitlines() if line.startswith("tiny"))
    assert listed != plain.strip()
    assert listed in row.split()
    assert amounts.size(int(box("inspect", "-f", "{{.Size}}", tiny).stdout)) == listed
