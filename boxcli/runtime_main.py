"""`box-runtime`: the executable that container engines call, with the command line of runc. Each call is short, and an engine
makes several for a container: so nothing is imported that the one at hand does not need, and options are read here."""

from __future__ import annotations

import posix as os

from store.errors import BoxError, RunError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

DEFAULT_ROOT = "/run/box-runtime"

# Option -> its key and whether it takes a value.
_GLOBAL = {
    "--root": ("root", True), "--log": ("log", True), "--log-format": ("log_format", True), "--debug": ("debug", False),
    "--systemd-cgroup": ("systemd", False), "--rootless": ("rootless", True), "--cgroup-manager": ("manager", True),
}  # fmt: skip
_CREATE = {
    "--bundle": ("bundle", True), "-b": ("bundle", True), "--config": ("config", True), "-f": ("config", True),
    "--pid-file": ("pid_file", True), "--console-socket": ("console_socket", True), "--preserve-fds": ("preserve_fds", True),
    "--no-pivot": ("no_pivot", False), "--no-new-keyring": ("no_keyring", False), "--no-subreaper": ("no_subreaper", False),
}  # fmt: skip
_LIMITS = {
    "--memory": "memory.limit", "--memory-reservation": "memory.reservation", "--memory-swap": "memory.swap",
    "--cpu-period": "cpu.period", "--cpu-quota": "cpu.quota", "--cpu-share": "cpu.shares", "--cpu-shares": "cpu.shares",
    "--cpu-burst": "cpu.burst", "--cpu-idle": "cpu.idle", "--cpuset-cpus": "cpu.cpus", "--cpuset-mems": "cpu.mems",
    "--pids-limit": "pids.limit", "--blkio-weight": "blockIO.weight", "--cpu-rt-period": "cpu.realtimePeriod",
    "--cpu-rt-runtime": "cpu.realtimeRuntime",
}  # fmt: skip

_OPTIONS: dict[str, dict[str, tuple[str, bool]]] = {
    "create": _CREATE,
    "run": {**_CREATE, "--detach": ("detach", False), "-d": ("detach", False), "--keep": ("keep", False)},
    "start": {},
    "state": {},
    "kill": {"--all": ("all", False), "-a": ("all", False)},
    "delete": {"--force": ("force", False), "-f": ("force", False)},
    "pause": {},
    "resume": {},
    "list": {"--format": ("format", True), "-f": ("format", True), "--quiet": ("quiet", False), "-q": ("quiet", False)},
    "ps": {"--format": ("format", True), "-f": ("format", True)},
    "events": {"--stats": ("stats", False), "--interval": ("interval", True)},
    "update": {"--resources": ("resources", True), "-r": ("resources", True), **{name: (name, True) for name in _LIMITS}},
    "features": {},
    "spec": {"--bundle": ("bundle", True), "-b": ("bundle", True), "--rootless": ("rootless", False)},
    "exec": {},
    "checkpoint": {},
    "restore": {},
}


def main(argv: Sequence[str]) -> int:
    """Answer one call; the exit status."""
    words = list(argv)
    try:
        given = _take(words, _GLOBAL, "box-runtime")
    except UsageError as err:
        return _say(err, {})
    if words[:1] in (["--version"], ["-v"], ["version"]):
        from boxcli.release import RELEASE, SPEC

        _print(f"box-runtime version {RELEASE}\nspec: {SPEC}")
        return 0
    if not words or words[0] in ("--help", "-h", "help"):
        _print("usage: box-runtime [--root DIR] [--log FILE] " + "|".join(_OPTIONS) + " ...")
        return 0 if words else 1
    verb = words.pop(0)
    try:
        answer = _VERBS.get(verb)
        if answer is None:
            raise UsageError(f"there is no command {verb!r}", hint="there are " + ", ".join(_OPTIONS))
        if verb == "exec":
            return answer(given, words)
        options = _take(words, _OPTIONS[verb], verb, anywhere=verb not in ("exec", "ps"))
        return answer({**given, **options}, words)
    except BoxError as err:
        return _say(err, given)
    except OSError as err:
        return _say(RunError(f"{err.filename or verb}: {(err.strerror or str(err)).lower()}"), given)


