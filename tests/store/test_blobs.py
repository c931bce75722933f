"""Bytes by digest."""

import errno
import os
from pathlib import Path

import pytest

from store.digest import Descriptor, Digest
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.layout import Store

DATA = b"some bytes" * 1000


def test_what_was_put_is_read_back(store: Store) -> None:
    descriptor = store.blobs.put_bytes(DATA, "a/b")
    assert descriptor == Descriptor("a/b", Digest.of(DATA), len(DATA))
    assert store.blobs.read(descriptor) == DATA
    assert list(store.blobs.all()) == [(descriptor.digest, len(DATA))]


def test_blobs_that_go_while_they_are_listed_are_not_listed(store: Store) -> None:
    for number in range(5):
        store.blobs.put_bytes(b"%d" % number, "a/b")
    listed = store.blobs.all()
    first, _ = next(listed)
    for name in os.listdir(store.blobs.directory):
        if name != first.hex:
            os.unlink(f"{store.blobs.directory}/{name}")
    assert list(listed) == []


def test_a_draft_is_invisible_until_it_is_committed(store: Store) -> None:
    with store.blobs.draft() as draft:
        draft.write(DATA[:100])
        draft.write(memoryview(DATA)[100:])
        assert list(store.blobs.all()) == []
        descriptor = draft.commit("a/b")
    assert store.blobs.read(descriptor) == DATA


def test_a_draft_that_is_not_committed_leaves_nothing(store: Store) -> None:
    with store.blobs.draft() as draft:
        draft.write(DATA)
    assert list(store.blobs.all()) == []
    assert os.listdir(store.drafts.path) == []


def test_bytes_that_are_not_those_expected_are_dropped(store: Store) -> None:
    with store.blobs.draft() as draft, pytest.raises(BlobCorrupt):
        draft.write(DATA)
        draft.commit("a/b", Digest.of(b"other"))
    assert list(store.blobs.all()) == []


@pytest.mark.parametrize("change", ["flip", "cut", "grow"])
def test_a_damaged_blob_is_never_read(store: Store, change: str) -> None:
    descriptor = store.blobs.put_bytes(DATA, "a/b")
    path = Path(store.blobs.path(descriptor.digest))
    path.chmod(0o600)
    path.write_bytes({"flip": b"S" + DATA[1:], "cut": DATA[:-1], "grow": DATA + b"x"}[change])
    with pytest.raises(BlobCorrupt):
        store.blobs.read(descriptor)
    with pytest.raises(BlobCorrupt), store.blobs.open_digest(descriptor.digest) as reader:
        buffer = memoryview(bytearray(512))
        while reader.readinto(buffer):
            pass


def test_a_blob_that_shrinks_while_it_is_read_is_damaged(store: Store) -> None:
    descriptor = store.blobs.put_bytes(DATA, "a/b")
    path = store.blobs.path(descriptor.digest)
    with store.blobs.open(descriptor) as reader:
        assert reader.read(10) == DATA[:10]
        os.chmod(path, 0o600)
        os.truncate(path, 20)
        with pytest.raises(BlobCorrupt):
            reader.read()


def test_a_blob_put_again_heals_a_damaged_one(store: Store) -> None:
    descriptor = store.blobs.put_bytes(DATA, "a/b")
    path = Path(store.blobs.path(descriptor.digest))
    path.chmod(0o600)
    path.write_bytes(b"S" + DATA[1:])
    store.blobs.put_bytes(DATA, "a/b")
    assert store.blobs.read(descriptor) == DATA
    assert os.listdir(store.drafts.path) == []


def test_a_blob_of_another_size_than_its_descriptor_says_is_damaged(store: Store) -> None:
    descriptor = store.blobs.put_bytes(DATA, "a/b")
    with pytest.raises(BlobCorrupt, match="long instead of"):
        store.blobs.read(Descriptor("a/b", descriptor.digest, 5))


def test_a_missing_blob_is_said_to_be_missing(store: Store) -> None:
    with pytest.raises(BlobMissing):
        store.blobs.read(Descriptor("a/b", Digest.of(b"no"), 2))


def test_a_blob_larger_than_the_limit_is_not_read_into_memory(store: Store) -> None:
    with pytest.raises(StoreError, match="too large"):
        store.blobs.read(Descriptor("a/b", Digest.of(b"no"), 5 << 20))


def test_a_link_in_the_place_of_a_blob_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    os.symlink(tmp_path / "secret", store.blobs.path(Digest.of(DATA)))
    with pytest.raises(StoreError):
        store.blobs.open_digest(Digest.of(DATA))


def test_the_first_failed_fsync_is_fatal_and_not_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "injected")

    with store.blobs.draft() as draft:
        draft.write(DATA)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="input/output error") as caught:
            draft.commit("a/b")
    assert len(calls) == 1
    assert "dmesg" in caught.value.hint
    assert list(store.blobs.all()) == []


def test_blobs_are_made_where_the_file_system_has_no_nameless_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without_tmpfile(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "injected")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", without_tmpfile)
    with store.blobs.draft() as draft:
        draft.write(DATA)
        assert Store.open(store.root).drafts.sweep() == 0  # it is held, so it is not swept
        descriptor = draft.commit("a/b")
    with store.blobs.draft() as draft:
        draft.write(b"dropped")
    assert store.blobs.read(descriptor) == DATA
    assert os.listdir(store.drafts.path) == []
