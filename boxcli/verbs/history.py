"""`box history`: how an image came about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from boxcli import amounts, listing
from boxcli.table import Argument, Values, Verb
from boxcli.verbs.images import instant

if TYPE_CHECKING:
    from store.images import Image

VERB = Verb(
    "history",
    "Show the steps that made an image",
    listing.QUIET,
    listing.NO_TRUNC,
    listing.FORMAT,
    Argument("IMAGE", completes="image"),
)
MISSING = "<missing>"  # docker's word: only the whole image has an id
_WIDEST = 45


def main(values: Values) -> int:
    """Print the steps, the last one first."""
    from store.layout import Store

    store = Store.open(values.root, values.driver, make=False)
    image = store.images.load(store.references.resolve(values.text("image")).descriptor)
    rows = list(_rows(image, values.flag("no_trunc")))
    columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    listing.show(values, reversed(rows), columns)
    return 0


def _rows(image: Image, whole: bool) -> Iterator[dict[str, object]]:
    recorded = image.config.get("history")
    steps: list[Any] = [step for step in recorded if isinstance(step, dict)] if isinstance(recorded, list) else []
    if sum(not step.get("empty_layer") for step in steps) != len(image.layers):
        steps = [{} for _ in image.layers]  # the history is not of these layers: they speak for themselves
    layers = iter(image.layers)
    for number, step in enumerate(steps, 1):
        size = 0 if step.get("empty_layer") else next(layers).descriptor.size
        made_by = " ".join(str(step.get("created_by", "")).split())
        when = instant(step.get("created", image.config.get("created")))
        last = number == len(steps)
        yield {
            "ID": (str(image.id) if whole else image.id.hex[:12]) if last else MISSING,
            "CreatedAt": amounts.stamp(when),
            "CreatedSince": amounts.ago(when),
            "CreatedBy": made_by if whole or len(made_by) <= _WIDEST else made_by[: _WIDEST - 1] + "…",
            "Size": amounts.size(size),
            "Comment": str(step.get("comment", "")),
        }
