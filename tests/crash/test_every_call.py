"""Commands that are killed or starved at every call they make of the operating system: P1 P2 P4 P6 P7.

BOX_SOAK=1 strikes each call with each error; without it, one of several.
"""

import errno
import itertools
import os
from pathlib import Path

import pytest

from tests.crash import injection
from tests.crash.injection import CAUSES, DONE, REFUSED, UNEXPLAINED, attempt, changes, may_answer
from tests.crash.scenes import ACTIONS, OF_THE_BEST_DRIVER, Scene

pytestmark = pytest.mark.needs("root", "overlay")

SOAK = bool(os.environ.get("BOX_SOAK"))
EVERY = 1 if SOAK else 3  # so manieth of the calls that are answered by an error


def killed_at_every_call(scene: Scene, mutant: str = "", every: int = 1) -> tuple[int, list[str]]:
    """How many points were tried, and what was wrong after them."""
    wrong: list[str] = []
    for tried, point in enumerate(itertools.count(1, every)):
        scene.renew()
        done, struck = attempt(lambda: scene.act(mutant), changes, point)
        if not struck:
            assert done.status == DONE, done.said
            return tried, wrong
        assert done.status == -9, done.said
        wrong += [f"{scene.action} killed at {point}: {what}" for what in scene.wrong()]
        if mutant and wrong:
            return tried + 1, wrong  # it was noticed
    raise AssertionError


def starved_at_every_call(scene: Scene, error: int, every: int = EVERY) -> tuple[int, list[str]]:
    """The same with calls that answer `error`."""
    wrong: list[str] = []
    for tried, point in enumerate(itertools.count(1 + error % every, every)):
        scene.renew()
        done, struck = attempt(scene.act, may_answer(error), point, error)
        if not struck:
            assert done.status == DONE, done.said
            return tried, wrong
        said = f"{scene.action} with {errno.errorcode[error]} at {point}"
        if done.status == UNEXPLAINED or "bug in box" in done.said:
            wrong.append(f"{said}: {done.said}")
        elif done.status == REFUSED and not done.said.strip():
            wrong.append(f"{said}: it failed without a word")
        wrong += [f"{said}: {what}" for what in scene.wrong()]
    raise AssertionError


@pytest.mark.parametrize("action", ACTIONS)
def test_a_command_killed_at_any_call_leaves_the_store_whole_and_the_next_one_works(top: Path, action: str) -> None:
    tried, wrong = killed_at_every_call(Scene(top, action))
    assert wrong == []
    assert tried >= 3


@pytest.mark.parametrize("error", CAUSES, ids=errno.errorcode.get)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_command_that_is_refused_something_says_so_and_leaves_the_store_whole(top: Path, action: str, error: int) -> None:
    tried, wrong = starved_at_every_call(Scene(top, action), error)
    assert wrong == []
    assert tried >= 1


@pytest.mark.needs("erofs", "cgroup")
@pytest.mark.parametrize("action", OF_THE_BEST_DRIVER)
def test_the_same_by_the_driver_that_is_best_here(top: Path, action: str) -> None:
    """Indexes, compressed layers with their tars, and what only some commands do."""
    scene = Scene(top, action)
    tried, wrong = killed_at_every_call(scene, every=EVERY)
    assert wrong == []
    assert tried >= 3
    for number, error in enumerate(CAUSES):
        if SOAK or number == OF_THE_BEST_DRIVER.index(action) % len(CAUSES):
            tried, wrong = starved_at_every_call(scene, error, 1 if SOAK else 7)
            assert wrong == []
            assert tried >= 1


def test_an_fsync_that_failed_is_never_followed_by_success(top: Path) -> None:
    """P7, for each fsync of a build and of a load."""
    for action in ("new", "build", "load"):
        scene = Scene(top / action, action)
        for point in itertools.count(1):
            scene.renew()
            done, struck = attempt(scene.act, lambda call: call == "fsync", point, errno.EIO)
            if not struck:
                break
            assert done.status == REFUSED
            assert "input/output error" in done.said.lower()
        assert point > 4


MUTANTS = [
    ("the-index-is-written-in-place", "new"),
    ("blobs-are-written-under-their-names", "new"),
    ("blobs-go-before-their-names", "delete"),
    ("trees-are-deleted-where-they-lie", "delete"),
    ("trees-are-published-before-they-are-whole", "tree"),
    pytest.param("indexes-are-written-where-they-lie", "best:tree", marks=pytest.mark.needs("erofs")),
    pytest.param("tars-are-copied-into-their-places", "best:load-gzip", marks=pytest.mark.needs("erofs")),
]


@pytest.mark.parametrize(("mutant", "action"), MUTANTS)
def test_a_store_without_one_of_its_safeguards_does_not_survive_the_kill(top: Path, mutant: str, action: str) -> None:
    """The proof that the tests above can fail."""
    _, wrong = killed_at_every_call(Scene(top, action), mutant)
    assert wrong


def test_a_store_that_tries_fsync_again_is_noticed(top: Path) -> None:
    scene = Scene(top, "new")
    done, struck = attempt(lambda: scene.act("a-failed-sync-is-tried-again"), lambda call: call == "fsync", 1, errno.EIO)
    assert struck
    assert done.status == DONE


def test_every_call_of_the_operating_system_can_be_struck() -> None:
    assert all(name == "builtins.open" or name == "flock" or hasattr(os, name) for name in injection.CALLS)
