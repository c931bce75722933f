"""What a writer probably meant, and how a text of theirs is shown back without trusting it."""

from __future__ import annotations

from itertools import islice

from store.likeness import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["listed", "nearest", "quoted", "shown"]

_SHOWN = 60
_LISTED = 16


def quoted(text: str) -> str:
    """A text of the user's in single quotes: on one line, of bounded length, with nothing a terminal would obey."""
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return f"'{shown(text)}'"


def shown(text: str) -> str:
    """Text with every character that is not printable written as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    if known:
        return known
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def listed(names: Iterable[str]) -> str:
    """'a', 'b' and 'c'; the first few of many."""
    words = [quoted(name) for name in islice(names, _LISTED + 1)]
    if len(words) > _LISTED:
        return f"{', '.join(words[:-1])}, …"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
