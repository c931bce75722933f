"""YAML text -> a graph of nodes with places, from the parser's events: no tags, no merge keys, one document, aliases kept.

An alias shares the children of what it names, so a bomb of aliases costs what its text costs; `size` and `depth` count as if it
had been written out, and the limits are held on those numbers while the graph is made.
"""

from __future__ import annotations

import yaml

from boxfile.likeness import nearest, quoted
from boxfile.source import Place, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from store.errors import BoxfileError

NODE_LIMIT = 100_000
"""Nodes of a document with its aliases written out, at most."""
DEPTH_LIMIT = 64
"""Collections inside one another, with the aliases written out, at most."""


class Node:
    """What all nodes have: `line` and `column` of its use, from 1; `start` and `end` of what says its content, from 0."""

    __slots__ = ("column", "depth", "end", "line", "size", "start", "width")
    noun = "a value"

    def __init__(self, event: Any) -> None:
        mark = event.start_mark
        self.line = mark.line + 1
        self.column = mark.column + 1
        self.start = mark.index
        self.end = event.end_mark.index
        self.width = self.end - self.start
        self.size = 1
        self.depth = 0

    @property
    def at(self) -> Place:
        return Place(self.line, self.column)


class Scalar(Node):
    """A text; `plain` when it was written without quotes, so that it may mean a number, a boolean or null."""

    __slots__ = ("plain", "value")
    noun = "a text"

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self.value: str = event.value
        self.plain: bool = event.style is None or event.style == ""


class Sequence(Node):
    __slots__ = ("items",)
    noun = "a list"

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self.items: list[Node] = []


class Mapping(Node):
    """Keys in the order of the text, each with its own node; no key is there twice."""

    __slots__ = ("pairs",)
    noun = "a mapping"

    def __init__(self, event: Any) -> None:
        super().__init__(event)
        self.pairs: dict[str, tuple[Scalar, Node]] = {}


def compose(source: Source) -> Node:
    """The root node of the one document. Raises BoxfileError for what is not YAML, or YAML that a Boxfile does not use."""
    return _Composer(source).document()


def _parser(text: str) -> Any:
    return yaml._yaml.CParser(text) if yaml.__with_libyaml__ else PureParser(text)


