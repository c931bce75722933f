"""Text of unknown origin, made safe to show: a terminal obeys what it is sent, and images and logs are written by anybody."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

# C0 and C1 controls, delete, and what reorders or hides text (bidirectional controls, zero-width, line and paragraph separators).
_UNSAFE = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
# A byte that is no UTF-8, as Python carries it along.
_VISIBLE.update({0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)})
_VISIBLE_BUT_LINES = {code: text for code, text in _VISIBLE.items() if chr(code) not in "\n\t"}


_COLOUR = "\033["  # how a colour begins: ECMA-48, SGR, "ESC [ 1 ; 31 m"


def one_line(text: str) -> str:
    """`text` with every control character, line ends too, written as an escape."""
    return text.translate(_VISIBLE)


def lines(text: str) -> str:
    """The same, but line ends and tabs stay."""
    return text.translate(_VISIBLE_BUT_LINES)


def of_repr(text: str) -> str:
    """What Python's repr wrote as `\\udcff`, a byte that is no UTF-8, as `\\xff`."""
    if "\\udc" not in text:
        return text
    import re

    return re.sub(r"(?<!\\)((?:\\\\)*)\\udc([89a-f][0-9a-f])", r"\1\\x\2", text)


def coloured(text: str) -> str:
    """Like `lines`, but colours stay: nothing else that a program may send to a terminal. They end where the text ends."""
    head, *rest = text.split(_COLOUR)
    pieces = [lines(head)]
    kept = False
    for piece in rest:
        numbers = piece.partition("m")[0]
        if len(numbers) < len(piece) and len(numbers) < 32 and not numbers.strip("0123456789;"):
            kept = True
            pieces.append(f"{_COLOUR}{numbers}m{lines(piece[len(numbers) + 1 :])}")
        else:
            pieces.append(lines(_COLOUR + piece))
    if not kept:
        return "".join(pieces)
    whole = "".join(pieces)
    return f"{whole[:-1]}{_COLOUR}0m\n" if whole.endswith("\n") else f"{whole}{_COLOUR}0m"


def colors(stream: TextIO) -> bool:
    """Whether colours are wanted there: on a terminal, unless NO_COLOR (no-color.org) or a dumb terminal says otherwise."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def cleaner(stream: TextIO) -> Callable[[str], str]:
    """What a command's output goes through on its way to `stream`: nothing of it is obeyed there, but colours where they are
    wanted."""
    return coloured if colors(stream) else lines
