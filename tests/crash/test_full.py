"""P6 on a file system that is really full: a command says so, nothing is damaged, and space comes back by gc and by rmi."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import fsck
from store.archive import save
from store.collect import delete_image, gc
from store.errors import StoreError
from store.layout import RESERVE, Store
from store.prepare import prepare
from tests.crash.actions import put
from tests.store.samples import damage, names

pytestmark = pytest.mark.needs("root", "mount")


@pytest.fixture(params=["overlay", pytest.param("", id="best", marks=pytest.mark.needs("erofs"))])
def driver(request: pytest.FixtureRequest) -> str:
    """The driver to be used; empty for the best one here."""
    name: str = request.param
    return name


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    else:
        image = tmp_path / "image"
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image], check=True)
        command = ["mount", "-t", "ext4", "-o", "loop", str(image), str(place)]
    subprocess.run(command, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(store: Store) -> int:
    """Images of a quarter of a MiB, and then crumbs, until no byte is left; how many images."""
    for number in range(1000):
        try:
            put(store, f"image{number}", bytes([number % 251]) * (1 << 18))
            if number == 0:
                prepare(store, "image0")
        except StoreError as err:
            assert "no space left on device" in err.message
            assert "box gc" in err.hint
            break
    with open(f"{store.root}/logs/crumbs", "wb", buffering=0) as file:
        for size in (1 << 16, 4096, 512, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return number


def test_a_full_disk_is_emptied_by_gc_of_what_was_left_behind(small: Path, driver: str) -> None:
    store = Store.open(str(small / "store"), driver)
    images = fill(store)
    assert images > 5
    assert damage(store.root) == []
    assert len(names(store)) == images
    with pytest.raises(StoreError, match="no space left"):
        put(store, "more", b"x" * (1 << 18))
    again = Store.open(store.root, driver)
    left = {str(digest) for digest, _ in again.blobs.all()}
    again.references.all()
    assert gc(again).freed >= 0  # also when nothing can be written, not even a draft's directory
    os.unlink(f"{store.root}/logs/crumbs")
    again.references.forget([again.references.get(f"image{number}").digest for number in range(4)])
    assert gc(again).freed > 4 << 18
    assert len(left) > len(list(again.blobs.all()))
    put(again, "more", b"x" * (1 << 18))
    assert damage(store.root) == []


def test_what_can_be_done_without_space_is_done_on_a_full_disk_and_the_rest_says_so(small: Path, driver: str) -> None:
    store = Store.open(str(small / "store"), driver)
    fill(store)
    with open("/dev/null", "wb", buffering=0) as target:
        save(store, ["image1"], target)
    try:
        assert fsck.check(store).findings == ()
    except StoreError as err:  # comparing trees takes space
        assert "no space left on device" in err.message
    assert damage(store.root) == []


def test_a_full_disk_is_emptied_by_deleting_an_image(small: Path, driver: str) -> None:
    store = Store.open(str(small / "store"), driver)
    images = fill(store)
    assert delete_image(store, "image0").freed > 1 << 18
    assert len(names(store)) == images - 1
    assert os.path.getsize(f"{store.root}/reserve") == RESERVE  # for the next time
    put(store, "more", b"x" * (1 << 17))
    assert damage(store.root) == []
