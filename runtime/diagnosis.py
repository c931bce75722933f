"""Why a container's program could not be executed. Imported only when it could not."""

import os

from runtime.entry import Command
from runtime.program import EACCES, ENOENT, ENOEXEC, ENOTDIR, Failure
from store.errors import BoxError, CommandNotExecutable, CommandNotFound
from store.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2


def not_executed(command: Command, failure: Failure, tree: int) -> BoxError:
    """The error for a command none of whose candidates could be executed in the root `tree`."""
    name = command.argv[0]
    tried = zip(command.candidates(), failure.executions, strict=False)
    refused = [(path, errno) for path, errno in tried if errno != ENOTDIR and _exists(tree, path, command.cwd)]
    if not refused:
        where = "in the image" if "/" in name else f"along the PATH {command.env['PATH']}"
        return CommandNotFound(name or "(empty)", hint=f"there is no such file {where}")
    path, errno = refused[0]
    if errno == ENOENT:  # the file is there: what its first line or its ELF header asks for is not
        return CommandNotExecutable(
            name, f"the interpreter or loader that {path} asks for is not in the image",
            hint="a program needs its dynamic loader and libraries, a script its interpreter, in the same image",
        )  # fmt: skip
    if errno == ENOEXEC:
        return CommandNotExecutable(
            name, "exec format error", hint="it is built for another architecture, or is a script without a #! line"
        )
    hint = ""
    if errno == EACCES:
        hint = "it needs to be a file with the executable bit set for this user, on a file system that is not mounted noexec"
    return CommandNotExecutable(name, os.strerror(errno).lower(), hint=hint)


def _exists(tree: int, path: str, cwd: str) -> bool:
    try:
        inside = path if path.startswith("/") else f"{cwd}/{path}"
        os.close(openat2(tree, inside, os.O_PATH, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
    except OSError:
        return False
    return True
