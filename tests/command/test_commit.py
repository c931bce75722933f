"""`box commit`: a container becomes an image."""

import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command.installed import Box
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@pytest.fixture
def base(box: Box, tmp_path: Path) -> str:
    (tmp_path / "Boxfile").write_text(
        "box: 1\nname: base\nbase: {host: [sh, cat, ls, rm, mkdir, ln, chmod, chown, sleep, env, id]}\nsteps:\n"
        '  - write: {to: /tree/a, text: "a\\n"}\n  - write: {to: /tree/b, text: "b\\n"}\n  - write: {to: /old/x, text: "x\\n"}\n'
        "config: {entrypoint: [sh, -c], cmd: [cat /tree/a], env: {A: image}, labels: {kind: sample}, workdir: /tree}\n"
    )
    box("build", "-q", tmp_path)
    return "base"


def config(box: Box, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box("inspect", "--type", "image", name).stdout)[0]["Config"]
    return found


def members(box: Box, name: str, tmp_path: Path) -> dict[str, tarfile.TarInfo]:
    """What the topmost layer has."""
    box("save", "-o", tmp_path / "saved.tar", name)
    with tarfile.open(tmp_path / "saved.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        with tarfile.open(fileobj=archive.extractfile(manifest[0]["Layers"][-1])) as layer:
            return {member.name: member for member in layer}


class TestFiles:
    def test_what_was_written_changed_and_deleted_is_in_the_image(self, box: Box, base: str, tmp_path: Path) -> None:
        script = (
            "echo new > /tree/b; rm /tree/a; rm -r /old; mkdir /old; echo y > /old/y; ln -s y /old/link; ln /old/y /old/hard; "
            "echo s > /set; chown 7:8 /set; chmod 2750 /set"
        )
        box("run", "--name", "c", base, script)
        identity = box("commit", "c", "made:1").stdout
        assert identity.startswith("sha256:") and len(identity) == 72
        assert box("run", "--rm", "made:1", "ls /tree /old; cat /tree/b /old/link /old/hard").stdout == (
            "/old:\nhard\nlink\ny\n\n/tree:\nb\nnew\ny\ny\n"
        )
        found = members(box, "made:1", tmp_path)
        assert {"tree/.wh.a", "old/.wh..wh..opq", "old/y", "tree/b", "set"} <= {*found}
        assert (found["set"].uid, found["set"].gid, found["set"].mode) == (7, 8, 0o2750)
        assert abs(found["set"].mtime - time.time()) < 300
        box("rm", "c")

    def test_the_container_stays_as_it_was(self, box: Box, base: str) -> None:
        box("run", "--name", "c", base, "echo 1 >> /count; rm -f /tree/a")
        before = box("diff", "c").stdout
        box("commit", "c", "one")
        assert box("diff", "c").stdout == before
        box("start", "-a", "c")
        box("commit", "c", "two")
        assert box("run", "--rm", "two", "cat /count").stdout == "1\n1\n"
        assert box("run", "--rm", "one", "cat /count").stdout == "1\n"
        box("rm", "c")

    def test_what_is_mounted_is_not_in_the_image_and_nothing_changed_makes_no_layer(
        self, box: Box, base: str, tmp_path: Path
    ) -> None:
        (tmp_path / "shown").mkdir()
        box("run", "--name", "c", "-v", f"{tmp_path}/shown:/tree", "--tmpfs", "/old", base, "echo x > /old/z; echo y > /tree/w")
        box("commit", "c", "made")
        layers = [json.loads(box("inspect", name).stdout)[0]["RootFS"]["Layers"] for name in (base, "made")]
        assert layers[0] == layers[1]
        assert box("run", "--rm", "made", "ls /tree /old").stdout == "/old:\nx\n\n/tree:\na\nb\n"
        box("rm", "c")

    def test_a_running_one_stands_still_meanwhile_and_goes_on(self, box: Box, base: str) -> None:
        box("run", "-d", "--name", "c", base, "while :; do echo x >> /count; sleep 0.01; done")
        until(lambda: box("exec", "c", "cat", "/count").stdout.count("x") > 3)
        for options in ((), ("--pause=false",), ("-p",)):
            box("commit", *options, "c", "made")
            assert box("inspect", "-f", "{{.State.Status}}", "c").stdout == "running\n"
        count = box("run", "--rm", "made", "cat /count").stdout.count("x")
        until(lambda: box("exec", "c", "cat", "/count").stdout.count("x") > count)
        box("pause", "c")
        box("commit", "c", "made")
        assert box("inspect", "-f", "{{.State.Status}}", "c").stdout == "paused\n"
        box("rm", "-f", "c")

    def test_every_driver_makes_the_same_layer(self, box: Box, base: str, tmp_path: Path) -> None:
        made = []
        for driver in ("erofs", "overlay", "copy"):
            box("run", "--name", driver, base, "rm /tree/a; mkdir /d; echo z > /d/z", BOX_DRIVER=driver)
            box("commit", driver, f"made-{driver}", BOX_DRIVER=driver)
            found = members(box, f"made-{driver}", tmp_path)
            made.append(sorted((name, each.mode, each.uid, each.size) for name, each in found.items()))
            box("rm", driver)
        assert made[0] == made[1] == made[2]


class TestConfig:
    def test_it_is_what_the_container_ran_with(self, box: Box, base: str) -> None:
        box("run", "--name", "c", "-e", "B=given", "-u", "5", "-w", "/old", "-l", "x=y", base, "env > /dev/null")
        box("commit", "-m", "a message", "-a", "somebody", "c", "made")
        found = config(box, "made")
        assert found["Env"] == ["A=image", "B=given"]
        assert (found["User"], found["WorkingDir"]) == ("5", "/old")
        assert (found["Entrypoint"], found["Cmd"]) == (["sh", "-c"], ["env > /dev/null"])
        assert found["Labels"] == {"kind": "sample", "x": "y"}
        shown = json.loads(box("inspect", "made").stdout)[0]
        assert shown["Author"] == "somebody"
        assert (shown["History"][-1]["comment"], shown["History"][-1]["author"]) == ("a message", "somebody")
        assert shown["History"][-1]["created_by"] == "sh -c env > /dev/null"
        box("rm", "c")

    def test_another_entrypoint_is_the_whole_command(self, box: Box, base: str) -> None:
        box("create", "--name", "c", "--entrypoint", "ls", base, "/old")
        box("commit", "c", "made")
        assert "Entrypoint" not in config(box, "made")
        assert config(box, "made")["Cmd"] == ["ls", "/old"]
        box("rm", "c")

    def test_the_lines_of_a_dockerfile_change_it(self, box: Box, base: str) -> None:
        box("create", "--name", "c", base)
        lines = (
            'ENTRYPOINT ["cat"]', 'CMD ["/tree/b"]', 'env A=1 B="two words"', "ENV C three words", "LABEL one=1", "USER 9:9",
            "EXPOSE 80 53/udp", 'VOLUME ["/data"]', "VOLUME /more /most", "WORKDIR below", "STOPSIGNAL SIGUSR1",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
        )  # fmt: skip
        box("commit", *[word for line in lines for word in ("--change", line)], "c", "made")
        found = config(box, "made")
        assert found["Env"] == ["A=1", "B=two words", "C=three words"]
        assert (found["Entrypoint"], found["Cmd"], found["User"]) == (["cat"], ["/tree/b"], "9:9")
        assert found["ExposedPorts"] == {"53/udp": {}, "80/tcp": {}}
        assert found["Volumes"] == {"/data": {}, "/more": {}, "/most": {}}
        assert (found["WorkingDir"], found["StopSignal"]) == ("/tree/below", "SIGUSR1")
        assert found["Labels"] == {"kind": "sample", "one": "1"}
        assert found["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 90 * 10**9, "Retries": 2}
        assert box("run", "--rm", "-w", "/", "made").stdout == "b\n"
        box("commit", "-c", "CMD echo shell", "-c", "HEALTHCHECK NONE", "c", "other")
        assert config(box, "other")["Cmd"] == ["/bin/sh", "-c", "echo shell"]
        assert config(box, "other")["Healthcheck"] == {"Test": ["NONE"]}
        box("rm", "c")

    @pytest.mark.parametrize("line", [
        "FROM x", "ONBUILD RUN x", "USER", "EXPOSE 0", "EXPOSE 80/x", "ENV A", "ENV A=b 'c", "VOLUME data", "HEALTHCHECK x",
        "HEALTHCHECK --interval=5 CMD x", "",
    ])  # fmt: skip
    def test_a_line_that_is_not_understood_makes_nothing(self, box: Box, base: str, line: str) -> None:
        box("create", "--name", "c", base)
        assert box("commit", "-c", line, "c", "made", status=2).stderr.startswith("box: --change: ")
        assert "made" not in box("images").stdout
        box("rm", "c")

    def test_a_name_that_cannot_be_given_and_a_container_that_is_not_there(self, box: Box, base: str) -> None:
        box("create", "--name", "c", base)
        assert "digest" in box("commit", "c", "x@sha256:" + "0" * 64, status=2).stderr
        assert "nonesuch" in box("commit", "nonesuch", status=1).stderr
        box("commit", "c")
        assert "<none>" in box("images").stdout
        box("rm", "c")


def test_two_commits_with_the_same_time_are_the_same_image(box: Box, base: str) -> None:
    box("run", "--name", "c", base, "echo x > /x")
    epoch = str(int(os.stat("/").st_mtime))
    assert box("commit", "c", SOURCE_DATE_EPOCH=epoch).stdout == box("commit", "c", "again", SOURCE_DATE_EPOCH=epoch).stdout
    box("rm", "c")
