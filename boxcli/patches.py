"""The contents of changed files as unified diffs, and how much changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from boxcli import amounts, escapes

if TYPE_CHECKING:
    from runtime.differences import Pair
    from store.compare import Change, Seen

LIMIT = 1 << 20  # bytes of a file that is compared line by line: difflib takes the square of the lines at worst
_LINES = 20_000
_LOOKED_AT = 8000  # as in git: a file with a NUL byte in its beginning is no text
_NO_NEWLINE = b"\n\\ No newline at end of file\n"


def patch(changes: Sequence[Change], trees: Pair) -> Iterator[bytes]:
    """What `git diff` would print of the changes: a head for each, then the lines that differ, or what there is to say."""
    for change in changes:
        name = _name(change.path)
        old, new = change.old, change.new
        yield f"diff a/{name} b/{name}\n".encode()
        if old is None and new is not None:
            yield f"new {new.kind} mode {new.mode:04o}\n".encode()
        elif new is None and old is not None:
            yield f"deleted {old.kind} mode {old.mode:04o}\n".encode()
        elif old is not None and new is not None:
            yield from _metadata(change, old, new)
        if "content" in change.what or "link" in change.what or "type" in change.what or old is None or new is None:
            yield from _content(change, trees, name)


def _metadata(change: Change, old: Seen, new: Seen) -> Iterator[bytes]:
    for what, before, after in (
        ("type", old.kind, new.kind),
        ("mode", f"{old.mode:04o}", f"{new.mode:04o}"),
        ("owner", f"{old.uid}:{old.gid}", f"{new.uid}:{new.gid}"),
        ("device", "{}:{}".format(*old.device), "{}:{}".format(*new.device)),
    ):
        if what in change.what:
            yield f"old {what} {before}\nnew {what} {after}\n".encode()
    if "xattrs" in change.what:
        yield b"extended attributes differ\n"


def _content(change: Change, trees: Pair, name: str) -> Iterator[bytes]:
    before, after = texts(change, trees)
    if before is None or after is None:
        sizes = [amounts.size(seen.size) if seen is not None else "nothing" for seen in (change.old, change.new)]
        yield f"binary files differ: {sizes[0]} -> {sizes[1]}\n".encode()
        return
    if before == after:
        return
    heads = ["/dev/null" if seen is None else f"{side}/{name}" for side, seen in (("a", change.old), ("b", change.new))]
    lines = difflib.diff_bytes(
        difflib.unified_diff, _lines(before), _lines(after), heads[0].encode(), heads[1].encode(), lineterm=b"\n"
    )
    for line in lines:
        yield line if line.endswith(b"\n") else line + _NO_NEWLINE


def texts(change: Change, trees: Pair) -> tuple[bytes | None, bytes | None]:
    """The old and the new text, empty for none; None for what is not text, or too much of it."""
    return _text_of(change.old, trees.old, change.path), _text_of(change.new, trees.new, change.path)


def _text_of(seen: Seen | None, root: int, path: bytes) -> bytes | None:
    from store.compare import read_file

    if seen is None:
        return b""
    if seen.kind == "symlink":
        return seen.link
    if seen.kind != "file":
        return b""
    if seen.size > LIMIT:
        return None
    data = read_file(root, path, LIMIT)
    return None if b"\0" in data[:_LOOKED_AT] or data.count(b"\n") > _LINES else data


def statistics(changes: Sequence[Change], trees: Pair) -> Iterator[str]:
    """A line for each change with what it adds and takes away, and one for all of them."""
    rows = []
    more = fewer = 0
    for change in changes:
        before, after = texts(change, trees)
        if before is None or after is None:
            sizes = [seen.size if seen is not None else 0 for seen in (change.old, change.new)]
            rows.append((change, f"{sizes[0]} -> {sizes[1]} bytes"))
            continue
        added, removed = _count(before, after) if before != after else (0, 0)
        more += added
        fewer += removed
        rows.append((change, f"+{added} -{removed}" if added or removed else ", ".join(change.what)))
    names = ["/" + _name(change.path) for change in changes]
    width = max(map(len, names), default=0)
    for name, (change, text) in zip(names, rows, strict=True):
        yield f"{change.kind} {name.ljust(width)} | {text}".rstrip()
    kinds = [change.kind for change in changes]
    counts = ", ".join(f"{kinds.count(kind)} {word}" for kind, word in (("A", "added"), ("C", "changed"), ("D", "deleted")))
    yield f"{counts}; {more} lines more, {fewer} fewer"


def _count(before: bytes, after: bytes) -> tuple[int, int]:
    lines = list(difflib.diff_bytes(difflib.unified_diff, _lines(before), _lines(after), lineterm=b"\n", n=0))[2:]
    return sum(line.startswith(b"+") for line in lines), sum(line.startswith(b"-") for line in lines)


def _lines(data: bytes) -> list[bytes]:
    """The lines with their ends, of which only a line feed is one."""
    pieces = data.split(b"\n")
    whole = [piece + b"\n" for piece in pieces[:-1]]
    return [*whole, pieces[-1]] if pieces[-1] else whole


def _name(path: bytes) -> str:
    return escapes.one_line(path.decode("utf-8", "backslashreplace"))
