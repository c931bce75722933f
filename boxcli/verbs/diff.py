"""`box diff`: what differs between images and containers, file by file."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from boxcli import escapes, templates
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError, UsageError

if TYPE_CHECKING:
    from runtime.differences import Pair
    from runtime.roots import Subject
    from store.compare import Change, Seen
    from store.layout import Store

VERB = Verb(
    "diff",
    "Show which files differ between images and containers",
    Option("-p", "--content", about="Show the changed lines of text files, in git's form, for 'patch -p1' and 'git apply'."),
    Option("--stat", about="Count the lines and bytes that changed."),
    Option("--name-only", about="Print only the names."),
    Option("--time", about="Count a file with another time as changed, too."),
    Option("--exit-code", about="Leave with status 1 when something differs."),
    Option("--format", metavar="json|TEMPLATE", about="Print 'json', one object a line, or a template such as '{{.Path}}'."),
    Argument("NAME", many=True, completes="any"),
    description="One container: what it changed of its image, as in docker. One image: what it adds to its base. Two of them: "
    "what became of the first in the second. A (added), C (changed) or D (deleted) comes before each name. Arguments that begin "
    "with a slash choose the files and directories to compare.",
)


def main(values: Values) -> int:
    """Print the differences; 0, or with --exit-code 1 when there are some."""
    from store.layout import Store

    names = [name for name in values.all("name", str) if not name.startswith("/")]
    paths = [_clean(name) for name in values.all("name", str) if name.startswith("/")]
    if not 1 <= len(names) <= 2:
        raise UsageError(
            "diff takes one or two images or containers" if names else "diff needs an image or a container",
            hint="paths begin with a slash: box diff IMAGE OTHER /etc",
        )
    shapes = [shape for shape in ("content", "stat", "name_only", "format") if values.flag(shape)]
    if len(shapes) > 1:
        raise UsageError(f"--{shapes[0]} and --{shapes[1]} exclude each other".replace("_", "-"))
    store = Store.open(values.root, values.driver, make=False)
    with store.leased():
        pair, plain = _pair(store, names)
        with pair as trees:
            changes = trees.changes(times=plain or values.flag("time"))
            if plain:
                changes = _as_docker(changes)
            changes = [change for change in changes if _chosen(change.path, paths)]
            _show(values, changes, trees, plain=plain, names=names)
    return 1 if changes and values.flag("exit_code") else 0


def _pair(store: Store, names: Sequence[str]) -> tuple[AbstractContextManager[Pair], bool]:
    """The two trees, and whether docker's own form is asked for: one container alone."""
    from runtime import differences
    from runtime.roots import find

    subjects = [find(store, name) for name in names]
    if len(subjects) == 2:
        return differences.between(store, subjects[0], subjects[1]), False
    (subject,) = subjects
    if subject.container is not None:
        return differences.own(subject.container), True
    return differences.of_stacks(store, *_base_of(store, subject)), False


def _base_of(store: Store, subject: Subject) -> tuple[Any, Any]:
    from builder.origins import base_layers

    assert subject.image is not None
    count = base_layers(store, subject.image)
    if count is None:
        raise BoxError(f"it is not known what {subject.name} was built on", hint=f"name it: box diff BASE {subject.name}")
    return subject.image.layers[:count], subject.image.layers


def _as_docker(changes: list[Change]) -> list[Change]:
    """Without the root itself, and without what goes with a directory that is deleted."""
    shown: list[Change] = []
    gone = b""
    for change in changes:
        if not change.path or (gone and change.path.startswith(gone)):
            continue
        if change.kind == "D":
            gone = change.path + b"/"
        shown.append(change)
    return shown


def _clean(path: str) -> bytes:
    return os.path.normpath("/" + path.lstrip("/")).lstrip("/").encode("utf-8", "surrogateescape")


def _chosen(path: bytes, paths: Sequence[bytes]) -> bool:
    return not paths or any(not chosen or path == chosen or path.startswith(chosen + b"/") for chosen in paths)


def _show(values: Values, changes: Sequence[Change], trees: Pair, *, plain: bool, names: Sequence[str]) -> None:
    form = values.text("format")
    if form:
        render = templates.compile_format(form)
        for change in changes:
            print(render(_record(change)))
    elif values.flag("name_only"):
        for change in changes:
            print(shown(change.path))
    elif values.flag("stat"):
        from boxcli.patches import statistics

        for line in statistics(changes, trees):
            print(line)
    elif values.flag("content"):
        from boxcli.patches import patch

        _write(patch(changes, trees))
    else:
        for change in changes:
            print(f"{change.kind} {shown(change.path)}{'' if plain else _details(change)}")


def shown(path: bytes) -> str:
    """A path of a container, to be printed on one line."""
    return escapes.one_line("/" + path.decode("utf-8", "backslashreplace"))


def _details(change: Change) -> str:
    old, new = change.old, change.new
    if old is None or new is None:
        return ""
    words = []
    for what in change.what:
        match what:
            case "type":
                words.append(f"{old.kind} -> {new.kind}")
            case "mode":
                words.append(f"mode {old.mode:04o} -> {new.mode:04o}")
            case "owner":
                words.append(f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}")
            case "size":
                words.append(f"size {old.size} -> {new.size}")
            case "link":
                words.append(f"link {_text(old.link)} -> {_text(new.link)}")
            case "device":
                words.append(f"device {_device(old)} -> {_device(new)}")
            case "content" if "size" in change.what:
                continue
            case _:
                words.append(what)
    return f"  ({', '.join(words)})"


def _text(name: bytes) -> str:
    return escapes.one_line(name.decode("utf-8", "backslashreplace"))


def _device(seen: Seen) -> str:
    return f"{seen.device[0]}:{seen.device[1]}"


def _record(change: Change) -> dict[str, object]:
    return {
        "Kind": change.kind,
        "Path": "/" + change.path.decode("utf-8", "backslashreplace"),
        "What": list(change.what),
        "Old": _fields(change.old),
        "New": _fields(change.new),
    }


def _fields(seen: Seen | None) -> dict[str, object] | None:
    if seen is None:
        return None
    fields: dict[str, object] = {
        "Type": seen.kind,
        "Mode": f"{stat.S_IMODE(seen.mode):04o}",
        "Uid": seen.uid,
        "Gid": seen.gid,
        "Size": seen.size,
        "MtimeNs": seen.time,
    }
    if seen.link:
        fields["Link"] = seen.link.decode("utf-8", "backslashreplace")
    if seen.kind.endswith("device"):
        fields["Device"] = _device(seen)
    if seen.xattrs:
        fields["Xattrs"] = {name.decode("utf-8", "backslashreplace"): value.hex() for name, value in seen.xattrs}
    return fields


def _write(pieces: Iterator[bytes]) -> None:
    """To a terminal as text that it cannot obey, elsewhere byte by byte."""
    if sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.write(escapes.lines(piece.decode("utf-8", "backslashreplace")))
        return
    sys.stdout.flush()
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
