"""The base `host`: programs of this machine and what they need to run, as a layer made from nothing.

A program brings its symlinks as they stand (`sh -> dash`), its ELF interpreter and libraries, a script the program that its first
line names, python its standard library. Owners are root's, modes 0755 or 0644, no set-id bits, no capabilities.
"""

import errno
import os
import re
import stat

from builder import elf, hostlibs
from builder.changeset import Changeset, Node
from builder.inputs import SYMLINK, Input, StatCache, changed_meanwhile, shown, signature
from builder.pyc import Bytecode, header, unchecked
from store.errors import BuildError

SEARCHED = (b"/usr/local/sbin", b"/usr/local/bin", b"/usr/sbin", b"/usr/bin", b"/sbin", b"/bin")
MERGED = (b"bin", b"sbin", b"lib", b"lib64", b"lib32")  # symlinks into /usr where this machine has merged them
# Of python's standard library: its tests, what needs a display or a compiler, and packages that are not its own.
LEFT_OUT = re.compile(
    rb"(tests?|idlelib|turtledemo|tkinter|_tkinter\..*|ensurepip|site-packages|dist-packages|config-.*|.*\.opt-[12]\.pyc)\Z"
)
DIRECTORIES = {b"dev": 0o755, b"etc": 0o755, b"proc": 0o755, b"root": 0o700, b"run": 0o755, b"sys": 0o755, b"tmp": 0o1777}
FILES = {
    b"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    b"etc/group": b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    b"etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
_SEPARATOR = b"\x01"
_PYTHON = re.compile(rb"python(3(\.\d+)?)?\Z")


class Facts:
    """What was read of a file: its digest, and what it needs."""

    __slots__ = ("digest", "elf", "pyc", "script")

    def __init__(self, digest: bytes, needs: elf.Elf | None, script: bytes, pyc: bytes) -> None:
        self.digest = digest
        self.elf = needs
        self.script = script
        self.pyc = pyc

    def encode(self) -> bytes:
        fields = [self.digest, self.script, self.pyc.hex().encode()]
        if self.elf is not None:
            fields += [b"%d" % self.elf.machine, self.elf.interpreter]
            fields += [b":".join(paths) for paths in (self.elf.needed, self.elf.rpath, self.elf.runpath)]
        return _SEPARATOR.join(fields)

    @classmethod
    def decode(cls, data: bytes) -> "Facts":
        digest, script, pyc, *rest = data.split(_SEPARATOR)
        needs = None
        if rest:
            needed, rpath, runpath = (tuple(path for path in field.split(b":") if path) for field in rest[2:])
            needs = elf.Elf(int(rest[0]), rest[1], needed, rpath, runpath)
        return cls(digest, needs, script, bytes.fromhex(pyc.decode()))


def read_facts(path: bytes) -> tuple[os.stat_result, Facts]:
    """Read the file at `path` once, for all that is to be known of it."""
    from hashlib import sha256

    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        data = file.read()
        if signature(os.fstat(file.fileno())) != signature(status):
            raise changed_meanwhile(path)
    script = b""
    if data[:2] == b"#!":
        script = data[2:256].partition(b"\n")[0].strip().replace(_SEPARATOR, b"")
    pyc = header(data) if path.endswith(b".pyc") else b""
    return status, Facts(sha256(data).hexdigest().encode(), elf.parse(memoryview(data)), script, pyc)


class HostFile:
    """A file of this machine as the source of a node's bytes."""

    __slots__ = ("_path", "_signature", "size")

    def __init__(self, path: bytes, current: bytes, size: int) -> None:
        self._path = path
        self.size = size
        self._signature = current

    def open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def check(self, descriptor: int) -> None:
        if signature(os.fstat(descriptor)) != self._signature:
            raise changed_meanwhile(self._path)


class Closure:
    """All files, links and directories that some programs need, by their path on this machine (without the leading slash)."""

    __slots__ = ("_cache", "_done", "_libraries", "bytecode", "entries")

    def __init__(self, cache: StatCache) -> None:
        self._cache = cache
        self._done: set[bytes] = set()
        self._libraries = hostlibs.Libraries(self._machine_of)
        self.entries: dict[bytes, Input] = {}
        self.bytecode: set[bytes] = set()
        for name in MERGED:
            if os.path.islink(b"/" + name):
                self._walk(b"/" + name)

    def add_program(self, name: str) -> None:
        """Add the program `name`, found in SEARCHED, or the file or directory at the absolute path `name`."""
        path = os.fsencode(name)
        if not path.startswith(b"/"):
            found = self._find(path)
            if found is None:
                raise BuildError(f"this machine has no program {name!r}", hint="looked in " + os.fsdecode(b" ".join(SEARCHED)))
            path = found
        elif not os.path.exists(path):
            raise BuildError(f"this machine has no {name!r}")
        self.add(path)

    @staticmethod
    def _find(name: bytes) -> bytes | None:
        for directory in SEARCHED:
            path = directory + b"/" + name
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def add(self, path: bytes) -> bytes:
        """Add what is at `path`, with the links on the way and all that it needs; returns its real path."""
        real = self._walk(path)
        if real in self._done:
            return real
        self._done.add(real)
        status = os.stat(real)
        if stat.S_ISDIR(status.st_mode):
            self._add_tree(real, None)
        elif stat.S_ISREG(status.st_mode):
            self._add_needs(real, self._add_file(real, status))
        else:
            raise BuildError(f"{shown(path)} is no file and no directory", hint="leave it out of host:")
        return real

    def _walk(self, path: bytes) -> bytes:
        """List the directories and symlinks that lead to `path`; returns where it really is."""
        todo = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
        here = b""
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                here = here.rpartition(b"/")[0]
                continue
            below = here + b"/" + name
            mode = os.lstat(below).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, "too many symbolic links", path)
                target = os.readlink(below)
                self.entries[below[1:]] = Input(below[1:], SYMLINK, target=target)
                if target.startswith(b"/"):
                    here = b""
                todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
            else:
                if stat.S_ISDIR(mode):
                    self._list_directory(below)
                here = below
        return here

    def _list_directory(self, path: bytes) -> None:
        if path[1:] not in self.entries:
            self.entries[path[1:]] = Input(path[1:], "directory")

    def _facts(self, path: bytes, status: os.stat_result) -> Facts:
        known = self._cache.known(path, signature(status))
        if known is not None:
            return Facts.decode(known)
        status, facts = read_facts(path)
        self._cache.learn(path, status, facts.encode())
        return facts

    def _machine_of(self, path: bytes) -> int | None:
        """The machine that the library at `path` is for; None for no ELF file or no file at all."""
        try:
            facts = self._facts(path, os.stat(path))
        except OSError:
            return None
        return facts.elf.machine if facts.elf is not None else None

    def _add_file(self, path: bytes, status: os.stat_result) -> Facts:
        facts = self._facts(path, status)
        self.entries[path[1:]] = Input(
            path[1:],
            "file",
            executable=bool(status.st_mode & 0o100),
            size=status.st_size,
            signature=signature(status),
            digest=facts.digest,
        )
        return facts

    def _add_needs(self, path: bytes, facts: Facts) -> None:
        if facts.script:
            self._add_interpreter(facts.script)
        if facts.elf is not None:
            self._add_libraries(path, facts.elf)
        if _PYTHON.match(os.path.basename(path)):
            self._add_python(path)

    def _add_interpreter(self, line: bytes) -> None:
        words = line.split()
        if not words:
            return
        if os.path.exists(words[0]):
            self.add(words[0])
        if os.path.basename(words[0]) == b"env":
            names = [word for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
            found = self._find(names[0]) if names else None
            if found is not None:
                self.add(found)

    def _add_libraries(self, path: bytes, needs: elf.Elf, *, optional: bool = False) -> None:
        """Add the loader and libraries of the file at `path`. What is `optional` may lack some, and is of no use then."""
        if needs.interpreter:
            if not os.path.exists(needs.interpreter):
                raise BuildError(f"{shown(path)} needs {shown(needs.interpreter)}, which this machine does not have")
            self._libraries.learn_loader(self.add(needs.interpreter))
        for name in needs.needed:
            found = self._libraries.find(name, path, needs)
            if found is None:
                if optional:
                    continue
                raise BuildError(
                    f"{shown(path)} needs the library {shown(name)}, which this machine does not have",
                    hint="install it, or leave the program out of host:",
                )
            library, by_itself = found
            if library in self._done:
                continue
            self.add(library)
            self._done.add(library)  # by the name it was found under, too
            if not by_itself:  # found through ld.so.conf, whose cache the image does not have: a link where every loader looks
                at = self._walk(b"/usr/lib")[1:] + b"/" + name
                self.entries.setdefault(at, Input(at, SYMLINK, target=library))

    def _add_tree(self, directory: bytes, left_out: "re.Pattern[bytes] | None") -> None:
        self._list_directory(directory)
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            path = entry.path
            if left_out is not None and left_out.match(entry.name):
                continue
            if entry.is_symlink():
                self.entries[path[1:]] = Input(path[1:], SYMLINK, target=os.readlink(path))
                if os.path.isfile(path):
                    self.add(path)
            elif entry.is_dir():
                self._add_tree(path, left_out)
            elif entry.is_file() and not (left_out and path.endswith(b".pyc")):
                facts = self._add_file(path, entry.stat(follow_symlinks=False))
                if facts.elf is not None:
                    self._add_libraries(path, facts.elf, optional=True)
            elif entry.is_file():
                self._add_bytecode(path, entry.stat(follow_symlinks=False))

    def _add_bytecode(self, path: bytes, status: os.stat_result) -> None:
        """Add a .pyc that python would believe; the image's has no time in it, since its source's time is another there."""
        facts = self._facts(path, status)
        if Bytecode(facts.pyc).is_of(path):
            self._add_file(path, status)
            self.bytecode.add(path[1:])

    def _add_python(self, program: bytes) -> None:
        """The standard library lies beside its program: PREFIX/bin/python3.N, PREFIX/lib/python3.N."""
        prefix = os.path.dirname(os.path.dirname(program))
        version = _PYTHON.match(os.path.basename(program))
        wanted = os.path.basename(program) if version is not None and version[2] else None
        for library in (prefix + b"/lib", prefix + b"/lib64"):
            if not os.path.isdir(library):
                continue
            names = [wanted] if wanted else sorted(name for name in os.listdir(library) if _PYTHON.match(name) and b"." in name)
            for name in names:
                home = library + b"/" + name
                if os.path.isfile(home + b"/os.py") or os.path.isdir(home + b"/lib-dynload"):
                    real = self._walk(home)
                    if real not in self._done:
                        self._done.add(real)
                        self._add_tree(real, LEFT_OUT)

    def facts(self) -> dict[bytes, bytes]:
        """What of each entry decides the layer."""
        return {path: entry.fact(with_mode=True) for path, entry in self.entries.items()}

    def apply(self, changes: Changeset) -> None:
        """Put all of it into the empty tree below `changes`, with the few files and directories that every system has."""
        for path, mode in DIRECTORIES.items():
            changes.directory(path, mode)
        for path in sorted(self.entries):
            self._put(path, self.entries[path], changes)
        for path, content in FILES.items():
            if path not in changes.nodes:
                changes.put(path, Node("file", 0o644, content=content))

    def _put(self, path: bytes, entry: Input, changes: Changeset) -> None:
        if entry.kind == SYMLINK:
            changes.put(path, Node("symlink", 0o777, target=entry.target))
        elif entry.kind == "directory":
            changes.directory(path, DIRECTORIES.get(path, 0o755))
        elif path in self.bytecode:
            with open(b"/" + path, "rb") as file:
                if signature(os.fstat(file.fileno())) != entry.signature:
                    raise changed_meanwhile(b"/" + path)
                changes.put(path, Node("file", 0o644, content=unchecked(file.read())))
        else:
            mode = 0o755 if entry.executable else 0o644
            changes.put(path, Node("file", mode, source=HostFile(b"/" + path, entry.signature, entry.size)))


def closure(programs: tuple[str, ...], cache: StatCache) -> Closure:
    """What these programs need. BuildError names what this machine lacks."""
    found = Closure(cache)
    for name in programs:
        try:
            found.add_program(name)
        except OSError as err:
            path = shown(os.fsencode(err.filename or name))
            raise BuildError(f"cannot read {path}: {os.strerror(err.errno or 0).lower()}") from err
    return found
