"""A tree as one flat tar: the same tree gives the same bytes."""

import os
from collections.abc import Callable, Iterator

from store.faults import Attempt
from store.tar_read import FILE, Entry
from store.tar_write import TarWriter, Write
from store.walk import Node, Owners, members, walk


def export(top: int, write: Write, skipped: Callable[[Node], None], owners: Owners | None = None) -> int:
    """Write everything below the directory open as `top`, itself included, through `write`; the number of members.

    All kinds of files, hard links and extended attributes are kept, and the order is fixed. Sockets, which no archive can hold,
    are told to `skipped`; `owners` says whose the files are. StoreError when a file becomes shorter meanwhile.
    """
    with Attempt("export the tree"):
        tar = TarWriter(write)
        write_members(members(walk(top), lambda path: path, skipped, owners), tar)
        tar.finish()
    return tar.entries


def write_members(found: Iterator[tuple[Entry, Node]], tar: TarWriter) -> None:
    """Append them to `tar`; a file that is gone by the time it would be read is left out."""
    for entry, node in found:
        if entry.kind != FILE:
            tar.add(entry)
            continue
        try:
            descriptor = node.open()
        except FileNotFoundError:
            continue
        try:
            entry.size = os.fstat(descriptor).st_size
            tar.add_file(entry, descriptor)
        finally:
            os.close(descriptor)
