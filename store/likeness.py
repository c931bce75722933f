"""What somebody probably meant: a name that is a slip away from what was typed, and none where the nearest is another word."""

from __future__ import annotations

from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 40
_COMPARED = 200


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
