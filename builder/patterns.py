"""Shell patterns over paths, in bytes: `*` and `?` and `[a-z]` stay within a name, `**` as a whole name spans directories.

A leading dot is nothing special (`*` matches `.git`), as in docker's COPY. A backslash takes the next character as it is.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from store.errors import BuildError

Listing = Callable[[bytes], Iterable[tuple[bytes, bool]]]
"""Names in the directory at a path, each with "is a directory" (a symlink to one is not)."""


def is_pattern(text: str) -> bool:
    """Whether `text` holds an unescaped `*`, `?` or `[`."""
    return re.search(r"(?<!\\)(?:\\\\)*[*?\[]", text) is not None


def unescaped(text: str) -> bytes:
    """A name without pattern characters, its backslashes taken away."""
    return re.sub(r"\\(.)", r"\1", text).encode("utf-8", "surrogateescape")


def _class_end(name: str, start: int) -> int:
    """Index of the `]` that closes the class opened just before `start`; the first character may be a `]` itself."""
    first = start + 1 if name[start : start + 1] in ("!", "^") else start
    end = name.find("]", first + 1)
    if end < 0:
        raise BuildError(f"'[' without ']' in the pattern {name!r}", hint="write \\[ for the character itself")
    return end


def _translate(name: str) -> str:
    """One path component as a regular expression."""
    out: list[str] = []
    at = 0
    while at < len(name):
        char = name[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\" and at < len(name):
            out.append(re.escape(name[at]))
            at += 1
        elif char == "[":
            end = _class_end(name, at)
            members = name[at:end]
            at = end + 1
            negated = members[0] in "!^"
            body = re.sub(r"([\\\[\]^&~|])", r"\\\1", members[1:] if negated else members)
            out.append(f"(?!/)[{'^' if negated else ''}{body}]")
        else:
            out.append(re.escape(char))
    return "".join(out)


def _compiled(expression: str, pattern: str) -> "re.Pattern[bytes]":
    try:
        return re.compile(expression.encode("utf-8", "surrogateescape"), re.DOTALL)
    except re.error as err:
        raise BuildError(f"the pattern {pattern!r} makes no sense: {err}") from err


def component(name: str) -> "re.Pattern[bytes]":
    """A matcher for one name."""
    return _compiled(_translate(name), name)


def split(pattern: str) -> tuple[list[str], list[str]]:
    """The leading names that hold no pattern, and the rest."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    for index, name in enumerate(names):
        if is_pattern(name):
            return names[:index], names[index:]
    return names, []


def below(directory: bytes, names: list[str], listing: Listing) -> Iterator[bytes]:
    """Paths below `directory` that match the pattern's `names`, each once, in the order of their bytes.

    A final `**` stands for every entry of its directory: what is below those goes with them.
    """
    found: dict[bytes, None] = {}
    _collect(directory, [name if name == "**" else component(name) for name in names], listing, found)
    yield from sorted(found)


def _collect(directory: bytes, matchers: "list[str | re.Pattern[bytes]]", listing: Listing, found: dict[bytes, None]) -> None:
    head, tail = matchers[0], matchers[1:]
    prefix = directory + b"/" if directory else b""
    if isinstance(head, str):
        if tail:
            _collect(directory, tail, listing, found)
        for name, is_directory in listing(directory):
            if not tail:
                found[prefix + name] = None
            elif is_directory:
                _collect(prefix + name, matchers, listing, found)
        return
    for name, is_directory in listing(directory):
        if head.fullmatch(name):
            if not tail:
                found[prefix + name] = None
            elif is_directory:
                _collect(prefix + name, tail, listing, found)


class Excludes:
    """What a copy leaves out: a pattern without `/` matches a name at any depth, one with `/` the path from the context."""

    __slots__ = ("_names", "_paths")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: list[re.Pattern[bytes]] = []
        self._paths: list[re.Pattern[bytes]] = []
        for pattern in patterns:
            names = [name for name in pattern.split("/") if name not in ("", ".")]
            if "/" in pattern.rstrip("/"):
                self._paths.append(_compiled(_whole(names), pattern))
            elif names:
                self._names.append(component(names[0]))

    def __bool__(self) -> bool:
        return bool(self._names or self._paths)

    def __call__(self, path: bytes, name: bytes) -> bool:
        """Whether the entry `name` at `path` (from the context) is left out; what is below it is then left out too."""
        return any(matcher.fullmatch(name) for matcher in self._names) or any(matcher.fullmatch(path) for matcher in self._paths)


def _whole(names: list[str]) -> str:
    out: list[str] = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        if name == "**":
            out.append(".+" if last else "(?:[^/]+/)*")
        else:
            out.append(_translate(name) + ("" if last else "/"))
    return "".join(out)
