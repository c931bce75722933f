"""Why a container's program could not be executed: the file is looked at as the kernel does. Imported only when it could not."""

import os
from collections.abc import Callable, Iterator

from runtime.entry import Command
from runtime.program import EACCES, ENOENT, ENOEXEC, ENOTDIR, Failure
from runtime.rootfs import parts_of
from store.errors import BoxError, CommandNotExecutable, CommandNotFound
from store.syscalls import MACHINE, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

# The tree that has what the container sees at a path, as a descriptor, and the path in it.
Look = Callable[[str], tuple[int, str]]

_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_S_IFMT, _S_IFREG, _S_IFDIR = 0o170000, 0o100000, 0o040000
_LARGEST = 1 << 20  # bytes of a file that are read for its head
_LONGEST_LINE = 256  # BINPRM_BUF_SIZE
_MOST_NAMES = 20_000
_DEEPEST = 5  # scripts that name scripts: then the kernel gives up
_MACHINES = {  # e_machine: elf(5)
    2: "sparc", 3: "i386", 8: "mips", 20: "powerpc", 21: "ppc64", 22: "s390x", 40: "arm", 43: "sparc64", 62: "x86_64",
    183: "aarch64", 243: "riscv64", 258: "loongarch64",
}  # fmt: skip


def not_executed(command: Command, failure: Failure, look: Look) -> BoxError:
    """The error for a command none of whose candidates could be executed."""
    name = command.argv[0]
    for path, errno in zip(command.candidates(), failure.executions, strict=False):
        if errno == ENOTDIR:
            continue
        file = _File.find(look, _absolute(path, command.cwd))
        if file is not None:
            reason, hint = _why(file, path, errno, look)
            return CommandNotExecutable(name, reason, hint=hint)
    return CommandNotFound(name or "(empty)", hint=_where(command, look))


def _absolute(path: str, cwd: str) -> str:
    return path if path.startswith("/") else f"{cwd}/{path}"


class _File:
    """What is at a path: its mode, and the beginning of its bytes where it is a regular file."""

    __slots__ = ("head", "mode")

    def __init__(self, mode: int, head: bytes) -> None:
        self.mode = mode
        self.head = head

    @classmethod
    def find(cls, look: Look, path: str) -> "_File | None":
        """None where there is nothing. Nothing but a regular file is opened: a FIFO would wait, a device start."""
        tree, inside = look(path)
        try:
            handle = openat2(tree, inside or ".", os.O_PATH, 0, _INSIDE)
        except OSError:
            return None
        try:
            mode = os.fstat(handle).st_mode
            if mode & _S_IFMT != _S_IFREG:
                return cls(mode, b"")
            fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return cls(mode, b"")
        finally:
            os.close(handle)
        try:
            return cls(mode, os.read(fd, _LARGEST))
        except OSError:
            return cls(mode, b"")
        finally:
            os.close(fd)


def _why(file: _File, path: str, errno: int, look: Look, depth: int = 0) -> tuple[str, str]:
    """What is wrong with the file at `path`, which answered `errno`, and what to do."""
    kind = file.mode & _S_IFMT
    if kind == _S_IFDIR:
        return f"{path} is a directory", "name a program in it"
    if kind != _S_IFREG:
        return f"{path} is no regular file", ""
    if errno == EACCES and not file.mode & 0o111:
        return (
            f"permission denied: {path} is not marked as executable",
            f"chmod +x it where the image is made, or run it by what reads it: sh {path}",
        )
    script = _interpreter_of_script(file.head)
    if script is not None:
        return _why_not_by(script, path, errno, look, depth)
    elf = _read_elf(file.head)
    if elf is not None:
        machine, loader = elf
        if errno == ENOEXEC or machine != MACHINE:
            return (
                f"{path} is built for {machine}, and this machine is {MACHINE}",
                f"use an image that is built for {MACHINE}",
            )
        if errno == ENOENT and loader:
            return (
                f"{path} needs the loader {_shown(loader)}, which the image does not have",
                "add it with the program's libraries (in a Boxfile 'base: {host: [...]}' does), or link the program statically",
            )
    elif errno == ENOEXEC:
        if not file.head:
            return f"{path} is empty", ""
        return (
            f"exec format error: {path} is neither a program nor a script with a first line that names its interpreter",
            f"begin it with #!/bin/sh, or run it by what reads it: sh {path}",
        )
    if errno == EACCES:
        return (
            f"permission denied: {path}",
            "a directory above it may be closed to this user, or it lies on a file system that is mounted noexec",
        )
    return os.strerror(errno).lower() + f": {path}", ""


