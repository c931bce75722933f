"""A whole Boxfile: the keys of the document, and `parse`, the door of this package."""

from __future__ import annotations

from boxfile import intents
from boxfile.arguments import Arguments, is_argument_name
from boxfile.bases import BASE
from boxfile.config import CONFIG
from boxfile.kinds import Key, Kind, Reader, describe, expect_mapping, pairs_of, read_fields
from boxfile.likeness import quoted
from boxfile.nodes import Node, Scalar, compose
from boxfile.plan import Plan
from boxfile.references import NAME
from boxfile.scalars import is_null, resolve
from boxfile.source import Source
from boxfile.steps import STEPS
from boxfile.values import ANY_SCALAR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_DOCKERFILES = ("FROM ", "ARG ")
VERSION = 1
"""The version of the language that this package reads."""


def _version(reader: Reader, node: Node) -> int:
    value = resolve(node.value) if isinstance(node, Scalar) and node.plain else None
    if type(value) is not int:
        raise reader.error(node, f"expected the version of the language, found {describe(node)}", hint=f"write 'box: {VERSION}'")
    if value != VERSION:
        hint = "a newer box may read it" if value > VERSION else f"write 'box: {VERSION}'"
        raise reader.error(node, f"version {value} of the language is not known; this box reads version {VERSION}", hint=hint)
    return value


def _argument_name(reader: Reader, key: Scalar) -> str:
    if not is_argument_name(key.value):
        hint = "a name has letters, digits, '_' and '-', and starts with a letter or '_'"
        raise reader.error(key, f"{quoted(key.value)} is not the name of an argument", hint=hint)
    return key.value


def _argument_default(reader: Reader, node: Node) -> str | None:
    if not isinstance(node, Scalar):
        raise reader.error(node, f"expected a text, found {describe(node)}", hint="an argument is a text; quote it")
    if node.plain and is_null(node.value):
        return None
    if "${{" in node.value.replace("$${{", ""):
        raise reader.error(
            node, "an argument's default is a plain text", hint="arguments are put into the rest of the Boxfile, not into 'args'"
        )
    return reader.line(node)


ARGS = pairs_of(
    _argument_name,
    {"pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"},
    Kind(_argument_default, {**ANY_SCALAR, "type": [*ANY_SCALAR["type"], "null"]}),
    "a mapping of arguments",
    '{python: "3.12"}',
)

DOCUMENT_KEYS = {
    "box": Key(Kind(_version, {"const": VERSION}), "The version of the language.", required=True, example=f"box: {VERSION}"),
    "name": Key(NAME, "The reference that the built image gets unless another is asked for."),
    "args": Key(ARGS, "Arguments and their defaults, null for none; set with --arg, used as ${{ name }} or ${{ name:default }}."),
    "include": Key(None, "Other files to take in."),
    "base": Key(BASE, "What the image starts from.", required=True, example="base: ./debian.tar"),
    "steps": Key(STEPS, "What is done, one after the other."),
    "config": Key(CONFIG, "What a container of the image gets."),
    "stages": Key(None, "Other images, built when referred to."),
}


def parse(text: str, *, path: str = "Boxfile", args: Mapping[str, str] | None = None) -> Plan:
    """The plan that a Boxfile's text says, with `args` for its arguments.

    Pure: opens nothing, asks nothing. Raises BoxfileError, with its place, for the first thing that is wrong (with the `others`),
    and nothing else whatever the text is. `path` is only said in errors and in the plan.
    """
    source = Source(text, path)
    root = compose(source)
    reader = Reader(source, Arguments({}, {}))
    hint = "a Boxfile is a mapping: start with 'box: 1' and a 'base'"
    if isinstance(root, Scalar) and root.value.startswith(_OF_DOCKERFILES):
        hint = "this is a Dockerfile, which box does not read: write its steps as a Boxfile, from 'box: 1' and a 'base' on"
    document = expect_mapping(reader, root, "a Boxfile", hint)
    if "box" in document.pairs:  # in another version all else may be right
        _version(reader, document.pairs["box"][1])
    declared = document.pairs.get("args")
    if declared:
        reader.arguments = Arguments(dict(ARGS.read(reader, declared[1])), dict(args or {}))
    else:
        reader.arguments = Arguments({}, dict(args or {}))
    values = read_fields(reader, document, DOCUMENT_KEYS, where="a Boxfile", meant=intents.DOCUMENT, each=True)
    for name in reader.arguments.unknown():
        place = declared[0] if declared else document
        hint = reader.arguments.hint_for(name) if is_argument_name(name) else ""
        error = reader.source.error(
            f"no argument named {quoted(name)}", line=place.line, column=place.column, width=place.width, hint=hint
        )
        reader.mistakes.append(error)
    if reader.mistakes:
        first, *first.others = reader.mistakes
        raise first
    return Plan(
        path=path,
        version=values["box"],
        name=values.get("name"),
        args=reader.arguments.resolved(),
        base=values["base"],
        steps=values.get("steps", ()),
        config=values.get("config"),
    )
