"""Debian's cloud kernel with the few modules that the tests want, out of its package, which is downloaded once."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

META = "linux-image-cloud-amd64"
MODULES = ("overlay", "loop", "bfq", "libcrc32c", "erofs")


class Unavailable(Exception):
    """There is no kernel to boot, for this reason."""


def fetch(cache: Path) -> Path:
    """A directory with `vmlinuz` and `NAME.ko` of each module. Raises Unavailable."""
    try:
        return _fetch(cache)
    except Unavailable:
        # What apt knows may be old, or nothing.
        if os.geteuid() or not shutil.which("apt-get"):
            raise
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        return _fetch(cache)


def _fetch(cache: Path) -> Path:
    package = _package()
    ready = cache / package
    if (ready / "vmlinuz").exists():
        return ready
    draft = cache / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    done = subprocess.run(["apt-get", "download", "-q", package], cwd=draft, capture_output=True, text=True, check=False)
    found = list(draft.glob("*.deb"))
    if done.returncode or not found:
        raise Unavailable(f"apt-get download {package}: {(done.stderr.strip().splitlines() or ['no package'])[-1]}")
    print(f"{package}: {found[0].stat().st_size >> 20} MiB", file=sys.stderr)
    _extract(found[0], draft)
    missing = [name for name in ("vmlinuz", *(f"{module}.ko" for module in MODULES)) if not (draft / name).exists()]
    if missing:
        raise Unavailable(f"{package} lacks {', '.join(missing)}")
    found[0].unlink()
    shutil.rmtree(ready, ignore_errors=True)
    draft.rename(ready)
    return ready


def _extract(package: Path, target: Path) -> None:
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            name = _wanted(Path(member.name).name)
            source = archive.extractfile(member) if name and member.isreg() else None
            if source:
                with (target / name).open("wb") as file:
                    shutil.copyfileobj(source, file)


def _wanted(name: str) -> str:
    if name.startswith("vmlinuz-"):
        return "vmlinuz"
    return name if name.endswith(".ko") and name.removesuffix(".ko") in MODULES else ""


def _package() -> str:
    """The package that the meta package stands for now, such as linux-image-6.1.0-56-cloud-amd64."""
    try:
        done = subprocess.run(["apt-cache", "depends", META], capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise Unavailable("there is no apt here") from err
    for line in done.stdout.splitlines():
        word, _, name = line.strip().partition(": ")
        if word == "Depends" and name.startswith("linux-image-"):
            return name
    raise Unavailable(f"apt knows no {META}: try apt-get update")
