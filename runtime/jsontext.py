"""Reading JSON without the json package, whose import takes longer than the parsing of what an engine sends: the scanner is the
same, `_json`'s, which needs an object with its settings."""

from _json import make_scanner

from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _pairs(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")  # two readers could believe different ones
        found[key] = value
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class _Settings:  # what make_scanner looks at, as json.decoder.JSONDecoder has it
    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_pairs)
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: "dict[str, str]" = {}  # noqa: RUF012  # of one call: the scanner clears it


_scan = make_scanner(_Settings())  # type: ignore[arg-type]  # typeshed has the result's type there
_BLANK = " \t\n\r"


def parse(text: str, what: str) -> "Any":
    """The one value in `text`. Raises RunError, which calls the text `what`."""
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = _scan(text, start)
    except StopIteration:
        raise RunError(f"{what} is no JSON") from None
    except (ValueError, RecursionError) as err:
        raise RunError(f"{what} is no JSON: {err}") from err
    if text[end:].strip(_BLANK):
        raise RunError(f"{what} has something behind its JSON value")
    return value


def read(path: str, what: str, *, limit: int = 4 << 20) -> "Any":
    """The value in the file at `path`. Raises RunError, FileNotFoundError where there is none."""
    import posix as os

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise RunError(f"{what} is too large: {size} bytes, the limit is {limit}")
        data = b""
        while len(data) <= limit and (piece := os.read(descriptor, 1 << 20)):
            data += piece
    finally:
        os.close(descriptor)
    try:
        return parse(data.decode(), what)
    except UnicodeDecodeError as err:
        raise RunError(f"{what} is no JSON: it is not UTF-8") from err
