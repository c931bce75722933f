"""Images by name: index.json, the one file that says which images there are.

It is an OCI image index. A named image is a descriptor with the annotation org.opencontainers.image.ref.name = "NAME:TAG", which
is what `skopeo copy oci:ROOT:NAME:TAG` looks for; a manifest with several names stands there several times. One whose last name
went to another image stands there without the annotation, until it is deleted (docker's "dangling" image).

`references`, beside it, is what `box run` reads: see prepared.py.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from errno import EIO, ENOENT
from typing import NamedTuple

from store.digest import OCI_INDEX, Descriptor, Digest
from store.documents import canonical, descriptor, list_at, parse_object
from store.drafts import Drafts, sync_directory
from store.errors import ReferenceMissing, StoreError, UsageError
from store.faults import Attempt
from store.locks import Lock
from store.prepared import signature
from store.record import Record

REF_NAME = "org.opencontainers.image.ref.name"
DEFAULT_TAG = "latest"
INDEX_LIMIT = 64 << 20

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[0-9]{1,5})?"
_NAME = re.compile(rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHORTEST_PREFIX = 3
_AGAIN = "box fsck --repair makes the list of images again, from the blobs and from the names as they were last"


class Reference(Record):
    """`NAME[:TAG][@DIGEST]` as a user writes it: the name is kept as it was written, a missing tag is `latest`.

    The grammar is that of registries (github.com/distribution/reference): lower case, no `..`, nothing that could be taken for an
    option, for a path or for more than one line.
    """

    name: str
    tag: str
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that `text` spells, or StoreError with the likely intent."""
        rest, at, spelt = text.partition("@")
        digest = Digest.parse(spelt) if at else None
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:  # no colon, or that of a registry's port
            name, colon, tag = rest, "", DEFAULT_TAG
        if len(name) > 255 or not _NAME.fullmatch(name):
            raise StoreError(f"not an image name: {_shown(text)}", hint=_name_hint(text, name))
        if not _TAG.fullmatch(tag):
            raise StoreError(f"not an image name: {_shown(text)}", hint="a tag is at most 128 letters, digits, '_', '.' and '-'")
        return cls(name, tag, digest)

    @property
    def full_name(self) -> str:
        """`NAME:TAG`: what the store knows the image by."""
        return f"{self.name}:{self.tag}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else self.full_name


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:97] + "...")


def _name_hint(text: str, name: str) -> str:
    lowered = name.lower()
    if lowered != name and _NAME.fullmatch(lowered):
        return f"names are lower case: {text.replace(name, lowered, 1)}"
    return "a name is like 'app', 'team/app:1.2' or 'registry.example:5000/team/app'"


class Named(NamedTuple):
    """An image of the store: `name` is `NAME:TAG`, or None where it has none."""

    name: str | None
    descriptor: Descriptor


