"""`box prune`: remove stopped containers and unused images, and delete what they leave."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from boxcli import amounts, listing
from boxcli.failure import report
from boxcli.table import Option, Values, Verb
from boxcli.verbs.gc import BUSY, rows
from boxcli.volumes import pruned
from store.errors import BoxError

if TYPE_CHECKING:
    from store.collect import Deleted
    from store.layout import Store

VERB = Verb(
    "prune",
    "Remove stopped containers and unused images",
    Option("-a", "--all", about="Remove all images that no container uses, and the build cache; else only those without a name."),
    Option("--volumes", about="Remove volumes without a name that no container uses, too."),
    Option("-f", "--force", about="Do not ask."),
    Option("--format", metavar="json|TEMPLATE", about="Print what went as 'json', one object a line, or by a template."),
    description="The exit status is 1 when not everything could go, since a container was just being started.",
)
COLUMNS = (("KIND", "Kind"), ("DIGEST", "Digest"), ("SIZE", "Size"))


def main(values: Values) -> int:
    """Ask, unless that was answered; remove; print what went and how much space that gives back."""
    from boxcli.in_use import in_use
    from boxcli.stores import existing
    from builder import retention
    from store.collect import forget_images, gc
    from store.marks import keep_nothing

    if not values.flag("force") and not _agreed(everything=values.flag("all"), volumes=values.flag("volumes")):
        return 0
    store = existing(values)
    if store is None:
        return _nothing(values)
    containers, status = _remove_containers(store)
    forgotten = forget_images(store, unused=values.flag("all"), used=lambda: in_use(store.root))
    keep = keep_nothing if values.flag("all") else lambda: retention.kept(store)
    done = gc(store, keep=keep, used=lambda: in_use(store.root))
    retention.sweep(store)
    volumes = pruned(store.root) if values.flag("volumes") else {}
    if values.text("format"):
        listing.show(values, _rows(containers, volumes, forgotten, done), COLUMNS)
    else:
        _say(containers, volumes, forgotten)
        freed = sum(containers.values()) + sum(volumes.values()) + done.freed
        print(f"Total reclaimed space: {amounts.size(freed)}")
    if forgotten.deferred or done.deferred:
        print(BUSY, file=sys.stderr)
        status = status or 1
    return status


def _nothing(values: Values) -> int:
    if values.text("format"):
        listing.show(values, (), COLUMNS)
    else:
        print(f"Total reclaimed space: {amounts.size(0)}")
    return 0


def _agreed(*, everything: bool, volumes: bool) -> bool:
    print("WARNING! This will remove:", file=sys.stderr)
    print("  - all stopped containers", file=sys.stderr)
    if volumes:
        print("  - all volumes without a name that no container uses", file=sys.stderr)
    if everything:
        print("  - all images that no container uses", file=sys.stderr)
        print("  - all build cache", file=sys.stderr)
    else:
        print("  - all images without a name that no container uses", file=sys.stderr)
        print("  - unused build cache", file=sys.stderr)
    print("\nAre you sure you want to continue? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise BoxError("cancelled, since there was no answer", hint="say -f, and nothing is asked")
    return answer.strip().lower() in ("y", "yes")


def _remove_containers(store: Store) -> tuple[dict[str, int], int]:
    """Remove the containers that do not run; their ids with the space they had, and the exit status."""
    from runtime.journal import looked_after
    from runtime.lifecycle import remove
    from runtime.state import Containers
    from store.grave import space

    removed: dict[str, int] = {}
    status = 0
    for container in Containers(store.root).all():
        if container.status == "running" or looked_after(container.path):  # or just being started
            continue
        size = space(container.path)
        try:
            remove(container)
        except BoxError as error:
            status = report(error)
            continue
        removed[container.id] = size
    return removed, status


def _say(containers: Mapping[str, int], volumes: Mapping[str, int], forgotten: Deleted) -> None:
    if containers:
        print("Deleted Containers:")
        print("\n".join(containers), end="\n\n")
    if volumes:
        print("Deleted Volumes:")
        print("\n".join(volumes), end="\n\n")
    if forgotten.images:
        print("Deleted Images:")
        for name in forgotten.names:
            print(f"untagged: {name}")
        for digest in forgotten.images:
            print(f"deleted: {digest}")
        print()


def _rows(
    containers: Mapping[str, int], volumes: Mapping[str, int], forgotten: Deleted, done: Deleted
) -> Iterator[Mapping[str, object]]:
    for kind, sizes in (("container", containers), ("volume", volumes)):
        for identity, size in sizes.items():
            yield {"Kind": kind, "Digest": identity, "Size": amounts.size(size), "Bytes": size}
    for digest in forgotten.images:
        yield {"Kind": "image", "Digest": str(digest), "Size": amounts.size(0), "Bytes": 0}
    yield from rows(done.gone)
