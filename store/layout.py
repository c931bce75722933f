"""The store as a directory: an OCI image layout with what box adds to it (ARCHITECTURE.md has the picture)."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from io import FileIO

from store.blobs import Blobs
from store.digest import OCI_INDEX, Digest, digests_in
from store.documents import canonical
from store.drafts import Drafts, sync_directory
from store.errors import BlobMissing, StoreError, StoreMissing
from store.faults import Attempt
from store.format import FORMAT, check_format, not_a_directory
from store.images import Image, Images, Layer
from store.leases import Lease
from store.locks import Lock
from store.references import Named, References
from store.snapshots import Driver

RESERVE = 128 << 10
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_DERIVED = ("snapshots", "snapshots/empty", "indexes", "copies", "prepared", "cache", "containers", "logs", "drafts")
_DIRECTORIES = ("blobs", "blobs/sha256", "layers", *_DERIVED)
SNAPSHOTS = ("indexes", "snapshots", "copies")  # where the drivers keep what they made of a stack, by chain id
_KNOWN = frozenset({"oci-layout", "index.json", "reserve", *_DIRECTORIES})


class Store:
    """The door to everything in one store. Open it with `Store.open`; it holds nothing that would have to be closed."""

    def __init__(self, root: str, driver: str = "") -> None:
        self.root = root
        self._driver = driver
        self.drafts = Drafts(f"{root}/drafts")
        self.blobs = Blobs(f"{root}/blobs/sha256", self.drafts, self.use)
        self.tars = Blobs(f"{root}/layers", self.drafts, self.use)
        self.images = Images(self.blobs)
        self.references = References(root, self.drafts, self.images.config_digest)
        self._sharing = 0
        self._lease: Lease | None = None

    @classmethod
    def open(cls, root: str, driver: str = "", *, make: bool = True) -> "Store":
        """The store at `root`, made when there is none, rid of what killed commands left behind. `driver` is the name of the one
        to be used; without it, the best that works here.

        FormatTooNew when a newer box wrote it, StoreError when the directory is something else or open to other users,
        StoreMissing when there is none and it is not to be made; nothing is touched then.
        """
        root = os.path.abspath(root)
        store = cls(root, driver)
        with Attempt(f"open the store {root}"):
            if not check_format(root):
                if not make:
                    store._check_strangers()
                    raise StoreMissing(root)
                store._create()
                return store
            _check_owner(root)
            store._make(_DERIVED)  # somebody may have freed some space by hand
            store.drafts.sweep()
            if os.path.isdir(f"{root}/mounts") and os.listdir(f"{root}/mounts"):
                from store.mounts import sweep

                sweep(root)
        return store

    @cached_property
    def snapshots(self) -> Driver:
        """The driver that turns this store's layers into trees: the one asked for, else the best that works here.

        StoreError when the one asked for does not work here.
        """
        from store.probe import probed, require

        name = require(self, self._driver) if self._driver else probed(self)
        return next(driver for driver in self.drivers() if driver.name == name)

    @property
    def forced(self) -> bool:
        """Whether a certain driver was asked for."""
        return self._driver != ""

    def drivers(self) -> "list[Driver]":
        """Every driver that may have made something here, for whoever deletes or checks it."""
        from store.snapshot_copy import CopyDriver
        from store.snapshot_erofs import ErofsDriver
        from store.snapshot_overlay import OverlayDriver

        trees = OverlayDriver(f"{self.root}/snapshots", self.drafts, self.open_layer)
        copies = CopyDriver(f"{self.root}/copies", f"{self.root}/snapshots/empty", self.drafts, self.open_layer)
        return [ErofsDriver(self, trees), trees, copies]

    def open_layer(self, layer: Layer) -> FileIO:
        """The layer's tar, or where that is missing its compressed blob: for `unpack`, which sees through the compression and
        verifies the diff_id."""
        with Attempt(f"read layer {layer.diff_id}"):
            if layer.compressed:
                for blobs in (self.tars, self.blobs):  # an uncompressed blob of these bytes may be there for another image
                    with suppress(FileNotFoundError):
                        return FileIO(blobs.path(layer.diff_id))
            try:
                return FileIO(self.blobs.path(layer.descriptor.digest))
            except FileNotFoundError as err:
                raise BlobMissing(layer.descriptor.digest, hint="load or build the image again") from err

    def has_tar(self, diff_id: Digest) -> bool:
        """Whether the uncompressed layer is there, in its own place or as a blob: for someone who has it in the lease."""
        return self.tars.has(diff_id) or self.blobs.has(diff_id)

    def prepared(self) -> list[Digest]:
        """The manifests of the images that are prepared for `box run`."""
        return digests_in(f"{self.root}/prepared")

    def snapshot_places(self, chain: Digest) -> list[str]:
        """All that drivers, this store's or one that was forced, may have made of the stack `chain`: a directory each, which
        whoever deletes moves away (store/grave.py), with the gate shut."""
        return [f"{self.root}/{folder}/{chain.hex}" for folder in SNAPSHOTS]

    def snapshot_chains(self) -> list[Digest]:
        """The stacks of which there is any such thing."""
        return sorted({digest for folder in SNAPSHOTS for digest in digests_in(f"{self.root}/{folder}")})

    @contextmanager
    def shared(self) -> Iterator[None]:
        """In this block nothing at all is deleted, and whoever deletes waits: for a look-up or a name, for no work.

        Work takes a lease: `leased`.
        """
        with Attempt("lock the store"):
            lock = Lock(f"{self.root}/blobs", shared=True)
        self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            lock.close()

    @contextmanager
    def leased(self) -> Iterator[None]:
        """In this block nothing is deleted that this store has published or that it says it uses (store/leases.py). Nests."""
        if self._lease is not None:
            yield
            return
        with Lease(self.drafts, f"{self.root}/blobs") as self._lease:
            try:
                yield
            finally:
                self._lease = None

    @property
    def lease(self) -> str:
        """The file of the lease that is held; empty for none."""
        return self._lease.path if self._lease is not None else ""

    def use(self, *digests: str) -> None:
        """Add blobs, tars (diff_id) and stacks (chain_id) to the lease, if one is held; only then look whether they are there."""
        if self._lease is not None:
            self._lease.add(*digests)

    def use_layers(self, layers: Iterable[Layer]) -> None:
        """The same for all that layers are made of."""
        self.use(*(str(digest) for layer in layers for digest in (layer.descriptor.digest, layer.diff_id, layer.chain_id)))

    def use_image(self, text: str) -> tuple[Named, Image]:
        """The image that `text` names (see `References.resolve`), and from now on in the lease with all its layers."""
        with self.shared():
            named = self.references.resolve(text)
            image = self.images.load(named.descriptor)
            self.use(named.descriptor.digest, image.descriptor.digest, image.id)
            self.use_layers(image.layers)
        return named, image

    @contextmanager
    def exclusive(self, *, patience: float) -> Iterator[bool]:
        """In this block nobody is in a `shared` one, and no lease grows; False when that could not be had within `patience`
        seconds."""
        if self._sharing or self._lease is not None:
            raise StoreError("blobs cannot be deleted while this command is still making some")
        with Attempt("lock the store"):
            lock = Lock.attempt(f"{self.root}/blobs", patience=patience)
        if lock is None:
            yield False
            return
        with lock:
            yield True

    def keep_reserve(self) -> None:
        """See to it that there is the reserve: space for the few blocks that deleting an image has to write."""
        if not os.path.lexists(f"{self.root}/reserve"):
            self.drafts.replace(f"{self.root}/reserve", bytes(RESERVE), durable=False)

    def spend_reserve(self) -> bool:
        """Give its space back to the file system; False when that was done already."""
        try:
            os.unlink(f"{self.root}/reserve")
        except FileNotFoundError:
            return False
        return True

    def _make(self, directories: Iterable[str]) -> None:
        """Make those directories that are missing."""
        for name in directories:
            path = f"{self.root}/{name}"
            if not os.path.isdir(path):
                os.makedirs(path, mode=0o700, exist_ok=True)
                if name == "snapshots/empty":
                    os.chmod(path, 0o755)  # a container's root, whatever the umask is
                    os.utime(path, (0, 0))

    def _check_strangers(self) -> None:
        strangers = sorted(set(_names(self.root)) - _KNOWN)
        if strangers:
            raise StoreError(
                f"{self.root} is not a store: it has {strangers[0]!r} in it", hint="choose an empty directory with --root"
            )

    def _create(self) -> None:
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        except FileExistsError as err:
            raise not_a_directory(self.root) from err
        except (PermissionError, FileNotFoundError) as err:
            raise StoreError(
                f"cannot make the store {self.root}: {os.strerror(err.errno or 0).lower()}",
                hint="choose a directory of your own with --root or BOX_ROOT",
            ) from err
        with Lock(self.root):
            if check_format(self.root):  # another command was first
                return
            self._check_strangers()
            os.chmod(self.root, 0o700)
            self._make(_DIRECTORIES)
            if not os.path.lexists(f"{self.root}/index.json"):
                index = canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}) + b"\n"
                self.drafts.replace(f"{self.root}/index.json", index, durable=True)
            self.drafts.replace(f"{self.root}/oci-layout", OCI_LAYOUT, durable=True)
            self.keep_reserve()
            sync_directory(f"{self.root}/blobs")
            # Last: a directory without it is a store that was never finished, and is finished by the next command.
            self.drafts.replace(f"{self.root}/format", f"{FORMAT}\n".encode(), durable=True)
            sync_directory(os.path.dirname(self.root))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _check_owner(root: str) -> None:
    status = os.stat(root)
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"the store {root} belongs to user {status.st_uid}", hint="run box as that user, or choose another with --root"
        )
    if status.st_mode & 0o077:
        # Its trees hold set-uid programs of other systems, which must stay out of other users' reach.
        raise StoreError(f"the store {root} is open to other users (mode {status.st_mode & 0o7777:o})", hint=f"chmod 700 {root}")
