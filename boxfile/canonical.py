"""A step's meaning as text: the same for the same meaning, whatever the Boxfile's format, places, order of mappings or Python version."""

from __future__ import annotations

from boxfile.plan import CopyStep, EnvStep, LabelStep, MkdirStep, RunStep, Step, WriteStep
from boxfile.record import fields_of

_UNORDERED = {(RunStep, "env"), (EnvStep, "values"), (LabelStep, "labels")}
_OCTAL = {(CopyStep, "mode"), (WriteStep, "mode"), (MkdirStep, "mode")}


def canonical(step: Step) -> str:
    """One line for the verb, then one `field value` line for each field that says something. Distinct meanings have distinct texts."""
    kind = type(step)
    lines = [kind.__name__.removesuffix("Step").lower()]
    for field, value in fields_of(step).items():
        if field in ("at", "text") or value is None or value == ():
            continue
        if (kind, field) in _UNORDERED:
            value = tuple(sorted(value))
        lines.append(f"{field} {value:#o}" if (kind, field) in _OCTAL else f"{field} {_ascii(value)}")
    return "\n".join(lines) + "\n"


def _ascii(value: object) -> str:
    """`ascii` of texts, numbers and tuples: what is printable, and so how `repr` writes a text, changes with Python's Unicode version."""
    return ascii(value)