def _take(
    words: list[str],
    options: dict[str, tuple[str, bool]],
    where: str,
    *,
    anywhere: bool = False,
    many: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Take the options off `words`; they end at the first word that is none, or where they may stand anywhere, at `--`."""
    given: dict[str, Any] = {}
    rest: list[str] = []
    while words:
        word = words[0]
        name, equals, value = word.partition("=")
        if word == "--":
            del words[0]
            break
        if not word.startswith("-") or word == "-" or (word in ("--version", "-v", "--help", "-h") and where == "box-runtime"):
            if not anywhere:
                break
            rest.append(words.pop(0))
            continue
        if name.startswith("-") and not name.startswith("--") and len(name) > 2 and name[:2] in options:
            raise UsageError(f"{where}: short options stand alone: {word}")
        if name not in options and "-" + name in options:
            name = "-" + name  # Go's flag package takes one dash for two
        if name not in options:
            raise UsageError(f"{where}: unknown option {name}", hint="known are " + ", ".join(options))
        key, takes = options[name]
        del words[0]
        if not takes:
            given[key] = value not in ("false", "0") if equals else True
        elif equals or words:
            text = value if equals else words.pop(0)
            given[key] = [*given.get(key, []), text] if key in many else text
        else:
            raise UsageError(f"{where}: {name} needs a value")
    words[:0] = rest
    return given


def _print(text: str) -> None:
    data = text.encode("utf-8", "surrogateescape") + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _say(err: BoxError, given: dict[str, Any]) -> int:
    """Tell the user, and the engine by way of its log, which is what it shows."""
    message = err.message + (f" ({err.hint})" if err.hint else "")
    os.write(2, f"box-runtime: {message}\n".encode("utf-8", "surrogateescape"))
    _log(given, "error", err.message)
    return 1


def _log(given: dict[str, Any], level: str, message: str) -> None:
    path = given.get("log", "")
    if not path:
        return
    import time

    from runtime.engine_state import timestamp
    from runtime.records import encode

    now = timestamp(time.time())
    if given.get("log_format") == "json":
        line = encode({"level": level, "msg": message, "time": now})
    else:
        line = f"time={encode(now)} level={level} msg={encode(message)}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return  # it was said on standard error
    try:
        os.write(fd, line.encode("utf-8", "surrogateescape") + b"\n")
    finally:
        os.close(fd)


def _warn(given: dict[str, Any], warnings: list[str]) -> None:
    for warning in warnings:
        _log(given, "warning", warning)
        if not given.get("log"):
            os.write(2, f"box-runtime: warning: {warning}\n".encode("utf-8", "surrogateescape"))


def _one(words: list[str], verb: str, *, most: int = 1) -> str:
    if not words or len(words) > most:
        raise UsageError(f"{verb} takes the container's id" + (" and no more" if len(words) > most else ""))
    return words[0]


def _root(given: dict[str, Any]) -> str:
    root: str = given.get("root", "")
    if not root:
        own = os.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
        # As runc: podman of an ordinary user is root in a namespace of its own, and says of whom in no other way.
        root = f"{own}/box-runtime" if own and os.environ.get(b"USER") != b"root" and _unprivileged() else DEFAULT_ROOT
    return _absolute(root)


def _unprivileged() -> bool:
    """Whether this is not the machine's root."""
    from runtime.engine_state import in_user_namespace

    return os.geteuid() != 0 or in_user_namespace()


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def preserved(text: str) -> tuple[int, int]:
    """How many descriptors behind the first three are the container's, and how many of these, the first, are sockets by which
    systemd starts it. Called before any is opened here: each of them is there, so none that box opens can take such a place."""
    if not text.isdigit() or int(text) > 1 << 16:
        raise UsageError(f"--preserve-fds takes a number, not {text!r}")
    said = os.environ.get(b"LISTEN_FDS", b"")
    for_us = os.environ.get(b"LISTEN_PID", b"") == b"%d" % os.getpid()
    listening = int(said) if for_us and said.isdigit() and len(said) < 6 else 0
    for number in range(3, 3 + listening + int(text)):
        try:
            os.fstat(number)
        except OSError as err:
            where = "LISTEN_FDS" if number < 3 + listening else "--preserve-fds"
            raise UsageError(
                f"{where} {text if number >= 3 + listening else listening}: descriptor {number} is not open"
            ) from err
    return listening + int(text), listening


def _creation(given: dict[str, Any]) -> Any:
    from runtime.engine import Options

    options = Options()
    options.config = _absolute(given["config"]) if "config" in given else ""
    said = given.get("rootless", "auto")
    options.rootless = said in ("true", "1") if said != "auto" else _unprivileged()
    options.pid_file = given.get("pid_file", "")
    options.console_socket = given.get("console_socket", "")
    options.no_pivot = given.get("no_pivot", False)
    options.no_keyring = given.get("no_keyring", False)
    options.manager = given.get("manager", "systemd" if given.get("systemd") else "cgroupfs")
    options.preserved, options.listening = preserved(given.get("preserve_fds", "0"))
    return options


def _create(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine import create

    identity = _one(words, "create")
    _warn(given, create(_root(given), identity, _absolute(given.get("bundle", os.getcwd())), _creation(given)))
    return 0


def _run(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_run import run

    identity = _one(words, "run")
    status, warnings = run(
        _root(given), identity, _absolute(given.get("bundle", os.getcwd())), _creation(given),
        detach=given.get("detach", False), keep=given.get("keep", False),
    )  # fmt: skip
    _warn(given, warnings)
    return status


def _start(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import start

    _warn(given, start(_root(given), _one(words, "start")))
    return 0


def _state(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import state
    from runtime.records import encode

    _print(encode(state(_root(given), _one(words, "state"))))
    return 0


def _kill(given: dict[str, Any], words: list[str]) -> int:
    from boxcli.readers import signal
    from runtime.engine_operations import kill

    identity = _one(words, "kill", most=2)
    said = words[1] if len(words) > 1 else "TERM"
    try:
        number = signal(said)
    except ValueError as err:
        raise UsageError(f"kill: {said!r}: {err}") from err
    kill(_root(given), identity, number, everything=given.get("all", False))
    return 0


def _delete(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import delete

    _warn(given, delete(_root(given), _one(words, "delete"), force=given.get("force", False)))
    return 0


def _pause(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import pause

    pause(_root(given), _one(words, "pause"))
    return 0


def _resume(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import resume

    resume(_root(given), _one(words, "resume"))
    return 0


def _list(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import everyone
    from runtime.records import encode

    if words:
        raise UsageError("list takes no arguments")
    found = everyone(_root(given))
    if given.get("quiet"):
        for each in found:
            _print(each["id"])
    elif given.get("format") == "json":
        _print(encode(found))
    else:
        rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        rows += [(each["id"], str(each["pid"]), each["status"], each["bundle"], each["created"], each["owner"]) for each in found]
        _table(rows)
    return 0


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        _print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _ps(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import processes
    from runtime.records import encode

    if not words:
        raise UsageError("ps takes the container's id")
    pids = processes(_root(given), words[0])
    if given.get("format") == "json":
        _print(encode(pids))
        return 0
    import subprocess

    done = subprocess.run(["/usr/bin/env", "ps", *(words[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines or "PID" not in lines[0].split():
        raise RunError("ps shows no pids", hint="leave out its options, or use --format json")
    column = lines[0].split().index("PID")
    for line in [lines[0], *(line for line in lines[1:] if line.split()[column] in map(str, pids))]:
        _print(line)
    return 0


def _events(given: dict[str, Any], words: list[str]) -> int:
    import time

    from runtime.engine_operations import stats
    from runtime.records import encode

    identity = _one(words, "events")
    interval = _seconds(given.get("interval", "5s"))
    while True:
        _print(encode(stats(_root(given), identity)))
        if given.get("stats"):
            return 0
        time.sleep(interval)


def _seconds(text: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return float(text[: -len(unit)]) * factor
    raise UsageError(f"--interval takes a time such as 5s, not {text!r}")


def _update(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_operations import update
    from runtime.jsontext import parse, read

    identity = _one(words, "update")
    resources: dict[str, Any] = {}
    source = given.get("resources")
    if source == "-":
        data = b""
        while piece := os.read(0, 1 << 16):
            data += piece
        resources = parse(data.decode(), "standard input")
    elif source is not None:
        resources = read(source, source)
    if type(resources) is not dict:
        raise UsageError("the resources are not an object")
    for option, place in _LIMITS.items():
        if option in given:
            group, _, field = place.partition(".")
            text = given[option]
            if field not in ("cpus", "mems") and not text.removeprefix("-").isdigit():
                raise UsageError(f"update: {option} takes a number, not {text!r}")
            resources.setdefault(group, {})[field] = text if field in ("cpus", "mems") else int(text)
    update(_root(given), identity, resources)
    return 0


def _features(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_features import features
    from runtime.records import encode

    _print(encode(features()))
    return 0


def _spec(given: dict[str, Any], words: list[str]) -> int:
    from runtime.engine_features import example

    directory = _absolute(given.get("bundle", os.getcwd()))
    path = f"{directory}/config.json"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as err:
        raise RunError(f"{path} exists", hint="remove it first") from err
    try:
        os.write(fd, example().encode())
    finally:
        os.close(fd)
    return 0


def _exec(given: dict[str, Any], words: list[str]) -> int:
    from boxcli.runtime_exec import answer

    status: int = answer(given, words, _root(given), _take)
    return status


def _unsupported(verb: str) -> Callable[[dict[str, Any], list[str]], int]:
    def answer(given: dict[str, Any], words: list[str]) -> int:
        raise RunError(f"{verb} is not supported: box cannot save a running process to disk")

    return answer


_VERBS: dict[str, Callable[[dict[str, Any], list[str]], int]] = {
    "create": _create, "run": _run, "start": _start, "state": _state, "kill": _kill, "delete": _delete, "pause": _pause,
    "resume": _resume, "list": _list, "ps": _ps, "events": _events, "update": _update, "features": _features, "spec": _spec,
    "exec": _exec, "checkpoint": _unsupported("checkpoint"), "restore": _unsupported("restore"),
}  # fmt: skip
