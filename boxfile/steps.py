"""`steps:`: the verbs, their keys, and how one item of the list becomes a step."""

from __future__ import annotations

from boxfile import intents, plan
from boxfile.kinds import Key, Kind, Reader, choice, describe, fields_schema, list_of, not_yet, read_fields, unknown_key
from boxfile.likeness import listed, quoted
from boxfile.nodes import Mapping, Node, Scalar
from boxfile.scalars import is_null
from boxfile.values import (
    ABSOLUTE,
    ACCOUNT,
    BEYOND_ROOT,
    COMMAND,
    COMMAND_WORDS,
    CONTENT,
    ENV,
    EXCLUDE,
    LABELS,
    MODE,
    PATTERNS,
    SOURCES,
    TEXT,
)
from store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Fields = dict[str, Any]


class Verb(Record):
    """One thing that a step does: `short` reads its value when that is no mapping of `keys`; `options` may stand beside it."""

    make: type[plan.Step]
    doc: str
    short: Kind | None
    keys: dict[str, Key]
    options: dict[str, Key]
    example: str
    settle: Callable[[Reader, Node, Fields], Fields] | None = None


def _as(field: str, kind: Kind) -> Kind:
    """The kind, read as one field of a step."""
    return Kind(lambda reader, node: {field: kind.read(reader, node)}, kind.schema)


def _shell(reader: Reader, node: Node) -> tuple[str, ...] | None:
    if isinstance(node, Scalar) and node.plain and is_null(node.value):
        return None
    words: tuple[str, ...] = COMMAND_WORDS.read(reader, node)
    return words


def _settle_run(reader: Reader, node: Node, fields: Fields) -> Fields:
    """A string has a shell, a list has none."""
    if isinstance(fields["command"], str):
        shell = fields.get("shell", plan.SHELL)
        if shell is None:
            raise reader.error(node, "a command without a shell is a list", hint="write the command as [program, argument, ...]")
        return {**fields, "shell": shell}
    if fields.get("shell") is not None:
        raise reader.error(
            node, "a command written as a list has no shell", hint="write the command as a text, or leave 'shell' out"
        )
    return fields


def _copy_short(reader: Reader, node: Node) -> Fields:
    text = reader.line(node, "'SOURCE -> /TARGET'")
    source, arrow, target = text.partition(" -> ")
    source, target = source.strip(), target.strip()
    if not arrow or not source or not target or "->" in target:
        words = text.replace("=>", " ").replace("->", " ").replace(":", " ").split()
        hint = f"did you mean {quoted(f'{words[0]} -> {words[1]}')}?" if len(words) == 2 else "write 'src/ -> /app'"
        raise reader.error(node, f"{quoted(text)} is not 'SOURCE -> /TARGET'", hint=hint)
    if len(source.split()) > 1:
        sources = ", ".join(source.split()[:4])
        hint = (
            f"for several sources write {{from: [{sources}], to: {target}}}"
            if len(sources + target) < 60
            else "use {from: [...], to: ...}"
        )
        raise reader.error(node, "one source fits before '->', without spaces", hint=hint)
    # The parts are read by the same kinds as in the long form, at the place of the whole.
    return {"sources": (SOURCES.read(reader, _part(node, source)))[:1], "to": ABSOLUTE.read(reader, _part(node, target))}


def _part(node: Node, text: str) -> Scalar:
    assert isinstance(node, Scalar)
    part: Scalar = object.__new__(Scalar)
    for slot in ("line", "column", "start", "end", "width", "size", "depth"):
        setattr(part, slot, getattr(node, slot))
    part.plain = False
    part.value = text
    return part


_WHEN = {
    "when": Key(None, "The step is done only when this holds."),
    "fresh": Key(None, "How long the cached result is believed."),
}
_OWNER = Key(ACCOUNT, "Who owns it: NAME, UID, or either with :GROUP or :GID.")

