"""Images by name."""

import json
import os
from pathlib import Path

import pytest

from store.digest import OCI_MANIFEST, Descriptor, Digest
from store.errors import ReferenceMissing, StoreError, UsageError
from store.layout import Store
from store.references import Reference
from tests.store.samples import names, put_image

SPELLINGS = {
    "app": ("app", "latest", "app:latest"),
    "app:1.2": ("app", "1.2", "app:1.2"),
    "team/app": ("team/app", "latest", "team/app:latest"),
    "localhost:5000/app": ("localhost:5000/app", "latest", "localhost:5000/app:latest"),
    "r.io:443/a/b__c/d--e.f_g:V1.0-rc_2": ("r.io:443/a/b__c/d--e.f_g", "V1.0-rc_2", "r.io:443/a/b__c/d--e.f_g:V1.0-rc_2"),
}

REFUSED = [
    "", ":", "app:", ":tag", "App", "team/App", "../etc/passwd", "a/../b", "a//b", "/a", "a/", ".", "..", "-rf", "--all", "a -b",
    "app\n", "app:1\n", "app\r\nX: y", "app\0", "app:ta g", "app:-tag", "app:.tag", "app:" + "t" * 129, "a" * 256,
    "app@", "app@sha256:12", "app@sha512:" + "0" * 128, "a___b", "a..b", "_a", "a_", "äpp", "app:٣", "a:99999999/b",
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_name_is_kept_as_it_was_written(text: str) -> None:
    name, tag, full = SPELLINGS[text]
    reference = Reference.parse(text)
    assert (reference.name, reference.tag, reference.full_name, str(reference)) == (name, tag, full, full)
    assert Reference.parse(full) == reference


def test_a_digest_may_follow_the_name() -> None:
    digest = Digest.of(b"")
    reference = Reference.parse(f"team/app:1@{digest}")
    assert (reference.name, reference.tag, reference.digest) == ("team/app", "1", digest)


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(StoreError):
        Reference.parse(text)


def test_an_upper_case_name_is_answered_with_the_lower_case_one() -> None:
    with pytest.raises(StoreError) as caught:
        Reference.parse("Team/App:V1")
    assert caught.value.hint == "names are lower case: team/app:V1"


def test_a_hostile_name_is_refused_quickly() -> None:
    with pytest.raises(StoreError):
        Reference.parse("a" + "-a" * 20_000 + "!")


def test_a_name_leads_to_what_it_was_set_to_last(store: Store) -> None:
    first = put_image(store, "app", {"a": b"1"})
    assert store.references.get("app:latest") == first
    second = put_image(store, "app", {"a": b"2"})
    assert store.references.get("app") == second
    assert [(entry.name, entry.descriptor) for entry in store.references.all()] == [("app:latest", second), (None, first)]


def test_an_image_that_lost_its_name_finds_it_again(store: Store) -> None:
    first = put_image(store, "app", {"a": b"1"})
    put_image(store, "app", {"a": b"2"})
    store.references.set("old", first)
    assert [entry.name for entry in store.references.all()] == ["app:latest", "old:latest"]


def test_setting_a_name_again_to_the_same_image_leaves_nothing_dangling(store: Store) -> None:
    first = put_image(store, "app", {"a": b"1"})
    store.references.set("app", first)
    store.references.add([(None, first)])
    assert [entry.name for entry in store.references.all()] == ["app:latest"]


def test_taking_the_last_name_away_leaves_the_image(store: Store) -> None:
    first = put_image(store, "app", {"a": b"1"})
    store.references.set("other", first)
    store.references.delete("app")
    assert [entry.name for entry in store.references.all()] == ["other:latest"]
    store.references.delete("other")
    assert [tuple(entry) for entry in store.references.all()] == [(None, first)]
    with pytest.raises(ReferenceMissing):
        store.references.delete("other")


def test_an_image_is_found_by_name_digest_and_the_beginning_of_its_id(store: Store) -> None:
    descriptor = put_image(store, "app:1", {"a": b"1"})
    image = store.images.load(descriptor)
    for text in ("app:1", f"app@{descriptor.digest}", f"app:1@{descriptor.digest}"):
        assert store.references.resolve(text) == ("app:1", descriptor)
    for text in (str(descriptor.digest), descriptor.digest.hex[:9], str(image.id), image.id.hex, image.id.hex[:3], image.id[:12]):
        assert store.references.resolve(text) == (None, descriptor)


def test_a_name_wins_over_an_id(store: Store) -> None:
    first = put_image(store, "app", {"a": b"1"})
    prefix = store.images.load(first).id.hex[:4]
    second = put_image(store, prefix, {"a": b"2"})
    assert store.references.resolve(prefix).descriptor == second


def test_the_beginning_of_two_ids_is_refused_with_both(store: Store) -> None:
    ids: dict[str, str] = {}
    for number in range(5000):
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "n": number}).encode()
        digest = Digest.of(data)
        if (other := ids.setdefault(digest.hex[:3], digest)) != digest:
            break
    pair = [Descriptor(OCI_MANIFEST, Digest(other), 1), Descriptor(OCI_MANIFEST, digest, 1)]
    store.references.add([(None, item) for item in pair])
    with pytest.raises(StoreError, match="beginning of 2 image ids"):
        store.references.resolve(digest.hex[:3])
    assert store.references.resolve(digest.hex).descriptor == pair[1]


