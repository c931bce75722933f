"""The installed `box`, and an image to use it on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import installed

BOXFILE = """\
box: 1
name: tiny
base: {host: [sh, cat, ls, "true", sleep, env, id, hostname, stty, head, seq, touch, mkdir]}
steps:
  - write: {to: /etc/motd, text: "hello\\n"}
  - run: echo made > /made
config:
  env: {GREETING: hello}
  labels: {kind: sample}
  cmd: [cat, /etc/motd]
"""


@pytest.fixture
def box() -> installed.Box:
    """Run `box ARGUMENTS`; `status` is what it must end with (None: whatever)."""
    return installed.run


@pytest.fixture(scope="session")
def _tiny_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    (directory / "Boxfile").write_text(BOXFILE)
    root = f"{directory}/root"
    installed.run("build", "-q", directory, BOX_ROOT=root)
    installed.run("save", "-o", directory / "tiny.tar", "tiny", BOX_ROOT=root)
    return directory / "tiny.tar"


@pytest.fixture
def tiny(_tiny_archive: Path) -> Iterator[str]:
    """The name of a small image in this test's own store: programs of this machine, GREETING=hello, label kind=sample."""
    installed.run("load", "-i", _tiny_archive)
    yield "tiny"
    left = os.listdir(f"{os.environ['BOX_ROOT']}/containers")
    if left:
        installed.run("rm", "-f", *left)