class PureParser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """The events of PyYAML's own parser, for installations without libyaml."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)


class _Composer:
    __slots__ = ("anchors", "event", "source", "stack")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.event: Callable[[], Any] = _parser(source.text).get_event
        self.anchors: dict[str, Node | None] = {}  # None while the anchored collection is still open
        self.stack: list[tuple[Sequence | Mapping, str | None]] = []

    def document(self) -> Node:
        try:
            return self._document()
        except yaml.MarkedYAMLError as err:
            from boxfile.syntax import syntax_error

            raise syntax_error(self.source, err) from err
        except yaml.YAMLError as err:
            raise self.source.error(f"not YAML: {err}".split("\n")[0], line=1, column=1) from err

    def _document(self) -> Node:
        self.event()  # the start of the stream
        start = self.event()
        if isinstance(start, yaml.StreamEndEvent):
            raise self.source.error("the file says nothing", line=1, column=1, hint="start with 'box: 1' and a 'base'")
        if start.tags:
            raise self._error(start.start_mark, "tags are no part of a Boxfile", hint="remove the %TAG line")
        if start.version and tuple(start.version) != (1, 2):
            raise self._error(start.start_mark, "a Boxfile is YAML 1.2", hint="remove the %YAML line")
        root = self._nodes()
        self.event()  # the end of the document
        more = self.event()
        if not isinstance(more, yaml.StreamEndEvent):
            raise self._error(
                more.start_mark, "a second document starts here", hint="one file holds one Boxfile; remove the '---'", width=3
            )
        return root

    def _nodes(self) -> Node:
        """Every event up to the end of the root node, in a loop: depth costs no Python stack."""
        key: Scalar | None = None
        keys: list[Scalar | None] = []
        while True:
            event = self.event()
            kind = type(event)
            node: Node
            if kind is yaml.ScalarEvent:
                self._refuse_tag(event)
                node = Scalar(event)
                if event.anchor:
                    self.anchors[event.anchor] = node
            elif kind is yaml.SequenceStartEvent or kind is yaml.MappingStartEvent:
                self._refuse_tag(event)
                opened = Sequence(event) if kind is yaml.SequenceStartEvent else Mapping(event)
                if self._wants_key(key):
                    raise self._error(event.start_mark, f"{opened.noun} as a key", hint="a key is a plain word")
                if event.anchor:
                    self.anchors[event.anchor] = None
                self.stack.append((opened, event.anchor))
                keys.append(key)
                key = None
                if len(self.stack) > DEPTH_LIMIT:
                    raise self._error(event.start_mark, f"nested deeper than {DEPTH_LIMIT} levels")
                continue
            elif kind is yaml.AliasEvent:
                node = self._alias(event)
            else:  # the end of a sequence or mapping
                closed, anchor = self.stack.pop()
                closed.end = event.end_mark.index
                closed.width = closed.end - closed.start
                if anchor:
                    self.anchors[anchor] = closed
                node = closed
                key = keys.pop()
            if not self.stack:
                return node
            into = self.stack[-1][0]
            if isinstance(into, Sequence):
                into.items.append(node)
            elif key is None:
                key = self._key(into, node)
                continue
            else:
                into.pairs[key.value] = (key, node)
                key = None
            into.size += node.size
            into.depth = max(into.depth, node.depth + 1)
            if into.size > NODE_LIMIT or len(self.stack) + node.depth > DEPTH_LIMIT:
                raise self._too_much(node, into.size > NODE_LIMIT)

    def _wants_key(self, key: Scalar | None) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1][0], Mapping) and key is None

    def _key(self, into: Mapping, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            raise self._at(node, f"{node.noun} as a key", hint="a key is a plain word")
        into.size += 1
        if node.plain and node.value == "<<":
            hint = "YAML 1.2 has none: write the keys out, or give the whole mapping by an alias"
            raise self._at(node, "merge keys are no part of a Boxfile", hint=hint)
        if node.value in into.pairs:
            first = into.pairs[node.value][0]
            raise self._at(
                node, f"the key {quoted(node.value)} is here twice", hint=f"it was given first at {self.source.path}:{first.at}"
            )
        return node

    def _alias(self, event: Any) -> Node:
        name: str = event.anchor
        if name not in self.anchors:
            near = nearest(name, self.anchors)
            hint = f"did you mean '*{near}'?" if near else f"mark what it stands for with '&{name}', above"
            raise self._error(event.start_mark, f"no anchor named {quoted(name)}", hint=hint, width=len(name) + 1)
        target = self.anchors[name]
        if target is None:
            hint = "a value cannot hold itself"
            raise self._error(
                event.start_mark, f"the alias {quoted('*' + name)} is inside what it names", hint=hint, width=len(name) + 1
            )
        return _used_at(target, event)

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is None:
            return
        tag = str(event.tag).replace("tag:yaml.org,2002:", "!!", 1)
        hint = 'quote the value to make it a text: "..."' if tag == "!!str" else "remove the tag; a quoted value is a text"
        column = event.start_mark.index
        written = self.source.text.find("!", column, event.end_mark.index + 1)
        line, at = self.source.place(written) if written >= 0 else (event.start_mark.line + 1, event.start_mark.column + 1)
        raise self.source.error(f"tags are no part of a Boxfile: {quoted(tag)}", line=line, column=at, width=len(tag), hint=hint)

    def _too_much(self, node: Node, nodes: bool) -> BoxfileError:
        if nodes:
            return self._at(
                node, f"more than {NODE_LIMIT:,} values with the aliases written out", hint="use fewer aliases of aliases"
            )
        return self._at(node, f"nested deeper than {DEPTH_LIMIT} levels with the aliases written out")

    def _at(self, node: Node, message: str, *, hint: str = "") -> BoxfileError:
        return self.source.error(message, line=node.line, column=node.column, width=node.width, hint=hint)

    def _error(self, mark: Any, message: str, *, hint: str = "", width: int = 1) -> BoxfileError:
        return self.source.error(message, line=mark.line + 1, column=mark.column + 1, width=width, hint=hint)


def _used_at(node: Node, event: Any) -> Node:
    """The node as an alias shows it: its place is the alias, its content is shared."""
    used: Node = object.__new__(type(node))
    for cls in type(node).__mro__:
        for slot in getattr(cls, "__slots__", ()):
            setattr(used, slot, getattr(node, slot))
    used.line = event.start_mark.line + 1
    used.column = event.start_mark.column + 1
    used.width = event.end_mark.index - event.start_mark.index
    return used
