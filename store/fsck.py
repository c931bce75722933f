"""Checking all of a store, and mending what can be made again from what is whole.

Everything with a digest is read and hashed; snapshots are compared with what their tars make, whether an image has the stack or
only the build cache. It is done under a lease, so other
commands go on; nothing is mended by a guess, and nothing is thrown away that something needs: what cannot be mended is named with
the images that need it and with what brings it back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC
from hashlib import file_digest

from store import sources
from store.blobs import Blobs
from store.digest import Descriptor, Digest
from store.documents import parse_object
from store.errors import StoreError
from store.images import Image, Layer, parse_manifest
from store.layout import Store
from store.leases import leased
from store.marks import Marks
from store.prepared import boot_id, parse_prepared, read_text, signature, spell
from store.record import Record
from store.references import Named

AGAIN = "load or build {images} again"
OURS = "box fsck --repair"
UNKNOWN = "nothing says what it was made of"

Progress = Callable[[str], None]
Steps = Callable[[], Iterable[tuple[str, Layer]]]


def no_steps() -> Iterable[tuple[str, Layer]]:
    """The `steps` of a store without a build cache."""
    return ()


class Finding(Record):
    """Something damaged: its `place` below the root, `what` is wrong, the `images` that need it, and what to do next (`hint`).

    `digest` and `chain` say what it is where it has a digest; `mended` that it was made again.
    """

    place: str
    what: str
    images: tuple[str, ...] = ()
    hint: str = OURS
    digest: Digest | None = None
    chain: tuple[Layer, ...] = ()
    mended: bool = False


class Checked(Record):
    """What was looked at, and what was found. `unknown` are the stacks that something was made of, nobody knows what: no image
    has them, and no step of a build left them."""

    blobs: int
    tars: int
    snapshots: int
    images: int
    findings: tuple[Finding, ...]
    unknown: tuple[Digest, ...] = ()

    @property
    def damaged(self) -> tuple[Finding, ...]:
        """What is damaged still."""
        return tuple(finding for finding in self.findings if not finding.mended)


class Known(Record):
    """What the store should be: its images, whole ones by their descriptors, who needs what, and of the broken ones what is known
    of their parts (`documents`)."""

    entries: tuple[Named, ...]
    whole: dict[Digest, Image]
    broken: dict[Digest, str]
    needs: dict[str, tuple[str, ...]]
    documents: dict[Digest, set[str]]

    def names(self, digest: str) -> tuple[str, ...]:
        """The images that need this blob, tar or stack."""
        return self.needs.get(digest, ())

    def layers(self) -> Iterator[Layer]:
        """Every layer of every image."""
        for image in self.whole.values():
            yield from image.layers


def known(store: Store) -> Known:
    """What the images in index.json need, all of it in the lease from now on. StoreError when index.json is damaged."""
    marks = Marks(store)
    whole: dict[Digest, Image] = {}
    broken: dict[Digest, str] = {}
    needs: dict[str, list[str]] = {}
    documents: dict[Digest, set[str]] = {}
    with store.shared():
        entries = store.references.all()
        for entry in entries:
            given = entry.descriptor
            parts: Iterable[str]
            try:
                image = marks.of(given)
                parts = image.parts
                if image.id:
                    whole[given.digest] = store.images.load(given)
            except StoreError as err:
                broken[given.digest] = _reason(err)
                documents[given.digest], layers = _of_broken(store, given)
                parts = documents[given.digest] | layers
            for part in parts:
                needs.setdefault(str(part), []).append(shown(entry))
            store.use(*parts)
    return Known(tuple(entries), whole, broken, {part: tuple(dict.fromkeys(names)) for part, names in needs.items()}, documents)


def check(store: Store, *, steps: Steps = no_steps, progress: Progress | None = None) -> Checked:
    """Look at everything. OSErrors of reading are findings, too.

    `steps` gives the layers that a build cache knows, each with the chain id of what it lies on (empty for nothing).
    """
    say = progress or (lambda _: None)
    with store.leased():
        try:
            what = known(store)
        except StoreError as err:
            hint = f"{OURS} makes it again from the blobs and from the names as they were last"
            finding = Finding("index.json", _reason(err), (), hint)
            return Checked(0, 0, 0, 0, (*_layout(store), finding))
        say("references")
        findings = [*_layout(store), *_references(store)]
        say("blobs")
        blobs = list(_hashes(store, store.blobs))
        tars = list(_hashes(store, store.tars))
        findings += _broken_images(store, what, {digest for digest, reason in blobs if reason})
        findings += [_bytes(store.blobs, digest, reason, what, store) for digest, reason in blobs if reason]
        findings += [_bytes(store.tars, digest, reason, what, store) for digest, reason in tars if reason]
        bad = {finding.digest for finding in findings}
        findings += _missing(store, what, bad)
        bad = {finding.digest for finding in findings}
        say("snapshots")
        stacks, unknown = _stacks(store, what, steps)
        verified = list(_snapshots(store, stacks, what, bad))
        findings += [finding for finding in verified if finding.what]
        say("prepared images")
        findings += _prepared(store, what)
    return Checked(len(blobs), len(tars), len(verified), len(what.entries), tuple(findings), tuple(unknown))


def shown(entry: Named) -> str:
    """An image as a user can name it."""
    return entry.name or entry.descriptor.digest.hex[:12]


def place_of(store: Store, path: str) -> str:
    """A path below the store's root."""
    return path.removeprefix(store.root + "/")


