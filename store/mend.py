"""Mending what `store.fsck` found, from what is whole: see there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from io import FileIO

from store import fsck, sources
from store.archive_members import feed
from store.collect import PATIENCE, nothing_used
from store.decompress import open_stream
from store.digest import MANIFESTS, OCI_LAYER, OCI_MANIFEST, Descriptor, Digest
from store.documents import DOCUMENT_LIMIT, parse_object, text_at
from store.errors import ArchiveError, BlobCorrupt, BlobMissing, StoreError
from store.faults import Attempt
from store.fsck import OURS, Checked, Finding, Progress, Steps, no_steps
from store.grave import Grave
from store.images import parse_config, parse_manifest
from store.layout import OCI_LAYOUT, Store
from store.marks import Marks, Needed, Used, keep_nothing
from store.prepared import read_text
from store.references import Named

ROUNDS = 5  # of checking and mending: a layer that is whole again lets its snapshot be checked, and that the ones on top of it


def check_and_mend(
    store: Store, *, used: Used = nothing_used, ended: Used = nothing_used, steps: Steps = no_steps,
    progress: Progress | None = None,
) -> Checked:  # fmt: skip
    """Check everything, mend what can be, and check again: `mended` is what was found damaged and is whole now.

    `used` gives what running containers stand on: no tree is taken from under them; `ended` the same of all containers, whose
    trees can be made again and nothing more. `steps` is as for `fsck.check`. What came from a file that is still there is taken
    from it again. Safe beside any other command. What cannot be mended stays as it is; a tree of which nobody knows what it
    should be is dropped.
    """
    checked = fsck.check(store, steps=steps, progress=progress)
    dropped = list(_drop_unknown(store, checked.unknown, ended))
    found: dict[str, Finding] = {}
    hints: dict[str, str] = {}
    for _ in range(ROUNDS):
        new = [finding for finding in checked.findings if finding.place not in hints]
        if not new:
            break
        for finding in new:
            found.setdefault(finding.place, finding)
            hint = _mend(store, finding, used)
            if hint:
                hints[finding.place] = hint
        checked = fsck.check(store, steps=steps, progress=progress)
    left = {finding.place for finding in checked.findings}
    mended = [_changed(finding, finding.hint, mended=True) for place, finding in found.items() if place not in left]
    rest = [_changed(finding, hints.get(finding.place, finding.hint), mended=False) for finding in checked.findings]
    return Checked(checked.blobs, checked.tars, checked.snapshots, checked.images, (*dropped, *mended, *rest), checked.unknown)


def _changed(finding: Finding, hint: str, *, mended: bool) -> Finding:
    return Finding(finding.place, finding.what, finding.images, hint, finding.digest, finding.chain, mended)


def _mend(store: Store, finding: Finding, used: Used) -> str:
    """Mend one thing; what to do where that cannot be."""
    folder = finding.place.partition("/")[0]
    try:
        if finding.place == "oci-layout":
            store.drafts.replace(f"{store.root}/oci-layout", OCI_LAYOUT, durable=True)
        elif finding.place == "references":
            store.references.refresh()
        elif finding.place == "index.json":
            return _rebuild_index(store) if finding.digest is None else _restore_documents(store, finding, finding.digest, used)
        elif folder == "prepared":
            with Attempt("delete a prepared image"):
                os.unlink(f"{store.root}/{finding.place}")  # the next run makes it again
        elif finding.chain:
            return _remake(store, finding, used)
        elif finding.digest is not None:
            return _restore(store, finding, finding.digest, used)
    except StoreError as err:
        return f"it could not be mended: {err.message}"
    return ""


def _rebuild_index(store: Store) -> str:
    with store.shared():
        store.references.rebuild(lambda: _images_found(store))
    return "index.json could not be made again"


def _images_found(store: Store) -> Iterator[Named]:
    """Every image whose manifest and config are there: by the names that `references`, written beside each index.json, has."""
    try:
        lines = read_text(f"{store.root}/references").splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        lines = []
    names: dict[str, list[str | None]] = {}
    for line in lines:
        known, _, hexadecimal = line.partition(" ")
        names.setdefault(hexadecimal, []).append(known)
    for digest, size in store.blobs.all():
        if size > DOCUMENT_LIMIT:
            continue
        try:
            given = Descriptor("", digest, size)
            data = store.blobs.read(given)
            media_type = text_at(parse_object(data, "a blob"), "mediaType", "a blob", OCI_MANIFEST)
            given = Descriptor(media_type, digest, size)
            if media_type not in MANIFESTS:
                continue
            _, config, _ = parse_manifest(data, given)
            parse_config(store.blobs.read(config), "a config")
        except StoreError:
            continue
        for name in names.get(digest.hex, [None]):
            yield Named(name, given)


def _remake(store: Store, finding: Finding, used: Used) -> str:
    """Make a snapshot again, unless somebody stands on it."""
    chain = finding.chain[-1].chain_id
    with Grave(store.drafts) as grave, store.exclusive(patience=PATIENCE) as alone:
        if not alone:
            return f"a container was just being started: {OURS} again"
        needed = Needed.now(store, keep_nothing, used)
        if chain in needed.used.trees:
            return f"a running container stands on it: stop that, then {OURS}"
        if chain in needed.leased:
            return f"a running command uses it: {OURS} when that has ended"
        for path in store.snapshot_places(chain):
            grave.take(path)
    with store.leased():
        store.use_layers(finding.chain)
        store.snapshots.trees(finding.chain)
    return ""


def _restore(store: Store, finding: Finding, digest: Digest, used: Used) -> str:
    """Get the bytes of a blob or a tar from where they are whole; delete what nothing needs."""
    blobs = store.tars if finding.place.startswith("layers/") else store.blobs
    with store.leased():
        what = fsck.known(store)
        names = what.names(digest)
        for path in fsck.origins(store, what, digest):
            if path == f"{store.root}/{finding.place}":
                continue
            try:
                with FileIO(path) as file, blobs.draft() as draft:
                    next_piece = feed(open_stream(file))
                    while piece := next_piece():
                        draft.write(piece)
                    draft.commit(OCI_LAYER, digest)
            except (OSError, StoreError):
                continue  # no better than what it was to mend
            return ""
        if blobs is store.blobs and (source := sources.place_of(store, digest)):
            try:
                with sources.opened(store, digest) as stream, blobs.draft() as draft:
                    next_piece = feed(stream)
                    while piece := next_piece():
                        draft.write(piece)
                    draft.commit("", digest)
            except (OSError, ArchiveError, BlobCorrupt, BlobMissing):
                return f"{source} does not have it any more: " + fsck.AGAIN.format(images=", ".join(names))
            return ""
    if names or what.broken:  # a broken image may need it, who knows
        return finding.hint
    return _drop(store, finding, digest, used)


def _restore_documents(store: Store, finding: Finding, image: Digest, used: Used) -> str:
    """Get a missing manifest or config from where it came."""
    with store.leased():
        documents = sorted(map(Digest.parse, fsck.known(store).documents.get(image, ())))
    for digest in documents:
        if not store.blobs.has(digest):
            _restore(store, finding, digest, used)
    return finding.hint


def _drop_unknown(store: Store, chains: Iterable[Digest], used: Used) -> Iterator[Finding]:
    """Move away what was made of these stacks, but for those that somebody uses; what is needed once more is made anew."""
    if not chains:
        return
    with Grave(store.drafts) as grave, store.exclusive(patience=PATIENCE) as alone:
        if not alone:
            return
        needed = Needed.now(store, keep_nothing, used)
        for chain in chains:
            if chain in needed.leased or chain in needed.used.trees:
                continue
            for path in store.snapshot_places(chain):
                if grave.take(path) is not None:
                    yield Finding(fsck.place_of(store, path), fsck.UNKNOWN, digest=chain, mended=True)


def _drop(store: Store, finding: Finding, digest: Digest, used: Used) -> str:
    """Delete a damaged blob that nothing needs."""
    marks = Marks(store)
    with Grave(store.drafts) as grave, store.exclusive(patience=PATIENCE) as alone:
        if not alone:
            return f"a container was just being started: {OURS} again"
        needed = Needed.now(store, keep_nothing, used)
        if digest not in needed.digests(marks, [entry.descriptor for entry in needed.entries]):
            grave.take(f"{store.root}/{finding.place}")
    return ""
