"""Trees stacked by the kernel's own overlayfs: the judge of what whiteouts and opaque directories mean."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store import syscalls

_FIXED: list[tuple[str, str | None]] = [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")]


@contextmanager
def mounted(at: Path, *trees: Path, upper: Path | None = None) -> Iterator[Path]:
    """Mount `trees` (the topmost first) on the directory `at`, writable when `upper` is given."""
    options: list[tuple[str, str | None]] = [("lowerdir+", str(tree)) for tree in trees]
    if upper is None and len(trees) == 1:
        empty = at.parent / "nothing"
        empty.mkdir(exist_ok=True)
        options.append(("lowerdir+", str(empty)))
    if upper is not None:
        work = upper.parent / f"{upper.name}.work"
        work.mkdir()
        options += [("upperdir", str(upper)), ("workdir", str(work))]
    at.mkdir(exist_ok=True)
    mount = syscalls.new_filesystem("overlay", options + _FIXED)
    try:
        syscalls.move_mount(mount, syscalls.AT_FDCWD, str(at))
    finally:
        os.close(mount)
    try:
        yield at
    finally:
        syscalls.umount(str(at), syscalls.MNT_DETACH)
