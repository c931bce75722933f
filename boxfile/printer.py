"""A plan as the text of a Boxfile: `parse(dump(plan))` is the plan again, but for its places and the texts of its steps."""

from __future__ import annotations

from boxfile.arguments import escaped
from boxfile.config import CONFIG_KEYS, HEALTHCHECK_KEYS
from boxfile.plan import Healthcheck, HostBase, ImageBase, Plan, Step, TarballBase
from boxfile.steps import VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile.kinds import Key
    from boxfile.plan import Base
    from store.record import Record

_PAIRS = frozenset(("env", "labels", "values"))
_DURATIONS = frozenset(("interval", "timeout", "start_period", "start_interval"))
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def dump(plan: Plan) -> str:
    """The text. Arguments are already in place in a plan, so none are referred to; `args` keeps their values."""
    lines = [f"box: {plan.version}"]
    if plan.name is not None:
        lines.append(f"name: {_text(plan.name)}")
    if plan.args:
        lines.append(f"args: {_pairs(tuple(plan.args.items()))}")
    lines.append(f"base: {_base(plan.base)}")
    if plan.steps:
        lines.append("steps:")
        lines += (f"  - {_step(step)}" for step in plan.steps)
    if plan.config is not None:
        lines.append(f"config: {_record(plan.config, CONFIG_KEYS)}")
    return "\n".join(lines) + "\n"


def _base(base: Base) -> str:
    if isinstance(base, HostBase):
        return f"{{host: {_value('programs', base.programs)}}}"
    if isinstance(base, TarballBase):
        return _text(base.path)
    return _text(base.reference) if isinstance(base, ImageBase) else "scratch"


def _step(step: Step) -> str:
    for name, verb in VERBS.items():
        if verb.make is type(step):
            if verb.keys:
                return f"{name}: {_record(step, verb.keys)}"
            (field,) = (field for field in type(step)._fields if field not in ("at", "text"))
            return f"{name}: {_value(field, getattr(step, field))}"
    raise TypeError(f"{type(step).__name__} is no step of the language")


def _record(record: Record, keys: dict[str, Key]) -> str:
    said: list[str] = []
    for name, key in keys.items():
        field = key.field or name
        value = getattr(record, field) if key.kind else None
        if value is not None and (value != () or key.required):
            said.append(f"{name}: {_value(field, value)}")
    return f"{{{', '.join(said)}}}"


def _value(field: str, value: object) -> str:
    if isinstance(value, Healthcheck):
        return _record(value, HEALTHCHECK_KEYS)
    if isinstance(value, int):
        return f'"{value:04o}"' if field == "mode" else f"{value}ns" if field in _DURATIONS else str(value)
    if isinstance(value, tuple):
        return _pairs(value) if field in _PAIRS else f"[{', '.join(_text(item) for item in value)}]"
    return _text(str(value))


def _pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    return f"{{{', '.join(f'{_quoted(name)}: {_text(value)}' for name, value in pairs)}}}"


def _text(text: str) -> str:
    return _quoted(escaped(text))


def _quoted(text: str) -> str:
    return '"' + "".join(_character(character) for character in text) + '"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
