"""`--format`: `json`, or a text with {{.Field}} in it, as docker's users write them.

Of Go's templates it knows {{.Field}}, {{.Outer.Inner}}, {{json .}}, {{json .Field}} and {{index .Field "key"}}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from boxcli import escapes
from store.errors import UsageError

Record = Mapping[str, Any]

_ACTION = re.compile(
    r"""\{\{ \s*
        (?: (?P<json>json)\s+ | (?P<index>index)\s+ )?
        (?P<path> \. (?: \w+ (?: \.\w+ )* )? )
        (?: \s+ "(?P<key>[^"]*)" )?
    \s* \}\}""",
    re.VERBOSE,
)
_ESCAPES = {"\\t": "\t", "\\n": "\n"}


def compile_format(text: str) -> Callable[[Record], str]:
    """What turns a record into the text that `--format` asks for. Raises UsageError for a template that is not understood."""
    if text == "json":
        return to_json
    pieces: list[str | re.Match[str]] = []
    at = 0
    for action in _ACTION.finditer(text):
        pieces += [_plain(text[at : action.start()]), action]
        if bool(action["index"]) != (action["key"] is not None):
            raise _not_understood(action[0])
        at = action.end()
    pieces.append(_plain(text[at:]))

    def render(record: Record) -> str:
        return "".join([piece if isinstance(piece, str) else _value(piece, record) for piece in pieces])

    return render


def fields_of(text: str) -> list[str]:
    """The names of the fields that a template shows, in order: the heads of a table's columns."""
    return [action["path"].lstrip(".") for action in _ACTION.finditer(text)]


def to_json(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()


def _plain(text: str) -> str:
    if "{{" in text:
        raise _not_understood(text[text.index("{{") :])
    for written, meant in _ESCAPES.items():
        text = text.replace(written, meant)
    return text


def _not_understood(what: str) -> UsageError:
    return UsageError(
        f"this template is not understood: {what}", hint='it may have {{.Field}}, {{json .Field}}, {{index .Field "key"}}'
    )


def _value(action: re.Match[str], record: Record) -> str:
    value: Any = record
    for name in action["path"].split("."):
        if not name:
            continue
        if not isinstance(value, Mapping) or name not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "none"
            raise UsageError(f"there is no field {name!r} in {action['path']!r}", hint=f"the fields are {known}")
        value = value[name]
    if action["json"]:
        return to_json(value)
    if action["index"]:
        value = value.get(action["key"], "") if isinstance(value, Mapping) else ""
    if isinstance(value, str):
        return escapes.one_line(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else to_json(value) if isinstance(value, (Mapping, list)) else str(value)
