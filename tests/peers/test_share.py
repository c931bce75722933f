"""An image of box at home in docker, podman and skopeo, and back: the same bytes, the same digest, the same program."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.command.installed import run as box
from tests.peers.conftest import Peer

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup"), pytest.mark.xdist_group("peers")]

NAME = "shop/sample:1.2"
BOXFILE = """\
box: 1
base: {host: [sh, cat, ls, "true", id, env, mkdir, ln, chmod, rm, pwd]}
steps:
  - write: {to: /etc/motd, text: "hello\\n", mode: "0640"}
  - run: mkdir -p /a/b && echo one > /a/b/one && ln /a/b/one /a/hard && ln -s hard /a/soft && echo gone > /a/gone
  - run: rm /a/gone && chmod 4711 /a/b/one
  - env: {GREETING: hello}
  - workdir: /a
  - user: "7:8"
config: {cmd: [sh, -c, "cat hard soft; ls; pwd; id -u; echo $GREETING"]}
"""
OUTPUT = "one\none\nb\nhard\nsoft\n/a\n7\nhello\n"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An archive of the sample, whose name is in this test's store too."""
    (tmp_path / "Boxfile").write_text(BOXFILE)
    box("build", "-q", "-t", NAME, tmp_path)
    box("save", "-o", tmp_path / "sample.tar", NAME)
    return tmp_path / "sample.tar"


def identity(name: str = NAME) -> tuple[str, str]:
    """The image's id and its manifest's digest."""
    found = json.loads(box("inspect", name).stdout)[0]
    return found["Id"], found["Digest"]


def test_the_control_it_runs_in_box(saved: Path) -> None:
    assert box("run", "--rm", NAME).stdout == OUTPUT


def test_docker_loads_it_runs_it_and_gives_it_back_with_the_same_digest(saved: Path, docker: Peer, tmp_path: Path) -> None:
    assert docker("load", "-i", saved).strip() == f"Loaded image: {NAME}"
    assert docker("inspect", NAME, "--format", "{{.Id}}").strip() == identity()[0]
    assert docker.run(NAME) == OUTPUT
    before = identity()
    docker("save", "-o", tmp_path / "back.tar", NAME)
    box("rmi", NAME)
    assert box("load", "-i", tmp_path / "back.tar").stdout == f"Loaded image: {NAME}\n"
    assert identity() == before
    assert box("run", "--rm", NAME).stdout == OUTPUT


@pytest.mark.parametrize(("form", "same_digest"), [("docker-archive", True), ("oci-archive", False)])
def test_podman_loads_it_runs_it_and_gives_it_back(
    saved: Path, podman: Peer, tmp_path: Path, form: str, same_digest: bool
) -> None:
    assert "shop/sample:1.2" in podman("load", "-i", saved)
    assert podman.run(NAME) == OUTPUT
    before = identity()
    podman("save", "--format", form, "-o", tmp_path / "back.tar", NAME)
    box("rmi", NAME)
    name = box("load", "-i", tmp_path / "back.tar").stdout.removeprefix("Loaded image: ").strip()
    assert name.endswith(NAME)
    assert identity(name)[0] == before[0]
    assert (identity(name) == before) is same_digest  # an OCI archive of podman has its layers compressed anew
    assert box("run", "--rm", name).stdout == OUTPUT


@pytest.mark.needs("skopeo")
def test_skopeo_copies_it_to_a_layout_and_box_loads_that_with_the_same_digest(saved: Path, tmp_path: Path) -> None:
    before = identity()
    source, target = f"oci-archive:{saved}:{NAME}", f"oci:{tmp_path}/layout:{NAME}"
    subprocess.run(
        ["skopeo", "copy", "-q", "--insecure-policy", "--dest-oci-accept-uncompressed-layers", source, target], check=True
    )
    box("rmi", NAME)
    box("load", "-i", tmp_path / "layout")
    assert identity() == before


def test_what_docker_built_runs_in_box(docker: Peer, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    box("build", "-q", "-t", "base:1", tmp_path)
    box("save", "-o", tmp_path / "base.tar", "base:1")
    docker("load", "-i", tmp_path / "base.tar")
    (tmp_path / "Dockerfile").write_text(
        "FROM base:1\nUSER 0\nRUN echo by docker > /a/docker && rm /a/soft\nUSER 9\nCMD cat /a/docker; ls; id -u\n"
    )
    docker("build", "-q", "--network", "none", "-t", "made:1", tmp_path)
    docker("save", "-o", tmp_path / "made.tar", "made:1")
    box("load", "-i", tmp_path / "made.tar")
    assert box("run", "--rm", "made:1").stdout == "by docker\nb\ndocker\nhard\n9\n"
