"""What `box commit --change` says, as docker's users write it: lines of a Dockerfile that change an image's config.

Source: docker's reference of the Dockerfile and of `docker container commit`.
"""

import json
import shlex

from builder.settings import Settings
from store.errors import UsageError

KNOWN = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")
_SHELL = ["/bin/sh", "-c"]
_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_TIMES = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "start-interval": "StartInterval"}


def change(settings: Settings, line: str) -> None:
    """Do to `settings` what the line says. Raises UsageError for one that is not understood."""
    word, _, rest = line.strip().partition(" ")
    name, rest = word.upper(), rest.strip()
    if name not in KNOWN:
        raise UsageError(f"--change: {word!r} cannot change an image's config", hint=f"these can: {', '.join(KNOWN)}")
    if not rest and name not in ("CMD", "ENTRYPOINT"):
        raise UsageError(f"--change: {name} says nothing", hint=f"such as: --change '{name} ...'")
    if name == "CMD":
        settings.cmd = _command(rest)
    elif name == "ENTRYPOINT":
        settings.entrypoint, settings.cmd = _command(rest), []
    elif name == "ENV":
        settings.env.update(_pairs(name, rest))
    elif name == "LABEL":
        settings.labels.update(_pairs(name, rest))
    elif name == "EXPOSE":
        settings.expose = sorted({*settings.expose, *map(_port, rest.split())})
    elif name == "VOLUME":
        settings.volumes = sorted({*settings.volumes, *_words(name, rest)})
    elif name == "USER":
        settings.user = rest
    elif name == "STOPSIGNAL":
        settings.stop_signal = rest
    elif name == "WORKDIR":
        settings.workdir = rest if rest.startswith("/") else f"{settings.workdir.rstrip('/')}/{rest}"
    else:
        settings.healthcheck = _healthcheck(rest)


def _array(text: str) -> list[str] | None:
    """The exec form, a JSON array of texts; None for anything else."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None


def _command(text: str) -> list[str]:
    words = _array(text)
    return words if words is not None else [*_SHELL, text] if text else []


def _words(name: str, text: str) -> list[str]:
    words = _array(text)
    words = text.split() if words is None else words
    for word in words:
        if not word.startswith("/"):
            raise UsageError(f"--change: {name}: {word!r} is not an absolute path")
    return words


def _pairs(name: str, text: str) -> dict[str, str]:
    """`KEY=VALUE ...` with a shell's quotes, or the older `KEY VALUE`."""
    first = text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise UsageError(f"--change: {name} {text}: no value", hint=f"write {name} KEY=VALUE")
        return {first[0]: first[1]}
    try:
        words = shlex.split(text)
    except ValueError as err:
        raise UsageError(f"--change: {name} {text}: {str(err).lower()}") from err
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--change: {name}: {word!r} is not KEY=VALUE")
        found[key] = value
    return found


def _port(text: str) -> str:
    number, slash, protocol = text.partition("/")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536) or (
        slash and protocol not in ("tcp", "udp", "sctp")
    ):
        raise UsageError(f"--change: EXPOSE: {text!r} is not a port such as 80 or 53/udp")
    return f"{int(number)}/{protocol or 'tcp'}"


def _healthcheck(text: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        key, _, value = option[2:].partition("=")
        if key in _TIMES:
            fields[_TIMES[key]] = _duration(value)
        elif key == "retries" and value.isascii() and value.isdigit():
            fields["Retries"] = int(value)
        else:
            raise UsageError(f"--change: HEALTHCHECK: {option!r} is not understood")
        text = text.strip()
    word, _, rest = text.partition(" ")
    if word.upper() == "NONE" and not rest:
        return {"Test": ["NONE"]}
    if word.upper() != "CMD" or not rest.strip():
        raise UsageError("--change: HEALTHCHECK goes with CMD or NONE", hint="HEALTHCHECK --interval=30s CMD wget -q localhost")
    words = _array(rest.strip())
    return {"Test": ["CMD", *words] if words is not None else ["CMD-SHELL", rest.strip()], **fields}


def _duration(text: str) -> int:
    """Nanoseconds of a duration such as 1m30s."""
    total, rest = 0, text
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        unit = rest[len(digits) : len(digits) + len(rest[len(digits) :]) - len(rest[len(digits) :].lstrip("hmsun"))]
        if not digits or unit not in _UNITS:
            break
        total += int(digits) * _UNITS[unit]
        rest = rest[len(digits) + len(unit) :]
    if rest or not text:
        raise UsageError(f"--change: {text!r} is not a duration", hint="such as 30s, 1m30s or 500ms")
    return total
