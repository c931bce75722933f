"""The `erofs` driver's indexes: merged when a stack is high, made again when they are stale, damaged or cut short."""

import os
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from store import fsck, snapshot_erofs
from store.digest import OCI_LAYER_GZIP, Digest
from store.erofs_format import DIGEST_SIZE
from store.errors import BlobMissing, StoreError
from store.images import Layer
from store.images import stack as stack_of
from store.layers import import_layer
from store.layout import Store
from store.mend import check_and_mend
from store.snapshot_erofs import STACK_LIMIT
from tests.store import seen
from tests.store.archives import archive, directory, file, hardlink, pax, symlink
from tests.store.drivers import Sides
from tests.store.samples import CONFIG, compressed

pytestmark = pytest.mark.needs("root", "overlay", "erofs")

REPOSITORY = str(Path(__file__).parents[2])


def layer(number: int) -> bytes:
    """One of many: what it adds, the next ones change, replace, hide or delete."""
    name = b"%d" % number
    before = b"%d" % (number - 1)
    members = [
        directory(b"d/", mode=0o700 + number % 8),
        file(b"d/" + name, b"content of " + name * 300, uid=number),
        file(b"same", name),
        directory(name + b"/"),
        file(name + b"/inner", b"x" * number),
        hardlink(name + b"/linked", name + b"/inner"),
        symlink(b"newest", b"d/" + name),
        pax({b"SCHILY.xattr.user.number": name}) + file(b"with-attributes", b"a"),
        file(b"fresh-%d/gone-later" % number, b"x"),
        file(b"fresh-%d/kept" % number, b"x"),
    ]
    if number:
        members.append(file(b"fresh-%s/.wh.gone-later" % before))
    if number % 3 == 1:
        members.append(file(before + b"/.wh.inner"))
    if number % 4 == 2:
        members += [file(before + b"/.wh..wh..opq"), file(before + b"/after", b"opaque")]
    if number % 5 == 3:
        members += [file(b".wh." + before), file(b"d/.wh." + before)]
    if number % 7 == 5:
        members.append(file(before, b"a file where a directory was"))
    if number % 11 == 8:
        members.append(hardlink(b"from-below-%d" % number, b"d/5"))
    return archive(*members)


def stack(store: Store, height: int) -> list[Layer]:
    chain: list[Layer] = []
    for number in range(height):
        chain.append(import_layer(store, BytesIO(layer(number)), parents=chain))
    return chain


@pytest.fixture
def store(root: str) -> Store:
    return Store.open(root, "erofs")


@pytest.mark.parametrize("height", [10, 40])
def test_a_high_stack_looks_the_same_by_every_driver(height: int, tmp_path: Path) -> None:
    sides = Sides(tmp_path)
    for number in range(height):
        assert sides.take(layer(number)) is None
    found = sides.same_tree()
    assert len(found) > 2 * height


def test_a_high_stack_is_mounted_as_few_indexes_of_which_the_lowest_is_its_own_layer_s(store: Store) -> None:
    chain = stack(store, STACK_LIMIT)
    assert len(store.snapshots.trees(chain)) == STACK_LIMIT
    chain = stack(store, 40)
    for each in chain:
        store.snapshots.delete(each.chain_id)
    merged, lowest = store.snapshots.trees(chain)
    assert merged.endswith(f"/{chain[-1].chain_id.hex}/39.erofs")
    assert lowest.endswith(f"/{chain[0].chain_id.hex}/1.erofs")
    before = os.stat(merged).st_ino
    assert Store.open(store.root, "erofs").snapshots.trees(chain) == [merged, lowest]
    assert os.stat(merged).st_ino == before


