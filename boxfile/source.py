"""The text of one Boxfile: its characters checked, its places, and errors that point into it."""

from __future__ import annotations

from store.errors import BoxfileError
from store.record import Record

SIZE_LIMIT = 1 << 20
"""Bytes of one Boxfile, at most."""

# Characters that make a line read differently from what it says (the "Trojan Source" family), and the two breaks of YAML 1.1 that
# YAML 1.2 no longer has. All can be written as \uXXXX in a double-quoted string.
_MISLEADING = frozenset("\u0085\u2028\u2029\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")

_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


class Place(Record):
    """Where something starts in a Boxfile; both counted from 1, columns in characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Source:
    """A Boxfile's text with LF line ends and without a byte order mark, every character of which may be shown to a person."""

    __slots__ = ("lines", "path", "text")

    def __init__(self, text: str, path: str) -> None:
        """Raises BoxfileError for text that is too long or has a character YAML forbids or a reader would misread."""
        if text.startswith("\ufeff"):
            text = text[1:]
        self.text = text.replace("\r\n", "\n")
        self.path = path
        self.lines = self.text.split("\n")
        if len(text) > SIZE_LIMIT or (len(text) * 4 > SIZE_LIMIT and len(text.encode("utf-8", "replace")) > SIZE_LIMIT):
            raise _too_long(path)
        for number, line in enumerate(self.lines, 1):
            if not line.isprintable():
                self._check(number, line)

    def _check(self, number: int, line: str) -> None:
        for column, character in enumerate(line, 1):
            code = ord(character)
            if 0x20 <= code < 0x7F or character == "\t" or (code >= 0xA0 and not _forbidden(code)):
                continue
            if character == "\r":
                message, hint = "a carriage return without a line feed", "end lines with LF, or with CR LF"
            elif code == 0:
                message, hint = "a NUL byte", "is this a text file?"
            else:
                message = f"the character U+{code:04X} is not allowed here"
                escape = f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
                hint = (
                    "remove it" if 0xD800 <= code <= 0xDFFF else f'remove it, or write it as "{escape}" in a double-quoted string'
                )
            raise self.error(message, line=number, column=column, hint=hint)

    def error(self, message: str, *, line: int, column: int, width: int = 1, hint: str = "") -> BoxfileError:
        """An error at a place of this text, with its line and a width that does not leave it; behind the end means at the end."""
        if line > len(self.lines):
            line = len(self.lines)
            column = len(self.lines[-1]) + 1
        shown = self.lines[line - 1]
        width = max(1, min(width, len(shown) - column + 1))
        return BoxfileError(message, path=self.path, line=line, column=column, source=shown, width=width, hint=hint)

    def place(self, index: int) -> tuple[int, int]:
        """The line and column of a character of the text, both from 1."""
        before = self.text.rfind("\n", 0, index)
        return self.text.count("\n", 0, index) + 1, index - before


def _forbidden(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF) or chr(code) in _MISLEADING


def _too_long(path: str) -> BoxfileError:
    return BoxfileError(
        f"the file is larger than {SIZE_LIMIT >> 20} MiB",
        path=path,
        line=1,
        column=1,
        hint="is this a Boxfile? put large content in a file of its own and copy it",
    )


def decode(data: bytes, path: str = "Boxfile") -> str:
    """The text of a Boxfile's bytes, which are UTF-8. Raises BoxfileError at the first byte that is not."""
    if len(data) > SIZE_LIMIT:
        raise _too_long(path)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            message, hint = f"the file is {encoding}, not UTF-8", "save it as UTF-8"
            raise BoxfileError(message, path=path, line=1, column=1, hint=hint)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        good = data[: err.start].decode("utf-8").replace("\r\n", "\n").removeprefix("\ufeff")
        line = good.count("\n") + 1
        column = len(good) - good.rfind("\n")
        rest = data[err.start :].split(b"\n", 1)[0].decode("utf-8", "replace").rstrip("\r")
        raise BoxfileError(
            f"the byte 0x{data[err.start]:02x} is not UTF-8",
            path=path,
            line=line,
            column=column,
            source=good[good.rfind("\n") + 1 :] + rest,
            hint="save the file as UTF-8",
        ) from err