def _layout(store: Store) -> Iterator[Finding]:
    try:
        if parse_object(read_text(f"{store.root}/oci-layout").encode(), "oci-layout").get("imageLayoutVersion") == "1.0.0":
            return
        reason = "it is not what the OCI image layout asks for"
    except (OSError, UnicodeDecodeError, StoreError) as err:
        reason = _reason(err)
    yield Finding("oci-layout", reason)


def _references(store: Store) -> Iterator[Finding]:
    """`references` is derived: it may be stale, and is then not believed, but what claims to be of this index must be."""
    try:
        lines = read_text(f"{store.root}/references").splitlines()
        with store.shared():
            current = signature(os.stat(f"{store.root}/index.json"))
            names = {entry.name: entry.descriptor.digest.hex for entry in store.references.all() if entry.name is not None}
            if signature(os.stat(f"{store.root}/index.json")) != current:
                return  # replaced meanwhile, and `references` after it
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as err:
        yield Finding("references", _reason(err))
        return
    if lines[:1] == [current]:
        for line in lines[1:]:
            name, _, digest = line.partition(" ")
            if names.get(name) != digest:
                yield Finding("references", f"{name} is not what index.json says", (name,))
                return


def _hashes(store: Store, blobs: Blobs) -> Iterator[tuple[Digest, str]]:
    """Every blob there, and what is wrong with it (empty: nothing). What is deleted meanwhile is passed over."""

    def judged(digest: Digest) -> tuple[Digest, str | None]:
        try:
            with open(blobs.path(digest), "rb", buffering=0) as file:
                actual = file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return digest, None
        except OSError as err:
            return digest, _reason(err)
        return digest, "" if actual == digest.hex else f"its bytes are sha256:{actual}"

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 4)) as pool:
        for digest, reason in pool.map(judged, sorted(digest for digest, _ in blobs.all())):
            if reason is not None:
                yield digest, reason


def _bytes(blobs: Blobs, digest: Digest, reason: str, what: Known, store: Store) -> Finding:
    names = what.names(digest)
    place = place_of(store, blobs.path(digest))
    return Finding(place, reason, names, _hint(digest, what, store, place), digest)


def _of_broken(store: Store, given: Descriptor) -> tuple[set[str], set[str]]:
    """What is known of a broken image: its manifest with its config, and its layers."""
    documents = {str(given.digest)}
    try:
        _, config, layers = parse_manifest(store.blobs.read(given), given)
    except StoreError:
        return documents, set()
    return documents | {str(config.digest)}, {str(layer.digest) for layer in layers}


def _missing(store: Store, what: Known, bad: set[Digest | None]) -> Iterator[Finding]:
    """Blobs of layers that are not there at all (those of manifests and configs make a broken image)."""
    seen: set[str] = set()
    for image in what.whole.values():
        for layer in image.layers:
            digest = layer.descriptor.digest
            if digest in seen or digest in bad or store.blobs.size(digest) == layer.descriptor.size:
                continue
            seen.add(digest)
            place = place_of(store, store.blobs.path(digest))
            size = store.blobs.size(digest)
            reason = "it is missing" if size is None else f"it has {size} bytes instead of {layer.descriptor.size}"
            yield Finding(place, reason, what.names(digest), _hint(digest, what, store, place), digest)


def _broken_images(store: Store, what: Known, bad: set[Digest]) -> Iterator[Finding]:
    for digest, reason in what.broken.items():
        names = what.names(digest)
        if bad & what.documents[digest]:
            continue  # its manifest or its config is named among the blobs
        yield Finding(
            "index.json", f"image {digest.hex[:12]}: {reason}", names,
            f"{AGAIN.format(images=', '.join(names))}, or delete it: box rmi {digest.hex[:12]}", digest,
        )  # fmt: skip


