"""Volumes, tmpfs and image mounts, as a user types them."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from boxcli import mount_options, readers
from runtime.spec import Bind, ImageTree, Tmpfs
from tests.command.installed import BOX, Box
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@pytest.fixture
def image(box: Box, tmp_path: Path) -> str:
    """An image with files in /data (of others, with modes, links), and links that lead out of it."""
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "Boxfile").write_text(
        "box: 1\nname: image\nbase: {host: [sh, cat, ls, rm, id, sleep, touch, stat, mkdir, ln, chmod, chown, 'true']}\nsteps:\n"
        "  - run: mkdir -p /data/sub; echo a > /data/a; echo b > /data/sub/b; ln -s a /data/link; ln /data/a /data/hard;"
        " chown 7:8 /data; chmod 2750 /data; chmod 4711 /data/sub/b;"
        " ln -s /data /indirect; ln -s ../../../.. /out; ln -s nowhere /dangling\n"
        "config: {cmd: [sh]}\n"
    )
    box("build", "-q", folder)
    return "image"


def volumes(box: Box) -> list[str]:
    return box("volume", "ls", "-q").stdout.split()


def mounts(box: Box, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(box("inspect", name).stdout)[0]["Mounts"]
    return found


class TestNamed:
    def test_one_is_made_by_its_first_use_and_outlives_its_containers(self, box: Box, image: str) -> None:
        box("run", "--rm", "-v", "mine:/v", image, "touch", "/v/x")
        assert volumes(box) == ["mine"]
        assert box("run", "--rm", "-v", "mine:/other:ro", image, "ls", "/other").stdout == "x\n"
        assert "Read-only" in box("run", "--rm", "-v", "mine:/v:ro", image, "touch", "/v/y", status=1).stderr

    def test_an_empty_one_is_filled_with_what_the_image_has_and_a_used_one_is_not(self, box: Box, image: str) -> None:
        shown = "stat -c '%n %u:%g %a %h' /data /data/* /data/sub/b; cat /data/link"
        inside = box("run", "--rm", image, "sh", "-c", shown).stdout
        assert box("run", "--rm", "-v", "v:/data", image, "sh", "-c", shown).stdout == inside
        box("run", "--rm", "-v", "v:/data", image, "rm", "/data/a")
        assert box("run", "--rm", "-v", "v:/data", image, "ls", "/data").stdout == "hard\nlink\nsub\n"
        box("run", "--rm", "-v", "w:/w", image, "touch", "/w/own")
        assert box("run", "--rm", "-v", "w:/data", image, "ls", "/data").stdout == "own\n"
        assert box("run", "--rm", "-v", "n:/data:nocopy", image, "ls", "/data").stdout == ""
        assert box("run", "--rm", "--mount", "src=m,dst=/data,volume-nocopy", image, "ls", "/data").stdout == ""

    def test_the_image_s_links_lead_nowhere_but_into_the_image(self, box: Box, image: str, tmp_path: Path) -> None:
        assert box("run", "--rm", "-v", "i:/indirect", image, "ls", "/indirect").stdout == "a\nhard\nlink\nsub\n"
        box("run", "--rm", "-v", "o:/out/data", image, "ls", "/data")
        assert box("run", "--rm", "-v", "o:/v", image, "ls", "/v").stdout == "a\nhard\nlink\nsub\n"
        assert box("run", "--rm", "-v", "d:/dangling", image, "true", status=125).stderr.startswith("box: ")
        assert sorted(os.listdir(f"{os.environ['BOX_ROOT']}/volumes/o/data")) == ["a", "hard", "link", "sub"]

    def test_a_subpath_stays_in_the_volume(self, box: Box, image: str) -> None:
        box("run", "--rm", "-v", "v:/v", image, "sh", "-c", "mkdir /v/in; touch /v/in/x; ln -s / /v/root; ln -s ../../.. /v/up")
        option = "type=volume,src=v,dst=/s,volume-subpath="
        assert box("run", "--rm", "--mount", option + "in", image, "ls", "/s").stdout == "x\n"
        for leading in ("root", "up", "in/../..", "root/in/.."):
            assert box("run", "--rm", "--mount", option + leading, image, "ls", "/s").stdout == "in\nroot\nup\n"
        assert "has no nonesuch" in box("run", "--rm", "--mount", option + "nonesuch", image, "true", status=125).stderr

    def test_one_in_use_is_kept_and_says_by_whom(self, box: Box, image: str) -> None:
        box("run", "--name", "user", "-v", "v:/v", image, "true")
        done = box("volume", "rm", "v", status=1)
        assert done.stderr == "box: volume v is in use by user\nhint: remove the container first: box rm user\n"
        box("rm", "user")
        assert box("volume", "rm", "v").stdout == "v\n"
        assert volumes(box) == []
        assert "no volume named" in box("volume", "rm", "v", status=1).stderr
        box("volume", "rm", "-f", "v")

    def test_it_is_there_again_when_a_container_is_started_again(self, box: Box, image: str) -> None:
        box("create", "--name", "c", "-v", "v:/v", image, "sh", "-c", "echo x >> /v/count; cat /v/count")
        assert box("start", "-a", "c").stdout == "x\n"
        assert box("start", "-a", "c").stdout == "x\nx\n"
        box("rm", "c")
        assert volumes(box) == ["v"]

    def test_deleting_and_using_at_once_loses_nothing_that_was_promised(self, box: Box, image: str) -> None:
        failed: list[str] = []
        over = threading.Event()

        def delete() -> None:
            while not over.is_set():
                subprocess.run([BOX, "volume", "rm", "-f", "v"], capture_output=True, check=False)

        other = threading.Thread(target=delete)
        other.start()
        try:
            for _ in range(25):
                done = subprocess.run(
                    [BOX, "run", "--rm", "-v", "v:/data", image, "sh", "-c", "touch /data/y && cat /data/a /data/y"],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                if (done.returncode, done.stdout) != (0, "a\n"):
                    failed.append(done.stdout + done.stderr)
        finally:
            over.set()
            other.join()
        assert failed == []


class TestAnonymous:
    def test_one_goes_with_its_container_where_that_is_asked_for(self, box: Box, image: str) -> None:
        box("run", "--rm", "-v", "/v", image, "touch", "/v/x")
        assert volumes(box) == []
        box("run", "--name", "a", "-v", "/v", image, "touch", "/v/x")
        (name,) = volumes(box)
        assert mounts(box, "a")[0] | {"Source": ""} == {
            "Type": "volume", "Name": name, "Driver": "local", "Source": "", "Destination": "/v", "RW": True,
        }  # fmt: skip
        assert box("run", "--rm", "--volumes-from", "a:ro", image, "sh", "-c", "ls /v; touch /v/y", status=1).stdout == "x\n"
        assert volumes(box) == [name]
        box("rm", "a")
        assert volumes(box) == [name]
        box("volume", "prune", "-f")
        assert volumes(box) == []
        box("run", "-d", "--name", "b", "-v", "/v", "-v", "named:/n", image, "sleep", "100")
        assert box("rm", "-fv", "b").stdout == "b\n"
        assert volumes(box) == ["named"]

    def test_the_places_that_an_image_names_are_volumes(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text(
            'box: 1\nname: v\nbase: {host: [sh, cat, rm]}\nsteps: [{write: {to: /data/a, text: "a\\n"}}]\n'
            "config: {volumes: [/data]}\n"
        )
        box("build", "-q", tmp_path)
        assert box("run", "--rm", "v", "cat", "/data/a").stdout == "a\n"
        assert volumes(box) == []
        box("run", "--name", "c", "v", "rm", "/data/a")
        assert len(volumes(box)) == 1
        assert box("diff", "c").stdout == ""
        assert box("run", "--rm", "-v", "mine:/data", "v", "cat", "/data/a").stdout == "a\n"
        box("rm", "-v", "c")
        assert volumes(box) == ["mine"]

    def test_one_of_a_run_that_was_killed_goes_with_the_next_command(self, box: Box, image: str) -> None:
        with subprocess.Popen(
            [BOX, "run", "--rm", "--name", "k", "-v", "/v", image, "sh", "-c", "touch /v/x; exec sleep 100"]
        ) as process:
            until(lambda: volumes(box) and box("exec", "k", "ls", "/v", status=None).stdout == "x\n")
            process.send_signal(signal.SIGKILL)
            process.wait()
        until(lambda: box("ps", "-aq").stdout == "")
        assert volumes(box) == []

    def test_one_of_a_run_in_the_background_goes_with_it(self, box: Box, image: str) -> None:
        for end in (["kill"], ["stop", "-t", "0"], ["rm", "-f"]):
            box("run", "-d", "--rm", "--name", "k", "-v", "/v", image, "sh", "-c", "touch /v/x; exec sleep 100")
            assert len(volumes(box)) == 1
            box(*end, "k")
            until(lambda: volumes(box) == [])

    def test_a_run_that_never_began_leaves_none(self, box: Box, image: str) -> None:
        box("run", "--rm", "-v", "/v", image, "nonesuch", status=127)
        assert volumes(box) == []


class TestVerbs:
    def test_create_ls_inspect(self, box: Box) -> None:
        assert box("volume", "create", "-l", "a=b", "one").stdout == "one\n"
        assert box("volume", "create", "one").stdout == "one\n"
        name = box("volume", "create").stdout.strip()
        assert len(name) == 64
        assert box("volume", "ls", "-f", "name=on").stdout.splitlines()[1:] == ["local    one"]
        assert box("volume", "ls", "-q", "-f", "label=a").stdout == "one\n"
        assert box("volume", "ls", "-q", "-f", "dangling=false").stdout == ""
        assert json.loads(box("volume", "ls", "-f", "name=one", "--format", "json").stdout)["Labels"] == "a=b"
        (shown,) = json.loads(box("volume", "inspect", "one").stdout)
        assert (shown["Name"], shown["Driver"], shown["Labels"]) == ("one", "local", {"a": "b"})
        assert os.path.isdir(shown["Mountpoint"])
        assert box("volume", "inspect", "-f", "{{.Mountpoint}}", "one").stdout.strip() == shown["Mountpoint"]
        done = box("volume", "inspect", "on", status=1)
        assert (done.stdout, done.stderr) == ("[]\n", "box: no volume named 'on'\nhint: did you mean 'one'?\n")

    def test_prune_takes_the_unused_ones_without_a_name_or_all(self, box: Box, image: str) -> None:
        box("volume", "create", "named")
        box("volume", "create")
        box("run", "--name", "c", "-v", "used:/v", image, "true")
        assert "Deleted Volumes" in box("volume", "prune", stdin="y\n").stdout
        assert volumes(box) == ["named", "used"]
        box("volume", "prune", stdin="n\n")
        assert box("volume", "prune", "-af").stdout.splitlines()[:2] == ["Deleted Volumes:", "named"]
        assert volumes(box) == ["used"]
        box("volume", "create")
        assert len(volumes(box)) == 2
        box("prune", "-f")
        assert len(volumes(box)) == 2
        box("prune", "-f", "--volumes")
        assert volumes(box) == ["used"]

    def test_mistakes_are_explained(self, box: Box) -> None:
        assert "did you mean 'box volume create'?" in box("volume", "crate", status=2).stderr
        assert "'--lable'" in box("volume", "create", "--lable", "x", status=2).stderr
        assert "not a name" in box("volume", "create", "../x", status=2).stderr
        assert "no volume named '../x'" in box("volume", "inspect", "../x", status=1).stderr
        assert "Usage: box volume rm" in box("volume", "rm", "--help").stdout
        box("volume", "create", "mine")
        assert "did you mean 'mine'?" in box("volume", "rm", "mina", status=1).stderr


class TestOthers:
    def test_tmpfs_has_docker_s_options(self, box: Box, image: str) -> None:
        script = "stat -c '%u:%g %a' /t; touch /t/x; cat /proc/mounts"
        shown = box("run", "--rm", "--tmpfs", "/t:size=1m,mode=750,uid=5,gid=6,noexec", image, "sh", "-c", script).stdout
        assert shown.startswith("5:6 750\n")
        (line,) = [line for line in shown.splitlines() if " /t " in line]
        assert {"nosuid", "nodev", "noexec", "size=1024k", "rw"} <= {*line.split()[3].split(",")}
        mount = "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700"
        assert box("run", "--rm", "--mount", mount, image, "stat", "-c", "%a", "/t").stdout == "700\n"
        assert "Read-only" in box("run", "--rm", "--tmpfs", "/t:ro", image, "touch", "/t/x", status=1).stderr

    def test_an_image_is_mounted_read_only_and_kept_while_a_container_has_it(self, box: Box, image: str, tiny: str) -> None:
        mount = f"type=image,src={tiny},dst=/i"
        assert box("run", "--rm", "--mount", mount, image, "cat", "/i/etc/motd").stdout == "hello\n"
        assert "Read-only" in box("run", "--rm", "--mount", mount, image, "touch", "/i/x", status=1).stderr
        box("create", "--name", "c", "--mount", mount + ",image-subpath=etc", image, "cat", "/i/motd")
        assert "is used by" in box("rmi", tiny, status=1).stderr
        assert box("start", "-a", "c").stdout == "hello\n"
        assert mounts(box, "c") == [{"Type": "image", "Source": tiny, "Destination": "/i", "RW": False}]
        box("rm", "c")
        assert "no image" in box("run", "--rm", "--mount", "type=image,src=nonesuch,dst=/i", image, "true", status=125).stderr

    def test_an_image_of_one_layer_is_mounted_as_any_other(self, box: Box, image: str, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text("box: 1\nname: one\nbase: scratch\nsteps: [{write: {to: /file, text: x}}]\n")
        box("build", "-q", tmp_path)
        shown = box("run", "--rm", "--mount", "type=image,src=one,dst=/i", image, "sh", "-c", "ls /i; stat -c %u:%g /i/file")
        assert shown.stdout == "file\n0:0\n"

    def test_a_bind_is_private_unless_it_is_said_otherwise(self, box: Box, image: str, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "below").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source], check=True)
        try:
            subprocess.run(["mount", "--make-shared", source], check=True)
            (source / "below").mkdir()
            for option, seen in (("", False), (",bind-propagation=rslave", True)):
                mount = f"type=bind,src={source},dst=/b{option}"
                box("run", "-d", "--name", "b", "--mount", mount, image, "sleep", "100")
                subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "below"], check=True)
                (source / "below" / "x").touch()
                assert (box("exec", "b", "ls", "/b/below").stdout == "x\n") is seen
                box("rm", "-f", "b")
                non_recursive = f"{mount},bind-nonrecursive"
                assert box("run", "--rm", "--mount", f"type=bind,src={source},dst=/b", image, "ls", "/b/below").stdout == "x\n"
                assert box("run", "--rm", "--mount", non_recursive, image, "ls", "/b/below").stdout == ""
                subprocess.run(["umount", source / "below"], check=True)
        finally:
            subprocess.run(["umount", "-R", source], check=True)

    def test_two_mounts_at_one_place_are_refused(self, box: Box, image: str, tmp_path: Path) -> None:
        done = box("run", "--rm", "-v", "a:/v", "--tmpfs", "/v/", image, "true", status=125)
        assert "two mounts are at /v" in done.stderr
        assert volumes(box) == []

    def test_other_mounts_lie_over_a_volume(self, box: Box, image: str) -> None:
        shown = box("run", "--rm", "-v", "v:/data", "--tmpfs", "/data/sub", image, "ls", "/data", "/data/sub").stdout
        assert shown == "/data:\na\nhard\nlink\nsub\n\n/data/sub:\n"


class TestText:
    @pytest.mark.parametrize(("text", "said"), [
        ("a:/b:rx", "'rx' is not"), ("a:/b:rslave", "rslave"), ("../x", "absolute"), ("a:b", "absolute"), ("a:/b:ro:x", "is not"),
        (":/b", "is not"), ("a/b:/c:nocopy", "nocopy"), ("-a:/b", "not a name"),
    ])  # fmt: skip
    def test_a_volume_that_makes_no_sense(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            readers.bind(text)

    @pytest.mark.parametrize(("text", "said"), [
        ("type=bind,dst=/a", "source"), ("type=nfs,dst=/a", "'nfs'"), ("src=a", "target"), ("dst=/a,dst=/b", "twice"),
        ("type=tmpfs,dst=/a,src=b", "no source"), ("type=bind,src=/a,dst=/b,bind-propagation=x", "'x'"), ("dst=a", "absolute"),
        ("type=image,src=a,dst=/b,rw", "read-only"), ("dst=/a,ro=maybe", "'maybe'"), ("src=../a,dst=/b", "not a name"),
        ("type=tmpfs,dst=/a,tmpfs-mode=9", "mode"), ("dst=/a,volume-driver=nfs", "driver"), ("dst=/a,volume-opt=x", "volume-opt"),
    ])  # fmt: skip
    def test_a_mount_that_makes_no_sense(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            readers.mount(text)

    def test_what_makes_sense_is_understood(self) -> None:
        made = readers.bind("/a:/b:ro,rslave,z")
        assert (made.source, made.target, made.read_only, made.propagation) == ("/a", "/b", True, "rslave")
        volume = mount_options.mount("src=v,dst=/v,readonly=true")
        assert isinstance(volume, Bind)
        assert (volume.volume, volume.read_only) == ("v", True)
        tree = mount_options.mount("type=image,source=i:1,destination=/i,subpath=etc")
        assert isinstance(tree, ImageTree)
        assert (tree.image, tree.target, tree.subpath) == ("i:1", "/i", "etc")
        small = mount_options.mount("type=tmpfs,target=/t,tmpfs-size=64m")
        assert isinstance(small, Tmpfs)
        assert small.size == 64 << 20


def test_a_foreground_run_of_two_containers_on_one_new_volume_fills_it_once(box: Box, image: str) -> None:
    """Both start at the same moment: each sees all of it."""
    for attempt in range(5):
        command = [BOX, "run", "--rm", "-v", f"v{attempt}:/data", image, "cat", "/data/sub/b"]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [one.communicate(timeout=60)[0] for one in both] == ["b\n", "b\n"]
