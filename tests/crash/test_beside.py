"""Commands beside each other: P5 and P9. Every way in which one whole command can come between two calls of another.

At each call that the one makes of the operating system, the other is done from beginning to end, on a thread of its own; where
it has to wait for the one, that goes on first.
"""

import io
import itertools
import os
import tarfile
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest

from store import collect, fsck
from store.archive import load, save
from store.collect import delete_image, forget_images, gc
from store.digest import Digest
from store.errors import ArchiveError, BlobMissing, BoxError, StoreError
from store.layout import Store
from tests.crash.actions import act, build, in_use, put, tar_of
from tests.crash.injection import CALLS, Injection
from tests.crash.mutants import mutated
from tests.crash.scenes import Scene
from tests.store.samples import damage, names

pytestmark = pytest.mark.needs("root", "overlay")

WAIT = 0.03  # seconds, after which the other is taken to wait for the one

Do = Callable[[Store], object]


def any_call(call: str) -> bool:
    return call in CALLS or call == "create"


class Beside:
    """`one` with `other` done at each of its calls; `each` is asked after every attempt what is wrong."""

    def __init__(self, scene: Scene, one: Do, other: Do, each: Callable[[Store], list[str]], mutant: str = "") -> None:
        self.scene = scene
        self.one = one
        self.other = other
        self.each = each
        self.mutant = mutant
        self.failed: list[BaseException] = []
        self.points = 0
        self.wrong: list[str] = []
        self._thread: threading.Thread | None = None

    def _other(self) -> None:
        try:
            self.other(Store.open(self.scene.root, self.scene.driver))
        except BoxError:
            pass  # such as: there is no such image any more
        except BaseException as err:
            self.failed.append(err)

    def _strike(self) -> None:
        self._thread = threading.Thread(target=self._other)
        self._thread.start()
        self._thread.join(WAIT)

    def run(self, every: int = 1) -> list[str]:
        """What was wrong, after all of them."""
        self.points, self.wrong = 0, []
        for point in itertools.count(1, every):
            self.scene.renew()
            self.failed = []
            self._thread = None
            said = ""
            with mutated(self.mutant):
                store = Store.open(self.scene.root, self.scene.driver)
                with Injection(any_call, point, self._strike) as injection:
                    try:
                        self.one(store)
                    except BoxError as err:
                        said = err.message
                    except OSError as err:
                        said = f"an OSError that nobody explained: {err}"
                if self._thread is not None:
                    self._thread.join()
            if not injection.struck:
                assert point > 20
                return self.wrong
            self.points += 1
            found = [
                *self.each(Store.open(self.scene.root, self.scene.driver)),
                *map(repr, self.failed),
                *([said] if said else []),
            ]
            if self.mutant and self.wrong:
                return self.wrong  # it was noticed
            self.wrong += [f"at {point} ({injection.call}): {what}" for what in found]
        raise AssertionError


def whole(store: Store, *wanted: str) -> list[str]:
    """What is wrong with a store that must be whole and have these images, ready to be used."""
    found = [*damage(store.root), *(f"{finding.place}: {finding.what}" for finding in fsck.check(store).findings)]
    missing = set(wanted) - set(names(store))
    if missing:
        found.append(f"missing: {missing}")
    for name in set(wanted) - missing:
        try:
            os.close(store.snapshots.view(store.images.load(store.references.get(name)).layers))
        except BoxError as err:
            found.append(f"{name}: {err.message}")
    found += [f"draft {name}" for name in os.listdir(store.drafts.path)]
    return found


def collected(store: Store) -> None:
    forget_images(store, used=in_use(store))
    gc(store, used=in_use(store))


