"""Errors as people read them: the place, the line, a caret under the mistake, and what to do."""

from __future__ import annotations

from boxfile.likeness import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from store.errors import BoxfileError

_WIDEST = 110
"""Columns of a source line that are shown, at most; a longer line is cut around the mistake."""

_RED, _BLUE, _BOLD, _PLAIN = "\033[1;31m", "\033[1;34m", "\033[1m", "\033[0m"


def render(error: BoxfileError, *, color: bool = False) -> str:
    """The error on several lines, without a line end after the last. Nothing in it but our own colours speaks to a terminal."""
    red, blue, bold, plain = (_RED, _BLUE, _BOLD, _PLAIN) if color else ("", "", "", "")
    lines = [f"{bold}{shown(error.path)}:{error.line}:{error.column}:{plain} {red}{shown(error.message)}{plain}"]
    if error.source.strip():
        before, marked, after = _cut(error.source, error.column - 1, error.width)
        number = str(error.line)
        gutter = " " * len(number)
        source = f"{before}{marked}{after}".rstrip(" ")
        carets = "^" * max(1, _columns(marked))
        lines += [
            f"{blue}{gutter} |{plain}",
            f"{blue}{number} |{plain} {source}",
            f"{blue}{gutter} |{plain} {' ' * _columns(before)}{red}{carets}{plain}",
        ]
    if error.hint:
        lines.append(f"{bold}hint:{plain} {shown(error.hint)}")
    return "\n".join(lines)


def _cut(source: str, start: int, width: int) -> tuple[str, str, str]:
    """The line in three parts, safe to show: before the mistake, the mistake, after it; at most about _WIDEST columns of them."""
    end = start + width
    first, last = 0, len(source)
    if len(source) > _WIDEST:
        first = max(0, min(start - _WIDEST // 3, len(source) - _WIDEST))
        last = first + _WIDEST
        end = min(end, last)
    before = ("…" if first else "") + _flat(source[first:start])
    after = _flat(source[end:last]) + ("…" if last < len(source) else "")
    return before, _flat(source[start:end]), after


def _flat(text: str) -> str:
    """Text of the source with tabs as four blanks and everything unprintable as its escape."""
    return shown(text.replace("\t", "    "))


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
