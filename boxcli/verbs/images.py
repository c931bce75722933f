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

_FILTERS = ("reference", "label", "dangling")


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in _FILTERS:
        raise ValueError(f"{text!r} is not FIELD=VALUE with one of {', '.join(_FILTERS)}")
    if key == "dangling" and value not in ("true", "false"):
        raise ValueError(f"{value!r} is not true or false")
    return key, value


VERB = Verb(
    "images",
    "List images",
    Option("-a", "--all", about="Show all, as it does without: a build leaves no images between its steps."),
    listing.QUIET,
    listing.NO_TRUNC,
    Option("--digests", about="Show the digests of the manifests."),
    Option("-f", "--filter", metavar="FIELD=VALUE", many=True, read=_filter, about="Show those with this name, label, ..."),
    listing.FORMAT,
    Argument("NAME", required=False, completes="image"),
    description="Filters: reference=PATTERN (of NAME or NAME:TAG, such as 'team/*'), label=KEY or label=KEY=VALUE, "
    "dangling=true|false (without a name). Those of one field are alternatives, those of several must all hold. "
    "SIZE is what it takes on the disk: its blobs, and of a compressed layer the tar as well; what images share "
    "is counted for each, as in 'box df -v'.",
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
    from store.usage import on_disk

    filters = values.all("filter", tuple)
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
        if not _fits(named.name or "", image, filters):
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
            "Size": amounts.size(on_disk(store, named.descriptor)),
        }


def _fits(name: str, image: Image, filters: list[tuple[str, str]]) -> bool:
    fields = {key for key, _ in filters}
    return all(any(_has(name, image, key, value) for key, value in filters if key == field) for field in fields)


def _has(name: str, image: Image, key: str, value: str) -> bool:
    if key == "dangling":
        return (value == "true") == (not name)
    if key == "reference":
        from fnmatch import fnmatchcase

        return bool(name) and (fnmatchcase(name, value) or fnmatchcase(name.rpartition(":")[0], value))
    config = image.config.get("config")
    labels = config.get("Labels") if isinstance(config, dict) else None
    label, equals, wanted = value.partition("=")
    return isinstance(labels, dict) and label in labels and (not equals or labels[label] == wanted)


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