MAKERS: dict[str, tuple[Do, tuple[str, ...]]] = {
    "put": (lambda store: put(store, "made", b"made"), ("made:latest",)),
    "build": (lambda store: build(store, "built", "  - write: {to: /a, text: a}\n  - mkdir: /b\n"), ("built:latest",)),
    "tag": (lambda store: act(store.root, "tag"), ("again:latest",)),
    "tree": (lambda store: act(store.root, "tree"), ("app:latest",)),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PATIENCE", 0.2)


@pytest.mark.parametrize("maker", [*MAKERS, "load", pytest.param("best:load-gzip", marks=pytest.mark.needs("erofs"))])
def test_gc_at_any_call_of_whoever_makes_something_takes_nothing_of_it(top: Path, maker: str) -> None:
    scene = Scene(top, maker if "load" in maker else "gc")
    one, wanted = MAKERS.get(maker) or (lambda store: act(store.root, scene.action), ("app:latest",))
    assert Beside(scene, one, collected, lambda store: whole(store, "kept:latest", *wanted)).run() == []


@pytest.mark.parametrize("maker", MAKERS)
def test_whoever_makes_something_at_any_call_of_gc_makes_it_whole(top: Path, maker: str) -> None:
    one, wanted = MAKERS[maker]
    scene = Scene(top, "gc")
    assert Beside(scene, collected, one, lambda store: whole(store, "kept:latest", *wanted)).run() == []


def test_gc_at_any_call_of_a_build_from_garbage_leaves_the_image_whole(top: Path) -> None:
    """The layer that is made lies in the store already, and nothing needs it."""
    scene = Scene(top, "gc")
    text = b"left by a killed build"
    assert Store.open(str(scene.template)).blobs.has(Digest.of(tar_of(text)))

    def again(store: Store) -> list[str]:
        return whole(store, "kept:latest", "again:latest")

    assert Beside(scene, lambda store: put(store, "again", text), collected, again).run() == []
    assert Beside(scene, collected, lambda store: put(store, "again", text), again).run() == []


def test_an_image_that_is_deleted_at_any_call_of_a_build_on_it_does_no_harm(top: Path) -> None:
    """Either there is no such base any more, or the image that was built on it is whole."""
    scene = Scene(top, "gc")
    refused = "is no image"

    def one(store: Store) -> object:
        try:
            return build(store, "upper", "  - write: {to: /a, text: a}\n", base="app")
        except BoxError as err:
            assert "no image named 'app'" in err.message, err.message
            return refused

    def other(store: Store) -> None:
        delete_image(store, "app", used=in_use(store))
        collected(store)

    def each(store: Store) -> list[str]:
        return whole(store, "kept:latest", *(["upper:latest"] if "upper:latest" in names(store) else []))

    assert Beside(scene, one, other, each).run() == []


def partial(directory: Path, text: bytes, left_out: str) -> bytes:
    """An archive of the image `app` with this text that names some of its blobs and does not have them."""
    store = Store.open(str(directory / "source"), "overlay")
    put(store, "app", text)
    image = store.images.load(store.references.get("app"))
    out = {"layer": {image.layers[0].diff_id}, "all but the manifest": {image.layers[0].diff_id, image.id}}
    gone = {
        f"blobs/sha256/{digest.hex}" for digest in out.get(left_out, {image.layers[0].diff_id, image.id, image.descriptor.digest})
    }
    whole_one, part = io.BytesIO(), io.BytesIO()
    save(store, ["app"], whole_one)
    whole_one.seek(0)
    with tarfile.open(fileobj=whole_one) as given, tarfile.open(fileobj=part, mode="w") as made:
        for member in given:
            if member.name not in gone:
                made.addfile(member, given.extractfile(member))
    return part.getvalue()


@pytest.mark.parametrize("left_out", ["layer", "all but the manifest", "all"])
def test_an_archive_without_what_is_deleted_at_any_call_of_its_load_is_loaded_whole_or_refused(top: Path, left_out: str) -> None:
    scene = Scene(top, "gc")
    data = partial(top, b"old", left_out)
    outcomes = set()

    def one(store: Store) -> None:
        try:
            load(store, io.BytesIO(data))
            outcomes.add("loaded")
        except (ArchiveError, BlobMissing) as err:
            assert "does not have it" in err.message or "is not in the store" in err.message, err.message
            outcomes.add("refused")

    def other(store: Store) -> None:
        with suppress(BoxError):
            delete_image(store, "app", used=in_use(store))
        collected(store)

    beside = Beside(scene, one, other, lambda store: whole(store, "kept:latest"))
    assert beside.run() == []
    assert outcomes == {"loaded", "refused"}


def run_beside_rmi(top: Path, mutant: str = "") -> Beside:
    """A run with the deletion of its image at each of its calls, done."""
    scene = Scene(top, "run")

    def one(store: Store) -> None:
        said = io.StringIO()
        with redirect_stderr(said):
            status = act(store.root, "run")
        if status and "no image named 'probe'" not in said.getvalue():
            raise StoreError(f"status {status}: {said.getvalue()}")

    def other(store: Store) -> None:
        delete_image(store, "probe", used=in_use(store))
        collected(store)

    def each(store: Store) -> list[str]:
        return [*whole(store, "kept:latest"), *os.listdir(f"{store.root}/containers")]

    beside = Beside(scene, one, other, each, mutant)
    beside.run()
    return beside


@pytest.mark.needs("cgroup")
def test_an_image_that_is_deleted_at_any_call_of_a_run_is_run_or_is_not_there(top: Path) -> None:
    assert run_beside_rmi(top).wrong == []


@pytest.mark.needs("cgroup")
def test_a_run_that_does_not_hold_the_gate_is_run_on_what_is_gone(top: Path) -> None:
    assert run_beside_rmi(top, "a-run-keeps-no-guard").wrong != []


MUTANTS = [
    ("the-gate-is-never-shut", False),
    ("the-gate-is-not-passed", False),
    ("leases-are-not-read", True),
    ("leases-are-not-locked", True),
    ("nothing-is-named", True),
    ("references-are-read-before-leases", False),
    ("drafts-are-swept-locked-or-not", True),
]


def with_mutant(top: Path, mutant: str, gc_comes_in_between: bool) -> list[str]:
    """What is wrong with a build from garbage beside gc, on a store without one of its safeguards."""
    scene = Scene(top, "gc")
    text = b"left by a killed build"
    make: Do = lambda store: put(store, "again", text)  # noqa: E731
    one, other = (make, collected) if gc_comes_in_between else (collected, make)
    return Beside(scene, one, other, lambda store: whole(store, "kept:latest", "again:latest"), mutant).run()


@pytest.mark.parametrize(("mutant", "gc_comes_in_between"), MUTANTS)
def test_a_store_without_one_of_its_locks_or_leases_loses_something(top: Path, mutant: str, gc_comes_in_between: bool) -> None:
    """The proof that the tests above can fail."""
    assert with_mutant(top, mutant, gc_comes_in_between) != []
