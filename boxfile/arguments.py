"""`${{ name }}` and `${{ name:default }}`: a build's arguments, put into values after the YAML is read.

What is put in is never read as YAML and never searched for arguments again, so an argument cannot add a key, a step or a value.
`${NAME}` and `$NAME` are left to the shell; `$${{` stands for `${{` itself, `$$${{` for `$${{`, and so on.
"""

from __future__ import annotations

from boxfile.likeness import listed, nearest, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT_LIMIT = 16 << 20
"""Characters of all values of a Boxfile with arguments put in and aliases written out, at most."""


class Misuse(Exception):
    """A wrong `${{ }}`: the occurrence in its text, counted from 0, and how wide it is; the reader gives it its place."""

    def __init__(self, message: str, *, occurrence: int, width: int, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.occurrence = occurrence
        self.width = width
        self.hint = hint


class Arguments:
    """The arguments of one build: declared with a default or None, given by the caller, or declared where they are used."""

    __slots__ = ("declared", "given", "inline")

    def __init__(self, declared: Mapping[str, str | None], given: Mapping[str, str]) -> None:
        self.declared = declared
        self.given = given
        self.inline: set[str] = set()

    def resolved(self) -> dict[str, str]:
        """Every argument that has a value, but for the defaults given where they are used."""
        values = {name: value for name, value in self.declared.items() if value is not None}
        return {**values, **self.given}

    def unknown(self) -> list[str]:
        """Names that were given and are nowhere declared."""
        return [name for name in self.given if name not in self.declared and name not in self.inline]

    def substitute(self, text: str) -> str:
        """The text with its arguments put in. Raises Misuse for the first `${{ }}` that makes no sense."""
        if "${{" not in text:
            return text
        parts: list[str] = []
        done = occurrence = room = 0
        while (start := text.find("${{", done)) >= 0:
            if start > done and text[start - 1] == "$":
                parts += (text[done : start - 1], "${{")
                done = start + 3
            else:
                end = text.find("}}", start + 3)
                if end < 0:
                    hint = "write '${{ name }}', or '$${{' for the characters themselves"
                    raise Misuse("'${{' without its '}}'", occurrence=occurrence, width=3, hint=hint)
                value = self._value(text[start + 3 : end].strip(), occurrence, end + 2 - start)
                parts += (text[done:start], value)
                done = end + 2
                room += len(value)
                if room > TEXT_LIMIT:
                    raise Misuse("the arguments make the text too long", occurrence=occurrence, width=done - start, hint="")
            occurrence += 1
        parts.append(text[done:])
        return "".join(parts)

    def _value(self, inside: str, occurrence: int, width: int) -> str:
        name, colon, default = inside.partition(":")
        name = name.rstrip()
        if not is_argument_name(name):
            hint = "write '${{ name }}' or '${{ name:default }}'; '$${{' stands for the characters themselves"
            raise Misuse(f"{quoted(name)} is no argument's name", occurrence=occurrence, width=width, hint=hint)
        if "${{" in default:
            hint = "a default is a plain text"
            raise Misuse("an argument inside an argument", occurrence=occurrence, width=width, hint=hint)
        if colon:
            self.inline.add(name)
        if name in self.given:
            return self.given[name]
        declared = self.declared.get(name)
        if declared is not None:
            return declared
        if colon:
            return default
        if name in self.declared:
            hint = f"give it with --arg {name}=VALUE, or write ${{{{ {name}:default }}}}"
            raise Misuse(f"the argument '{name}' has no value", occurrence=occurrence, width=width, hint=hint)
        raise Misuse(f"no argument named '{name}'", occurrence=occurrence, width=width, hint=self.hint_for(name))

    def hint_for(self, name: str) -> str:
        """What a writer of an unknown argument's name may have meant."""
        near = nearest(name, self.declared)
        if near:
            return f"did you mean '{near}'?"
        if self.declared:
            return f"the arguments of this Boxfile: {listed(self.declared)}"
        return f"declare it: 'args: {{{name}: \"its default\"}}'"


def is_argument_name(name: str) -> bool:
    """A letter or '_', then letters, digits, '_' and '-'; all ASCII."""
    return name.isascii() and name.replace("-", "_").isidentifier() and not name.startswith("-") and len(name) <= 100


def escaped(text: str) -> str:
    """The text that `substitute` turns into `text`."""
    parts = text.split("{{")
    for index, part in enumerate(parts[:-1]):
        if part.endswith("$"):
            parts[index] = part + "$"
    return "{{".join(parts)
