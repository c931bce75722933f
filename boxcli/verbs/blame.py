"""`box blame`: which step of which Boxfile wrote a file of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boxcli import listing
from boxcli.failure import report
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError

if TYPE_CHECKING:
    from builder.origins import Origin
    from store.images import Image
    from store.layout import Store
    from store.lineage import Event, Lineage

VERB = Verb(
    "blame",
    "Show which step of a Boxfile wrote a file",
    Option("-a", "--all", about="Show every layer that wrote or deleted it, not only the last."),
    Option("-r", "--recursive", about="Show everything below a directory."),
    Option("-L", "--follow-link", about="Follow a symbolic link to the file that it means."),
    listing.NO_TRUNC,
    listing.FORMAT,
    Argument("IMAGE", completes="image"),
    Argument("PATH", many=True),
    description="The latest comes first. A file whose mode or owner changed later is shown with the layer that wrote its "
    "content, too. Where the image was built here, the line of its Boxfile is known; else only what its history says.",
)
_COLUMNS = (
    ("PATH", "Path"),
    ("CHANGE", "Change"),
    ("LAYER", "Layer"),
    ("DIGEST", "Digest"),
    ("BY", "Place"),
    ("STEP", "CreatedBy"),
)
_WORDS = {"A": "added", "C": "changed", "D": "deleted"}
_WIDEST = 60


def main(values: Values) -> int:
    """Print it; a path that no layer ever had is said, and makes the exit status 1."""
    from store.layout import Store
    from store.lineage import Lineage

    store = Store.open(values.root, values.driver, make=False)
    with store.leased():
        _, image = store.use_image(values.text("image"))
        lineage = Lineage(store, image.layers)
        status = 0
        paths: list[bytes] = []
        for text in values.all("path", str):
            path = lineage.resolve(text.encode("utf-8", "surrogateescape"), last=values.flag("follow_link"))
            found = lineage.below(path, gone=values.flag("all")) if values.flag("recursive") else []
            found = found or [path]
            if not any(lineage.events([each])[each] for each in found):
                status = report(BoxError(f"no layer of {values.text('image')} has /{path.decode('utf-8', 'backslashreplace')}"))
                continue
            paths += [each for each in found if each not in paths]
        if paths or status == 0:
            steps = _steps(store, image)
            rows = list(_rows(lineage, paths, image, steps, whole=values.flag("no_trunc"), everything=values.flag("all")))
            listing.show(values, rows, _COLUMNS)
    return status


def _steps(store: Store, image: Image) -> list[tuple[str, Origin | None]]:
    """Of each layer, the text of its step and the place of it."""
    from builder.origins import lines_of

    recorded = image.config.get("history")
    history: list[Any] = recorded if isinstance(recorded, list) else []
    origins = lines_of(store, image.descriptor.digest, len(history))
    steps = [
        (" ".join(str(line.get("created_by", "")).split()), origin)
        for line, origin in zip(history, origins, strict=True)
        if isinstance(line, dict) and not line.get("empty_layer")
    ]
    # A history that is not of these layers says nothing of them.
    return steps if len(steps) == len(image.layers) else [("", None)] * len(image.layers)


def _rows(
    lineage: Lineage,
    paths: Sequence[bytes],
    image: Image,
    steps: Sequence[tuple[str, Origin | None]],
    *,
    whole: bool,
    everything: bool,
) -> Iterator[Mapping[str, object]]:
    for path, events in lineage.events(paths).items():
        for event in events if everything else _last(events):
            text, origin = steps[event.layer]
            layer = image.layers[event.layer]
            yield {
                "Path": "/" + path.decode("utf-8", "backslashreplace"),
                "Link": lineage.link(path).decode("utf-8", "backslashreplace"),
                "Kind": event.kind,
                "What": list(event.what),
                "Change": _change(event),
                "Layer": event.layer + 1,
                "Digest": str(layer.descriptor.digest) if whole else layer.descriptor.digest.hex[:12],
                "DiffID": str(layer.diff_id),
                "ID": layer.descriptor.digest.hex[:12],
                "Place": str(origin) if origin is not None else "",
                "File": origin.file if origin is not None else "",
                "Line": origin.line if origin is not None else 0,
                "Step": origin.step if origin is not None else None,
                "CreatedBy": text if whole or len(text) <= _WIDEST else text[: _WIDEST - 1] + "…",
            }


def _last(events: Sequence[Event]) -> Iterator[Event]:
    """The latest, and those before it up to the one that wrote the content."""
    for event in events:
        yield event
        if event.is_content:
            return


def _change(event: Event) -> str:
    if event.link:
        return f"linked to /{event.link.decode('utf-8', 'backslashreplace')}"
    if event.kind != "C":
        return _WORDS[event.kind]
    return ", ".join(word for word in event.what if word != "size") or "time"  # another size is other content
