"""Process 1 of the virtual machine: mounts what a machine has, runs the tests, says how they ended, and switches the machine off.

What to run is on the kernel's command line, after `box.tests=`, separated by commas.
"""

import ctypes
import os
import subprocess
import sys
import time
import traceback

MARK = "box-vm: exit status"
_POWER_OFF = 0x4321FEDC
_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str, options: str = "") -> None:
    os.makedirs(target, exist_ok=True)
    if _libc.mount(kind.encode(), target.encode(), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def prepare() -> None:
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("devtmpfs", "/dev")
    mount("devpts", "/dev/pts", "ptmxmode=666")
    for target in ("/dev/shm", "/tmp", "/run", "/var/tmp"):
        mount("tmpfs", target, "mode=1777")
    mount("cgroup2", "/sys/fs/cgroup")
    for name in ("fd", "stdin", "stdout", "stderr"):
        where = "/proc/self/fd" + ("" if name == "fd" else f"/{('stdin', 'stdout', 'stderr').index(name)}")
        os.symlink(where, f"/dev/{name}")
    for name in sorted(os.listdir("/modules"), key=lambda name: name != "libcrc32c.ko"):
        fd = os.open(f"/modules/{name}", os.O_RDONLY)
        if _libc.syscall(313, fd, b"", 0):  # finit_module
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
        os.close(fd)
    # A disk to throttle.
    with open("/tmp/disk", "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["losetup", "/dev/loop0", "/tmp/disk"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> int:
    os.environ.update(BOX_REQUIRE="root,mount,overlay,userns,cgroup,cgroup2")
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", PYTHONPATH="/site:/box", PYTHONDONTWRITEBYTECODE="1")
    started = time.monotonic()
    prepare()
    with open("/proc/cmdline") as file:
        words = dict(word.split("=", 1) for word in file.read().split() if "=" in word)
    print(f"box-vm: {os.uname().release}, {words['box.tests']}", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_timeout",  # what is installed there has no metadata to find a plugin by
        "--color=no",
        "--durations=8",
        "-q",
        *words["box.tests"].split(","),
    ]
    tests = subprocess.Popen(command, cwd="/box", stdin=subprocess.DEVNULL)
    while True:  # process 1 waits for every orphan
        pid, status = os.wait()
        if pid == tests.pid:
            print(f"box-vm: {time.monotonic() - started:.0f} s", flush=True)
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
    print(f"\n{MARK} {status}", flush=True)
    os.sync()
    _libc.reboot(_POWER_OFF)
