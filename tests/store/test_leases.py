"""Leases: what a living command names is kept, what a dead one named is not, and naming waits for whoever deletes."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from store.digest import OCI_LAYER, Digest
from store.drafts import Drafts, FileDraft
from store.errors import StoreError
from store.faults import Attempt
from store.layout import Store
from store.leases import Lease, leased
from tests.store.samples import layer_tar, put_image, put_layers

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


def named(store: Store, *, but: str = "") -> set[str]:
    return leased(store.drafts.path, but=but)


def test_a_lease_names_what_is_added_until_it_is_closed(store: Store) -> None:
    with Lease(store.drafts, f"{store.root}/blobs") as lease:
        assert named(store) == set()
        lease.add(ONE)
        lease.add(ONE, TWO)
        assert named(store) == {ONE, TWO}
        assert named(store, but=lease.path) == set()
    assert named(store) == set()
    assert os.listdir(store.drafts.path) == []


def test_a_lease_survives_the_sweep_of_other_commands_while_its_holder_lives(store: Store) -> None:
    with Lease(store.drafts, f"{store.root}/blobs") as lease:
        lease.add(ONE)
        Store.open(store.root)
        assert named(store) == {ONE}


def test_the_lease_of_a_killed_command_counts_for_nothing_and_is_swept(store: Store) -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); from store.layout import Store\n"
        "store = Store.open(sys.argv[2])\n"
        "with store.leased(): store.use(sys.argv[3]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program, os.getcwd(), store.root, ONE], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name.partition("-")[0] for name in os.listdir(store.drafts.path)] == ["lease"]
    assert named(store) == set()
    Store.open(store.root)
    assert os.listdir(store.drafts.path) == []


def test_whoever_names_something_waits_until_the_gate_is_open(store: Store) -> None:
    seen: list[str] = []
    with Lease(store.drafts, f"{store.root}/blobs") as lease:

        def name() -> None:
            lease.add(ONE)
            seen.append("named")

        with Store.open(store.root).exclusive(patience=0) as alone:
            assert alone
            thread = threading.Thread(target=name)
            thread.start()
            deadline = time.monotonic() + 5
            while named(store) != {ONE} and time.monotonic() < deadline:
                time.sleep(0.001)
            assert named(store) == {ONE}  # it is written down at once,
            assert seen == []  # but nothing may be looked at yet
        thread.join()
        assert seen == ["named"]


def test_everything_that_is_published_in_a_lease_is_named_by_it(store: Store) -> None:
    with store.leased():
        image = put_image(store, None, {"a": b"1"}, {"b": b"2"})
        with store.tars.draft() as draft:
            draft.write(layer_tar({"c": b"3"}))
            tar = draft.commit(OCI_LAYER).digest
        parts = {str(digest) for digest, _ in store.blobs.all()}
        assert named(store) == parts | {tar}
        assert str(image.digest) in parts
    assert named(store) == set()


def test_an_image_that_is_used_is_named_with_all_its_layers(store: Store) -> None:
    image = put_image(store, "app", {"a": b"1"}, {"b": b"2"})
    with store.leased():
        entry, loaded = store.use_image("app")
        expected = {str(image.digest), str(loaded.id)}
        for layer in loaded.layers:
            expected |= {str(layer.descriptor.digest), str(layer.diff_id), str(layer.chain_id)}
        assert entry.descriptor == image
        assert named(store) == expected


def test_leases_nest_and_the_outermost_decides(store: Store) -> None:
    with store.leased():
        with store.leased():
            store.use_layers(put_layers(store, {"a": b"1"}))
        assert named(store) != set()
        assert len(os.listdir(store.drafts.path)) == 1
    assert named(store) == set()
    assert store.lease == ""


def test_without_a_lease_nothing_is_named(store: Store) -> None:
    store.use(ONE)
    assert named(store) == set()


def test_whoever_holds_a_lease_cannot_delete(store: Store) -> None:
    with store.leased(), pytest.raises(StoreError, match="still making"), store.exclusive(patience=1):
        pass


def instead(lease: Lease, path: str) -> int:
    """From now on the lease writes to `path`; its own descriptor, to be put back."""
    assert lease._draft is not None
    own = lease._draft.descriptor
    lease._draft.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    return own


def test_a_half_written_line_names_nothing_and_spoils_no_other(store: Store) -> None:
    with Lease(store.drafts, f"{store.root}/blobs") as lease:
        with open(lease.path, "ab") as file:
            file.write(b"\nsha256:123")
        own = instead(lease, lease.path)
        lease.add(ONE)
        assert lease._draft is not None
        os.close(lease._draft.descriptor)
        lease._draft.descriptor = own
        assert named(store) == {ONE}


def deletable(store: Store) -> bool:
    with Store.open(store.root).exclusive(patience=0) as alone:
        return alone


def test_a_lease_that_finds_the_disk_full_keeps_the_gate_instead(store: Store) -> None:
    with Lease(store.drafts, f"{store.root}/blobs") as lease:
        own = instead(lease, "/dev/full")
        assert deletable(store)
        lease.add(ONE)
        assert not deletable(store)
        assert lease._draft is not None
        os.close(lease._draft.descriptor)
        lease._draft.descriptor = own
        lease.add(TWO)
    assert deletable(store)


def test_a_lease_for_which_there_is_no_space_keeps_the_gate_from_the_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Drafts, purpose: str) -> FileDraft:
        with Attempt("create a draft"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise AssertionError

    monkeypatch.setattr(Drafts, "named_file", full)
    image = put_image(store, "app", {"a": b"1"})
    with store.leased():
        assert store.lease == ""
        assert store.use_image("app")[0].descriptor == image
        assert not deletable(store)
    assert deletable(store)


def test_a_lease_that_cannot_be_written_down_for_another_reason_says_so(store: Store) -> None:
    with Lease(store.drafts, f"{store.root}/blobs") as lease:
        assert lease._draft is not None
        own, lease._draft.descriptor = lease._draft.descriptor, os.open("/dev/null", os.O_RDONLY)
        with pytest.raises(StoreError, match="cannot write the lease: bad file descriptor"):
            lease.add(ONE)
        os.close(lease._draft.descriptor)
        lease._draft.descriptor = own
        lease.add(ONE)
        assert named(store) == {ONE}
