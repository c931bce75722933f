"""Where the lines of an image's history were written: remembered beside the image, never in it."""

import json
import os
from pathlib import Path

import pytest

import boxfile
from builder import origins, retention
from builder.build import build
from builder.origins import Origin, Origins, base_layers, lines_of, recall
from store.digest import Digest
from store.images import Image
from store.layout import Store
from tests.store.samples import put_image

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def built(store: Store, place: Path, text: str, name: str = "Boxfile", tag: str = "test") -> Image:
    place.mkdir(exist_ok=True)
    (place / name).write_text(text)
    plan = boxfile.parse(text, path=str(place / name))
    return store.images.load(build(store, plan, context=str(place), tag=tag, epoch=0).descriptor)


TEXT = "box: 1\nbase: scratch\nsteps:\n  - write: {to: /a, text: a}\n  - env: {A: b}\n  - write: {to: /b, text: b}\n"


def test_each_line_of_the_history_has_its_place(store: Store, tmp_path: Path) -> None:
    image = built(store, tmp_path / "one", TEXT)
    path = str(tmp_path / "one" / "Boxfile")
    assert recall(store, image.descriptor.digest) == Origins(0, (Origin(path, 4, 1), Origin(path, 5, 2), Origin(path, 6, 3)))
    assert str(Origin(path, 4, 1)) == f"{path}:4"


def test_the_digest_depends_on_no_place_and_the_last_build_counts(store: Store, tmp_path: Path) -> None:
    first = built(store, tmp_path / "one", TEXT)
    moved = built(store, tmp_path / "other", "# a comment\n" + TEXT, "Another")
    assert moved.descriptor == first.descriptor
    lines = lines_of(store, first.descriptor.digest, 3)
    assert [str(line) for line in lines] == [f"{tmp_path}/other/Another:{number}" for number in (5, 6, 7)]


def test_an_image_base_brings_its_own_places_and_is_named_by_its_digest(store: Store, tmp_path: Path) -> None:
    below = built(store, tmp_path / "one", TEXT, tag="below")
    above = built(store, tmp_path / "two", "box: 1\nbase: below\nsteps:\n  - write: {to: /c, text: c}\n", "Above")
    lines = lines_of(store, above.descriptor.digest, 4)
    assert [str(line) for line in lines] == [
        *(f"{tmp_path}/one/Boxfile:{number}" for number in (4, 5, 6)), f"{tmp_path}/two/Above:4"
    ]  # fmt: skip
    assert above.manifest["annotations"] == {"org.opencontainers.image.base.digest": str(below.descriptor.digest)}
    assert "annotations" not in below.manifest
    assert base_layers(store, above) == 2
    assert base_layers(store, below) == 0


def test_an_image_from_elsewhere_still_names_its_base(store: Store, tmp_path: Path) -> None:
    built(store, tmp_path / "one", TEXT, tag="below")
    above = built(store, tmp_path / "two", "box: 1\nbase: below\nsteps:\n  - write: {to: /c, text: c}\n")
    os.unlink(f"{store.root}/cache/origins/{above.descriptor.digest.hex}")
    assert recall(store, above.descriptor.digest) is None
    assert lines_of(store, above.descriptor.digest, 4) == [None] * 4
    assert base_layers(store, above) == 2
    stranger = store.images.load(put_image(store, "stranger", {"a": b"1"}))
    assert base_layers(store, stranger) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"base_layers": 1}', b'{"base_layers": 1, "lines": [[1]]}', b"\xff"])
def test_a_damaged_record_is_none(store: Store, damage: bytes) -> None:
    digest = Digest("sha256:" + "1" * 64)
    os.makedirs(f"{store.root}/cache/origins")
    Path(f"{store.root}/cache/origins/{digest.hex}").write_bytes(damage)
    assert recall(store, digest) is None


def test_a_record_that_is_not_of_this_history_is_not_used(store: Store) -> None:
    digest = Digest("sha256:" + "1" * 64)
    origins.keep(store, digest, Origins(1, (None, Origin("x", 1, 1))))
    assert json.loads(Path(f"{store.root}/cache/origins/{digest.hex}").read_bytes())["base_layers"] == 1
    assert lines_of(store, digest, 2) == (None, Origin("x", 1, 1))
    assert lines_of(store, digest, 3) == [None] * 3


def test_a_record_goes_with_its_image_and_a_damaged_one_is_found(store: Store, tmp_path: Path) -> None:
    image = built(store, tmp_path / "one", TEXT)
    path = Path(f"{store.root}/cache/origins/{image.descriptor.digest.hex}")
    assert list(retention.check(store)) == []
    retention.sweep(store)
    assert path.exists()
    path.write_bytes(b"{")
    assert [place for place, _ in retention.check(store)] == [f"cache/origins/{path.name}"]
    os.unlink(store.blobs.path(image.descriptor.digest))
    retention.sweep(store)
    assert not path.exists()