_RUN_OPTIONS = {
    "shell": Key(
        Kind(_shell, {"anyOf": [{"type": "null"}, COMMAND_WORDS.schema]}),
        "The shell of a command written as a text; null for none.",
    ),
    "env": Key(ENV, "Variables of this command alone."),
    "workdir": Key(ABSOLUTE, "The directory of this command alone."),
    "user": Key(ACCOUNT, "The user of this command alone."),
    "network": Key(choice("a network", "default", "none", "host"), "What network the command sees."),
    "mounts": Key(None, "Caches, secrets and folders that are there for the command alone."),
    "limits": Key(None, "What the command may use."),
    "timeout": Key(None, "How long the command may take."),
    "secret": Key(None, "A secret that is there for the command alone."),
    "secrets": Key(None, "Secrets that are there for the command alone."),
    **_WHEN,
}
_COPY_OPTIONS = {
    "owner": _OWNER,
    "mode": Key(MODE, 'The mode of every file copied, such as "0644".'),
    "exclude": Key(EXCLUDE, "Patterns of files to leave out."),
    "stage": Key(None, "The stage whose files are copied."),
    "optional": Key(None, "No error when the sources are not there."),
    **_WHEN,
}
_WRITE_OPTIONS = {"mode": Key(MODE, 'The mode of the file; "0644" unless said.'), "owner": _OWNER, **_WHEN}
_MKDIR_OPTIONS = {"mode": Key(MODE, 'The mode of the directory; "0755" unless said.'), "owner": _OWNER, **_WHEN}

VERBS: dict[str, Verb] = {
    "run": Verb(
        plan.RunStep,
        "Run a command: a text goes to /bin/sh -e -c, which ends at the first line that fails; a list is executed as it is.",
        _as("command", COMMAND),
        {"command": Key(COMMAND, "The command.", required=True, example="command: [make, test]"), **_RUN_OPTIONS},
        _RUN_OPTIONS,
        "run: make",
        _settle_run,
    ),
    "copy": Verb(
        plan.CopyStep,
        "Copy files of the context: 'src/ -> /app'.",
        Kind(_copy_short, {"type": "string", "pattern": r"^\S+ +-> +\S.*$|\$\{\{"}),
        {
            "from": Key(SOURCES, "Files and folders of the context.", required=True, field="sources", example="from: src/"),
            "to": Key(ABSOLUTE, "Where they go; a folder when it ends with '/'.", required=True, example="to: /app"),
            **_COPY_OPTIONS,
        },
        _COPY_OPTIONS,
        "copy: src/ -> /app",
    ),
    "write": Verb(
        plan.WriteStep,
        "Write a file.",
        None,
        {
            "to": Key(BEYOND_ROOT, "The file.", required=True, example="to: /etc/motd"),
            "text": Key(CONTENT, "Its content.", required=True, field="content", example='text: "hello\\n"'),
            **_WRITE_OPTIONS,
        },
        _WRITE_OPTIONS,
        'write: {to: /etc/motd, text: "hello\\n"}',
    ),
    "mkdir": Verb(
        plan.MkdirStep,
        "Make a directory, and its parents when missing.",
        _as("path", BEYOND_ROOT),
        {"path": Key(BEYOND_ROOT, "The directory.", required=True, example="path: /var/lib/app"), **_MKDIR_OPTIONS},
        _MKDIR_OPTIONS,
        "mkdir: /var/lib/app",
    ),
    "symlink": Verb(
        plan.SymlinkStep,
        "Make a symbolic link.",
        None,
        {
            "path": Key(BEYOND_ROOT, "Where the link is.", required=True, example="path: /usr/bin/app"),
            "target": Key(
                Kind(lambda reader, node: _target(reader, node), TEXT.schema),
                "What it points to.",
                required=True,
                example="target: /app/bin/app",
            ),
            **_WHEN,
        },
        _WHEN,
        "symlink: {path: /usr/bin/app, target: /app/bin/app}",
    ),
    "remove": Verb(
        plan.RemoveStep,
        "Remove what these patterns match.",
        _as("patterns", PATTERNS),
        {},
        {**_WHEN, "optional": Key(None, "No error when nothing matches.")},
        "remove: [/usr/share/doc/**]",
    ),
    "env": Verb(
        plan.EnvStep, "Set variables for later steps and the image.", _as("values", ENV), {}, _WHEN, "env: {NAME: value}"
    ),
    "workdir": Verb(
        plan.WorkdirStep, "Set the directory of later steps and the image.", _as("path", ABSOLUTE), {}, _WHEN, "workdir: /app"
    ),
    "user": Verb(plan.UserStep, "Set the user of later steps and the image.", _as("user", ACCOUNT), {}, _WHEN, "user: app"),
    "label": Verb(plan.LabelStep, "Set labels of the image.", _as("labels", LABELS), {}, _WHEN, "label: {title: api}"),
}
LATER = ("fetch",)
"""Verbs of the language that this version does not do."""
_AS_KEYS = {name: Key(TEXT, verb.doc) for name, verb in VERBS.items()}


