"""The kinds of single values: texts, paths, modes, owners, names of variables, ports, durations, signals."""

from __future__ import annotations

from boxfile.kinds import ARGUMENT, Kind, Reader, describe, list_of, one_or_list, pairs_of
from boxfile.likeness import nearest, quoted
from boxfile.nodes import Mapping, Node, Scalar, Sequence
from boxfile.scalars import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile.kinds import Schema

_ID_LIMIT = (1 << 32) - 2
"""The largest user or group number; the next is the kernel's "no id"."""
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORTS_OF_A_RANGE = 1000
SIGNALS = (
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGKILL", "SIGPIPE",
    "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN",
    "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
)  # fmt: skip


def _pattern(pattern: str, *also: str) -> Schema:
    """A text of this form, or one with an argument in it; `also` names other types a plain scalar of this form may look like."""
    either: Schema = {"pattern": f"^({pattern})$|{ARGUMENT}"}
    return {"type": ["string", *also] if also else "string", **either}


ANY_SCALAR: Schema = {"type": ["string", "number", "boolean"]}


def _text(reader: Reader, node: Node) -> str:
    return reader.line(node)


def _absolute(reader: Reader, node: Node) -> str:
    path = reader.line(node, "an absolute path")
    if not path:
        raise reader.error(node, "an empty path")
    if not path.startswith("/"):
        bare = path.removeprefix("./")
        hint = "paths in the image start with '/'" if bare[:1] in ("", "~", "$", ".") else f"did you mean {quoted('/' + bare)}?"
        raise reader.error(node, f"{quoted(path)} is not an absolute path", hint=hint)
    if ".." in path.split("/"):
        raise reader.error(node, f"'..' in the path {quoted(path)}", hint="write the path without '..'")
    return path


def _beyond_root(reader: Reader, node: Node) -> str:
    path = _absolute(reader, node)
    if not path.strip("/."):
        raise reader.error(node, f"{quoted(path)} is the root itself", hint="name something below '/'")
    return path


def _in_context(reader: Reader, node: Node) -> str:
    path = reader.line(node, "a path in the context")
    if not path:
        raise reader.error(node, "an empty path", hint="'.' is the whole context")
    if path.startswith("/"):
        raise reader.error(
            node,
            f"{quoted(path)} is not inside the context",
            hint="sources are relative to the context, the folder of the Boxfile",
        )
    if ".." in path.split("/"):
        raise reader.error(node, f"{quoted(path)} leaves the context", hint="copy only what is inside the folder of the Boxfile")
    return path


def _mode(reader: Reader, node: Node) -> int:
    if not isinstance(node, Scalar):
        raise reader.error(node, f"expected a mode, found {describe(node)}", hint='write a mode in quotes: "0644"')
    text = reader.text(node, "a mode")
    digits = text.removeprefix("0o")
    octal = digits.isascii() and digits.isdigit() and not digits.strip("01234567") and int(digits, 8) <= 0o7777
    if node.plain and not isinstance(resolve(text), str) and "${{" not in node.value:
        hint = f'write it as a text: "{digits.zfill(4)}"' if octal and len(digits) <= 5 else 'write a mode in quotes: "0644"'
        raise reader.error(node, f"the number {quoted(text)} is not a mode", hint=hint)
    if not octal or len(digits) not in (3, 4):
        hint = 'a mode is three or four octal digits in quotes, such as "0644" or "0755"'
        raise reader.error(node, f"{quoted(text)} is not a mode", hint=hint)
    return int(digits, 8)


def _account(reader: Reader, node: Node) -> str:
    if isinstance(node, Mapping):
        hint = "name a user that the image has, or its number"
        raise reader.error(node, "creating an account with 'user: {...}' is not supported yet", hint=hint)
    text = reader.line(node, "a user")
    user, colon, group = text.partition(":")
    for part, noun in ((user, "user"), (group, "group")):
        if noun == "group" and not colon:
            break
        if part.isascii() and part.isdigit():
            if len(part) > 10 or int(part) > _ID_LIMIT:
                raise reader.error(node, f"the {noun} number {quoted(part)} is too large", hint=f"at most {_ID_LIMIT}")
        elif not _is_account_name(part):
            hint = "write NAME, UID, or either followed by :GROUP or :GID"
            raise reader.error(node, f"{quoted(part)} is not a {noun}" if part else f"no {noun} in {quoted(text)}", hint=hint)
    return text


