"""Results as text: a line for each contestant, with its ratio to ours and the goal."""

from collections.abc import Mapping, Sequence

from bench.timing import Failed, Result, Samples


def comparison(
    title: str, ours: str, results: Mapping[str, Result], goals: Mapping[str, float], notes: Sequence[str] = ()
) -> str:
    """A table of `results` in which `ours` is compared with each of the others; `goals` are the greatest ratios aimed at."""
    lines = ["", title]
    mine = results[ours]
    if isinstance(mine, Failed):
        raise mine
    width = max(len(name) for name in results)
    rounds = len(mine.seconds)
    lines.append(f"  {'':{width}}  {'median ms':>10} {'least ms':>10}  {ours} / it   ({rounds} rounds)")
    lines.append(f"  {ours:{width}}  {_ms(mine.median)} {_ms(mine.least)}")
    for name, result in results.items():
        if name == ours:
            continue
        if isinstance(result, Failed):
            lines.append(f"  {name:{width}}  missing: {result}" + (f"  (goal: {goals[name]:.2f})" if name in goals else ""))
            continue
        lines.append(f"  {name:{width}}  {_ms(result.median)} {_ms(result.least)}  {_ratio(mine, result, goals.get(name))}")
    lines += [f"  {note}" for note in notes]
    return "\n".join(lines)


def listing(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows under a title, all but the last column to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = ["", title]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  " + "  ".join([*cells, row[-1]]))
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:10.1f}"


def _ratio(mine: Samples, other: Samples, goal: float | None) -> str:
    ratio = mine.ratio(other)
    if goal is None:
        return f"{ratio:6.3f}"
    return f"{ratio:6.3f}   goal {goal:.2f}: {'met' if ratio <= goal else 'missed'}"
