"""Digests and descriptors."""

import pytest

from store.digest import Descriptor, Digest, Platform, chain_id
from store.documents import descriptor
from store.errors import StoreError

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
SECOND = "sha256:6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


def test_a_digest_is_what_sha256_says() -> None:
    assert Digest.of(b"") == EMPTY
    assert Digest.parse(EMPTY).hex == EMPTY[7:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        EMPTY[7:],
        EMPTY.upper(),
        EMPTY[:-1],
        EMPTY + "0",
        EMPTY + "\n",
        EMPTY[:-1] + "\n",
        "sha512:" + "0" * 64,
        "sha256:" + "../" * 21 + "x",
        "sha256:" + "0" * 63 + "/",
        "sha256:" + "٣" * 64,
    ],
)
def test_nothing_else_becomes_a_digest(text: str) -> None:
    with pytest.raises(StoreError, match="not a sha256 digest"):
        Digest.parse(text)


def test_chain_ids_are_those_of_the_image_specification() -> None:
    assert chain_id(None, EMPTY) == EMPTY
    assert chain_id(EMPTY, SECOND) == Digest.of(f"{EMPTY} {SECOND}".encode())


def test_a_descriptor_survives_json() -> None:
    given = Descriptor("a/b", Digest(EMPTY), 0, {"k": "v"}, Platform("linux", "arm", "v7"))
    assert descriptor(given.to_json(), "test") == given


@pytest.mark.parametrize("size", [-1, 1 << 63, True, "1", None, 1.5])
def test_a_descriptor_with_an_impossible_size_is_refused(size: object) -> None:
    with pytest.raises(StoreError, match="size"):
        descriptor({"mediaType": "x", "digest": EMPTY, "size": size}, "test")
