"""Commands killed and refused by the kernel itself, seen from outside: P1 P2 P4 P6 P7 P9.

strace kills the command at its N-th call, or answers that call with an error, for N = 1, 2, ... until the command runs through.
It sees what test_every_call.py cannot: threads, and whatever C code does. BOX_SOAK=1 does it with every action.
"""

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import StoreError
from store.layout import Store
from tests.crash.scenes import ACTIONS, Scene
from tests.store.samples import damage, names, put_image

REPOSITORY = str(Path(__file__).parents[2])
ACTOR = f"{REPOSITORY}/tests/crash/actor.py"
CALLS = ("write", "fsync", "linkat", "rename", "mkdir", "unlink", "rmdir", "flock", "sync_file_range")
FROM_OUTSIDE = ("build", "run")  # struck by strace in tests/builder/test_killed.py and tests/command/test_kill9.py

pytestmark = pytest.mark.needs("strace", "root", "overlay")


def actor(root: str, *action: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", ACTOR, REPOSITORY, root, *action]


def traced(injection: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    call = injection.partition(":")[0]
    strace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={injection}"]
    return subprocess.run([*strace, *command], capture_output=True, text=True, check=False)


def run(root: str, *action: str) -> None:
    done = subprocess.run(actor(root, *action), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(
    params=[action for action in ACTIONS if action not in FROM_OUTSIDE]
    if os.environ.get("BOX_SOAK")
    else ("load", "delete", "gc")
)
def scene(request: pytest.FixtureRequest, top: Path) -> Scene:
    return Scene(top, request.param)


def attempts(scene: Scene, call: str, what: str, *mutant: str) -> Iterator[subprocess.CompletedProcess[str]]:
    """The action with its first, second, ... `call` struck; ends with the attempt in which there was none left to strike."""
    for number in itertools.count(1):
        scene.renew()
        done = traced(f"{call}:{what}:when={number}", actor(scene.root, scene.action, *mutant))
        if (done.returncode, done.stdout, done.stderr) == (0, "", ""):
            return
        yield done


def test_a_command_killed_at_any_call_leaves_the_store_whole(scene: Scene) -> None:
    """P1, P2, P4."""
    struck = 0
    for call in CALLS:
        for done in attempts(scene, call, "signal=KILL"):
            assert done.returncode == -9, done.stderr
            struck += 1
            assert scene.wrong() == []
    assert struck >= 4


ERRORS = {"write": "ENOSPC", "fsync": "EIO", "linkat": "EDQUOT", "rename": "EIO", "mkdir": "ENOSPC", "flock": "ENOLCK"}


def test_a_command_whose_calls_fail_says_so_and_leaves_the_store_whole(scene: Scene) -> None:
    """P6, P7: non-zero exit, one clear message, nothing damaged; an fsync that failed is not tried again."""
    struck = 0
    for call, error in ERRORS.items():
        for done in attempts(scene, call, f"error={error}"):
            assert done.returncode == 1, done.stderr
            assert "Traceback" not in done.stderr, "an OSError that nobody explained"
            assert os.strerror(getattr(errno, error)).lower() in done.stdout + done.stderr
            struck += 1
            assert scene.wrong() == []
    assert struck >= 1


@pytest.mark.parametrize("mutant", ["the-index-is-written-in-place", "blobs-are-written-under-their-names"])
def test_a_store_without_drafts_does_not_survive_the_kill(top: Path, mutant: str) -> None:
    """The proof that the test above can fail."""
    scene = Scene(top, "new")
    found = [damage(scene.root) for call in ("write", "fsync") for _ in attempts(scene, call, "signal=KILL", mutant)]
    assert any(found)


def test_a_store_that_tries_fsync_again_believes_what_is_lost(top: Path) -> None:
    """The proof that the test above notices: the mutant's command ends well although the disk failed."""
    scene = Scene(top, "new")
    assert list(attempts(scene, "fsync", "error=EIO")) != []
    assert list(attempts(scene, "fsync", "error=EIO", "a-failed-sync-is-tried-again")) == []


@pytest.mark.parametrize("mutant", ["slow", "slow-and-without-locks", "the-index-is-not-locked"])
def test_commands_at_the_same_time_lose_nothing_of_each_other(root: str, mutant: str) -> None:
    """P9; without locks they do."""
    run(root, "old")
    single = dict(names(Store(root)))
    makers = [subprocess.Popen(actor(root, f"put=app{number}", mutant)) for number in range(6)]
    statuses = [maker.wait() for maker in makers]
    assert mutant != "slow" or statuses == [0] * 6  # without locks, one may find what it was writing swept away
    found = dict(names(Store(root)))
    assert damage(root) == []
    made = {name: digest for name, digest in found.items() if name not in single}
    assert len(set(made.values())) <= 1  # the same content, so the same digest, whoever made it
    assert (len(made) == 6) == (mutant == "slow")


def test_readers_beside_a_writer_see_the_old_image_or_the_new(root: str) -> None:
    """P2."""
    run(root, "old")
    store = Store(root)
    old = store.references.get("app").digest
    writer = subprocess.Popen(actor(root, "new"))
    seen = set()
    while writer.poll() is None:
        descriptor = store.references.get("app")
        store.images.load(descriptor)
        seen.add(descriptor.digest)
    new = store.references.get("app").digest
    assert old != new
    assert seen <= {old, new}


def test_a_command_that_runs_out_of_descriptors_says_so(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6, EMFILE at every open."""
    store = Store.open(root)
    put_image(store, "app", {"a": b"old"})
    before = names(store)
    real = os.open
    for limit in itertools.count():
        left = iter(range(limit))

        def starved(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None, left: Iterator[int] = left) -> int:
            if next(left, None) is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
            return real(path, flags, mode, dir_fd=dir_fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", starved)
            try:
                put_image(store, "app", {"a": b"new"})
            except StoreError as err:
                assert "too many open files" in err.message
                assert "ulimit" in err.hint
            else:
                break
        assert damage(root) == []
    assert limit > 10
    assert names(store) != before
