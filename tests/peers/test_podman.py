"""podman runs what box built and saved, and box what podman and buildah built and saved."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.installed import run as box
from tests.peers import traveller
from tests.peers.conftest import Peer

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup", "podman")]


def test_podman_sees_in_the_image_what_box_sees(podman: Peer, facts: str) -> None:
    assert podman.run(traveller.NAME) == facts


def test_podman_has_the_image_by_the_same_id(podman: Peer, home: str) -> None:
    (image,) = json.loads(podman("image", "inspect", traveller.NAME))
    assert f"sha256:{image['Id']}" == traveller.digests(home, traveller.NAME)[0]
    assert image["Config"]["StopSignal"] == "SIGUSR1"
    assert image["Config"]["Volumes"] == {"/srv/data": {}}


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_box_loads_what_podman_saved_with_the_same_id(kind: str, podman: Peer, home: str, facts: str, tmp_path: Path) -> None:
    podman("save", "--format", kind, traveller.NAME, "-o", f"{tmp_path}/saved.tar")
    box("load", "-i", f"{tmp_path}/saved.tar")
    (name,) = box("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert traveller.digests(os.environ["BOX_ROOT"], name)[0] == traveller.digests(home, traveller.NAME)[0]
    assert box("run", "--rm", "--userns", "host", name).stdout == facts


@pytest.mark.needs("buildah")
def test_box_runs_what_buildah_built_on_top(podman: Peer, build_by_buildah: Callable[[Path, str], str], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM traveller\n"
        "USER root\n"
        "RUN rm data && rm -r replaced && mkdir replaced && echo buildah > replaced/other\n"
        'ENTRYPOINT ["sh", "-c"]\n'
        'CMD ["ls /srv/tree /srv/tree/replaced; cat replaced/other; pwd"]\n'
    )
    build_by_buildah(tmp_path, "on-top")
    expected = podman.run("on-top")
    assert "data\n" not in expected
    assert "buildah\n" in expected
    podman("save", "--format", "oci-archive", "on-top", "-o", tmp_path / "on-top.tar")
    identity = box("load", "-q", "-i", tmp_path / "on-top.tar").stdout.strip()
    assert box("run", "--rm", "--userns", "host", identity).stdout == expected
