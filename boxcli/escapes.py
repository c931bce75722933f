"""Text of unknown origin, made safe to show: a terminal obeys what it is sent, and images and logs are written by anybody."""

from __future__ import annotations

# C0 and C1 controls, delete, and what reorders or hides text (bidirectional controls, zero-width, line and paragraph separators).
_UNSAFE = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
_VISIBLE_BUT_LINES = {code: text for code, text in _VISIBLE.items() if chr(code) not in "\n\t"}


def one_line(text: str) -> str:
    """`text` with every control character, line ends too, written as an escape."""
    return text.translate(_VISIBLE)


def lines(text: str) -> str:
    """The same, but line ends and tabs stay."""
    return text.translate(_VISIBLE_BUT_LINES)