def damages(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {
        "empty": b"",
        "short": data[: len(data) // 2],
        "without its end": data[:-1],
        "zeros": bytes(len(data)),
        "a bit": data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    }


@pytest.mark.parametrize("damage", ["empty", "short", "without its end", "zeros", "a bit", "no word of its making"])
@pytest.mark.parametrize("height", [3, 40])
def test_after_another_boot_a_damaged_index_is_made_again(
    store: Store, height: int, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = stack(store, height)
    expected = seen.image(store, chain)
    for tree in store.snapshots.trees(chain):
        path = Path(tree)
        if damage == "no word of its making":
            path.with_suffix(".checked").unlink()
            continue
        content = damages(path)[damage]
        path.chmod(0o600)
        path.write_bytes(content)
    monkeypatch.setattr(snapshot_erofs, "boot_id", lambda: "another boot")
    again = Store.open(store.root, "erofs")
    assert seen.image(again, chain) == expected
    assert seen.image(Store.open(store.root, "erofs"), chain) == expected
    assert os.listdir(store.drafts.path) == []


def test_an_index_that_is_right_is_believed_in_another_boot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = stack(store, 3)
    before = [os.stat(tree).st_ino for tree in store.snapshots.trees(chain)]
    monkeypatch.setattr(snapshot_erofs, "boot_id", lambda: "another boot")
    monkeypatch.setattr(Store, "open_layer", lambda *_: pytest.fail("a tar was read"))
    again = Store.open(store.root, "erofs")
    assert [os.stat(tree).st_ino for tree in again.snapshots.trees(chain)] == before


def test_what_lies_aside_is_made_again_when_it_is_damaged_or_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [import_layer(store, BytesIO(archive(file(b"f", b"from below" * 1000))))]
    chain.append(import_layer(store, BytesIO(archive(hardlink(b"copy", b"f"))), parents=chain))
    (aside,) = Path(store.root, "indexes").glob("*/aside")
    for number, change in enumerate((lambda: aside.write_bytes(b"wrong" * 2048), lambda: aside.write_bytes(b""), aside.unlink)):
        change()
        monkeypatch.setattr(snapshot_erofs, "boot_id", lambda number=number: f"boot {number}")
        again = Store.open(store.root, "erofs")
        with seen.shown(again, chain) as top:
            assert (top / "copy").read_bytes() == b"from below" * 1000


def test_a_missing_tar_is_said_to_be_missing_with_what_to_do(store: Store) -> None:
    chain = stack(store, 2)
    os.unlink(store.blobs.path(chain[0].diff_id))
    with pytest.raises(BlobMissing) as caught:
        store.snapshots.view(chain)
    assert caught.value.hint
    store.snapshots.delete(chain[0].chain_id)
    with pytest.raises(BlobMissing) as caught:
        store.snapshots.trees(chain)
    assert "load or build" in caught.value.hint


def test_a_tar_that_an_index_maps_is_made_again_from_its_compressed_blob(store: Store) -> None:
    tar = archive(file(b"a", b"content" * 1000))
    with store.leased(), store.blobs.draft() as draft:
        draft.write(compressed(tar))
        blob = draft.commit(OCI_LAYER_GZIP)
    (whole,) = stack_of([(blob, Digest.of(tar))])
    os.close(store.snapshots.view([whole]))
    path = Path(store.tars.path(whole.diff_id))
    path.chmod(0o600)
    os.truncate(path, 512)
    assert "is too short, which it maps" in str(store.snapshots.verify(whole, []))
    path.unlink()
    assert "is missing, which it maps" in str(store.snapshots.verify(whole, []))
    assert seen.image(store, [whole])[b"a"]
    assert path.read_bytes() == tar
    assert store.snapshots.verify(whole, []) is None


def test_several_makers_of_one_index_all_get_it(store: Store) -> None:
    chain = stack(store, 40)
    expected = seen.image(store, chain)
    for each in chain:
        store.snapshots.delete(each.chain_id)
    stores = [Store.open(store.root, "erofs") for _ in range(4)]
    together = threading.Barrier(len(stores))
    found: list[object] = []

    def make(own: Store) -> None:
        together.wait()
        found.append(own.snapshots.trees(chain))

    threads = [threading.Thread(target=make, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(stores)
    assert all(len(each) == 2 for each in found)  # type: ignore[arg-type]
    assert seen.image(store, chain) == expected
    assert os.listdir(store.drafts.path) == []


_MAKE = """
import sys
sys.path.insert(0, sys.argv[1])
from store.images import Layer
from store.digest import Descriptor, Digest
from store.layout import Store
from store.mend import check_and_mend
store = Store.open(sys.argv[2], "erofs")
chain = []
for line in sys.stdin.read().split():
    digest, size, chain_id = line.split(",")
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.parse(digest), int(size))
    chain.append(Layer(descriptor, Digest.parse(digest), Digest.parse(chain_id)))
print(len(store.snapshots.trees(chain)))
"""


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["linkat", "mkdir", "write", "rename"])
def test_a_maker_killed_at_any_call_leaves_what_the_next_one_needs(store: Store, call: str) -> None:
    chain = stack(store, 10)
    expected = seen.image(store, chain)
    said = "\n".join(f"{each.diff_id},{each.descriptor.size},{each.chain_id}" for each in chain)
    command = [sys.executable, "-I", "-B", "-c", _MAKE, REPOSITORY, store.root]
    killed = 0
    for when in (1, 2, 3, 5, 8, 13, 21, 34):
        for each in chain:
            store.snapshots.delete(each.chain_id)
        trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
        done = subprocess.run([*trace, *command], input=said, capture_output=True, text=True, check=False)
        killed += done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        again = Store.open(store.root, "erofs")
        assert seen.image(again, chain) == expected
        assert os.listdir(store.drafts.path) == []
    assert killed or call == "rename"  # an index is linked to its name, and renamed only over another


def test_a_directory_of_100_000_entries_has_them_all(store: Store) -> None:
    names = [b"d/entry-%06d" % number for number in range(100_000)]
    made = import_layer(store, BytesIO(archive(*[file(name) for name in names])))
    with seen.shown(store, [made]) as top:
        assert sorted(os.listdir(os.fsencode(top) + b"/d")) == [name[2:] for name in names]
        for number in (0, 1, 49_999, 99_999):
            assert os.stat(top / f"d/entry-{number:06d}").st_size == 0
        assert not os.path.lexists(top / "d/entry-100000")


class Zeros:
    """An archive with one file of zeros, read without being anywhere."""

    def __init__(self, size: int) -> None:
        self.head = file(b"before", b"b") + pax({b"size": b"%d" % size}) + file(b"big")
        self.rest = -(-size // 512) * 512
        self.tail = file(b"after", b"a") + bytes(1024)

    def readinto(self, buffer: memoryview) -> int:
        if self.head:
            return self._give("head", buffer)
        if self.rest:
            count = min(len(buffer), self.rest)
            buffer[:count] = bytes(count)
            self.rest -= count
            return count
        return self._give("tail", buffer)

    def _give(self, name: str, buffer: memoryview) -> int:
        piece = getattr(self, name)[: len(buffer)]
        buffer[: len(piece)] = piece
        setattr(self, name, getattr(self, name)[len(piece) :])
        return len(piece)


def test_a_file_of_more_than_4_gib_is_whole_and_so_is_what_follows_it(store: Store) -> None:
    size = (4 << 30) + 1000
    made = import_layer(store, Zeros(size))  # type: ignore[arg-type]
    with seen.shown(store, [made]) as top:
        assert os.stat(top / "big").st_size == size
        assert (top / "after").read_bytes() == b"a"
        assert (top / "before").read_bytes() == b"b"
        with open(top / "big", "rb") as opened:
            opened.seek(size - 5)
            assert opened.read() == bytes(5)
    os.unlink(store.blobs.path(made.diff_id))  # pytest keeps the directory


@pytest.mark.parametrize("size", [1, 511, 4096, 65535])
def test_an_attribute_may_have_any_size_that_an_index_can_hold(store: Store, size: int) -> None:
    members = [pax({b"SCHILY.xattr.user.a": b"v" * size, b"SCHILY.xattr.user.b": b"w" * size}) + file(b"f", b"content")]
    members.append(pax({b"SCHILY.xattr.trusted.d": b"x" * size}) + directory(b"d/"))
    members.append(pax({b"SCHILY.xattr.trusted.l": b"y" * size}) + symlink(b"l", b"target"))
    made = import_layer(store, BytesIO(archive(*members)))
    with seen.shown(store, [made]) as top:
        assert os.getxattr(top / "f", "user.a") == b"v" * size
        assert os.getxattr(top / "f", "user.b") == b"w" * size
        assert os.getxattr(top / "d", "trusted.d") == b"x" * size
        assert os.getxattr(top / "l", "trusted.l", follow_symlinks=False) == b"y" * size
        assert os.readlink(top / "l") == "target"
        assert (top / "f").read_bytes() == b"content"


@pytest.mark.parametrize("sizes", [[65536], [65535] * 5])
def test_more_attributes_than_an_index_can_hold_are_refused(store: Store, sizes: list[int]) -> None:
    values = {b"SCHILY.xattr.user.%d" % number: b"v" * size for number, size in enumerate(sizes)}
    with pytest.raises(StoreError, match="f has more extended attributes than an index can hold") as caught:
        import_layer(store, BytesIO(archive(pax(values) + file(b"f"))))
    assert "--driver overlay" in caught.value.hint
    assert os.listdir(store.drafts.path) == []


def merged_at_once(store: Store, chain: list[Layer]) -> Path:
    """The index of all but the lowest layer."""
    for each in chain:
        store.snapshots.delete(each.chain_id)
    return Path(store.snapshots.trees(chain)[0])


def image_of(store: Store, chain: list[Layer]) -> None:
    store.references.set("app", store.images.create(CONFIG, chain))


@pytest.mark.parametrize("steps", [[12], [10, 12, 21], [*range(9, 22)]], ids=str)
def test_a_merged_index_is_found_to_be_right_whatever_it_was_merged_from(store: Store, steps: list[int]) -> None:
    chain = stack(store, steps[-1])
    for each in chain:
        store.snapshots.delete(each.chain_id)
    for height in steps:
        store.snapshots.trees(chain[:height])
    assert any(int(path.stem) > 1 for path in Path(store.root, "indexes").glob("*/*.erofs"))
    image_of(store, chain)
    assert fsck.check(store).findings == ()
    for path in Path(store.root, "indexes").glob("*/1.erofs"):
        path.unlink()  # then they are made for the comparison
    assert fsck.check(store).findings == ()


def digested(data: bytes) -> bytes:
    """An index that says of itself that it is right."""
    return data[:-DIGEST_SIZE] + sha256(data[:-DIGEST_SIZE]).digest()


@pytest.mark.parametrize("what", ["content", "a mode", "another stack's"])
def test_a_merged_index_that_shows_something_else_is_found_and_made_again(store: Store, what: str) -> None:
    chain = stack(store, 12)
    other = merged_at_once(store, chain[:11]).read_bytes()
    merged = merged_at_once(store, chain)
    data = bytearray(merged.read_bytes())
    if what == "content":
        at = data.index(b"d/11")  # where the symlink leads
        data[at : at + 4] = b"d/10"
    elif what == "a mode":
        at = data.index((0o40700 + 11 % 8).to_bytes(2, "little"), 1200)
        data[at] ^= 0o20
    else:
        data = bytearray(other)
    merged.write_bytes(digested(bytes(data)))
    image_of(store, chain)
    (finding,) = fsck.check(store).findings
    assert finding.place == f"indexes/{chain[-1].chain_id.hex}"
    assert "11.erofs: at " in finding.what
    assert "the layers' indexes make together" in finding.what
    assert check_and_mend(store).damaged == ()
