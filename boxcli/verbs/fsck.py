"""`box fsck`: check every byte of the store, and mend what can be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from boxcli import escapes, listing
from boxcli.table import Option, Values, Verb

if TYPE_CHECKING:
    from store.fsck import Checked, Finding

VERB = Verb(
    "fsck",
    "Check the store, and mend what is damaged",
    Option("--repair", about="Make again what can be made from what is whole."),
    listing.FORMAT,
    description="Reads every blob, layer, snapshot, reference and record of the build cache, beside whatever else runs. The exit "
    "status is 1 when something is damaged (with --repair: when something still is).",
)
COLUMNS = (("PLACE", "Place"), ("WHAT", "What"), ("IMAGES", "Images"), ("MENDED", "Mended"), ("NEXT", "Hint"))


def main(values: Values) -> int:
    """Check; print what is damaged, where, which images need it and what to do next."""
    from boxcli.in_use import in_use
    from boxcli.stores import existing
    from builder import retention
    from runtime.journal import reap
    from store import fsck
    from store.mend import check_and_mend

    store = existing(values)
    if store is None:
        if values.text("format"):
            listing.show(values, (), COLUMNS)
        else:
            print(_summary(fsck.Checked(0, 0, 0, 0, ()), []))
        return 0
    reap(store.root)
    repair = values.flag("repair")
    say = _progress()
    if repair:
        checked = check_and_mend(
            store,
            used=lambda: in_use(store.root, running=True),
            ended=lambda: in_use(store.root),
            steps=lambda: retention.steps(store),
            progress=say,
        )
    else:
        checked = fsck.check(store, steps=lambda: retention.steps(store), progress=say)
    cache = [
        fsck.Finding(place, reason, (), "it costs a build step; " + fsck.OURS, mended=repair)
        for place, reason in retention.check(store, repair=repair)
    ]
    findings = [*checked.findings, *cache]
    if values.text("format"):
        listing.show(values, map(_row, findings), COLUMNS)
    else:
        for finding in findings:
            print(_text(finding))
        for chain in checked.unknown:
            print(f"unknown: the snapshot of {chain}: {fsck.UNKNOWN}")
        print(_summary(checked, findings))
    return 1 if any(not finding.mended for finding in findings) else 0


def _progress() -> Callable[[str], None]:
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda part: print(f"checking {part}", file=sys.stderr)


def _row(finding: Finding) -> Mapping[str, object]:
    return {
        "Place": finding.place,
        "What": finding.what,
        "Images": list(finding.images),
        "Mended": finding.mended,
        "Hint": "" if finding.mended else finding.hint,
    }


def _text(finding: Finding) -> str:
    return escapes.lines("\n".join(_lines(finding)))


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{'mended' if finding.mended else 'damaged'}: {finding.place}: {finding.what}"
    if finding.images:
        yield f"  needed by {', '.join(finding.images)}"
    if not finding.mended:
        yield f"  next: {finding.hint}"


def _summary(checked: Checked, findings: list[Finding]) -> str:
    looked = f"Checked {checked.images} images, {checked.blobs} blobs, {checked.tars} tars, {checked.snapshots} snapshots"
    damaged = sum(not finding.mended for finding in findings)
    mended = len(findings) - damaged
    said = [f"{damaged} damaged" if damaged else "nothing is damaged", *([f"{mended} mended"] if mended else [])]
    if checked.unknown:
        said.append(f"{len(checked.unknown)} could not be checked ('box fsck --repair' drops what nothing uses)")
    return f"{looked}: {', '.join(said)}"
