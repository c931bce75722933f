"""What an ordinary user is told who has no subordinate ids."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command.installed import BOX

pytestmark = pytest.mark.needs("root")
NOBODY = 65534


def as_nobody(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = place / "home"
    home.mkdir(exist_ok=True)
    os.chown(home, NOBODY, NOBODY)
    return subprocess.run(
        [BOX, *arguments], capture_output=True, text=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd=home,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others may enter (pytest's own may not be)."""
    with tempfile.TemporaryDirectory(prefix="box-ordinary-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_build_is_refused_at_once_with_a_hint(place: Path) -> None:
    (place / "Boxfile").write_text("box: 1\nbase: scratch\nsteps:\n  - write: {to: /a, text: b}\n")
    done = as_nobody(place, "build", str(place))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("box: /etc/subuid gives nobody no ids\nhint: let root give you some: usermod --add-subuids")


def test_commands_that_only_look_need_no_root(place: Path) -> None:
    done = as_nobody(place, "images", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
