"""What a writer probably meant, and how a text of theirs is shown back without trusting it."""

from __future__ import annotations

from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 40
_SHOWN = 60
_COMPARED = 200
_LISTED = 16


def distance(a: str, b: str) -> int:
    """How many letters to change, add, leave out or swap with the next turn `a` into `b` (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is most likely a slip of, if any is near enough to say so."""
    if not word or len(word) > _LONGEST:
        return None
    known = islice(known, _COMPARED)
    folded = word.lower().replace("-", "_")
    scored = [(distance(folded, name.lower().replace("-", "_")), name) for name in known if abs(len(name) - len(word)) <= 3]
    best = min(scored, default=None)
    return best[1] if best and best[0] <= max(1, len(word) // 3) else None


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
