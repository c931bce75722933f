"""docker runs what box built and saved, and box what docker built and saved."""

import json
from pathlib import Path

import pytest

from tests.command.installed import run as box
from tests.peers import traveller
from tests.peers.conftest import Peer

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup", "dockerd")]


@pytest.fixture(scope="module", autouse=True)
def _loaded(docker: Peer, traveller_archive: Path) -> None:
    assert docker("load", "-i", str(traveller_archive)) == "Loaded image: traveller:latest\n"


def test_docker_sees_in_the_image_what_box_sees(docker: Peer, facts: str) -> None:
    assert docker.run(traveller.NAME) == facts


def test_docker_replaces_the_command_and_keeps_the_entrypoint(docker: Peer, facts: str) -> None:
    expected = facts[: facts.index("argument <one>")] + "argument <other>\n"
    assert docker.run(traveller.NAME, "other") == expected


def test_docker_has_the_image_by_the_same_id_and_with_the_whole_configuration(
    docker: Peer, home: str, traveller_archive: Path
) -> None:
    (image,) = json.loads(docker("image", "inspect", traveller.NAME))
    assert image["Id"] == traveller.digests(home, traveller.NAME)[0]
    config = image["Config"]
    assert config["Env"] == ["COLOUR=a 'quoted' $value", "EMPTY="]
    assert config["Cmd"] == ["one", "two words"]
    assert config["Entrypoint"][:2] == ["sh", "-c"]
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("nobody", "/srv/tree", "SIGUSR1")
    assert config["ExposedPorts"] == {"8080/tcp": {}, "53/udp": {}}
    assert config["Volumes"] == {"/srv/data": {}}
    assert config["Labels"] == {"org.opencontainers.image.title": "traveller", "empty": ""}
    assert config["Healthcheck"] == {"Test": ["CMD", "true"], "Interval": 30_000_000_000}
    assert image["Created"] == "1980-01-01T00:00:00Z"


def test_box_loads_what_docker_saved_with_the_same_id(docker: Peer, home: str, facts: str, tmp_path: Path) -> None:
    docker("save", traveller.NAME, "-o", f"{tmp_path}/saved.tar")
    fresh = tmp_path / "fresh"
    box("--root", fresh, "load", "-i", f"{tmp_path}/saved.tar")
    assert traveller.digests(fresh, traveller.NAME)[0] == traveller.digests(home, traveller.NAME)[0]
    assert box("--root", fresh, "run", "--rm", "--userns", "host", traveller.NAME).stdout == facts


def test_box_runs_what_docker_built_on_top(docker: Peer, tmp_path: Path) -> None:
    """docker's own layers: a whiteout, a directory made anew, a change of mode alone, and its configuration."""
    (tmp_path / "Dockerfile").write_text(
        "FROM traveller\n"
        "USER root\n"
        "RUN rm data && rm -r replaced && mkdir replaced && echo docker > replaced/other\n"
        'ENV COLOUR="of docker"\n'
        "WORKDIR /srv/elsewhere\n"
        'ENTRYPOINT ["sh", "-c"]\n'
        'CMD ["ls /srv/tree /srv/tree/replaced; echo $COLOUR; pwd; stat -c %h /srv/tree/twin"]\n'
    )
    docker("build", "--quiet", "--network", "none", "--tag", "on-top", tmp_path, DOCKER_BUILDKIT="1")
    expected = docker.run("on-top")
    assert "data\n" not in expected
    assert "other\n" in expected
    docker("save", "on-top", "-o", f"{tmp_path}/on-top.tar")
    box("load", "-i", f"{tmp_path}/on-top.tar")
    assert box("run", "--rm", "--userns", "host", "on-top").stdout == expected
