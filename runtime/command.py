"""Finding and executing the container's program, and saying why it cannot be. Hot; runs inside the container's root, imports nothing then."""

import os

from store.errors import CommandNotExecutable, CommandNotFound

_ENOENT, _ENOEXEC, _EACCES, _ENOTDIR, _ELIBBAD = 2, 8, 13, 20, 80

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def execute_found(argv: list[str], environment: dict[str, str]) -> "NoReturn":
    """execve `argv`, looked up along the PATH of `environment` as execvp(3) does. Raises CommandNotFound or CommandNotExecutable."""
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{folder or '.'}/{name}" for folder in environment["PATH"].split(":")] if name else []
    refused: OSError | None = None
    for path in candidates:
        try:
            os.execve(path, argv, environment)
        except FileNotFoundError as err:
            if os.path.exists(path):  # the file is there: what its first line or its ELF header asks for is not
                raise CommandNotExecutable(
                    name, f"the interpreter or loader that {path} names is not in the image",
                    hint="a program needs its dynamic loader and libraries, a script its interpreter, in the same image",
                ) from err  # fmt: skip
        except NotADirectoryError:
            continue
        except OSError as err:
            refused = err
            if err.errno != _EACCES:
                break
    if refused is None:
        where = "in the image" if "/" in name else f"in the image's PATH ({environment['PATH']})"
        raise CommandNotFound(name or "(empty)", hint=f"there is no such file {where}")
    if refused.errno == _ENOEXEC:
        raise CommandNotExecutable(
            name, "exec format error", hint="it is built for another architecture, or a script without a #! line"
        ) from refused
    hint = ""
    if refused.errno == _EACCES:
        hint = "is it a file with the executable bit set, on a file system that is not mounted noexec, for this user?"
    raise CommandNotExecutable(name, (refused.strerror or "").lower(), hint=hint) from refused
