"""What a value may be. A `Kind` says it twice from one place: how a node is read, and what the JSON schema says of it."""

from __future__ import annotations

from boxfile.arguments import TEXT_LIMIT, Arguments, Misuse
from boxfile.likeness import listed, nearest, quoted, shown
from boxfile.nodes import Mapping, Node, Scalar, Sequence
from boxfile.scalars import is_null, resolve
from store.errors import BoxfileError
from store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from boxfile.source import Source

    Schema = dict[str, Any]

ARGUMENT = r"\$\{\{"
"""In the schema's patterns: a value with an argument in it, which is judged only once the argument is known."""


class Kind(Record):
    """How a node becomes a value (raising BoxfileError at its place), and the JSON schema of the nodes it takes."""

    read: Callable[[Reader, Node], Any]
    schema: Schema


class Key(Record):
    """A key of a mapping. Without a kind it belongs to the language and not yet to this version."""

    kind: Kind | None
    doc: str
    required: bool = False
    field: str = ""
    example: str = ""


class Reader:
    """One reading of one document: where errors point, and the arguments."""

    __slots__ = ("_spent", "arguments", "mistakes", "source")

    def __init__(self, source: Source, arguments: Arguments) -> None:
        self.source = source
        self.arguments = arguments
        self.mistakes: list[BoxfileError] = []  # after which reading went on, in the order in which they were found
        self._spent = 0

    def error(self, node: Node, message: str, *, hint: str = "") -> BoxfileError:
        return self.source.error(message, line=node.line, column=node.column, width=node.width, hint=hint)

    def text(self, node: Node, wanted: str = "a text") -> str:
        """The scalar as its characters say, whatever YAML would make of them, with its arguments put in."""
        if not isinstance(node, Scalar):
            raise self.error(node, f"expected {wanted}, found {node.noun}", hint=self._brace_hint(node))
        if node.plain and is_null(node.value):
            found = "nothing" if not node.value else "null"
            raise self.error(
                node, f"expected {wanted}, found {found}", hint='write "" for an empty text' if wanted == "a text" else ""
            )
        try:
            text = self.arguments.substitute(node.value)
        except Misuse as err:
            raise self._misuse(node, err) from err
        self._spent += len(text)
        if self._spent > TEXT_LIMIT:
            raise self.error(node, f"more than {TEXT_LIMIT >> 20} MiB of text with aliases and arguments written out")
        try:
            text.encode()
        except UnicodeEncodeError as err:
            raise self.error(node, "half a surrogate pair is no character") from err
        return text

    def line(self, node: Node, wanted: str = "a text") -> str:
        """A text without NUL, which neither the kernel nor an image config can hold."""
        text = self.text(node, wanted)
        if "\0" in text:
            raise self.error(node, "a NUL cannot be part of this")
        return text

    def one_line(self, key: Scalar, value: Node) -> str:
        """A step as its writer put it, on one line of at most 200 characters that may be shown on a terminal."""
        written = value.value if isinstance(value, Scalar) else self.source.text[value.start : min(value.end, value.start + 400)]
        lines = [line.strip() for line in written[:1000].split("\n") if line.strip()]
        told = lines[0] if isinstance(value, Scalar) and lines else " ".join(lines)
        if isinstance(value, Scalar) and len(lines) > 1:
            told += " …"
        told = shown(f"{key.value}: {told}")
        return told if len(told) <= 200 else told[:199] + "…"

    def _misuse(self, node: Scalar, err: Misuse) -> BoxfileError:
        index = node.start - 1
        for _ in range(err.occurrence + 1):
            index = self.source.text.find("${{", index + 1, node.end)
            if index < 0:
                return self.error(node, err.message, hint=err.hint)
        line, column = self.source.place(index)
        return self.source.error(err.message, line=line, column=column, width=err.width, hint=err.hint)

    def _brace_hint(self, node: Node) -> str:
        if isinstance(node, Mapping) and self.source.text.startswith("{{", node.start):
            return "'{' starts a mapping; put the value in quotes"
        return ""


def read_fields(
    reader: Reader, node: Mapping, table: dict[str, Key], *, where: str, meant: dict[str, str] | None = None, each: bool = False
) -> dict[str, Any]:
    """The values of a mapping with known keys, by field name; keys that are not there are left out. With `each`, a mistake in one
    does not keep the others from being read."""
    values: dict[str, Any] = {}

    def read(name: str, key: Scalar, value: Node) -> None:
        known = table.get(name)
        if known is None:
            raise unknown_key(reader, key, table, meant=meant or {})
        if known.kind is None:
            raise not_yet(reader, key, name)
        values[known.field or name] = known.kind.read(reader, value)

    for name, (key, value) in node.pairs.items():
        try:
            read(name, key, value)
        except BoxfileError as err:
            if not each:
                raise
            reader.mistakes.append(err)
    for name, known in table.items():
        if known.required and name not in node.pairs:
            missing = reader.error(node, f"no '{name}' in {where}", hint=f"such as '{known.example}'")
            if not each:
                raise missing
            reader.mistakes.append(missing)
    return values


