"""The two ends of a copy: a place on this machine, in a container or in an image, or a stream. What `box cp` names, opened.

Nothing in a container is ever named by an absolute path of this machine: each look is one openat2 from its root's descriptor,
which keeps links and `..` inside, or one from a descriptor got that way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from runtime.id_maps import IdMaps
from runtime.roots import Subject, find, inside, maps_of, merged
from runtime.state import Container
from store.errors import BoxError, UsageError
from store.layout import Store
from store.record import Record
from store.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from store.tar_read import shown
from store.walk import open_below

STREAM = "-"
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINKS = 40
_KERNELS = ("proc", "sys")


class End(Record):
    """An end as it was written: of this machine where `subject` is None. `path` is `-` for a stream."""

    path: str
    subject: Subject | None = None

    def __str__(self) -> str:
        return self.path if self.subject is None else f"{self.subject.name}:{self.path}"


def parse(store: Store, text: str) -> End:
    """The end that `text` means: NAME:PATH of a container or an image, else a path here, as every one that begins with / or . is.

    An image with a tag takes an absolute path: NAME:TAG:/PATH. UsageError, or BoxError for a name that is none.
    """
    if text == STREAM or text.startswith(("/", ".")) or ":" not in text:
        if not text:
            raise UsageError("an empty path")
        return End(text)
    _check_tag(store, text)
    missing: BoxError | None = None
    for at in dict.fromkeys((text.find(":/"), text.find(":"))):
        if at > 0:
            try:
                return End(text[at + 1 :] or "/", find(store, text[:at]))
            except BoxError as err:
                missing = missing or err
    raise BoxError(
        missing.message if missing is not None else f"no name before the colon: {text!r}",
        hint=f"'box ps -a' and 'box images' list them; for a file of this machine write ./{text}",
    ) from missing


def _check_tag(store: Store, text: str) -> None:
    """UsageError for NAME:TAG:PATH whose path is not absolute."""
    name, tag, path = (*text.split(":", 2), "")[:3]
    meant = ""
    if not path or not tag or tag.startswith("/") or path.startswith("/"):
        return
    with suppress(BoxError):
        find(store, f"{name}:{tag}")
        meant = f"{name}:{tag}:/{path}"
    if meant:
        raise UsageError("the path in an image with a tag begins with a slash", hint=f"say {meant}")


class Tree:
    """Where an end lies: below the descriptor `root`, or on this machine (-1). `avoid`: file systems of the kernel's own; `maps`:
    the ids of a running container."""

    __slots__ = ("avoid", "maps", "name", "root")

    def __init__(self, name: str = "", root: int = -1, avoid: Collection[int] = (), maps: IdMaps | None = None) -> None:
        self.maps = maps
        self.name = name
        self.root = root
        self.avoid = avoid

    def open(self, path: bytes, flags: int) -> int:
        """Open `path` as a process there would."""
        if self.root < 0:
            return os.open(path or b".", flags | os.O_CLOEXEC)
        return openat2(self.root, path or b".", flags, resolve=_INSIDE)

    def shown(self, path: bytes) -> str:
        """The path as a message names it."""
        return f"{self.name}:{shown(path)}" if self.name else shown(path)


@contextmanager
def opened(store: Store, end: End, *, write: bool) -> Iterator[Tree]:
    """The tree that the end lies in. An image can be read only; what is mounted in a container is only there while it runs."""
    subject = end.subject
    if subject is None:
        yield Tree()
    elif subject.container is not None:
        _check_volumes(subject.container, end.path)
        maps = maps_of(subject.container)
        with inside(subject.container) as root:
            yield Tree(subject.name, root, _kernels_own(root), maps)
    elif write:
        raise UsageError(
            f"{subject.name} is an image, and images do not change",
            hint="copy into a container of it, or build another image with a 'copy' step",
        )
    else:
        with merged(store, subject) as root:
            yield Tree(subject.name, root)


class Found:
    """What is at a path: `name` in the open directory `parent`; `status` is None where there is nothing. `close` it."""

    __slots__ = ("name", "parent", "status")

    def __init__(self, parent: int, name: bytes, status: os.stat_result | None) -> None:
        self.parent = parent
        self.name = name
        self.status = status

    @property
    def is_directory(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    def open_directory(self) -> int:
        """The directory that was found."""
        return open_below(self.parent, self.name)

    def close(self) -> None:
        os.close(self.parent)


def look(tree: Tree, path: bytes, *, follow: bool, source: bool = False) -> Found:
    """What lies at `path`: a symlink as its last name is followed only with `follow`, or before a slash.

    BoxError when the directory that it should lie in is not there; a `source` has to be there itself.
    """
    asked = path
    for _ in range(_LINKS):
        bare = path.rstrip(b"/")
        above, _, name = bare.rpartition(b"/")
        if name in (b"", b".", b".."):
            parent = _open_parent(tree, path, source=source)
            return Found(parent, b".", os.fstat(parent))
        if b"/" in bare and not above:
            above = b"/"
        parent = _open_parent(tree, above, source=source)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode) or not (follow or path != bare):
                return Found(parent, name, status)
            target = os.readlink(name, dir_fd=parent)
        except FileNotFoundError:
            return Found(parent, name, None)
        except BaseException:
            os.close(parent)
            raise
        os.close(parent)
        path = target if target.startswith(b"/") else above + b"/" + target if above else target
    raise BoxError(f"too many symbolic links: {tree.shown(asked)}")


def _open_parent(tree: Tree, path: bytes, *, source: bool) -> int:
    try:
        return tree.open(path, _PLACE)
    except (FileNotFoundError, NotADirectoryError) as err:
        hint = "" if source else "make it first"
        raise BoxError(f"there is no directory {tree.shown(path or b'.')}", hint=hint) from err
    except OSError as err:
        raise BoxError(f"cannot look at {tree.shown(path)}: {os.strerror(err.errno or 0).lower()}") from err


def _kernels_own(root: int) -> frozenset[int]:
    """The numbers of the file systems at /proc and /sys: what the kernel shows there are no files to copy."""
    found = set()
    for name in _KERNELS:
        try:
            fd = openat2(root, name, os.O_PATH | os.O_NOFOLLOW, resolve=_INSIDE)
        except OSError:
            continue
        found.add(os.fstat(fd).st_dev)
        os.close(fd)
    found.discard(os.fstat(root).st_dev)
    return frozenset(found)


def _check_volumes(container: Container, path: str) -> None:
    """Of a container that has ended, what was mounted in it is not to be seen: say so, where the path names it."""
    if container.status == "running":
        return
    parts = _parts(path)
    for mount in container.record.get("mounts", []):
        target = _parts(mount["target"])
        if parts[: len(target)] == target:
            source = mount.get("source")
            raise BoxError(
                f"{path} lies in {mount['target']}, which is only mounted while container {container.name} runs",
                hint=f"it is {source} on this machine" if source else "what was in that tmpfs went with the container's end",
            )


def _parts(path: str) -> list[str]:
    return [part for part in os.path.normpath("/" + path).split("/") if part]
