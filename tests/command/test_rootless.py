"""What an ordinary user can do: one with subordinate ids everything, one without is told what is missing."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command.installed import BOX, Done
from tests.containers import until

pytestmark = [pytest.mark.needs("root", "overlay", "userns", "newuidmap"), pytest.mark.xdist_group("rootless")]
NAME, BARE = "box-tests-many", "box-tests-one"


class User:
    """An ordinary user, with a home of its own for this test."""

    def __init__(self, name: str, place: Path) -> None:
        self.entry = pwd.getpwnam(name)
        self.home = place / name
        self.home.mkdir()
        os.chown(self.home, self.entry.pw_uid, self.entry.pw_gid)

    def do(self, *argv: str, status: int | None = 0, stdin: str = "") -> Done:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, cwd=self.home, timeout=120, check=False,
            user=self.entry.pw_uid, group=self.entry.pw_gid, extra_groups=[],
            env={"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        )  # fmt: skip
        assert status is None or done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
        assert "this is a bug in box" not in done.stderr, done.stderr
        return done

    def box(self, *arguments: str, status: int | None = 0, stdin: str = "") -> str:
        return self.do(BOX, *arguments, status=status, stdin=stdin).stdout


@pytest.fixture(scope="module")
def _users() -> Iterator[None]:
    for name in (NAME, BARE):
        subprocess.run(["useradd", "--no-create-home", "--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0", name], check=False)
    ranges = ["--add-subuids", "3000000-3065535", "--add-subgids", "3000000-3065535"]
    subprocess.run(["usermod", *ranges, NAME], check=True)
    yield
    for name in (NAME, BARE):  # init may not have waited yet for the last process of theirs
        until(lambda name=name: _gone(name))  # type: ignore[misc]


def _gone(name: str) -> bool:
    subprocess.run(["userdel", name], check=False, capture_output=True)
    return name not in {entry.pw_name for entry in pwd.getpwall()}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others may enter (pytest's own may not be)."""
    with tempfile.TemporaryDirectory(prefix="box-rootless-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


BOXFILE = """\
box: 1
name: app
base: {host: [sh, cat, id, ls, chroot, mkdir, rm, sleep, chown, touch, setfattr]}
steps:
  - write: {to: /etc/passwd, text: "root:x:0:0::/:/bin/sh\\napp:x:1000:1001::/:/bin/sh\\n"}
  - mkdir: {path: /d}
  - write: {to: /d/gone, text: x}
  - write: {to: /d/owned, text: owned, owner: "1000:1001"}
  - run: rm -r /d && mkdir /d && echo new > /d/made && chown 33:44 /d/made && mkdir /tmp/t && touch /tmp/t/f
  - run: rm /tmp/t/f
config: {cmd: [sh]}
"""


@pytest.fixture
def user(_users: None, place: Path) -> Iterator[User]:
    """Has subordinate ids, and an image `app` in its store. Nothing of its runs afterwards."""
    one = User(NAME, place)
    (one.home / "Boxfile").write_text(BOXFILE)
    one.box("build", "-q", ".")
    yield one
    one.box("rm", "-f", *one.box("ps", "-aq").split(), status=None)
    until(lambda: not _running())


def _running() -> str:
    """The user's processes, but those that only wait for init to wait for them."""
    return subprocess.run(["pgrep", "-a", "-r", "R,S,D,T", "-u", NAME], capture_output=True, text=True, check=False).stdout


def test_the_image_is_the_same_as_roots(user: User, place: Path) -> None:
    root = place / "roots"
    built = subprocess.run([BOX, "--root", str(root), "build", "-q", str(user.home)], capture_output=True, text=True, check=True)
    assert user.box("images", "-q", "--no-trunc") == built.stdout
    shutil.rmtree(root)


def test_a_container_has_the_images_users(user: User) -> None:
    said = user.box("run", "--rm", "app", "sh", "-c", "id -u; ls -ln /d/made; ls -A /d /tmp/t").split()
    assert said[0] == "0"
    assert said[3:5] == ["33", "44"]
    assert said[-3:] == ["/d:", "made", "/tmp/t:"]
    assert user.box("run", "--rm", "app", "sh", "-c", "touch /x; chown 5:6 /x; ls -ln /x").split()[2:4] == ["5", "6"]
    assert user.box("run", "--rm", "-u", "app", "app", "id", "-u") == "1000\n"


def test_it_is_nobody_but_this_user_on_the_machine(user: User) -> None:
    user.box("run", "-d", "--name", "web", "--init=false", "app", "sleep", "1000")
    pid = int(user.box("inspect", "--format", "{{.State.Pid}}", "web"))
    uid = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:")).split()[1]
    assert uid == str(user.entry.pw_uid)
    user.box("rm", "-f", "web")


def test_a_container_in_the_background_from_start_to_removal(user: User) -> None:
    user.box("run", "-d", "--name", "web", "app", "sh", "-c", "echo up; sleep 1000")
    assert "web" in user.box("ps")
    assert user.box("exec", "web", "sh", "-c", "echo x > /new; id -u") == "0\n"
    assert user.box("exec", "-u", "app", "web", "id", "-u") == "1000\n"
    (user.home / "f").write_text("data")
    user.box("cp", "f", "web:/f")
    assert user.box("exec", "web", "ls", "-ln", "/f").split()[2:4] == ["0", "0"]
    user.box("cp", "web:/f", "g")
    assert os.stat(user.home / "g").st_uid == user.entry.pw_uid
    assert user.box("diff", "web").splitlines() == ["A /f", "A /new"]
    assert user.box("logs", "web") == "up\n"
    user.box("stop", "-t", "1", "web")
    user.box("start", "web")
    assert user.box("exec", "web", "cat", "/f") == "data"
    user.box("rm", "-f", "web")
    assert user.box("ps", "-aq") == ""


def test_images_go_out_and_come_back(user: User) -> None:
    before = user.box("images", "-q", "--no-trunc")
    user.box("save", "-o", "app.tar", "app")
    user.box("rmi", "app")
    user.box("load", "-i", "app.tar")
    assert user.box("images", "-q", "--no-trunc") == before
    assert user.box("run", "--rm", "app", "cat", "/d/made") == "new\n"
    assert "nothing is damaged" in user.box("fsck")
    user.box("rmi", "app")
    user.box("gc", "--all", status=None)


def test_what_is_bound_is_the_users(user: User) -> None:
    user.box("run", "--rm", "-v", f"{user.home}:/mnt", "app", "touch", "/mnt/made")
    assert os.stat(user.home / "made").st_uid == user.entry.pw_uid


def test_devices_work_and_others_cannot_be_made(user: User) -> None:
    script = "echo x > /dev/null; cat /dev/null; ls -l /dev/zero; echo $?"
    assert user.box("run", "--rm", "app", "sh", "-c", script).endswith("0\n")


def test_limits_that_are_off_are_said(user: User) -> None:
    done = user.do(BOX, "run", "--rm", "-m", "64m", "app", "id", "-u")
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        pytest.skip("cgroup v2 may be delegated")
    assert done.stderr == "box: warning: no control groups were delegated to this user, so these limits are off: memory\n"


def test_the_number_of_processes_is_limited_all_the_same(user: User) -> None:
    script = "i=0; while [ $i -lt 40 ]; do sleep 3 & i=$((i+1)); done"
    done = user.do(BOX, "run", "--rm", "--pids-limit", "10", "app", "sh", "-c", script, status=None)
    assert done.returncode == 2
    assert "fork" in done.stderr
    control = user.do(BOX, "run", "--rm", "app", "sh", "-c", script.replace("sleep 3", ":"), status=None)
    assert control.returncode == 0, control.stderr


def test_the_network_of_the_machine_can_be_had(user: User) -> None:
    assert user.box("run", "--rm", "--network", "host", "app", "cat", "/sys/class/net/lo/ifindex") == "1\n"


def test_a_mount_that_nobody_would_see_is_refused(user: User) -> None:
    done = user.do(BOX, "mount", "app", status=2)
    assert done.stderr.startswith("box: what an ordinary user's box mounts is seen by box alone\nhint: 'box export'")


def test_a_user_without_subordinate_ids_is_told_so(_users: None, place: Path) -> None:
    bare = User(BARE, place)
    (bare.home / "Boxfile").write_text(BOXFILE)
    done = bare.do(BOX, "build", ".", status=None)
    assert done.returncode == 1
    assert done.stderr.startswith(f"box: /etc/subuid gives {BARE} no ids\nhint: let root give you some: usermod --add-subuids")
    assert bare.do(BOX, "run", "app", status=None).returncode == 125
    assert bare.box("images", "-q") == ""