def unknown_key(reader: Reader, key: Scalar, table: dict[str, Key], *, meant: dict[str, str], what: str = "key") -> BoxfileError:
    """The error for a key that the language does not have here, with the likely one."""
    meaning = meant.get(key.value.lower())
    known = [name for name, entry in table.items() if entry.kind]
    near = meaning if meaning in table else None if meaning else nearest(key.value, table)
    if near:
        hint = f"did you mean '{near}'?"
    elif meaning and " " in meaning:
        hint = meaning
    else:
        hint = f"the {what}s known here: {listed(known)}" if known else "start another step with '-'"
    return reader.error(key, f"unknown {what} {quoted(key.value)}", hint=hint)


def not_yet(reader: Reader, node: Node, what: str) -> BoxfileError:
    """The error for what belongs to the language and not to this version of box."""
    return reader.error(
        node,
        f"{what if ' ' in what else quoted(what)} is not supported yet",
        hint="it is part of the language; this version of box cannot do it",
    )


def expect_mapping(reader: Reader, node: Node, wanted: str, hint: str = "") -> Mapping:
    if isinstance(node, Mapping):
        return node
    raise reader.error(node, f"expected {wanted}, found {describe(node)}", hint=hint)


def describe(node: Node) -> str:
    if isinstance(node, Scalar) and node.plain and is_null(node.value):
        return "nothing"
    if isinstance(node, Scalar):
        value = resolve(node.value) if node.plain else node.value
        return f"{'the text' if isinstance(value, str) else 'the value'} {quoted(node.value)}"
    return node.noun


def fields_schema(table: dict[str, Key]) -> Schema:
    """The schema of a mapping with the keys of this version; those of later versions are not in it, so both refuse them."""
    schema: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {**key.kind.schema, "description": key.doc} for name, key in table.items() if key.kind},
    }
    required = [name for name, key in table.items() if key.required]
    return {**schema, "required": required} if required else schema


def list_of(
    kind: Kind, wanted: str, *, least: int = 0, most: int = 0, distinct: bool = False, each: bool = False, example: str = ""
) -> Kind:
    """A list of at least and at most so many (0: any number); read as a tuple. With `each`, a mistake in one does not keep the
    other items from being read."""

    def read(reader: Reader, node: Node) -> tuple[Any, ...]:
        if not isinstance(node, Sequence):
            hint = (
                f"write [{node.value}]"
                if isinstance(node, Scalar) and node.value and len(node.value) < 40 and node.value.isprintable()
                else ""
            )
            if isinstance(node, Mapping) and example:
                hint = example
            raise reader.error(node, f"expected {wanted}, found {describe(node)}", hint=hint)
        if len(node.items) < least:
            raise reader.error(node, f"expected {wanted}, found an empty list")
        if most and len(node.items) > most:
            raise reader.error(node.items[most], f"{wanted} has at most {most} items")
        values: list[Any] = []
        seen: set[Any] = set()
        for item in node.items:
            try:
                value = kind.read(reader, item)
            except BoxfileError as err:
                if not each:
                    raise
                reader.mistakes.append(err)
                continue
            if distinct and value in seen:
                raise reader.error(item, f"{quoted(str(value))} is here twice")
            seen.add(value)
            values.append(value)
        return tuple(values)

    schema: Schema = {"type": "array", "items": kind.schema}
    if least:
        schema["minItems"] = least
    if most:
        schema["maxItems"] = most
    if distinct:
        schema["uniqueItems"] = True
    return Kind(read, schema)


def one_or_list(kind: Kind, wanted: str) -> Kind:
    """One, or a list of at least one; read as a tuple."""
    several = list_of(kind, wanted, least=1)

    def read(reader: Reader, node: Node) -> tuple[Any, ...]:
        if isinstance(node, Scalar):
            return (kind.read(reader, node),)
        value: tuple[Any, ...] = several.read(reader, node)
        return value

    return Kind(read, {"anyOf": [kind.schema, several.schema]})


def pairs_of(check: Callable[[Reader, Scalar], str], names: Schema, kind: Kind, wanted: str, example: str) -> Kind:
    """A mapping whose keys are the writer's; read as a tuple of pairs in the order of the text."""

    def read(reader: Reader, node: Node) -> tuple[tuple[str, Any], ...]:
        if not isinstance(node, Mapping):
            raise reader.error(node, f"expected {wanted}, found {describe(node)}", hint=f"write {example}")
        return tuple((check(reader, key), kind.read(reader, value)) for key, value in node.pairs.values())

    return Kind(read, {"type": "object", "propertyNames": names, "additionalProperties": kind.schema})


def choice(wanted: str, *names: str) -> Kind:
    """One of a few words."""

    def read(reader: Reader, node: Node) -> str:
        text = reader.text(node, wanted)
        if text not in names:
            near = nearest(text, names)
            hint = f"did you mean '{near}'?" if near else f"one of {listed(names)}"
            raise reader.error(node, f"{quoted(text)} is not {wanted}", hint=hint)
        return text

    return Kind(read, {"anyOf": [{"enum": list(names)}, {"type": "string", "pattern": ARGUMENT}]})
