"""The store's format: one version, written in ROOT/format; what a newer box wrote is refused, untouched."""

from __future__ import annotations

from store import prepared
from store.errors import FormatTooNew, StoreError
from store.faults import Attempt

FORMAT = int(prepared.FORMAT)


def check_format(root: str) -> bool:
    """Whether there is a store at `root`. FormatTooNew when a newer box wrote it, StoreError when its format cannot be read."""
    with Attempt(f"read {root}/format"):
        try:
            text = prepared.read_text(f"{root}/format")
        except FileNotFoundError:
            return False
        except NotADirectoryError as err:
            raise not_a_directory(root) from err
        except UnicodeDecodeError as err:
            text = err.object.decode("latin-1")
    version = text.strip()
    if not (version.isascii() and version.isdigit() and len(version) < 10) or int(version) < 1:
        raise StoreError(f"{root}/format is damaged: {version[:40]!r}", hint=f"if this is a store of box, it should say {FORMAT}")
    if int(version) > FORMAT:
        raise FormatTooNew(
            f"the store {root} has format {int(version)}; this box knows {FORMAT}",
            hint="use the newer box that wrote it, or another store with --root",
        )
    return True


def not_a_directory(root: str) -> StoreError:
    """The error for a root that is, or lies below, a file."""
    return StoreError(f"cannot open the store {root}: not a directory", hint="choose a directory with --root or BOX_ROOT")