def _is_account_name(name: str) -> bool:
    bare = name.removesuffix("$")
    return 0 < len(name) <= 256 and name[0] not in "-.0123456789" and bare.isascii() and bare.translate(_WITHOUT_MARKS).isalnum()


_WITHOUT_MARKS = str.maketrans({"_": "a", "-": "a", ".": "a"})


def _variable(reader: Reader, key: Scalar) -> str:
    name = key.value
    if not name or name[0] in "0123456789.-" or not (name.isascii() and name.translate(_WITHOUT_MARKS).isalnum()):
        hint = f"write '{name.partition('=')[0]}: value'" if "=" in name[1:] and len(name) < 40 and name.isprintable() else ""
        hint = hint or "a name has letters, digits and '_', and starts with no digit"
        raise reader.error(key, f"{quoted(name)} is not the name of a variable" if name else "an empty name", hint=hint)
    return name


def _label(reader: Reader, key: Scalar) -> str:
    name = key.value
    if "${{" in name:
        raise reader.error(key, "arguments are put into values, not into keys")
    if not name or not name.isprintable() or "=" in name or name != name.strip():
        raise reader.error(key, f"{quoted(name)} is not the name of a label", hint="such as org.opencontainers.image.title")
    return name


def _ports(reader: Reader, node: Node) -> tuple[str, ...]:
    text = reader.text(node, "a port")
    numbers, slash, protocol = text.partition("/")
    first, dash, last = numbers.partition("-")
    ends = [first, last] if dash else [first]
    if ":" in text:
        hint = "'expose' names ports of the container alone; 'box run -p' says where they appear on the host"
        raise reader.error(node, f"{quoted(text)} is not a port", hint=hint)
    if not all(end.isascii() and end.isdigit() and len(end) <= 5 and 1 <= int(end) <= 65535 for end in ends):
        raise reader.error(
            node, f"{quoted(text)} is not a port", hint="write 8080, 8080/tcp, 53/udp or 8000-8010; 65535 is the last"
        )
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        near = nearest(protocol, ("tcp", "udp", "sctp"))
        raise reader.error(
            node, f"{quoted(protocol)} is not a protocol", hint=f"did you mean '{near}'?" if near else "tcp, udp or sctp"
        )
    low, high = int(ends[0]), int(ends[-1])
    if not low <= high < low + _PORTS_OF_A_RANGE:
        hint = "the smaller first" if low > high else f"a range has at most {_PORTS_OF_A_RANGE} ports"
        raise reader.error(node, f"{quoted(numbers)} is not a range of ports", hint=hint)
    return tuple(f"{port}/{protocol}" for port in range(low, high + 1))


def _expose(reader: Reader, node: Node) -> tuple[str, ...]:
    ranges: tuple[tuple[str, ...], ...] = _PORT_RANGES.read(reader, node)
    return tuple(dict.fromkeys(port for ports in ranges for port in ports))


def _duration(reader: Reader, node: Node) -> int:
    text = reader.text(node, "a duration")
    total, rest = 0, text
    largest = max(_UNITS.values()) * 1000
    while rest and len(text) <= 40:
        count = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(count) :]
        unit = rest[: len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyz"))]
        rest = rest[len(unit) :]
        size = _UNITS.get(unit)
        whole, _, part = count.partition(".")
        if size is None or size >= largest or "." in part or not (whole + part):
            break
        total += int(whole or "0") * size + (int(part) * size // 10 ** len(part) if part else 0)
        largest = size
    else:
        if text and len(text) <= 40 and total < 1 << 63:
            return total
    if text.isascii() and text.isdigit():
        raise reader.error(node, f"the duration {quoted(text)} has no unit", hint=f"did you mean '{text[:20]}s'?")
    raise reader.error(node, f"{quoted(text)} is not a duration", hint="such as 30s, 1m30s, 500ms or 2h")


def _count(reader: Reader, node: Node) -> int:
    text = reader.text(node, "a number")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise reader.error(node, f"{quoted(text)} is not a number", hint="such as 3")
    return int(text)


def _signal(reader: Reader, node: Node) -> str:
    text = reader.text(node, "a signal")
    if text in SIGNALS or (text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 64):
        return text
    base, plus, offset = text.replace("SIGRTMAX-", "SIGRTMIN+").partition("+")
    if base in ("SIGRTMIN", "SIGRTMAX") and (
        not plus or (offset.isascii() and offset.isdigit() and len(offset) <= 2 and int(offset) <= 30)
    ):
        return text
    near = nearest(text.upper() if text.upper().startswith("SIG") else "SIG" + text.upper(), SIGNALS)
    raise reader.error(node, f"{quoted(text)} is not a signal", hint=f"did you mean '{near}'?" if near else "such as SIGTERM")


def _command(reader: Reader, node: Node) -> str | tuple[str, ...]:
    if isinstance(node, Sequence):
        if not node.items:
            raise reader.error(node, "an empty command", hint="in 'config', 'reset: [entrypoint, cmd]' drops what the base has")
        words: tuple[str, ...] = COMMAND_WORDS.read(reader, node)
        if not words[0]:
            raise reader.error(node.items[0], "an empty program name")
        return words
    if isinstance(node, Mapping):
        raise reader.error(
            node, "expected a command, found a mapping", hint="put a command with ': ' in it in quotes, or after '|'"
        )
    text = reader.line(node, "a command")
    if not text.strip():
        raise reader.error(node, "an empty command")
    return text


TEXT = Kind(_text, ANY_SCALAR)
CONTENT = Kind(lambda reader, node: reader.text(node), ANY_SCALAR)
ABSOLUTE = Kind(_absolute, _pattern("/.*"))
BEYOND_ROOT = Kind(_beyond_root, _pattern("/.*[^/.].*"))
IN_CONTEXT = Kind(_in_context, _pattern("[^/].*"))
MODE = Kind(_mode, _pattern("(0o)?[0-7]{3,4}"))
_NAME_OR_ID = "([A-Za-z_][A-Za-z0-9_.-]*[$]?|[0-9]{1,10})"
ACCOUNT = Kind(_account, _pattern(f"{_NAME_OR_ID}(:{_NAME_OR_ID})?", "integer"))
DURATION = Kind(_duration, _pattern("([0-9.]+(ns|us|ms|s|m|h))+"))
COUNT = Kind(_count, {"anyOf": [{"type": "integer", "minimum": 0}, _pattern("[0-9]+")]})
SIGNAL = Kind(
    _signal,
    {"anyOf": [{"enum": list(SIGNALS)}, {"type": "integer", "minimum": 1, "maximum": 64}, _pattern("[0-9]+|SIGRTM(IN|AX).*")]},
)
_PORT: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65535},
        _pattern("[0-9]{1,5}(-[0-9]{1,5})?(/([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp]))?"),
    ]
}
_PORT_RANGES = list_of(Kind(_ports, _PORT), "a list of ports", most=1000)
EXPOSE = Kind(_expose, _PORT_RANGES.schema)
ENV = pairs_of(_variable, {"pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"}, TEXT, "a mapping of variables", "{NAME: value}")
LABELS = pairs_of(_label, {"pattern": "^[^=]+$"}, TEXT, "a mapping of labels", "{org.opencontainers.image.title: api}")
COMMAND_WORDS = list_of(TEXT, "a command as a list", least=1)
COMMAND = Kind(_command, {"anyOf": [{"type": "string", "pattern": r"\S"}, {"type": ["boolean", "number"]}, COMMAND_WORDS.schema]})
SOURCES = one_or_list(IN_CONTEXT, "a path in the context, or a list of them")
PATTERNS = one_or_list(BEYOND_ROOT, "an absolute path, or a list of them")
EXCLUDE = list_of(TEXT, "a list of patterns")
