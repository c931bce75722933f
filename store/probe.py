"""Which drivers work here: found out by doing once what each needs, not by asking for versions.

The answer is kept in ROOT/probed, for as long as the kernel runs: "BOOT NAME", the first driver that works.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from errno import EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC
from typing import TYPE_CHECKING

from store.drafts import write_all
from store.erofs_format import BLOCK, FIRST_BLOCK, TAR, Device
from store.erofs_mount import mount_index
from store.erofs_tree import LayerTree
from store.erofs_write import build_index
from store.errors import BoxError, StoreError
from store.overlay import mount_overlay
from store.prepared import boot_id, read_text
from store.tar_read import FILE, Entry, TarReader
from store.tar_write import TarWriter

if TYPE_CHECKING:
    from store.drafts import Drafts
    from store.layout import Store

DRIVERS = ("erofs", "overlay", "copy")
"""The best first."""

_CONTENT = b"mapped\n"
_PASSING = (EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC)


class Probe:
    """What came of trying a driver: `reason` says why it does not work, empty when it does; `how` what it stands on."""

    __slots__ = ("how", "name", "reason")

    def __init__(self, name: str, how: str, reason: str = "") -> None:
        self.name = name
        self.how = how
        self.reason = reason


def probed(store: Store) -> str:
    """The name of the first driver that works in this store, tried once in a boot."""
    if os.geteuid() != 0:
        return DRIVERS[-1]  # who can mount nothing only looks at what is in the store; see runtime.rootless
    path = f"{store.root}/probed"
    boot = boot_id()
    try:
        found = read_text(path).split()
        if len(found) == 2 and found[0] == boot and found[1] in DRIVERS:
            return found[1]
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    name = next((name for name in DRIVERS if not _try(name, _ATTEMPTS[name], store.drafts).reason), DRIVERS[-1])
    store.drafts.replace(path, f"{boot} {name}\n".encode(), durable=False)
    return name


def probe(drafts: Drafts) -> list[Probe]:
    """Try every driver on the store's file system, the best first."""
    return [_try(name, attempt, drafts) for name, attempt in _ATTEMPTS.items()]


def require(store: Store, name: str) -> str:
    """`name`, when it is a driver that works in this store; else a StoreError that says why not."""
    if name not in DRIVERS:
        raise StoreError(f"there is no driver {name!r}", hint="there are: " + ", ".join(DRIVERS))
    found = _try(name, _ATTEMPTS[name], store.drafts)
    if found.reason:
        raise StoreError(
            f"the driver {name} does not work here: {found.reason}", hint="leave out --driver: box takes one that does"
        )
    return name


def _try(name: str, attempt: Callable[[Drafts], str], drafts: Drafts) -> Probe:
    try:
        return Probe(name, attempt(drafts))
    except (OSError, BoxError) as err:
        cause = err.__cause__ if isinstance(err, BoxError) else err
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            raise  # a full disk says nothing about a driver
        return Probe(name, "", err.message if isinstance(err, BoxError) else err.strerror or str(err))


def _erofs(drafts: Drafts) -> str:
    """A file of a tar is read through an index, below an overlay: "files", or "loop devices" where those must stand between."""
    data = bytearray()
    writer = TarWriter(data.extend)
    entry = Entry(FILE, b"file", 0o644, 0, 0, 0, len(_CONTENT))
    writer.add(entry, _CONTENT)
    writer.finish()
    pieces = iter([memoryview(data)])
    tree = LayerTree(None, _Nothing(), base=FIRST_BLOCK * BLOCK)
    tree.take(TarReader(lambda: next(pieces, None)))
    index = build_index(tree.finish(None), [Device(TAR + bytes(32), len(data) // BLOCK, FIRST_BLOCK)], lowest=True)
    with drafts.directory("probe") as draft:
        # A store in small, as mount_index wants one.
        for name in ("layers", "indexes", "lower", "upper", "work"):
            os.mkdir(f"{draft.path}/{name}")
        _write(f"{draft.path}/layers/{bytes(32).hex()}", data)
        _write(f"{draft.path}/indexes/1.erofs", index)
        how: list[str] = []
        mount = mount_index(f"{draft.path}/indexes/1.erofs", how)
        os.close(mount)
        _read_through([f"{draft.path}/indexes/1.erofs", f"{draft.path}/lower"])
        _try_upper(f"{draft.path}/lower", draft.path)
    return how[0]


def _overlay(drafts: Drafts) -> str:
    with drafts.directory("probe") as draft:
        for name in ("lower", "empty", "upper", "work"):
            os.mkdir(f"{draft.path}/{name}")
        _write(f"{draft.path}/lower/file", _CONTENT)
        _read_through([f"{draft.path}/lower", f"{draft.path}/empty"])
        _try_upper(f"{draft.path}/lower", draft.path)
    return "trees"


def _copying(drafts: Drafts) -> str:
    from store.reflink import clones

    with drafts.file() as one, drafts.file() as other:
        write_all(one.descriptor, _CONTENT)
        return "reflinks" if clones(one.descriptor, other.descriptor) else "copies"


def _read_through(lowers: list[str]) -> None:
    mount = mount_overlay(lowers)
    try:
        file = os.open("file", os.O_RDONLY | os.O_CLOEXEC, dir_fd=mount)
        try:
            if os.read(file, 64) != _CONTENT:
                raise StoreError("what was read is not what was written")
        finally:
            os.close(file)
    finally:
        os.close(mount)


def _try_upper(lower: str, directory: str) -> None:
    """A build's uppers and a container's lie in the store, too: overlayfs takes none that lies on overlayfs."""
    os.close(mount_overlay([lower], f"{directory}/upper", f"{directory}/work", volatile=True))


def _write(path: str, data: bytes | bytearray) -> None:
    with io.FileIO(path, "x") as file:
        write_all(file.fileno(), data)


_ATTEMPTS: dict[str, Callable[[Drafts], str]] = {"erofs": _erofs, "overlay": _overlay, "copy": _copying}


class _Nothing:
    def take(self, size: int, readinto: object) -> int:
        raise ValueError("a probe puts nothing aside")

    def take_pieces(self, size: int, pieces: object, readinto: object) -> int:
        raise ValueError("a probe puts nothing aside")
