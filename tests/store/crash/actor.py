"""A command that is going to be killed: `actor.py REPOSITORY ROOT ACTION [MUTANT]`, run in an interpreter of its own.

It ends with 0, or with 1 and the StoreError's message. A mutant takes one safeguard out of the store; the tests show that
they notice each.
"""

import os
import stat
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from store import blobs, drafts, locks
from store.archive import load
from store.collect import delete_image, forget_images, gc
from store.digest import OCI_LAYER
from store.errors import StoreError
from store.images import stack
from store.layout import Store
from store.prepare import prepare

CONFIG = {"architecture": "amd64", "os": "linux", "created": "1980-01-01T00:00:00Z"}


def tar_of(text: bytes) -> bytes:
    """A layer with one file, made by the code that is not under test here."""
    from store.tar_read import FILE, Entry
    from store.tar_write import TarWriter

    made = bytearray()
    writer = TarWriter(made.extend)
    entry = Entry(FILE, b"file", 0o644, 0, 0, 0)
    entry.size = len(text)
    writer.add(entry, text)
    writer.finish()
    return bytes(made)


def put(store: Store, name: str, text: bytes) -> str:
    with store.leased():
        with store.blobs.draft() as draft:
            draft.write(tar_of(text))
            layer = draft.commit(OCI_LAYER)
        image = store.images.create(CONFIG, stack([(layer, layer.digest)]))
        store.references.set(name, image)
    return image.digest


def act(root: str, action: str) -> None:
    verb, _, argument = action.partition("=")
    store = Store.open(root)
    if verb == "open":
        pass
    elif verb == "old":
        put(store, "app", b"old")
        put(store, "kept", b"kept")
        prepare(store, "app")
    elif verb == "new":
        put(store, "app", b"new")
    elif verb == "put":
        put(store, argument, b"the same")
    elif verb == "load":
        with open(argument, "rb", buffering=0) as source:
            load(store, source)
    elif verb == "tree":
        prepare(store, "app")
    elif verb == "delete":
        delete_image(store, "app")
    elif verb == "prune":
        forget_images(store)
        gc(store)
    else:
        raise SystemExit(f"no action {verb}")


def mutate(mutant: str) -> None:
    """Take out one safeguard."""
    fsync = os.fsync
    replace = drafts.Drafts.replace

    def is_directory(descriptor: int) -> bool:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)

    def sync_only_files(descriptor: int) -> None:
        if not is_directory(descriptor):
            fsync(descriptor)

    def sync_only_directories(descriptor: int) -> None:
        if is_directory(descriptor):
            fsync(descriptor)

    def sync_and_try_again(descriptor: int) -> None:
        try:
            fsync(descriptor)
        except OSError:
            fsync(descriptor)

    def write_in_place(self: drafts.Drafts, path: str, data: bytes, *, durable: bool) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)

    def replace_slowly(self: drafts.Drafts, path: str, data: bytes, *, durable: bool) -> None:
        time.sleep(0.02)
        replace(self, path, data, durable=durable)

    def write_under_its_name(self: blobs.BlobDraft, data: bytes) -> None:
        self._hasher.update(data)
        self.size += len(data)
        self.publish(blobs.Descriptor("", self.digest(), self.size))
        drafts.write_all(self.fileno(), data)

    def commit_what_lies_there(self: blobs.BlobDraft, media_type: str, expected: object = None) -> blobs.Descriptor:
        return self.seal(media_type)

    if mutant == "only-directories-are-synced":
        os.fsync = sync_only_directories
    elif mutant == "only-files-are-synced":
        os.fsync = sync_only_files
    elif mutant == "a-failed-sync-is-tried-again":
        os.fsync = sync_and_try_again
    elif mutant == "the-index-is-written-in-place":
        drafts.Drafts.replace = write_in_place
    elif mutant == "blobs-are-written-under-their-names":
        blobs.BlobDraft.write = write_under_its_name
        blobs.BlobDraft.commit = commit_what_lies_there
    elif mutant == "slow":
        drafts.Drafts.replace = replace_slowly
    elif mutant == "slow-and-without-locks":
        drafts.Drafts.replace = replace_slowly
        locks.fcntl.flock = lambda descriptor, operation: None
    else:
        raise SystemExit(f"no mutant {mutant}")


if __name__ == "__main__":
    if len(sys.argv) > 4:
        mutate(sys.argv[4])
    try:
        act(sys.argv[2], sys.argv[3])
    except StoreError as err:
        sys.stdout.write(err.message)
        sys.exit(1)
