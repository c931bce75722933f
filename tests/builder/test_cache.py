"""The cache of steps: hits, misses and their reasons, and that damage is a miss."""

from pathlib import Path

import pytest

from builder.cache import NEVER_BUILT, Cache, Hit, LastBuild, Miss, Result
from builder.keys import Parts
from tests.builder.building import drafts

DIGEST = "sha256:" + "ab" * 32
LAYER = Result(DIGEST, 4, DIGEST, "application/vnd.oci.image.layer.v1.tar")
PARTS = Parts("sha256:p", "run\ncommand 'make'\n", 5, {"A": "1"}, "/", "")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / DIGEST[7:]).write_bytes(b"tar!")
    return Cache(str(tmp_path / "cache"), str(tmp_path / "blobs"), drafts(tmp_path))


def test_a_step_never_done_is_a_miss_that_says_so(cache: Cache) -> None:
    assert cache.lookup(PARTS) == Miss((NEVER_BUILT,))


@pytest.mark.parametrize("result", [LAYER, Result()], ids=["a layer", "no change"])
def test_what_was_kept_is_found(cache: Cache, result: Result) -> None:
    cache.keep(PARTS, result)
    assert cache.lookup(PARTS) == Hit(result)


def test_a_layer_that_is_gone_or_cut_short_is_a_miss_that_says_so(cache: Cache, tmp_path: Path) -> None:
    cache.keep(PARTS, LAYER)
    blob = tmp_path / "blobs" / DIGEST[7:]
    blob.write_bytes(b"ta")
    assert cache.lookup(PARTS) == Miss(("its layer is gone",))
    blob.unlink()
    assert cache.lookup(PARTS) == Miss(("its layer is gone",))


def test_a_result_cut_short_anywhere_is_a_miss(cache: Cache, tmp_path: Path) -> None:
    cache.keep(PARTS, LAYER)
    path = tmp_path / "cache/steps" / PARTS.key()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert isinstance(cache.lookup(PARTS), Miss), length
    path.write_bytes(whole)
    assert isinstance(cache.lookup(PARTS), Hit)


def test_a_result_with_a_path_for_a_digest_is_a_miss(cache: Cache, tmp_path: Path) -> None:
    cache.keep(PARTS, Result("sha256:../../../etc/passwd", 4, DIGEST, "x"))
    assert isinstance(cache.lookup(PARTS), Miss)


def explain(cache: Cache, number: int, parts: Parts, above: str = "") -> str:
    last = LastBuild(cache, "boxfile")
    found = cache.lookup(parts, before=lambda: last.counterpart(number, parts), above=above)
    assert isinstance(found, Miss)
    return found.reason


def build(cache: Cache, *steps: Parts) -> None:
    for step in steps:
        cache.keep(step, Result())
    cache.keep_last("boxfile", [step.key() for step in steps])


def test_a_miss_says_what_changed_since_the_last_build(cache: Cache) -> None:
    first = Parts("p", "copy\n", 5, inputs={b"a.py": b"file " + b"1" * 64, b"b.py": b"file " + b"1" * 64})
    build(cache, first)
    second = Parts("p", "copy\n", 5, inputs={b"a.py": b"file " + b"2" * 64, b"b.py": b"file " + b"1" * 64})
    assert explain(cache, 0, second) == "a.py changed"
    third = Parts("p", "copy\n", 5, inputs={b"a.py": b"file " + b"2" * 64, b"c.py": b"file " + b"1" * 64})
    assert explain(cache, 0, third) == "a.py changed, and 2 more changes"


def test_a_miss_below_a_change_names_the_step_that_changed(cache: Cache) -> None:
    build(cache, Parts("", "one\n", 5), Parts("p", "two\n", 5))
    assert explain(cache, 1, Parts("q", "two\n", 5), "step 1 above it changed") == "step 1 above it changed"


def test_a_step_that_only_moved_is_compared_with_itself(cache: Cache) -> None:
    build(cache, Parts("", "one\n", 5), Parts("p", "two\n", 5, {"A": "1"}))
    assert explain(cache, 2, Parts("p", "two\n", 5, {"A": "2"})) == "env A changed"


def test_another_step_in_a_steps_place_is_a_change_of_its_text(cache: Cache) -> None:
    build(cache, Parts("", "one\n", 5))
    assert explain(cache, 0, Parts("", "other\n", 5)) == "the step's text changed"


def test_a_cache_that_cannot_be_written_keeps_nothing_and_makes_no_error(tmp_path: Path) -> None:
    cache = Cache("/proc/no/such/place", str(tmp_path), drafts(tmp_path))
    cache.keep(PARTS, Result())
    cache.keep_last("boxfile", ["x"])
    assert cache.lookup(PARTS) == Miss((NEVER_BUILT,))
    assert cache.last("boxfile") == []
