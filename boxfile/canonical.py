"""A step's meaning as text: the same whatever the Boxfile's format, places and order of mappings, and whatever the Python."""

from __future__ import annotations

from boxfile.plan import CopyStep, EnvStep, LabelStep, MkdirStep, RunStep, Step, WriteStep
from store.record import fields_of

_UNORDERED = {(RunStep, "env"), (EnvStep, "values"), (LabelStep, "labels")}
_OCTAL = {(CopyStep, "mode"), (WriteStep, "mode"), (MkdirStep, "mode")}


def canonical(step: Step) -> str:
    """A line for the verb, then a `field value` line for each field that says something; distinct meanings, distinct texts."""
    kind = type(step)
    lines = [kind.__name__.removesuffix("Step").lower()]
    for field, value in fields_of(step).items():
        if field in ("at", "text") or value is None or value == ():
            continue
        if (kind, field) in _UNORDERED:
            value = tuple(sorted(value))
        # ascii, not repr: what repr escapes depends on the Unicode version of the Python at hand.
        lines.append(f"{field} {value:#o}" if (kind, field) in _OCTAL else f"{field} {value!a}")
    return "\n".join(lines) + "\n"
