"""Two builds of one Boxfile give one digest, whatever the umask, locale, order of directories, time, user and path are."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("overlay")]

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("build_once.py")
BOXFILE = """\
box: 1
name: same
base: {host: [sh, ls, mkdir, ln, cat, touch, chmod]}
steps:
  - copy: src/ -> /app
  - copy: {from: ["*.txt", tool], to: /opt/, owner: nobody}
  - env: {B: 2, A: 1}
  - workdir: /work
  - run: mkdir sub; ln -s sub link; ls -R /app > listing; cat /app/*.py > all; touch a b c; ln a hard; chmod 4711 b
  - {write: {to: /etc/motd, text: "grüße\\n"}}
  - remove: [/opt/b*]
config: {labels: {z: 1, a: 2}, expose: [80/tcp, 53/udp], volumes: [/data, /a]}
"""
NAMES = ["a.py", "Z.py", "ä.py", "b.py", "_.py", "c d.py", "deep/x", "deep/er/y", "10", "9"]


def context(top: Path, *, backwards: bool, mode: int) -> Path:
    """The same files, made in one order or the other."""
    before = os.umask(0)
    try:
        for name in reversed(NAMES) if backwards else NAMES:
            path = top / "src" / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=mode | 0o300)
            path.write_text(name)
            path.chmod(mode)
        (top / "src/link").symlink_to("a.py")
        for name in ("b.txt", "a.txt", "tool"):
            (top / name).write_text(name)
            (top / name).chmod(mode | 0o100 if name == "tool" else mode)
        (top / "Boxfile").write_text(BOXFILE, encoding="utf-8")
    finally:
        os.umask(before)
    return top


def build(where: Path, root: Path, *, umask: int, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(where), str(root)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environment},
        cwd="/",
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A place on another file system, whose directories have another order, where there is one."""
    top = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None, prefix="a longer path, "))
    yield top
    shutil.rmtree(top)


def test_the_digest_does_not_depend_on_where_when_and_by_whom(tmp_path: Path, elsewhere: Path) -> None:
    one = context(tmp_path / "one", backwards=False, mode=0o644)
    two = context(elsewhere / "two", backwards=True, mode=0o600)
    for path in two.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
        os.chown(path, 1234, 1234, follow_symlinks=False)
    first = build(one, tmp_path / "store", umask=0o022, LC_ALL="C", TZ="UTC", USER="root", HOME="/root")
    second = build(
        two, elsewhere / "store", umask=0o077, LC_ALL="C.UTF-8", LANG="de_DE.UTF-8", TZ="Asia/Tokyo", USER="somebody",
        HOME="/tmp", PYTHONHASHSEED="7", PYTHONUTF8="1",
    )  # fmt: skip
    assert first == second
    assert first.startswith("built sha256:")


def test_one_byte_more_is_another_digest(tmp_path: Path) -> None:
    # The control of the test above: it can tell two images apart.
    one = context(tmp_path / "one", backwards=False, mode=0o644)
    first = build(one, tmp_path / "store", umask=0o022)
    (one / "src/a.py").write_text("a.py!")
    assert build(one, tmp_path / "store", umask=0o022) != first


def test_builds_side_by_side_give_the_same_as_one_after_the_other(tmp_path: Path) -> None:
    one = context(tmp_path / "one", backwards=False, mode=0o644)
    alone = build(one, tmp_path / "alone", umask=0o022)
    together = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(one), str(tmp_path / "store")],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in together:
        assert process.communicate()[0].splitlines()[-1] == alone
        assert process.returncode == 0
    assert os.listdir(tmp_path / "store/drafts") == []
