"""The contents of changed files as unified diffs, and how much changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import TYPE_CHECKING

from boxcli import amounts, escapes

if TYPE_CHECKING:
    from runtime.differences import Pair
    from store.compare import Change, Seen

LIMIT = 1 << 20  # bytes of a file that is compared line by line: difflib takes the square of the lines at worst
_LINES = 20_000
_LOOKED_AT = 8000  # as in git: a file with a NUL byte in its beginning is no text
_MODES = {"file": "10", "symlink": "120"}
_ESCAPES = {
    0x07: "\\a", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\",
}  # fmt: skip
_NO_NEWLINE = b"\n\\ No newline at end of file\n"


def patch(changes: Sequence[Change], trees: Pair) -> Iterator[bytes]:
    """What `git diff` prints of the changes, for `patch -p1` and `git apply`: files and symlinks with their modes and the lines
    that differ. What git does not know is said in lines that begin with `#`."""
    replaced = tuple(each.path + b"/" for each in changes if _is_replaced(each))
    # What was in a directory goes before something else takes its place.
    for change in sorted(changes, key=lambda each: not each.path.startswith(replaced)):
        old, new = change.old, change.new
        yield from _remarks(change)
        if old is not None and new is not None and old.kind == new.kind:
            yield from _one(change, trees, old, new)
            continue
        if old is not None:
            yield from _one(change, trees, old, None)
        if new is not None:
            yield from _one(change, trees, None, new)


def _is_replaced(change: Change) -> bool:
    """Whether a directory became something else."""
    return change.old is not None and change.new is not None and change.old.kind == "directory" != change.new.kind


def _remarks(change: Change) -> Iterator[bytes]:
    """What there is to say beside the lines for git."""
    name = "/" + _name(change.path)
    old, new = change.old, change.new
    if old is not None and old.kind not in _MODES and (new is None or old.kind != new.kind):
        yield f"# {name}: {old.kind} deleted\n".encode()
    if new is not None and new.kind not in _MODES:
        if old is None or old.kind != new.kind:
            yield f"# {name}: {new.kind} added, mode {new.mode:04o}\n".encode()
        elif "mode" in change.what:
            yield f"# {name}: mode {old.mode:04o} -> {new.mode:04o}\n".encode()
    if old is None or new is None:
        return
    for what, before, after in (
        ("owner", f"{old.uid}:{old.gid}", f"{new.uid}:{new.gid}"),
        ("device", "{}:{}".format(*old.device), "{}:{}".format(*new.device)),
    ):
        if what in change.what:
            yield f"# {name}: {what} {before} -> {after}\n".encode()
    if "xattrs" in change.what:
        yield f"# {name}: extended attributes differ\n".encode()


def _one(change: Change, trees: Pair, old: Seen | None, new: Seen | None) -> Iterator[bytes]:
    """One file that git knows, from `old` to `new`."""
    here = new if new is not None else old
    if here is None or here.kind not in _MODES:
        return
    before, after = _text_of(old, trees.old, change.path), _text_of(new, trees.new, change.path)
    if before is None or after is None:
        sizes = [amounts.size(seen.size) if seen is not None else "nothing" for seen in (old, new)]
        yield f"# /{_name(change.path)}: binary files differ: {sizes[0]} -> {sizes[1]}\n".encode()
        return
    names = [_quoted(side + change.path) for side in (b"a/", b"b/")]
    mode = f"{_MODES[here.kind]}{here.mode:04o}" if here.kind == "file" else _MODES[here.kind] + "000"
    head = f"diff --git {names[0]} {names[1]}\n"
    if old is None:
        head += f"new file mode {mode}\n"
    elif new is None:
        head += f"deleted file mode {mode}\n"
    elif old.mode != new.mode and here.kind == "file":
        head += f"old mode {_MODES[old.kind]}{old.mode:04o}\nnew mode {mode}\n"
    elif before == after:
        return
    if before != after:
        ids = "..".join("0" * 40 if seen is None else _blob_id(text) for seen, text in ((old, before), (new, after)))
        head += f"index {ids}" + ("" if old is None or new is None or old.mode != new.mode else f" {mode}") + "\n"
    yield head.encode()
    if before != after:
        yield from _hunks(
            before, after, *("/dev/null" if seen is None else name for seen, name in zip((old, new), names, strict=True))
        )


def _hunks(before: bytes, after: bytes, *names: str) -> Iterator[bytes]:
    one, other = [(name + "\t" if " " in name and not name.startswith('"') else name).encode() for name in names]
    lines = difflib.diff_bytes(difflib.unified_diff, _lines(before), _lines(after), one, other, lineterm=b"\n")
    for line in lines:
        yield line if line.endswith(b"\n") else line + _NO_NEWLINE


def _blob_id(data: bytes) -> str:
    return sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _quoted(name: bytes) -> str:
    """The name as git writes it: in quotes and escaped where it has anything but printable ASCII in it."""
    if all(0x20 <= byte < 0x7F and byte not in b'"\\' for byte in name):
        return name.decode()
    letters = (_ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}") for byte in name)
    return f'"{"".join(letters)}"'


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