def _hint(digest: Digest, what: Known, store: Store, place: str) -> str:
    names = what.names(digest)
    if not names:
        return f"nothing needs it: {OURS} deletes it"
    if any(path != f"{store.root}/{place}" for path in origins(store, what, digest)):
        return f"{OURS} makes it again"
    source = sources.place_of(store, digest)
    if source:
        return f"{OURS} takes it again from {source}"
    return AGAIN.format(images=", ".join(names))


def origins(store: Store, what: Known, digest: Digest) -> Iterator[str]:
    """Where the bytes of an uncompressed layer may be had: as a tar, as a blob, as a compressed blob."""
    for layer in what.layers():
        if layer.diff_id == digest:
            for path in (store.tars.path(digest), store.blobs.path(digest), store.blobs.path(layer.descriptor.digest)):
                if os.path.exists(path):
                    yield path


def _stacks(store: Store, what: Known, steps: Steps) -> tuple[list[tuple[Layer, ...]], list[Digest]]:
    """The stacks of which there is a snapshot, in the lease from now on, the lowest first; and those that nothing explains."""
    present = store.snapshot_chains()
    with store.shared():
        busy = leased(store.drafts.path, but=store.lease)  # what is being made is handed over before its lease ends
        known: dict[str, tuple[str, Layer]] = {str(layer.chain_id): (parent, layer) for parent, layer in steps()}
        for image in what.whole.values():
            parent = ""
            for layer in image.layers:
                known[layer.chain_id] = (parent, layer)
                parent = layer.chain_id
        stacks: list[tuple[Layer, ...]] = []
        unknown: list[Digest] = []
        for chain in present:
            stack: list[Layer] = []
            at = str(chain)
            while at in known and len(stack) <= len(known):
                at, layer = known[at]
                stack.insert(0, layer)
            store.use_layers(stack)
            if not at and (what.names(chain) or all(_has(store, layer) for layer in stack)):
                stacks.append(tuple(stack))
            elif chain not in busy and any(map(os.path.lexists, store.snapshot_places(chain))):
                unknown.append(chain)
    return sorted(stacks, key=len), unknown


def _has(store: Store, layer: Layer) -> bool:
    return store.blobs.has(layer.descriptor.digest) or store.has_tar(layer.diff_id)


def _snapshots(store: Store, stacks: Iterable[tuple[Layer, ...]], what: Known, bad: set[Digest | None]) -> Iterator[Finding]:
    """One for each stack, with an empty `what` where all that was made of it is whole. They come from the lowest up, since each
    is made on those below."""
    damaged: set[Digest] = set()
    for stack in stacks:
        layer = stack[-1]
        places = [path for path in store.snapshot_places(layer.chain_id) if os.path.lexists(path)]
        if not places or any(each.diff_id in bad or each.descriptor.digest in bad or each.chain_id in damaged for each in stack):
            continue  # there is nothing to compare it with; what is damaged further down is named
        try:
            found = (driver.verify(layer, stack[:-1]) for driver in store.drivers())
            reason = next(filter(None, found), "")
        except (StoreError, OSError) as err:
            reason = _reason(err)
        if reason:
            damaged.add(layer.chain_id)
        yield Finding(place_of(store, places[0]), reason, what.names(layer.chain_id), OURS, layer.chain_id, stack)


def _prepared(store: Store, what: Known) -> Iterator[Finding]:
    from store.prepare import describe

    for digest in store.prepared():
        place = f"prepared/{digest.hex}"
        try:
            text = read_text(f"{store.root}/{place}")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as err:
            yield Finding(place, _reason(err), what.names(digest))
            continue
        fields = text.split("\0")
        if fields[1:2] != [boot_id()]:
            continue  # of an earlier boot, or cut short before that: not believed by anyone
        image = what.whole.get(digest)
        given = next((entry.descriptor for entry in what.entries if entry.descriptor.digest == digest), None)
        if image is None or given is None:
            continue  # gc takes it away
        try:
            prepared = parse_prepared(store.root, "", fields)
            inside = [tree.removeprefix(store.root + "/") for tree in prepared.trees]
            wanted = spell(describe(image, Named(None, given), prepared.trees), boot_id(), inside).decode()
        except (StoreError, ValueError, IndexError):
            wanted = ""
        if text != wanted:
            yield Finding(place, "it is not what the image's config says", what.names(digest), OURS, digest)


def _reason(err: Exception) -> str:
    """What `err` says of the thing that was looked at; raised on where it says something of the machine."""
    cause = err.__cause__ if isinstance(err, StoreError) else err
    if isinstance(cause, OSError) and cause.errno in (ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM):
        if isinstance(err, StoreError):
            raise err
        raise StoreError(f"the store cannot be checked: {os.strerror(cause.errno).lower()}") from err
    if isinstance(err, StoreError):
        return err.message
    return os.strerror(err.errno or 0).lower() if isinstance(err, OSError) else str(err)
