"""`box gc`: delete what nothing uses any more."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from boxcli import amounts, listing
from boxcli.table import Option, Values, Verb

if TYPE_CHECKING:
    from store.collect import Gone

VERB = Verb(
    "gc",
    "Delete what no image, container or build uses",
    Option("-n", "--dry-run", about="Delete nothing: show what would go."),
    listing.FORMAT,
    description="Images and containers stay as they are: 'box prune' removes those. The layers of each Boxfile's last build are "
    "kept for a month. Builds, loads and containers go on beside it. The exit status is 1 when not everything could go, since a "
    "container was just being started.",
)
COLUMNS = (("KIND", "Kind"), ("DIGEST", "Digest"), ("SIZE", "Size"))
BUSY = "box: a container is being started and holds the store: run 'box gc' again for the rest"


def main(values: Values) -> int:
    """Do it; print what went, or how much that was."""
    from boxcli.in_use import in_use
    from boxcli.stores import existing
    from builder import retention
    from runtime.journal import reap
    from store.collect import Deleted, gc

    dry_run = values.flag("dry_run")
    store = existing(values)
    done = Deleted()
    if store is not None:
        reap(store.root)
        done = gc(store, keep=lambda: retention.kept(store), used=lambda: in_use(store.root), dry_run=dry_run)
    if store is not None and not dry_run:
        retention.sweep(store)
    if dry_run or values.text("format"):
        listing.show(values, rows(done.gone), COLUMNS)
    if not values.text("format"):
        print(f"{'Would free' if dry_run else 'Freed'} {amounts.size(done.freed)}{counted(done.gone)}")
    if done.deferred:
        print(BUSY, file=sys.stderr)
        return 1
    return 0


def rows(gone: Iterable[Gone]) -> Iterator[Mapping[str, object]]:
    """What went, for `listing`."""
    for one in gone:
        yield {"Kind": one.kind, "Digest": str(one.digest), "Size": amounts.size(one.size), "Bytes": one.size}


def counted(gone: Iterable[Gone]) -> str:
    """`: 3 blobs, 1 tree`; empty for nothing."""
    counts = Counter("prepared image" if one.kind == "prepared" else one.kind for one in gone)
    words = [f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in counts.items()]
    return f": {', '.join(words)}" if words else ""