class References:
    """The names in index.json."""

    __slots__ = ("_config_digest", "_drafts", "_root")

    def __init__(self, root: str, drafts: Drafts, config_digest: Callable[[Descriptor], Digest]) -> None:
        self._root = root
        self._drafts = drafts
        self._config_digest = config_digest

    def all(self) -> list[Named]:
        """Every image by every name it has, sorted by name; those without a name last."""
        return sorted(self._entries(), key=_order)

    def get(self, name: str) -> Descriptor:
        """The image that has this name (`NAME` means `NAME:latest`), or ReferenceMissing with the nearest name there is."""
        reference = Reference.parse(name)
        entries = self._entries()
        found = _find(entries, reference)
        if found is None:
            raise _missing(name, entries)
        return found.descriptor

    def resolve(self, text: str, *, only: bool = False) -> Named:
        """The image a user means by a name, `NAME@DIGEST`, a digest, or the first digits (3 or more) of an image's id or digest.

        An image's id is its config's digest, as docker and podman have it. A name wins over an id. ReferenceMissing when nothing
        fits, UsageError for what cannot be meant, StoreError when more than one image does. Manifests that share an id are one
        image to whoever looks at it: any of them is given. With `only` they are several.
        """
        entries = self._entries()
        if not text.startswith("sha256:"):
            found = _find(entries, _parse_or_none(text))
            if found is not None:
                return found
        digits = text.removeprefix("sha256:")
        if digits.strip("0123456789abcdef") or not _SHORTEST_PREFIX <= len(digits) <= 64:
            try:
                Reference.parse(text)  # a text that is no reference either is told so
            except StoreError as err:
                raise UsageError(err.message, hint=err.hint) from err
            raise _missing(text, entries)
        matches: dict[Digest, Named] = {}
        for entry in entries:
            digest = entry.descriptor.digest
            if digest not in matches and (digest.hex.startswith(digits) or self._id(entry).startswith(digits)):
                matches[digest] = Named(None, entry.descriptor)
        if not matches:
            raise _missing(text, entries)
        ids = {self._id(entry) for entry in matches.values()}
        if len(matches) > 1 and len(ids) == 1 and "" not in ids:
            if only:
                raise StoreError(
                    f"{len(matches)} images have the id {text!r}: their layers are packed differently",
                    hint="say which one, by its name or its digest: " + ", ".join(sorted(matches)),
                )
        elif len(matches) > 1:
            raise StoreError(
                f"{text!r} is the beginning of {len(matches)} image ids",
                hint="write more digits: " + ", ".join(sorted(self._id(entry)[:16] for entry in matches.values())),
            )
        return next(iter(matches.values()))

    def _id(self, entry: Named) -> str:
        try:
            return self._config_digest(entry.descriptor).hex
        except StoreError:
            return ""  # a damaged image has no id; it must not hide the others

    def set(self, name: str, descriptor: Descriptor) -> None:
        """Give the image this name, which leaves any other. On return it survives a crash.

        Whatever happens, every reader sees the old image under this name, or the new.
        """
        self.add([(name, descriptor)])

    def add(self, images: Iterable[tuple[str | None, Descriptor]]) -> None:
        """Make these images known, all in one step, each by its name or (None) by its digest alone."""
        named = [(Reference.parse(name).full_name if name is not None else None, given) for name, given in images]

        def change(entries: list[Named]) -> list[Named]:
            for name, given in named:
                taken = [entry for entry in entries if name is not None and entry.name == name]
                entries = [entry for entry in entries if entry not in taken]
                entries = _with_dangling(
                    entries, [entry.descriptor for entry in taken if entry.descriptor.digest != given.digest]
                )
                same = [entry for entry in entries if entry.descriptor.digest == given.digest]
                if name is None and same:
                    continue
                entries = [entry for entry in entries if entry not in same or entry.name is not None]
                entries.append(Named(name, _plain(given)))
            return entries

        self._change(change)

    def delete(self, name: str) -> Descriptor:
        """Take the name away. The image stays, without a name when this was its last."""
        reference = Reference.parse(name)
        gone: list[Named] = []

        def change(entries: list[Named]) -> list[Named]:
            found = next((entry for entry in entries if entry.name == reference.full_name), None)
            if found is None:
                raise _missing(name, entries)
            gone.append(found)
            return _with_dangling([entry for entry in entries if entry is not found], [found.descriptor])

        self._change(change)
        return gone[0].descriptor

    def forget(self, digests: Iterable[Digest], *, names: Collection[str] | None = None) -> None:
        """Drop these images with all their names; where `names` are given, not by a name that another command has added since.

        The caller holds the store's exclusive lock and deletes what they used.
        """
        dropped = frozenset(digests)

        def stays(entry: Named) -> bool:
            new = names is not None and entry.name is not None and entry.name not in names
            return new or entry.descriptor.digest not in dropped

        self._change(lambda entries: [entry for entry in entries if stays(entry)])

    def rebuild(self, images: Callable[[], Iterable[Named]]) -> None:
        """Replace an index.json that cannot be read by one of `images`; what lay there is kept as index.json.damaged-N. Nothing
        happens when it can be read."""
        with Attempt("lock the index"), Lock(self._root):
            try:
                self._entries()
            except StoreError as err:
                if isinstance(err.__cause__, OSError) and err.__cause__.errno not in (ENOENT, EIO):
                    raise  # it could be read, were there a descriptor or some memory left
                entries = list(images())
                self._keep_damaged()
                self._drafts.replace(f"{self._root}/index.json", _spell(entries), durable=True)
                self._derive(entries)

    def _keep_damaged(self) -> None:
        """Give index.json another name as well, that of none before it: it is there until it is replaced."""
        for number in itertools.count(1):
            try:
                os.link(f"{self._root}/index.json", f"{self._root}/index.json.damaged-{number}", follow_symlinks=False)
            except FileExistsError:
                continue
            except FileNotFoundError:
                return
            return

    def refresh(self) -> None:
        """Write `references` anew, for an index.json that somebody else replaced."""
        with Attempt("lock the index"), Lock(self._root):
            self._derive(self._entries())

    def _change(self, change: Callable[[list[Named]], list[Named]]) -> None:
        with Attempt("lock the index"):
            lock = Lock(self._root)
        with lock:
            data = self._read()
            entries = change(_parse(data))
            new = _spell(entries)
            if new != data:
                self._drafts.replace(f"{self._root}/index.json", new, durable=True)
            else:  # whoever wrote it may not have lived to make its name durable
                with Attempt("sync the index"):
                    sync_directory(self._root)
            self._derive(entries)

    def _derive(self, entries: Sequence[Named]) -> None:
        lines = [signature(os.stat(f"{self._root}/index.json"))]
        for name, given in entries:
            reference = _parse_or_none(name or "")  # another tool may have written a name that is none
            if reference is not None and reference.full_name == name:
                lines.append(f"{name} {given.digest.hex}")
        self._drafts.replace(f"{self._root}/references", ("\n".join(lines) + "\n").encode(), durable=False)

    def _entries(self) -> list[Named]:
        return _parse(self._read())

    def _read(self) -> bytes:
        path = f"{self._root}/index.json"
        with Attempt(f"read {path}"):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as err:
                raise StoreError(f"{path} is missing", hint=_AGAIN) from err
            try:
                pieces = []
                while piece := os.read(descriptor, 1 << 20):
                    pieces.append(piece)
                return b"".join(pieces)
            finally:
                os.close(descriptor)


