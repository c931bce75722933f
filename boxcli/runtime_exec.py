"""`box-runtime exec`: its options, by which the process is described where no file does."""

from __future__ import annotations

from boxcli.runtime_main import preserved
from runtime.bundle import SETS
from runtime.engine_exec import ExecOptions, execute
from runtime.jsontext import read
from store.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OPTIONS: dict[str, tuple[str, bool]] = {
    "--process": ("process", True), "-p": ("process", True), "--detach": ("detach", False), "-d": ("detach", False),
    "--tty": ("tty", False), "-t": ("tty", False), "--console-socket": ("console_socket", True), "--pid-file": ("pid_file", True),
    "--cwd": ("cwd", True), "--user": ("user", True), "-u": ("user", True), "--env": ("env", True), "-e": ("env", True),
    "--cap": ("cap", True), "-c": ("cap", True), "--no-new-privs": ("no_new_privs", False),
    "--preserve-fds": ("preserve_fds", True), "--cgroup": ("cgroup", True), "--ignore-paused": ("ignore_paused", False),
    "--additional-gids": ("gids", True), "-g": ("gids", True),
}  # fmt: skip
MANY = frozenset({"env", "cap", "cgroup", "gids"})


def answer(given: dict[str, Any], words: list[str], root: str, take: Callable[..., dict[str, Any]]) -> int:
    """Read the options (of which some may come several times) and run the process; its exit status."""
    options = ExecOptions()
    chosen = take(words, _OPTIONS, "exec", many=MANY)
    if not words:
        raise UsageError("exec takes the container's id")
    identity, argv = words[0], words[1:]
    document: dict[str, Any] = {}
    if "process" in chosen:
        document = read(chosen["process"], chosen["process"])
        if type(document) is not dict:
            raise UsageError(f"{chosen['process']} is not an object")
    elif not argv:
        raise UsageError("exec takes a command, or --process")
    if argv:
        document["args"] = argv
    _describe(document, chosen)
    options.detach = chosen.get("detach", False)
    options.console_socket = chosen.get("console_socket", "")
    options.pid_file = chosen.get("pid_file", "")
    options.cgroups = chosen.get("cgroup", [])
    options.preserved, options.listening = preserved(chosen.get("preserve_fds", "0"))
    return execute(root, identity, document, options)


def _describe(document: dict[str, Any], chosen: dict[str, Any]) -> None:
    if chosen.get("tty"):
        document["terminal"] = True
    if "cwd" in chosen:
        document["cwd"] = chosen["cwd"]
    if chosen.get("no_new_privs"):
        document["noNewPrivileges"] = True
    if "env" in chosen:
        document["env+"] = chosen["env"]
    if "user" in chosen:
        uid, _, gid = chosen["user"].partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise UsageError(f"--user takes UID[:GID] in numbers, not {chosen['user']!r}")
        document["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    if "gids" in chosen:
        document.setdefault("user", {})["additionalGids"] = [int(each) for each in chosen["gids"] if each.isdigit()]
    if "cap" in chosen:
        document["cap+"] = {name: chosen["cap"] for name in SETS if name != "ambient"}
