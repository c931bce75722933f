"""Images as one file: `save` writes it, `load` reads it back with the same digests."""

from store.archive_load import load, load_directory
from store.archive_save import save

__all__ = ["load", "load_directory", "save"]
