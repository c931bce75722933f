"""Where pivot_root cannot be, on an initramfs: the root is entered by chroot, and by nothing that could leave one again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.installed import BOX

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

# In a mount namespace of its own, takes away the root file system from over the first one (rootfs, which pivot_root refuses
# to leave), brings what box needs there, and runs the command.
ENTER = """
import sys
from store.syscalls import *
import os
names = sys.argv[1].split(",")
CLONE_NEWNS = 0x20000
libc("unshare", CLONE_NEWNS)
mount("", "/", "", MS_REC | MS_PRIVATE)
own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
trees = {name: open_tree(AT_FDCWD, "/" + name, OPEN_TREE_CLONE | AT_RECURSIVE) for name in names if os.path.isdir("/" + name)}
top = os.environ.get("CHROOT")
if top:
    mount("tmpfs", top, "tmpfs", 0, "")
    os.chroot(top)
else:
    umount("/", MNT_DETACH)
    libc("setns", own, CLONE_NEWNS)  # the root is now what lies below
for name, tree in trees.items():
    os.makedirs("/" + name, exist_ok=True)
    move_mount(tree, AT_FDCWD, "/" + name)
for name in ("bin", "sbin", "lib", "lib64"):
    if not os.path.lexists("/" + name):
        os.symlink("usr/" + name, "/" + name)
os.chdir("/")
os.execv(sys.argv[2], sys.argv[2:])
"""
NAMES = ("usr", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var", "home", "opt")

PIVOT = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)
os.chdir("/tmp")
print(libc.syscall(155 if os.uname().machine == "x86_64" else 41, b".", b"."), ctypes.get_errno())
"""


def on_rootfs(*command: str, chroot: str = "") -> subprocess.CompletedProcess[str]:
    """What the command says with the kernel's first file system as its root; with `chroot`, in a file system mounted there."""
    repository = str(Path(__file__).parents[2])
    names = dict.fromkeys([*NAMES, repository.split("/")[1]])
    return subprocess.run(
        [sys.executable, "-c", ENTER, ",".join(names), *command], capture_output=True, text=True, check=False, cwd=repository,
        stdin=subprocess.DEVNULL, env={**os.environ, "CHROOT": chroot},
    )  # fmt: skip


def test_the_control_there_pivot_root_answers_einval() -> None:
    done = on_rootfs(sys.executable, "-c", PIVOT)
    assert done.stdout.split() == ["-1", "22"], done.stderr


@pytest.mark.parametrize("added", [[], ["--cap-add", "SYS_CHROOT"]], ids=["default", "with SYS_CHROOT asked for"])
def test_a_container_runs_all_the_same_without_the_right_to_chroot(tiny: str, added: list[str]) -> None:
    script = "echo $$; ls /; while read -r name value; do case $name in CapEff:) echo $value;; esac; done </proc/self/status"
    done = on_rootfs(str(BOX), "run", "--rm", *added, tiny, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    first, *names, capabilities = done.stdout.split()
    assert first == "1"
    assert "proc" in names
    assert "home" not in names
    assert not int(capabilities, 16) & 1 << 18  # CAP_SYS_CHROOT
    assert os.listdir(f"{os.environ['BOX_ROOT']}/containers") == []


def test_exec_enters_the_container_s_root_also_where_box_itself_runs_in_a_chroot(tiny: str, tmp_path: Path) -> None:
    """setns alone enters the root of the mount namespace: there, that of the machine."""
    (tmp_path / "top").mkdir()
    script = f"""set -e
        {BOX} run -d --name one {tiny} sleep 1000 >/dev/null
        {BOX} exec one ls /
        {BOX} rm -f one >/dev/null"""
    done = on_rootfs("/bin/sh", "-c", script, chroot=str(tmp_path / "top"))
    assert done.returncode == 0, done.stderr
    assert "made" in done.stdout.split()  # a file of the image
    assert "home" not in done.stdout.split()
