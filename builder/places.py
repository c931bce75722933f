"""Where in the Boxfile a build stopped: the line is read again, for a plan has places and no text."""

import re

from store.errors import BoxError, BoxfileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import Place

_LINES = 100  # of a value, in which its parts are looked for


def located(err: BoxError, path: str, at: "Place") -> BoxfileError:
    """`err` at that place of the Boxfile; under what its message quotes, where that stands there as a word of its own."""
    lines = _lines(path, at.line)
    line, column, width = at.line, at.column, 0
    for word in re.findall(r"(?<!\w)'([^']+)'", err.message):
        pattern = re.compile(rf"(?<![\w./-]){re.escape(word)}(?![\w./-])")
        for number, text in enumerate(lines):
            found = pattern.search(text, at.column - 1 if not number else 0)
            if found is not None:
                line, column, width = at.line + number, found.start() + 1, len(word)
                break
        if width:
            break
    source = lines[line - at.line] if lines else ""
    return BoxfileError(
        err.message, path=path, line=line, column=column, source=source, width=width or max(1, len(source.rstrip()) - column + 1),
        hint=err.hint,
    )  # fmt: skip


def _lines(path: str, first: int) -> list[str]:
    """The Boxfile's lines from there on; none where the file can no longer be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return [line.rstrip("\r\n") for number, line in enumerate(file, 1) if first <= number < first + _LINES]
    except (OSError, UnicodeDecodeError):
        return []
