"""A command, then a power cut: `power.py IMAGE REPOSITORY STRACE_INJECTION ACTION [MUTANT]`, in a mount namespace of its own.

The ext4 image is mounted, the command runs on its `store` (killed where strace is told to, when that is not empty), and the file
system is cut off with FS_IOC_SHUTDOWN without flushing its log: what was not synced is lost. Then it is mounted again, which
replays the journal, and what is there is printed as JSON: the command's status, the damage, the names.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, sys.argv[2])

from store.layout import Store
from tests.store.samples import damage, names

FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = (2).to_bytes(4, "little")


def mount(image: str, place: str) -> None:
    subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, place], check=True)


def main() -> None:
    image, repository, injection, *action = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        mount(image, place)
        command = [sys.executable, "-I", "-B", f"{repository}/tests/crash/actor.py", repository, f"{place}/store", *action]
        if injection:
            command = [
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                "trace=" + injection.partition(":")[0],
                "-e",
                "inject=" + injection,
                *command,
            ]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        top = os.open(place, os.O_RDONLY)
        fcntl.ioctl(top, FS_IOC_SHUTDOWN, NOLOGFLUSH)
        os.close(top)
        subprocess.run(["umount", place], check=True)
        mount(image, place)
        try:
            root = f"{place}/store"
            result = {"status": done.returncode, "damage": damage(root), "names": names(Store(root))}
        except Exception as err:
            result = {"status": done.returncode, "damage": [repr(err)], "names": {}}
        subprocess.run(["umount", place], check=True)
    sys.stdout.write(json.dumps(result))


main()