def _parse(data: bytes) -> list[Named]:
    entries = []
    try:
        index = parse_object(data, "index.json", limit=INDEX_LIMIT)
        for item in list_at(index, "manifests", "index.json"):
            given = descriptor(item, "index.json")
            entries.append(Named(given.annotations.get(REF_NAME), _plain(given)))
    except StoreError as err:
        raise StoreError(err.message, hint=_AGAIN) from err
    return entries


def _spell(entries: Iterable[Named]) -> bytes:
    manifests = []
    for name, given in sorted(entries, key=_order):
        item = given.to_json()
        if name is not None:
            item["annotations"] = {**given.annotations, REF_NAME: name}
        manifests.append(item)
    return canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}) + b"\n"


def _order(entry: Named) -> tuple[bool, str, str]:
    return (entry.name is None, entry.name or "", entry.descriptor.digest)


def _plain(given: Descriptor) -> Descriptor:
    annotations = {key: value for key, value in given.annotations.items() if key != REF_NAME}
    return Descriptor(given.media_type, given.digest, given.size, annotations, given.platform)


def _with_dangling(entries: list[Named], images: Iterable[Descriptor]) -> list[Named]:
    known = {entry.descriptor.digest for entry in entries}
    return entries + [Named(None, image) for image in images if image.digest not in known]


def _parse_or_none(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except StoreError:
        return None


def _find(entries: Iterable[Named], reference: Reference | None) -> Named | None:
    if reference is None:
        return None
    for entry in entries:
        if reference.digest is None:
            if entry.name == reference.full_name:
                return entry
        elif entry.descriptor.digest == reference.digest and _name_of(entry) == reference.name:
            return entry
    return None


def _name_of(entry: Named) -> str | None:
    return entry.name.rpartition(":")[0] if entry.name is not None else None


def _missing(text: str, entries: Iterable[Named]) -> ReferenceMissing:
    from store.likeness import nearest

    names = sorted({entry.name for entry in entries if entry.name is not None})
    repositories = sorted({name.rpartition(":")[0] for name in names})
    wanted = text.partition("@")[0]
    if ":" in wanted.rpartition("/")[2]:
        wanted = wanted.rpartition(":")[0]
    meant = wanted if wanted in repositories else nearest(wanted, repositories)
    near = [name for name in names if name.rpartition(":")[0] == meant]
    if near:
        return ReferenceMissing(text, hint=f"did you mean {near[0]!r}?")
    return ReferenceMissing(
        text, hint="`box images` lists what there is" if names else "the store is empty: `box build` or `box load` fills it"
    )
