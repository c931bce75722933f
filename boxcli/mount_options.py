"""What `-v`, `--mount`, `--tmpfs` and `--volumes-from` say beyond the plainest, in docker's and podman's words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from boxcli import readers
from boxcli.table import Values
from runtime.spec import Bind, ImageTree, Tmpfs
from store.errors import UsageError

Mount = Bind | Tmpfs | ImageTree

ANONYMOUS = "?"  # a volume that is given a name by `settle`
_PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_IGNORED = (
    "z",
    "Z",
    "cached",
    "delegated",
    "consistent",
    "nosuid",
    "nodev",
    "rbind",
)  # labels are SELinux'; the rest holds anyway
_TRUE, _FALSE = ("", "true", "1"), ("false", "0")


def volume(text: str) -> Bind:
    """`TARGET`, `NAME:TARGET[:OPTIONS]` or `SOURCE:TARGET[:OPTIONS]`."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f"{text!r} is not SOURCE:TARGET, NAME:TARGET or TARGET, with :ro after it or without")
    if len(parts) == 1:
        return _named(ANONYMOUS, readers.directory(text))
    source, target = parts[:2]
    if "/" in source or source in (".", ".."):
        made = Bind(source, readers.directory(target))
    else:
        made = _named(readers.name(source), readers.directory(target))
    for option in parts[2].split(",") if parts[2:] else ():
        if option in ("ro", "rw"):
            made.read_only = option == "ro"
        elif option in _PROPAGATIONS and not made.volume:
            made.propagation = option
        elif option == "bind" and not made.volume:
            made.recursive = False
        elif option == "nocopy" and made.volume:
            made.no_copy = True
        elif option not in _IGNORED:
            raise ValueError(f"{option!r} is not ro, rw, nocopy (of a volume) or a propagation (of a directory)")
    return made


def _named(name: str, target: str) -> Bind:
    return Bind("", target, volume=name)


def tmpfs(target: str, options: str) -> Tmpfs:
    """`--tmpfs TARGET:OPTIONS`."""
    made = Tmpfs(readers.directory(target))
    for option in options.split(","):
        key, equals, value = option.partition("=")
        if key == "size" and value:
            made.size = readers.size(value)
        elif key == "mode":
            made.mode = _mode(value)
        elif key in ("uid", "gid", "nr_inodes") and equals:
            made.options[key] = str(readers.whole(value))
        elif option in ("ro", "rw"):
            made.read_only = option == "ro"
        elif option in ("exec", "noexec"):
            made.executable = option == "exec"
        elif option not in ("nosuid", "nodev", "notmpcopyup", "rprivate", "private"):
            raise ValueError(f"{option!r} is not size=SIZE, mode=MODE, uid=, gid=, nr_inodes=, ro or noexec")
    return made


def _mode(text: str) -> int:
    if not text or not set("01234567").issuperset(text) or len(text) > 5:
        raise ValueError(f"{text!r} is not a mode such as 1777")
    return int(text, 8)


# --- --mount ----------------------------------------------------------------------------------------------------------------


def mount(text: str) -> Mount:
    """`type=bind|volume|tmpfs|image,KEY[=VALUE],...`; without a type, a volume."""
    pairs: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        key = _SAME.get(key, key)
        if not key or key in pairs:
            raise ValueError(f"{text!r} says {part!r}, which is empty or said twice")
        pairs[key] = value
    kind = pairs.pop("type", "volume")
    if kind not in _MAKERS:
        raise ValueError(f"{kind!r} is no type of mount; there are {', '.join(_MAKERS)}")
    if "target" not in pairs:
        raise ValueError(f"{text!r} has no target=DIR")
    target = readers.directory(pairs.pop("target"))
    made = _MAKERS[kind](target, pairs)
    if pairs:
        raise ValueError(f"a mount of type {kind} has no {', '.join(pairs)}")
    return made


_SAME = {
    "source": "source", "src": "source", "destination": "target", "dst": "target", "ro": "readonly", "rw": "readwrite",
    "volume-subpath": "subpath", "image-subpath": "subpath", "tmpfs-size": "size", "tmpfs-mode": "mode",
}  # fmt: skip


def _flag(pairs: dict[str, str], key: str, default: bool = False) -> bool:
    if key not in pairs:
        return default
    value = pairs.pop(key)
    if value not in (*_TRUE, *_FALSE):
        raise ValueError(f"{key} is {value!r}, not true or false")
    return value in _TRUE


def _read_only(pairs: dict[str, str]) -> bool:
    return _flag(pairs, "readonly") or not _flag(pairs, "readwrite", default=True)


