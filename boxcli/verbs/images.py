"""`box images`: what images there are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from boxcli import amounts, listing
from boxcli.failure import report
from boxcli.table import Argument, Option, Values, Verb
from store.errors import NotAnImage, StoreError

if TYPE_CHECKING:
    from store.digest import Digest
    from store.images import Image
    from store.layout import Store

VERB = Verb(
    "images",
    "List images",
    listing.QUIET,
    listing.NO_TRUNC,
    Option("--digests", about="Show the digests of the manifests."),
    listing.FORMAT,
    Argument("NAME", required=False, completes="image"),
)
NONE = "<none>"


def main(values: Values) -> int:
    """Print the images, those without a name last; with NAME (or NAME:TAG), only those of it."""
    from boxcli.stores import existing

    columns = [("REPOSITORY", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]
    if values.flag("digests"):
        columns.insert(2, ("DIGEST", "Digest"))
    store = existing(values)
    damaged: list[StoreError] = []
    listing.show(values, _rows(store, values, damaged) if store is not None else [], columns)
    for error in damaged:
        report(error)
    return 1 if damaged else 0


def _rows(store: Store, values: Values, damaged: list[StoreError]) -> Iterator[dict[str, object]]:
    wanted = values.text("name")
    seen: set[object] = set()
    for named in store.references.all():
        repository, _, tag = (named.name or "").rpartition(":")
        if wanted and wanted not in (repository, named.name):
            continue
        try:
            image = store.images.load(named.descriptor)
        except NotAnImage:
            continue
        except StoreError as err:
            digest = named.descriptor.digest
            damaged.append(
                StoreError(
                    f"image {named.name or digest.hex[:12]} is damaged: {err.message}",
                    hint=f"try box fsck --repair, or delete it: box rmi {digest.hex[:12]}",
                )
            )
            yield _damaged(values, repository or NONE, tag or NONE, digest)
            continue
        if values.flag("quiet"):
            if image.id in seen:
                continue
            seen.add(image.id)
        when = created(image)
        yield {
            "Repository": repository or NONE,
            "Tag": tag or NONE,
            "ID": str(image.id) if values.flag("no_trunc") else image.id.hex[:12],
            "Digest": str(named.descriptor.digest),
            "CreatedAt": amounts.local(when),
            "CreatedSince": amounts.ago(when),
            "Size": amounts.size(image.size),
        }


def _damaged(values: Values, repository: str, tag: str, digest: Digest) -> dict[str, object]:
    """The row of an image that cannot be read; those who list only ids get what it can be deleted by."""
    return {
        "Repository": repository,
        "Tag": tag,
        "ID": digest.hex[:12] if values.flag("quiet") else "<damaged>",
        "Digest": str(digest),
        "CreatedAt": "",
        "CreatedSince": "",
        "Size": "",
    }


def created(image: Image) -> float:
    """When the image says that it was made, in unix time; 0 where it says nothing that can be understood."""
    return instant(image.config.get("created"))


def instant(text: object) -> float:
    """The unix time of an RFC 3339 text, or 0."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
