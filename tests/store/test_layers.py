"""Importing a layer: one pass to a durable blob and a tree, all of it or nothing."""

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.decompress import Bounds
from store.digest import OCI_LAYER, Digest
from store.errors import ArchiveError, BlobCorrupt, StoreError
from store.layers import import_layer
from store.layout import Store
from tests.store import seen
from tests.store.archives import archive, directory, file, hardlink, symlink
from tests.store.samples import damage

pytestmark = pytest.mark.needs("root")

REPOSITORY = str(Path(__file__).parents[2])
TAR = archive(directory(b"d/", 0o700), file(b"d/f", b"content" * 500_000), symlink(b"l", b"d/f"))


def contents(store: Store) -> list[str]:
    """Every path in the store that an import could leave something at."""
    found = []
    for name in ("blobs/sha256", "layers", "snapshots", "indexes", "drafts"):
        found += [f"{name}/{each}" for each in os.listdir(f"{store.root}/{name}")]
    return sorted(found)


def test_a_tarball_becomes_a_blob_and_a_tree(store: Store) -> None:
    layer = import_layer(store, io.BytesIO(gzip.compress(TAR)))

    assert layer.diff_id == layer.chain_id == layer.descriptor.digest == Digest.of(TAR)
    assert (layer.descriptor.media_type, layer.descriptor.size) == (OCI_LAYER, len(TAR))
    assert Path(store.blobs.path(layer.diff_id)).read_bytes() == TAR
    assert sorted(seen.image(store, [layer])) == [b".", b"d", b"d/f", b"l"]
    assert os.listdir(store.drafts.path) == []
    assert damage(store.root) == []


def test_the_tree_of_the_import_is_the_one_made_again_from_the_blob(store: Store) -> None:
    layer = import_layer(store, io.BytesIO(TAR))
    first = seen.image(store, [layer])
    store.snapshots.delete(layer.chain_id)
    assert store.snapshots.all() == []
    assert seen.image(store, [layer]) == first


def test_a_layer_may_link_to_what_its_parents_have(store: Store) -> None:
    parent = import_layer(store, io.BytesIO(TAR))
    child = import_layer(store, io.BytesIO(archive(hardlink(b"h", b"d/f"))), parents=[parent])
    with seen.shown(store, [parent, child]) as top:
        assert (top / "h").read_bytes() == b"content" * 500_000


def test_the_same_layer_twice_is_the_same_layer(store: Store) -> None:
    first = import_layer(store, io.BytesIO(TAR))
    before = contents(store)
    assert import_layer(store, io.BytesIO(TAR)) == first
    assert contents(store) == before


@pytest.mark.parametrize(
    ("data", "error", "how"),
    [
        (TAR, BlobCorrupt, {"expected": Digest.of(b"another")}),
        (TAR[:-2048], ArchiveError, {}),
        (gzip.compress(TAR)[:-1], ArchiveError, {}),
        (archive(file(b"good", b"x" * 5_000_000), file(b"../bad")), ArchiveError, {}),
        (gzip.compress(archive(file(b"zeros", bytes(8 << 20)))), ArchiveError, {"bounds": Bounds(ratio=10, floor=1 << 20)}),
        (b"no tar", ArchiveError, {}),
    ],
    ids=["another digest", "cut", "cut gzip", "hostile", "bomb", "no tar"],
)
def test_an_import_that_fails_leaves_the_store_as_it_was(
    data: bytes, error: type[StoreError], how: dict[str, object], store: Store
) -> None:
    import_layer(store, io.BytesIO(archive(file(b"other"))))
    before = contents(store)
    with pytest.raises(error):
        import_layer(store, io.BytesIO(data), **how)  # type: ignore[arg-type]
    assert contents(store) == before


_IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from store.layers import import_layer
from store.layout import Store
with open(sys.argv[3], "rb", buffering=0) as source:
    print(import_layer(Store.open(sys.argv[2], sys.argv[4]), source).diff_id)
"""


@pytest.mark.needs("strace")
@pytest.mark.parametrize(
    ("driver", "call"),
    [
        *(("erofs", call) for call in ("fsync", "linkat", "mkdir", "sync_file_range")),
        *(("overlay", call) for call in ("rename", "mkdirat")),
    ],
)
@pytest.mark.parametrize("what", ["signal=KILL", "error=EIO"])
def test_an_import_struck_at_any_call_publishes_all_or_nothing(driver: str, call: str, what: str, tmp_path: Path) -> None:
    big = archive(directory(b"a/"), directory(b"b/"), file(b"d/f", b"0123456789abcdef" * (3 << 20)))
    (tmp_path / "layer.tar").write_bytes(big)
    command = [sys.executable, "-I", "-B", "-c", _IMPORT, REPOSITORY, str(tmp_path / "store"), str(tmp_path / "layer.tar")]
    command.append(driver)
    Store.open(str(tmp_path / "store"))
    struck = 0
    for number in range(1, 40):
        trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{what}:when={number}"]
        done = subprocess.run([*trace, *command], capture_output=True, text=True, check=False)
        store = Store.open(str(tmp_path / "store"), driver)
        assert damage(store.root) == []
        assert os.listdir(store.drafts.path) == []
        if done.returncode == 0:
            assert done.stdout.strip() == Digest.of(big)
            break
        struck += 1
    assert struck, f"the import makes no {call}"
    layer = import_layer(store, io.BytesIO(big))
    assert store.blobs.has(layer.diff_id)
    assert sorted(seen.image(store, [layer])) == [b".", b"a", b"b", b"d", b"d/f"]


@pytest.mark.parametrize("driver", ["erofs", "overlay"])
def test_an_import_syncs_the_blob_before_it_can_be_seen(store: Store, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def noting_fsync(descriptor: int) -> None:
        done.append("sync " + ("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        fsync(descriptor)

    def noting_link(*names: object, **how: object) -> None:
        done.append("link")
        link(*names, **how)  # type: ignore[arg-type]

    store = Store.open(store.root, driver)
    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "link", noting_link)
    import_layer(store, io.BytesIO(TAR))
    assert done[:3] == ["sync file", "link", "sync directory"]
    assert set(done[3:]) <= {"link"}  # of what is derived
