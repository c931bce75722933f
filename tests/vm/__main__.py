"""`make test-vm`: boots a machine that has cgroup v2 alone, and runs the tests of control groups there.

The kernel is Debian's (6.1 on Debian 12), the processor emulated (no KVM is needed), the file system made of what this machine
has. The exit status is 0 if the tests passed there. They are under tests/runtime; those that only v2 has say `needs("cgroup2")`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.vm import initramfs, kernel
from tests.vm.init import MARK

TESTS = (
    "tests/runtime/test_cgroup_v2.py",
    "tests/runtime/test_container_cgroup.py",
    "tests/runtime/test_container_cgroup_life.py",
    "tests/runtime/test_cgroups_beside_runc.py",
    "tests/runtime/test_devices.py",
    "tests/runtime/test_limits.py",
    "tests/runtime/test_pausing.py",
)
CACHE = initramfs.ROOT / "build" / "vm"
_PATIENCE = 180  # seconds
_QEMU = "qemu-system-x86_64"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm")
    parser.add_argument("tests", nargs="*", default=TESTS, help="what pytest runs there")
    parser.add_argument("--patience", type=int, default=_PATIENCE, help="seconds after which the machine is switched off")
    arguments = parser.parse_args()
    qemu = shutil.which(_QEMU)
    if not qemu:
        print(f"{_QEMU} is not installed (.ci/debian-packages names what is needed)", file=sys.stderr)
        return 1
    try:
        found = kernel.fetch(CACHE)
    except kernel.Unavailable as reason:
        print(f"no kernel to boot: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="box-vm-") as directory:
        archive = Path(directory) / "initramfs"
        started = time.monotonic()
        initramfs.make(archive, found, kernel.MODULES)
        print(f"initramfs: {archive.stat().st_size >> 20} MiB in {time.monotonic() - started:.0f} s", flush=True)
        return boot(qemu, found / "vmlinuz", archive, arguments.tests, arguments.patience)


def boot(qemu: str, vmlinuz: Path, archive: Path, tests: list[str], patience: int) -> int:
    """Show what the machine says, and return the status that its process 1 names; 1 when it names none in time."""
    command = [
        qemu, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(min(4, os.cpu_count() or 1)),
        "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", str(vmlinuz), "-initrd", str(archive),
        "-append", f"console=ttyS0 loglevel=2 panic=-1 cgroup_no_v1=all mitigations=off box.tests={','.join(tests)}",
    ]  # fmt: skip
    status = 1
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as machine:
        killer = threading.Timer(patience, machine.kill)
        killer.start()
        try:
            assert machine.stdout is not None
            for line in machine.stdout:
                print(line.rstrip("\r\n"), flush=True)
                if line.startswith(MARK):
                    status = int(line.split()[-1])
        finally:
            killer.cancel()
            machine.kill()
    print(f"machine: {time.monotonic() - started:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
