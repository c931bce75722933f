"""The `copy` step: which files of the context are taken, and where they come to lie.

A source that is a directory gives its contents, a file goes to the destination or into it. The destination is a directory when it
ends in `/`, when it is one in the image, or when a source is one; several sources, or a pattern, need such a one. What a named
source's symlink leads to is copied, symlinks below it are copied as symlinks.

A file's mode is 0755 or 0644 by whether its owner may execute it, a directory's 0755, so that the umask does not matter; a
declared mode is that of the files, and directories can be entered by whoever may read them.
"""

from builder import patterns
from builder.changeset import Changeset, Node
from builder.inputs import DIRECTORY, FILE, Context, Input, shown
from builder.keys import Parts
from store.errors import BuildError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxfile import CopyStep


class ContextFile:
    """A listed file of the context as the source of a node's bytes."""

    __slots__ = ("_context", "_entry", "size")

    def __init__(self, context: Context, entry: Input) -> None:
        self._context = context
        self._entry = entry
        self.size = entry.size

    def open(self) -> int:
        return self._context.open(self._entry)

    def check(self, descriptor: int) -> None:
        self._context.check(self._entry, descriptor)


class Chosen:
    """One thing to copy: `name` as it was written or matched, `entries` itself and what is below it, under its real path."""

    __slots__ = ("entries", "link", "name")

    def __init__(self, name: bytes, link: bytes | None, entries: list[Input]) -> None:
        self.name = name
        self.link = link
        self.entries = entries

    @property
    def is_directory(self) -> bool:
        return self.entries[0].kind == DIRECTORY


class Selection:
    """All that a copy step takes from the context."""

    __slots__ = ("chosen", "matched")

    def __init__(self, chosen: list[Chosen], matched: bool) -> None:
        self.chosen = chosen
        self.matched = matched

    def inputs(self, *, with_mode: bool) -> dict[bytes, bytes]:
        """What of the files decides the step's result."""
        facts: dict[bytes, bytes] = {}
        for one in self.chosen:
            if one.link is not None:
                facts[one.name] = b"symlink " + one.link
            for entry in one.entries:
                facts[entry.path] = entry.fact(with_mode=with_mode)
        return facts


def select(step: "CopyStep", context: Context) -> Selection:
    """Find the step's sources and read (or recall) the digests of their files."""
    excluded = patterns.Excludes(step.exclude)
    chosen: list[Chosen] = []
    matched = False
    for source in step.sources:
        _refuse_parents(source)
        prefix, rest = patterns.split(source)
        start = b"/".join(patterns.unescaped(name) for name in prefix)
        while rest and rest[-1] == "**":  # all that is in a directory: the directory
            rest.pop()
        if rest:
            matched = True
            names = list(_expand(start, rest, context))
            if not names:
                raise BuildError(f"nothing in the build's directory matches {source!r}", hint=_where(context))
        else:
            names = [start]
        if rest and excluded:
            names = [name for name in names if not excluded(name, name.rpartition(b"/")[2])]
        chosen += [_choose(name, source, context, excluded if excluded else None) for name in names]
    return Selection(chosen, matched)


def _refuse_parents(source: str) -> None:
    if ".." in source.split("/"):
        raise BuildError(
            f"the source {source!r} leaves the build's directory", hint="copy takes only what lies in that directory"
        )


def _where(context: Context) -> str:
    return f"sources are looked for in {context.path}"


def _expand(start: bytes, rest: list[str], context: Context) -> "Iterator[bytes]":
    if context.real_path(start) is None:
        return iter(())
    return patterns.below(start, rest, context.listing)


def _choose(name: bytes, source: str, context: Context, excluded: patterns.Excludes | None) -> Chosen:
    real = context.real_path(name)
    if real is None:
        if context.is_dangling(name):
            raise BuildError(
                f"{shown(name)} is a symbolic link to nothing in the build's directory",
                hint="copy the directory that holds the link",
            )
        raise BuildError(f"{source!r} is not in the build's directory", hint=_where(context))
    entries = list(context.read(real, excluded))
    if source.endswith("/") and entries[0].kind == FILE:
        raise BuildError(f"{source!r} is a file, but is written as a directory", hint="leave the final / away")
    return Chosen(name, None if real == name else real, entries)


def parts(step: "CopyStep", selection: Selection, base: Parts) -> Parts:
    """`base` with the files in it."""
    return Parts(
        base.parent, base.text, base.epoch, base.env, base.workdir, base.user, selection.inputs(with_mode=step.mode is None)
    )


def apply(
    step: "CopyStep", selection: Selection, to: bytes, owner: tuple[int, int], context: Context, changes: Changeset
) -> None:
    """Put what was selected at `to` (an absolute path in the image; the step says whether it was written as a directory)."""
    as_directory = step.to.endswith("/") or any(one.is_directory for one in selection.chosen)
    destination = changes.view.resolve(to)
    as_directory = as_directory or changes.is_directory(destination)
    if not as_directory and (selection.matched or len(selection.chosen) > 1):
        raise BuildError(
            f"several sources cannot all become the file {step.to}", hint=f"to copy them into a directory, write {step.to}/"
        )
    if as_directory:
        _, directory_mode = _modes(step.mode, executable=False)
        if any(one.is_directory for one in selection.chosen):
            destination = changes.directory(destination, directory_mode, *owner)
        else:
            destination = changes.directory(destination)
    for one in selection.chosen:
        if one.is_directory:
            _copy_tree(one, destination, step.mode, owner, context, changes)
        else:
            name = one.name.rpartition(b"/")[2]
            path = _join(destination, name) if as_directory else destination
            changes.put(path, _node(one.entries[0], step.mode, owner, context))


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _modes(declared: int | None, *, executable: bool) -> tuple[int, int]:
    """Of a file, of a directory."""
    if declared is None:
        return (0o755 if executable else 0o644), 0o755
    return declared, declared | (declared & 0o444) >> 2


def _node(entry: Input, declared: int | None, owner: tuple[int, int], context: Context) -> Node:
    if entry.kind == FILE:
        mode, _ = _modes(declared, executable=entry.executable)
        return Node("file", mode, *owner, source=ContextFile(context, entry))
    return Node("symlink", 0o777, *owner, target=entry.target)


def _copy_tree(
    one: Chosen, destination: bytes, declared: int | None, owner: tuple[int, int], context: Context, changes: Changeset
) -> None:
    top = one.entries[0].path
    _, directory_mode = _modes(declared, executable=False)
    lies_at = {top: destination}  # where each source directory comes to lie, the image's symlinks followed
    for entry in one.entries[1:]:
        above, _, name = entry.path.rpartition(b"/")
        path = _join(lies_at[above], name)
        if entry.kind == DIRECTORY:
            lies_at[entry.path] = changes.directory(path, directory_mode, *owner)
        else:
            changes.put(path, _node(entry, declared, owner, context))
