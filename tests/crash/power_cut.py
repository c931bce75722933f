"""Cutting the power: of a copy of an ext4 image with a store on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = str(Path(__file__).parents[2])


def make_disk(top: Path) -> Path:
    """An ext4 image with a store on it."""
    image = top / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0", image], check=True)
    cut(image, "", "old")
    return image


def cut(image: Path, injection: str, *action: str) -> dict[str, object]:
    """The action on the image, struck where `injection` says, then the cut; see power.py."""
    private = ["unshare", "-m", "--propagation", "private"]
    program = [sys.executable, "-B", f"{REPOSITORY}/tests/crash/power.py", str(image), REPOSITORY, injection, *action]
    done = subprocess.run([*private, *program], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def copy_of(image: Path) -> Path:
    """A copy to cut the power of."""
    copy = image.with_name("copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy
