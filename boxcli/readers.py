"""What the options' texts mean. Each reader takes a text to its value once, and raises ValueError with what is wrong.

On the hot path of `box run`: no `re` here.
"""

from runtime.spec import Bind, Tmpfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxcli.mount_options import Mount

_DIGITS = frozenset("0123456789")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def whole(text: str) -> int:
    """A whole number, not negative."""
    if not text or not _DIGITS.issuperset(text) or len(text) > 18:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def count(text: str) -> int:
    """A whole number above zero."""
    number = whole(text)
    if not number:
        raise ValueError("it must be above zero")
    return number


def limit(text: str) -> int:
    """A whole number above zero, or -1 or 0 for no limit."""
    return -1 if text in ("-1", "0") else count(text)


def size_or_none(text: str) -> int:
    """A size in bytes, or -1 for no limit."""
    return -1 if text == "-1" else size(text)


def processors(text: str) -> str:
    """A list of processors or memory nodes: 0-3,7."""
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if whole(first) > whole(last if dash else first):
            raise ValueError(f"{part!r} goes backwards")
    return text


def size(text: str) -> int:
    """A size in bytes: 4096, 64k, 64m, 1g, 64MiB, 1GiB, 1.5g. A unit is a power of 1024 however it is written."""
    low = text.lower()
    number = low.rstrip("ib") if low[-1:] == "b" else low
    unit = number[-1:] if number[-1:] in ("k", "m", "g", "t") else ""
    if low.endswith("ib") and not unit:
        unit = "?"
    digits, point, fraction = number[: len(number) - len(unit)].partition(".")
    if (
        unit not in _UNITS
        or not digits
        or not _DIGITS.issuperset(digits + fraction)
        or (point and not fraction)
        or len(number) > 18
    ):
        raise ValueError(f"{text!r} is not a size such as 64m or 1GiB")
    return int(float(f"{digits}.{fraction or 0}") * (1 << _UNITS[unit])) if point else int(digits) << _UNITS[unit]


def cpus(text: str) -> float:
    """A number of processors: 2, 0.5; 0 for no limit."""
    number = _decimal(text, "a number of processors such as 2 or 0.5")
    if 0 < number < 0.01:
        raise ValueError("it must be at least 0.01")
    return number


def seconds(text: str) -> float:
    """A time in seconds."""
    return _decimal(text, "a number of seconds")


def name(text: str) -> str:
    """A container's name: letters, digits, and _ . - after the first."""
    if not text or text[0] not in _WORD or not _WORD.issuperset(_without(text, "_.-")) or len(text) > 128:
        raise ValueError(f"{text!r} is not a name of letters, digits, '_', '.' and '-'")
    return text


def image_name(text: str) -> str:
    """A name that an image is to be given: NAME or NAME:TAG."""
    from store.errors import StoreError
    from store.references import Reference

    try:
        given = Reference.parse(text)
    except StoreError as err:
        raise ValueError(err.message, err.hint) from err
    if given.digest is not None:
        raise ValueError(f"an image cannot be named by a digest: {text}", "name it NAME:TAG; its digest follows from its content")
    return text


def hostname(text: str) -> str:
    """A host's name as the kernel takes it and /etc/hosts can hold it."""
    if not text or not _WORD.issuperset(_without(text, ".-")) or text[0] in ".-" or len(text) > 64:
        raise ValueError(f"{text!r} is not a host name of letters, digits, '.' and '-', at most 64 of them")
    return text


def host(text: str) -> str:
    """A line for /etc/hosts: NAME:ADDRESS."""
    label, colon, address = text.partition(":")
    plain = address[1:-1] if address[:1] == "[" and address[-1:] == "]" else address
    if not colon or not plain or not set("0123456789abcdefABCDEF:.").issuperset(plain):
        raise ValueError(f"{text!r} is not NAME:ADDRESS")
    return f"{hostname(label)}:{plain}"


def variable(text: str) -> str:
    """KEY=VALUE, or KEY to pass on this shell's own."""
    if not text or text[0] == "=":
        raise ValueError(f"{text!r} is not KEY=VALUE or KEY")
    return text


def label(text: str) -> str:
    """KEY=VALUE, or KEY for an empty value."""
    if not text or text[0] == "=":
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return text


def directory(text: str) -> str:
    """An absolute path in the container."""
    if text[:1] != "/":
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def bind(text: str) -> Bind:
    """SOURCE:TARGET[:ro|rw]; all else that `-v` may say is boxcli.mount_options'."""
    parts = text.split(":")
    if len(parts) in (2, 3) and "/" in parts[0] and parts[1][:1] == "/" and parts[2:] in ([], ["ro"], ["rw"]):
        return Bind(parts[0], parts[1], parts[2:] == ["ro"])
    from boxcli.mount_options import volume

    return volume(text)


def mount(text: str) -> "Mount":
    """type=bind|volume|tmpfs|image,KEY=VALUE,..."""
    from boxcli.mount_options import mount as read

    return read(text)


def tmpfs(text: str) -> Tmpfs:
    """TARGET[:size=64m,mode=1777,...]; nosuid and nodev are always on."""
    target, _, options = text.partition(":")
    if not options:
        return Tmpfs(directory(target))
    from boxcli.mount_options import tmpfs as read

    return read(target, options)


def signal(text: str) -> int:
    """A signal's number, by name (TERM, SIGTERM, RTMIN+3) or number."""
    import _signal

    if _DIGITS.issuperset(text) and text:
        number = whole(text)
    else:
        label, plus, more = text.upper().removeprefix("SIG").partition("+")
        known = getattr(_signal, "SIG" + label, None)
        if label.startswith("_") or not isinstance(known, int) or (plus and label != "RTMIN"):
            raise ValueError(f"{text!r} is not a signal")
        number = known + (whole(more) if plus else 0)
    if not 1 <= number <= 64:
        raise ValueError(f"{text!r} is not a signal")
    return number


def network(text: str) -> str:
    """none (only loopback) or host."""
    if text not in ("none", "host"):
        raise ValueError(f"{text!r} is not 'none' or 'host'")
    return text


def userns(text: str) -> str:
    """auto or host."""
    if text not in ("auto", "host"):
        raise ValueError(f"{text!r} is not 'auto' or 'host'")
    return text


def id_range(text: str) -> tuple[int, int, int]:
    """CONTAINER:HOST:COUNT, ids that are others outside."""
    parts = text.split(":")
    if len(parts) == 2:
        parts.append("1")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{text!r} is not CONTAINER:HOST:COUNT, such as 0:100000:65536")
    first, outside, size = map(int, parts)
    return first, outside, size


def security(text: str) -> str:
    """no-new-privileges[=true|false], seccomp=unconfined or seccomp=log, in one spelling."""
    key, _, value = text.replace(":", "=", 1).partition("=")
    if key == "no-new-privileges" and value in ("", "true", "false"):
        return "no-new-privileges=" + (value or "true")
    if key == "seccomp" and value in ("unconfined", "log"):
        return "seccomp=" + value
    raise ValueError(f"{text!r} is not no-new-privileges=false, seccomp=unconfined or seccomp=log")


def ulimit(text: str) -> tuple[str, int, int]:
    """NAME=SOFT[:HARD], such as nofile=1024:4096; -1 for no limit."""
    from runtime.confinement import LIMITS

    key, equals, value = text.partition("=")
    soft, colon, hard = value.partition(":")
    if not equals or key not in LIMITS:
        raise ValueError(f"{text!r} is not LIMIT=SOFT[:HARD] with one of {', '.join(LIMITS)}")
    numbers = [-1 if part in ("-1", "unlimited") else whole(part) for part in ((soft, hard) if colon else (soft, soft))]
    if numbers[1] != -1 and (numbers[0] == -1 or numbers[0] > numbers[1]):
        raise ValueError("the soft limit is above the hard one")
    return key, numbers[0], numbers[1]


def boolean(text: str) -> bool:
    """true or false."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is not true or false")
    return text == "true"


def restart(text: str) -> str:
    """A restart policy."""
    from runtime.restarts import parse

    return parse(text)


def duration(text: str) -> float:
    """Seconds, of a text such as 1m30s."""
    from boxcli.moments import seconds

    return seconds(text)


def health_action(text: str) -> str:
    """What --health-on-failure takes."""
    if text not in ("none", "kill", "restart", "stop"):
        raise ValueError(f"{text!r} is none of none, kill, restart, stop")
    return text


def log_option(text: str) -> tuple[str, int]:
    """max-size=SIZE (0 or -1: no limit) or max-file=N."""
    name, _, value = text.partition("=")
    if name == "max-size":
        return name, 0 if value in ("0", "-1") else size(value)
    if name == "max-file":
        return name, count(value)
    raise ValueError(f"{text!r} is neither max-size=SIZE nor max-file=N")


def keys(text: str) -> bytes:
    """What a terminal sends for a sequence of keys such as ctrl-p,ctrl-q; none for an empty one."""
    from runtime.attaching import keys as read

    return read(text)


def _decimal(text: str, what: str) -> float:
    whole_part, point, fraction = text.partition(".")
    digits = whole_part + fraction
    if not digits or not _DIGITS.issuperset(digits) or (point and not fraction) or len(text) > 12:
        raise ValueError(f"{text!r} is not {what}")
    return float(text)


def _without(text: str, allowed: str) -> str:
    for character in allowed:
        text = text.replace(character, "")
    return text
