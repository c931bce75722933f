"""Files that only save time: written whole or not at all, and never worth an error."""

import os

from store.drafts import Drafts
from store.errors import StoreError


def write_derived(drafts: Drafts, path: str, data: bytes) -> bool:
    """Make `path` a file of `data` for every reader from now on; False when that cannot be, and the file is as it was.

    A killed writer leaves nothing but a draft, which the next command sweeps.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        drafts.replace(path, data, durable=False)
    except (OSError, StoreError):
        return False
    return True
