"""`box df`: how much space what takes, what is shared, and what `box gc` would give back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from boxcli import amounts, listing
from boxcli.table import Option, Values, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.state import Container
    from store.layout import Store
    from store.usage import ImageUsage, Usage

VERB = Verb(
    "df",
    "Show how much space images, containers and the cache take",
    Option("-v", "--verbose", about="Show each image and each container."),
    listing.FORMAT,
)
COLUMNS = (
    ("TYPE", "Type"), ("TOTAL", "TotalCount"), ("ACTIVE", "Active"), ("SIZE", "Size"), ("RECLAIMABLE", "Reclaimable"),
)  # fmt: skip
IMAGE_COLUMNS = (
    ("REPOSITORY", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"), ("UNIQUE SIZE", "UniqueSize"), ("CONTAINERS", "Containers"),
)  # fmt: skip
CONTAINER_COLUMNS = (
    ("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("SIZE", "Size"), ("CREATED", "CreatedSince"), ("STATUS", "Status"),
    ("NAMES", "Names"),
)  # fmt: skip


def main(values: Values) -> int:
    """Print the sums; with -v, what they are made of. With --format, each line has what `Reclaimable` means in `Bytes...`."""
    from boxcli.in_use import in_use
    from boxcli.stores import existing
    from builder import retention
    from runtime.state import Containers
    from store.usage import NOTHING, usage

    store = existing(values)
    containers = Containers(values.root).all()
    found = NOTHING if store is None else usage(store, keep=lambda: retention.kept(store), used=lambda: in_use(store.root))
    if not values.flag("verbose"):
        listing.show(values, _sums(found, containers), COLUMNS)
        if not values.text("format"):
            print(f"\nImages share {amounts.size(found.shared)}. {_hope(found)}.")
        return 0
    wanted = values.text("format")
    _section(values, "Images", _images(store, found, containers), IMAGE_COLUMNS)
    if not wanted:
        print()
    _section(values, "Containers", _containers(containers), CONTAINER_COLUMNS)
    return 0


def _hope(found: Usage) -> str:
    """What gc would do."""
    damaged = [image.descriptor.digest.hex[:12] for image in found.each if image.damaged]
    if damaged:
        return f"'box gc' would delete nothing, since image {damaged[0]} is damaged: try 'box fsck --repair'"
    return f"'box gc' would give back {amounts.size(found.freeable)}"


def _section(values: Values, title: str, rows: Iterator[Mapping[str, object]], columns: Sequence[tuple[str, str]]) -> None:
    if not values.text("format"):
        print(f"{title}:\n")
    listing.show(values, rows, columns)


def _sums(found: Usage, containers: Sequence[Container]) -> Iterator[Mapping[str, object]]:
    from store.grave import space

    sizes = {container.id: space(container.path) for container in containers}
    running = [container.id for container in containers if container.status == "running"]
    ended = sum(size for identity, size in sizes.items() if identity not in running)
    active = sum(image.used for image in found.each)
    yield _row("Images", len(found.each), active, found.images, found.images - found.active)
    yield _row("Containers", len(containers), len(running), sum(sizes.values()), ended)
    yield _row("Build cache", found.cached_layers, 0, found.cached, found.cached)
    stale = [gone for gone in found.unused if gone.kind == "tree"]
    number = found.trees_number
    yield _row("Trees", number, number - len(stale), found.trees, sum(gone.size for gone in stale))
    rest = [gone for gone in found.unused if gone.kind != "tree"]
    total = sum(gone.size for gone in rest)
    yield _row("Unused", len(rest), 0, total, total)


def _row(kind: str, number: int, active: int, size: int, reclaimable: int) -> Mapping[str, object]:
    share = f" ({reclaimable * 100 // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(number),
        "Active": str(active),
        "Size": amounts.size(size),
        "Reclaimable": f"{amounts.size(reclaimable)}{share}",
        "Bytes": size,
        "ReclaimableBytes": reclaimable,
    }


def _images(store: Store | None, found: Usage, containers: Sequence[Container]) -> Iterator[Mapping[str, object]]:
    from boxcli.verbs.images import NONE, created

    for image in found.each:
        when = 0.0 if image.damaged or store is None else created(store.images.load(image.descriptor))
        for name in image.names or ("",):
            repository, _, tag = name.rpartition(":")
            yield {
                "Repository": repository or NONE,
                "Tag": tag or NONE,
                "ID": image.id.removeprefix("sha256:")[:12] or "<damaged>",
                "CreatedSince": amounts.ago(when),
                "Size": amounts.size(image.size),
                "SharedSize": amounts.size(image.shared),
                "UniqueSize": amounts.size(image.unique),
                "Containers": str(sum(_made_of(container, image) for container in containers)),
            }


def _made_of(container: Container, image: ImageUsage) -> bool:
    return (container.manifest_digest or container.image_digest) in (str(image.descriptor.digest), image.id)


def _containers(containers: Sequence[Container]) -> Iterator[Mapping[str, object]]:
    from boxcli.verbs.ps import status
    from store.grave import space

    for container in containers:
        yield {
            "ID": container.id[:12],
            "Image": container.image,
            "Size": amounts.size(space(container.path)),
            "CreatedSince": amounts.ago(container.created),
            "Status": status(container),
            "Names": container.name,
        }
