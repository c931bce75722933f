"""Small JSON objects, written without the json module (7 ms) on the hot path; they are read, off it, with json itself."""

import os

_ESCAPES = {code: f"\\u{code:04x}" for code in range(32)} | {34: '\\"', 92: "\\\\"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


def encode(value: "Value") -> str:
    """One JSON value; strings may hold undecodable bytes in Python's surrogate form."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{encode(key)}: {encode(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join([encode(item) for item in value]) + "]"  # type: ignore[union-attr]  # Mapping is always a dict here


def write(path: str, value: "Mapping[str, Value]") -> None:
    """Replace the file at `path` by the object: a reader sees the old one or the new one. Not synced: a reboot ends every container."""
    draft = path + ".new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, encode(value).encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)
    os.rename(draft, path)


def read(path: str) -> "dict[str, Any] | None":
    """The object at `path`; None where there is none, or half of one."""
    import json

    try:
        with open(path, "rb") as file:
            value = json.loads(file.read().decode("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
