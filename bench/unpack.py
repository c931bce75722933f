"""A Debian root file system's tar to an image that can run, against GNU tar, which verifies nothing and makes no image.

Each sample has a file system of its own, made anew: ext4 avoids the inodes of what was deleted lately, and gets ever slower.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator

from bench import tables
from bench.place import Place, run, say
from bench.timing import Contestant, Failed, Result, paired, process

ROUNDS = 7
_OURS = "box import"
_SIZE = 2 << 30
_OPTIONS = {"tar": "-xf", "tar.gz": "-xzf", "tar.zst": "--zstd -xf"}


def measure(place: Place, rounds: int) -> Iterator[str]:
    """A table for each kind of compression."""
    disk = Disk(place.scratch)
    try:
        for suffix, options in _OPTIONS.items():
            archive = place.debian(suffix)
            with open(archive, "rb") as file:  # into the page cache
                while file.read(1 << 20):
                    pass
            say(f"unpacking {os.path.basename(archive)}")
            root, tree = f"{disk.directory}/box", f"{disk.directory}/tree"
            tar = f"tar {options}"
            extraction = [*tar.split(), archive, "-C", tree]
            results: dict[str, Result] = paired(
                [
                    Contestant(_OURS, process([*place.box()[:1], "--root", root, "import", archive, "debian"]), disk.renew),
                    Contestant(tar, process(extraction), disk.renew),
                    Contestant(
                        "tar, then sync -f", process(["sh", "-c", f"{' '.join(extraction)} && sync -f {tree}"]), disk.renew
                    ),
                ],
                rounds,
                warm_up=1,
            )
            size = os.path.getsize(archive) // 1_000_000
            yield tables.comparison(
                f"unpack: debian.{suffix} ({size} MB) to an image that can run, {disk.kind}", _OURS, results, {tar: 1.3}
            )
    finally:
        disk.close()
    yield "  box digests the layer and makes it durable; tar does neither, unless the tree is synced after it."


class Disk:
    """A directory for one sample: on an ext4 of its own where that can be, else an empty one."""

    def __init__(self, scratch: str) -> None:
        self.directory = f"{scratch}/disk"
        self._image = f"{scratch}/disk.img"
        self._mounted = False
        os.mkdir(self.directory)
        self._device = ""
        with open(self._image, "wb") as file:
            zeros = bytes(1 << 20)
            for _ in range(0, _SIZE, len(zeros)):  # written, so that no sample pays for the image's own blocks
                file.write(zeros)
        try:
            self.renew()
            self.kind = "each on a new ext4"
        except Failed as reason:
            self.kind = f"each in a new directory ({reason})"
            self._detach()
            os.unlink(self._image)
            self._image = ""

    def renew(self) -> None:
        """Empty it, with everything written that was to be written."""
        self._unmount()
        if self._image:
            run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", self._attached()])
            run(["mount", "-o", "noatime", self._attached(), self.directory])
            self._mounted = True
        else:
            shutil.rmtree(self.directory)
            os.mkdir(self.directory)
        os.mkdir(f"{self.directory}/tree")
        os.sync()

    def _attached(self) -> str:
        """The image's loop device. Directly on the disk: through the page cache every byte would be written twice."""
        if not self._device:
            try:
                self._device = run(["losetup", "--direct-io=on", "--find", "--show", self._image]).strip()
            except Failed:
                self._device = run(["losetup", "--find", "--show", self._image]).strip()
        return self._device

    def close(self) -> None:
        """Remove it."""
        self._unmount()
        self._detach()
        shutil.rmtree(self.directory)
        if self._image:
            os.unlink(self._image)

    def _detach(self) -> None:
        if self._device:
            run(["losetup", "--detach", self._device])
            self._device = ""

    def _unmount(self) -> None:
        if self._mounted:
            subprocess.run(["umount", self.directory], check=True)
            self._mounted = False
