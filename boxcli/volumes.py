"""The verbs below `box volume`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from boxcli import amounts, listing, readers
from boxcli.failure import report
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError, VolumeMissing

if TYPE_CHECKING:
    from runtime.volumes import Volume

_FILTERS = ("name", "label", "dangling")
_COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in _FILTERS:
        raise ValueError(f"{text!r} is not FIELD=VALUE with one of {', '.join(_FILTERS)}")
    if key == "dangling":
        readers.boolean(value)
    return key, value


def _driver(text: str) -> str:
    if text != "local":
        raise ValueError("there is no driver but 'local'")
    return text


def create(values: Values) -> int:
    """Make a volume; print its name. One that is there stays as it is."""
    import os

    from runtime.container import require_root
    from runtime.volumes import create as make

    require_root()
    name = values.text("name")
    labels = {key: value for key, _, value in (entry.partition("=") for entry in values.all("label", str))}
    identity = name or os.urandom(32).hex()
    make(values.root, identity, labels, anonymous=not name)
    print(identity)
    return 0


def list_all(values: Values) -> int:
    """Print them by name."""
    listing.show(values, _rows(_chosen(values)), _COLUMNS, identity="Name")
    return 0


def _chosen(values: Values) -> list[Volume]:
    from runtime.volumes import all_volumes, users

    filters = values.all("filter", tuple)
    found = all_volumes(values.root)
    using = users(values.root) if any(key == "dangling" for key, _ in filters) else {}

    def fits(volume: Volume, key: str, value: str) -> bool:
        if key == "name":
            return value in volume.name
        if key == "dangling":
            return (volume.name not in using) == (value == "true")
        label, equals, wanted = value.partition("=")
        return label in volume.labels and (not equals or volume.labels[label] == wanted)

    return [volume for volume in found if all(fits(volume, key, value) for key, value in filters)]


def _rows(found: list[Volume]) -> Iterator[dict[str, object]]:
    for volume in found:
        yield {
            "Driver": "local",
            "Name": volume.name,
            "Mountpoint": volume.path,
            "CreatedAt": amounts.local(volume.created),
            "Labels": ",".join(f"{key}={value}" for key, value in volume.labels.items()),
            "Scope": "local",
            "Anonymous": volume.anonymous,
        }


def inspect(values: Values) -> int:
    """Print a JSON array of those that were found; what was not is said, and makes the exit status 1."""
    from boxcli import templates
    from runtime.volumes import find

    form = values.text("format")
    render = templates.compile_format(form) if form else None
    found: list[dict[str, Any]] = []
    status = 0
    for name in values.all("volume", str):
        try:
            volume = find(values.root, name)
        except BoxError as error:
            status = report(error)
            continue
        found.append({
            "CreatedAt": amounts.stamp(volume.created), "Driver": "local", "Labels": dict(volume.labels),
            "Mountpoint": volume.path, "Name": volume.name, "Options": {}, "Scope": "local", "Anonymous": volume.anonymous,
        })  # fmt: skip
    if render is None:
        print(json.dumps(found, indent=4, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    else:
        for record in found:
            print(render(record))
    return status


def remove(values: Values) -> int:
    """Remove each that no container uses; print which."""
    from runtime.volumes import find
    from runtime.volumes import remove as delete

    status = 0
    for name in values.all("volume", str):
        try:
            delete(find(values.root, name))
            print(name, flush=True)
        except VolumeMissing as error:
            if not values.flag("force"):
                status = report(error)
        except BoxError as error:
            status = report(error)
    return status


def prune(values: Values) -> int:
    """Ask, unless that was answered; remove those that no container uses; print which, and how much space that gives back."""
    what = "all volumes" if values.flag("all") else "all volumes without a name"
    if not values.flag("force"):
        print(f"WARNING! This will remove {what} that no container uses.", file=sys.stderr)
        print("Are you sure you want to continue? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    gone = pruned(values.root, everything=values.flag("all"))
    if gone:
        print("Deleted Volumes:")
        print("\n".join(gone), end="\n\n")
    print(f"Total reclaimed space: {amounts.size(sum(gone.values()))}")
    return 0


def pruned(root: str, *, everything: bool = False) -> dict[str, int]:
    """Remove those that no container uses, of those without a name or of all: how many bytes each had."""
    from runtime.volumes import all_volumes
    from runtime.volumes import prune as delete
    from store.grave import space

    sizes = {volume.name: space(volume.path) for volume in all_volumes(root) if volume.anonymous or everything}
    return {volume.name: sizes.get(volume.name, 0) for volume in delete(root, everything=everything)}


_VOLUMES = Argument("VOLUME", many=True, completes="volume")

VERBS: dict[str, tuple[Verb, Callable[[Values], int]]] = {
    "create": (
        Verb(
            "volume create",
            "Make a volume",
            Option("-l", "--label", metavar="KEY=VALUE", many=True, read=readers.label, about="Label it."),
            Option("-d", "--driver", metavar="local", read=_driver, about="As docker has it; there is only 'local'."),
            Argument("NAME", required=False, read=readers.name),
            description="Without a name, one is chosen. A volume that is there stays as it is.",
        ),
        create,
    ),
    "ls": (
        Verb(
            "volume ls",
            "List volumes",
            listing.QUIET,
            Option(
                "-f",
                "--filter",
                metavar="FIELD=VALUE",
                many=True,
                read=_filter,
                about="Those with this name, label, dangling=true.",
            ),
            listing.FORMAT,
        ),
        list_all,
    ),
    "inspect": (
        Verb(
            "volume inspect",
            "Show all about volumes",
            Option("-f", "--format", metavar="json|TEMPLATE", about="Print a template of each, such as '{{.Mountpoint}}'."),
            _VOLUMES,
        ),
        inspect,
    ),
    "rm": (
        Verb(
            "volume rm",
            "Remove volumes that no container uses",
            Option("-f", "--force", about="One that does not exist is no error."),
            _VOLUMES,
        ),
        remove,
    ),
    "prune": (
        Verb(
            "volume prune",
            "Remove the volumes without a name that no container uses",
            Option("-a", "--all", about="Those with a name, too."),
            Option("-f", "--force", about="Do not ask."),
        ),
        prune,
    ),
}