def _interpreter_of_script(head: bytes) -> bytes | None:
    if head[:2] != b"#!":
        return None
    words = head[2:_LONGEST_LINE].split(b"\n")[0].strip(b" \t").split(None if b"\r" not in head[:_LONGEST_LINE] else b" ")
    return words[0] if words else b""


def _why_not_by(interpreter: bytes, path: str, errno: int, look: Look, depth: int) -> tuple[str, str]:
    """What is wrong with a script, or with what its first line names."""
    shown = _shown(interpreter)
    if interpreter.endswith(b"\r"):
        return f"the first line of {path} ends in a carriage return, so that it asks for {shown}", "save it with Unix line ends"
    if not interpreter:
        return f"the first line of {path} names no interpreter", "begin it with #!/bin/sh"
    found = _File.find(look, _absolute(os.fsdecode(interpreter), "/"))
    if found is None:
        return f"the first line of {path} asks for {shown}, which the image does not have", "add it to the image"
    if depth < _DEEPEST:
        return _why(found, shown, errno, look, depth + 1)
    return os.strerror(errno).lower() + f": {shown}, which {path} asks for", ""


def _read_elf(head: bytes) -> tuple[str, bytes] | None:
    """The machine of an ELF file and its loader (empty: none), None for another file. Source: elf(5)."""
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    wide = head[4] == 2
    order = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]  # one of the two words

    machine = _MACHINES.get(number(18, 2), f"machine {number(18, 2)}")
    table, size, count = (number(32, 8), number(54, 2), number(56, 2)) if wide else (number(28, 4), number(42, 2), number(44, 2))
    for entry in range(min(count, 64)):
        at = table + entry * size
        if number(at, 4) == 3:  # PT_INTERP
            where, length = (number(at + 8, 8), number(at + 32, 8)) if wide else (number(at + 4, 4), number(at + 16, 4))
            return machine, head[where : where + min(length, 4096)].split(b"\0")[0]
    return machine, b""


def _where(command: Command, look: Look) -> str:
    """Where the program was looked for, and what it may have been meant to be."""
    name = command.argv[0]
    folder, slash, last = name.rpartition("/")
    if slash:
        folders = [_absolute(folder or "/", command.cwd)]
        text = "there is no such file in the image"
    else:
        folders = [_absolute(each or ".", command.cwd) for each in command.env["PATH"].split(":")]
        text = f"there is no such file along the PATH {command.env['PATH']}"
    if not last:
        return text
    near = _nearest(last, list(dict.fromkeys(each for folder in folders for each in _programs(folder, look))))
    return f"did you mean {folder + slash + near!r}? {text}" if near else text


def _nearest(word: str, names: list[str]) -> str | None:
    from store.likeness import nearest

    # A hundred at a time, as that looks at no more.
    found = [near for first in range(0, len(names), 100) if (near := nearest(word, names[first : first + 100]))]
    return nearest(word, found)


def _programs(folder: str, look: Look) -> Iterator[str]:
    """The names in a directory, those of them that can be shown."""
    tree, inside = look("/" + "/".join(parts_of(folder)))
    try:
        fd = openat2(tree, inside or ".", os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE)
    except OSError:
        return
    try:
        with os.scandir(fd) as entries:
            for count, entry in enumerate(entries):
                if count > _MOST_NAMES:
                    return
                if entry.name.isascii() and entry.name.isprintable() and len(entry.name) < 64:
                    yield entry.name
    except OSError:
        return
    finally:
        os.close(fd)


def _shown(path: bytes) -> str:
    """The image's bytes, harmless on a terminal."""
    text = path[:_LONGEST_LINE].decode("utf-8", "replace")
    return text if text.isprintable() else repr(text)