def test_a_damaged_image_does_not_hide_the_others(store: Store) -> None:
    broken = put_image(store, "broken", {"a": b"1"})
    whole = put_image(store, "whole", {"a": b"2"})
    os.unlink(store.blobs.path(broken.digest))
    assert store.references.resolve(store.images.load(whole).id.hex[:12]).descriptor == whole


def test_a_name_that_is_missing_is_answered_with_the_nearest(store: Store) -> None:
    with pytest.raises(ReferenceMissing) as caught:
        store.references.get("app")
    assert "empty" in caught.value.hint
    put_image(store, "team/server:1.0", {"a": b"1"})
    for text in ("team/sever:1.0", "team/server", "team/server:1"):
        with pytest.raises(ReferenceMissing) as caught:
            store.references.resolve(text)
        assert caught.value.hint == "did you mean 'team/server:1.0'?"


@pytest.mark.parametrize("text", ["a\nb", "../x", "-f", "x y"], ids=ascii)
def test_what_is_neither_a_name_nor_an_id_is_told_so(store: Store, text: str) -> None:
    with pytest.raises(UsageError, match="not an image name"):
        store.references.resolve(text)


def test_what_other_tools_wrote_to_the_index_stays(store: Store) -> None:
    first = put_image(store, "app", {"a": b"1"})
    path = Path(store.root, "index.json")
    index = json.loads(path.read_bytes())
    index["manifests"][0]["annotations"]["com.example"] = "kept"
    index["manifests"][0]["platform"] = {"os": "linux", "architecture": "arm64"}
    path.write_text(json.dumps(index, indent=3))
    put_image(store, "more", {"a": b"2"})
    entries = {
        item["annotations"]["org.opencontainers.image.ref.name"]: item for item in json.loads(path.read_bytes())["manifests"]
    }
    assert entries["app:latest"]["annotations"]["com.example"] == "kept"
    assert entries["app:latest"]["platform"] == {"os": "linux", "architecture": "arm64"}
    assert names(store)["app:latest"] == first.digest


def test_the_index_does_not_depend_on_the_order_of_things(tmp_path: Path) -> None:
    made = []
    for order in (("a", "b", "c"), ("c", "a", "b")):
        store = Store.open(str(tmp_path / "".join(order)))
        for name in order:
            put_image(store, name, {name: b"x"})
        made.append(Path(store.root, "index.json").read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("hallo", "did you mean 'hello:latest'?"),
        ("hello:2", "did you mean 'hello:latest'?"),
        ("sh", "`box images` lists what there is"),
        ("latest", "`box images` lists what there is"),
        ("other", "`box images` lists what there is"),
    ],
)
def test_a_tag_makes_no_name_likely(root: str, typed: str, hint: str) -> None:
    store = Store.open(root)
    put_image(store, "hello", {"a": b"1"})
    with pytest.raises(ReferenceMissing) as caught:
        store.references.resolve(typed)
    assert caught.value.hint == hint
