"""What of the build cache is kept, and which of its records go."""

import os
import time
from pathlib import Path

import pytest

from builder import retention
from builder.cache import Result
from builder.keys import Parts
from store.collect import gc
from store.digest import Digest, chain_id
from store.layout import Store
from tests.builder.building import Site

DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def remember(store: Store, data: bytes, parent: str = "", boxfile: str = "one") -> tuple[str, Digest]:
    """A step with a layer, as a build leaves it; its key and digest."""
    blob = store.blobs.put_bytes(data, "x")
    parts = Parts(parent, data.decode(), 0)
    cache = retention.cache_of(store)
    cache.keep(parts, Result(str(blob.digest), blob.size, str(blob.digest), "x"))
    cache.keep_last(boxfile, ["", *cache.last(boxfile), parts.key()])
    return parts.key(), blob.digest


def age(path: str, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def test_layers_of_the_last_build_are_kept_with_their_stacks(store: Store) -> None:
    _, low = remember(store, b"low")
    _, high = remember(store, b"high", parent=str(low))
    assert retention.kept(store) == {low, high, chain_id(low, high)}
    assert gc(store, keep=lambda: retention.kept(store)).gone == ()
    assert len(gc(store).gone) == 2


def test_layers_of_a_build_long_ago_are_not_kept_unless_it_was_done_again(store: Store) -> None:
    key, _ = remember(store, b"low")
    age(f"{store.root}/cache/last/one", 31)
    assert retention.kept(store) == set()
    retention.cache_of(store).keep_last("one", ["", key])
    assert retention.kept(store) != set()


def test_a_step_that_another_build_replaced_is_not_kept(store: Store) -> None:
    remember(store, b"old")
    key, new = remember(store, b"new")
    retention.cache_of(store).keep_last("one", [key])
    assert retention.kept(store) == {new}


def test_records_go_with_their_layers_and_with_time(store: Store) -> None:
    gone, digest = remember(store, b"gone", boxfile="two")
    kept, _ = remember(store, b"kept")
    old, _ = remember(store, b"old", boxfile="three")
    os.unlink(store.blobs.path(digest))
    for name in ("steps", "parts"):
        age(f"{store.root}/cache/{name}/{gone}", 0.1)
        age(f"{store.root}/cache/{name}/{kept}", 40)
        age(f"{store.root}/cache/{name}/{old}", 40)
    age(f"{store.root}/cache/last/three", 40)
    assert retention.sweep(store) == 4  # the step of `gone`, the build, step and parts of `old`
    assert os.listdir(f"{store.root}/cache/steps") == [kept]
    assert sorted(os.listdir(f"{store.root}/cache/parts")) == sorted([kept, gone])  # a last build still explains itself by it
    assert sorted(os.listdir(f"{store.root}/cache/last")) == ["one", "two"]
    assert retention.sweep(store) == 0


def test_a_store_that_never_built_anything_has_nothing_to_keep_or_to_check(store: Store) -> None:
    assert (retention.kept(store), retention.sweep(store), list(retention.check(store))) == (set(), 0, [])


def test_records_that_cannot_be_understood_are_named_and_dropped(store: Store) -> None:
    key, _ = remember(store, b"low")
    top = Path(store.root) / "cache"
    (top / "steps" / ("0" * 64)).write_text("layer\n")
    (top / "parts" / ("1" * 64)).write_bytes((top / "parts" / key).read_bytes())
    (top / "last" / "two").write_text("nonsense\n")
    places = {f"cache/steps/{'0' * 64}", f"cache/parts/{'1' * 64}", "cache/last/two"}
    assert {place for place, _ in retention.check(store)} == places
    assert {place for place, _ in retention.check(store, repair=True)} == places
    assert list(retention.check(store)) == []
    assert (top / "steps" / key).exists()


@pytest.mark.needs("root", "overlay")
def test_a_build_that_failed_goes_on_after_gc_where_it_was(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.fill(a="1")
    with pytest.raises(Exception, match="status 3"):
        site.build("copy: a -> /a", "run: exit 3", base="{host: [sh]}")
    store = site.store
    assert store.references.all() == []
    gc(store, keep=lambda: retention.kept(store))
    site.build("copy: a -> /a", "run: exit 0", base="{host: [sh]}")
    assert sorted(site.told.missed) == [2]