def _bind(target: str, pairs: dict[str, str]) -> Bind:
    source = pairs.pop("source", "")
    if not source:
        raise ValueError("a mount of type bind has a source=DIR")
    made = Bind(source, target, _read_only(pairs))
    made.propagation = pairs.pop("bind-propagation", "")
    if made.propagation and made.propagation not in _PROPAGATIONS:
        raise ValueError(f"{made.propagation!r} is not one of {', '.join(_PROPAGATIONS)}")
    made.recursive = not _flag(pairs, "bind-nonrecursive")
    recursive = pairs.pop("bind-recursive", "enabled")
    if recursive not in ("enabled", "disabled", "readonly"):  # what is read-only is so all the way down, or not at all
        raise ValueError(f"bind-recursive is {recursive!r}, not enabled, disabled or readonly")
    made.recursive = made.recursive and recursive != "disabled"
    for ignored in ("consistency", "relabel"):
        pairs.pop(ignored, "")
    return made


def _volume(target: str, pairs: dict[str, str]) -> Bind:
    name = pairs.pop("source", "")
    made = _named(readers.name(name) if name else ANONYMOUS, target)
    made.read_only = _read_only(pairs)
    made.no_copy = _flag(pairs, "volume-nocopy")
    made.subpath = pairs.pop("subpath", "")
    if pairs.pop("volume-driver", "local") not in ("", "local"):
        raise ValueError("there is no driver of volumes but 'local'")
    return made


def _tmpfs(target: str, pairs: dict[str, str]) -> Tmpfs:
    made = Tmpfs(target)
    made.read_only = _read_only(pairs)
    size = pairs.pop("size", "")
    made.size = readers.size(size) if size else None
    mode = pairs.pop("mode", "")
    made.mode = _mode(mode) if mode else made.mode
    return made


def _image(target: str, pairs: dict[str, str]) -> ImageTree:
    source = pairs.pop("source", "")
    if not source:
        raise ValueError("a mount of type image has a source=IMAGE")
    if not _flag(pairs, "readonly", default=True) or _flag(pairs, "readwrite"):
        raise ValueError("an image is mounted read-only; what is to be written belongs into a volume")
    return ImageTree(source, target, pairs.pop("subpath", ""))


_MAKERS: dict[str, Callable[[str, dict[str, str]], Mount]] = {"bind": _bind, "volume": _volume, "tmpfs": _tmpfs, "image": _image}


# --- all of them together ---------------------------------------------------------------------------------------------------


def settle(values: Values, given: list[Bind | Tmpfs | ImageTree], of_image: Iterable[str]) -> list[Bind | Tmpfs | ImageTree]:
    """All mounts of a container: those of the command line, then what other containers have, then volumes for the places that
    the image names. Raises UsageError where two are at one place."""
    from runtime.volumes import data_of

    found: dict[str, Mount] = {}
    for each in [*given, *values.all("mount", object)]:
        assert isinstance(each, (Bind, Tmpfs, ImageTree))
        place = os.path.normpath(each.target)
        if place in found:
            raise UsageError(f"two mounts are at {place}: {found[place]}, and {each}", hint="leave one out")
        if isinstance(each, Bind) and not each.volume:
            each.source = os.path.abspath(each.source)
            if not os.path.lexists(each.source):
                raise UsageError(f"there is no {each.source} to show at {each.target}")
        elif isinstance(each, ImageTree):
            _find_image(values, each)
        found[place] = each
    for text in values.all("volumes_from", str):
        for each in _of_container(values.root, text):
            found.setdefault(os.path.normpath(each.target), each)
    for path in of_image:
        if path.startswith("/"):
            found.setdefault(os.path.normpath(path), _named(ANONYMOUS, path))
    for each in found.values():
        if isinstance(each, Bind) and each.volume:
            if each.volume == ANONYMOUS:
                each.volume, each.anonymous = os.urandom(32).hex(), True
            each.source = data_of(values.root, each.volume)
    return list(found.values())


def _of_container(root: str, text: str) -> list[Bind]:
    """The binds and volumes of a container that there is: `NAME[:ro|rw]`."""
    from runtime.state import Containers, mount_of

    name, _, option = text.partition(":")
    if option not in ("", "ro", "rw", "z", "Z"):
        raise UsageError(f"--volumes-from {text}: {option!r} is not 'ro' or 'rw'")
    mounts = [mount_of(each) for each in Containers(root).find(name).record["mounts"]]
    found = [each for each in mounts if isinstance(each, Bind)]
    for each in found:
        each.anonymous = False  # it goes with the container that it was made for
        each.read_only = each.read_only if option not in ("ro", "rw") else option == "ro"
    return found


def _find_image(values: Values, wanted: ImageTree) -> None:
    """The trees of an image. Nothing of it is deleted from here on: `run` holds the gate, and then the journal names it."""
    from store import prepared
    from store.layout import Store
    from store.prepare import prepare

    image = None if values.driver else prepared.lookup(values.root, wanted.image)
    if image is None:
        store = Store.open(values.root, values.driver)
        with store.leased():
            image = prepare(store, wanted.image)
    wanted.trees, wanted.digest = image.trees, image.manifest_digest
