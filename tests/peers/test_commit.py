"""docker and podman load and run what `box commit` made."""

from pathlib import Path

import pytest

from tests.command.installed import run as box
from tests.peers.conftest import Peer

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup")]


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    (tmp_path / "Boxfile").write_text(
        "box: 1\nname: base\nbase: {host: [sh, cat, ls, rm]}\nsteps:\n"
        '  - write: {to: /tree/a, text: "a\\n"}\n  - write: {to: /tree/b, text: "b\\n"}\n'
    )
    box("build", "-q", tmp_path)
    box("run", "--name", "c", "base", "sh", "-c", "rm /tree/a; echo changed > /tree/b; echo new > /new")
    box("commit", "-c", 'CMD ["sh", "-c", "ls /tree; cat /tree/b /new"]', "c", "localhost/committed:1")
    box("save", "-o", tmp_path / "committed.tar", "localhost/committed:1")
    box("rm", "c")
    return tmp_path / "committed.tar"


@pytest.mark.needs("podman")
def test_podman_runs_it(podman: Peer, committed: Path) -> None:
    podman("load", "-i", committed)
    assert podman.run("localhost/committed:1") == "b\nchanged\nnew\n"


@pytest.mark.needs("dockerd")
def test_docker_runs_it(docker: Peer, committed: Path) -> None:
    docker("load", "-i", committed)
    assert docker.run("localhost/committed:1") == "b\nchanged\nnew\n"