def _target(reader: Reader, node: Node) -> str:
    target: str = TEXT.read(reader, node)
    if not target:
        raise reader.error(node, "an empty target")
    return target


def _step(reader: Reader, node: Node) -> plan.Step:
    if not isinstance(node, Mapping):
        hint = ""
        if isinstance(node, Scalar) and 0 < len(node.value) <= 60 and node.value.isprintable():
            word, _, rest = node.value.partition(" ")
            first = word.lower().rstrip(":")
            hint = f"did you mean '{first}: {rest}'?" if first in VERBS and rest else f"did you mean 'run: {node.value}'?"
            if first in VERBS and not rest:
                hint = f"such as '{VERBS[first].example}'"
        raise reader.error(node, f"expected a step, found {describe(node)}", hint=hint)
    name = _verb_of(reader, node)
    verb: Verb = VERBS[name]
    key, value = node.pairs[name]
    if isinstance(value, Mapping) and verb.keys:
        fields = read_fields(reader, value, verb.keys, where=f"'{name}'", meant=intents.STEP_KEYS)
    elif verb.short:
        fields = verb.short.read(reader, value)
    else:
        raise reader.error(value, f"expected a mapping, found {describe(value)}", hint=f"such as '{verb.example}'")
    for other, (beside, option) in node.pairs.items():
        if other == name:
            continue
        known = verb.options.get(other)
        if known is None:
            raise unknown_key(reader, beside, verb.options, meant=intents.STEP_KEYS)
        if known.kind is None:
            raise not_yet(reader, beside, other)
        if other in fields:
            raise reader.error(beside, f"'{other}' is given inside of '{name}' and beside it", hint="keep one of them")
        fields[other] = known.kind.read(reader, option)
    if verb.settle:
        fields = verb.settle(reader, value, fields)
    return verb.make(at=node.at, text=reader.one_line(key, value), **fields)


def _verb_of(reader: Reader, node: Mapping) -> str:
    """The one verb of a step; 'env', 'workdir' and 'user' are verbs that may also be options of 'run'."""
    present = [name for name in node.pairs if name in VERBS]
    for name in present:
        if all(other == name or other in VERBS[name].options for other in present):
            return name
    if present:
        raise reader.error(
            node.pairs[present[1]][0],
            f"a step does one thing; this one has {listed(present)}",
            hint="start another step with '-'",
        )
    for name, (key, _) in node.pairs.items():
        if name in LATER:
            raise not_yet(reader, key, name)
    if not node.pairs:
        raise reader.error(node, "an empty step", hint=f"a step is one of {listed(VERBS)}")
    raise unknown_key(reader, next(iter(node.pairs.values()))[0], _AS_KEYS, meant=intents.STEPS, what="step")


def step_schema() -> dict[str, Any]:
    forms: list[dict[str, Any]] = []
    for name, verb in VERBS.items():
        values = [verb.short.schema] if verb.short else []
        if verb.keys:
            values.append(fields_schema(verb.keys))
        beside = fields_schema(verb.options)
        beside["properties"] = {name: {"anyOf": values, "description": verb.doc}, **beside["properties"]}
        forms.append({**beside, "required": [name]})
    return {"anyOf": forms}


STEPS = list_of(
    Kind(_step, {"$ref": "#/$defs/step"}), "a list of steps", each=True, example="a '- ' before each step: '- run: make'"
)
