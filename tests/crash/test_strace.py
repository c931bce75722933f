"""Promises that only a killed, starved or powerless command can test: P1 P2 P3 P4 P6 P7 P9.

strace kills the command at its N-th call, or answers that call with an error, for N = 1, 2, ... until the command runs through.
After each the store is whole, and the next command works. Every kind of test also runs with a mutant that lacks the safeguard in
question, and must then find damage.
"""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.archive import save
from store.collect import forget_images, gc
from store.errors import StoreError
from store.layout import Store
from tests.crash.actions import act
from tests.store.samples import damage, names, put_image, reachable

REPOSITORY = str(Path(__file__).parents[2])
CRASH = f"{REPOSITORY}/tests/crash"
CALLS = ("write", "fsync", "linkat", "rename", "mkdir", "unlink", "flock", "sync_file_range")

pytestmark = pytest.mark.needs("strace")


def actor(root: str, *action: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", f"{CRASH}/actor.py", REPOSITORY, root, *action]


def traced(injection: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    call = injection.partition(":")[0]
    strace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={injection}"]
    return subprocess.run([*strace, *command], capture_output=True, text=True, check=False)


def run(root: str, *action: str) -> None:
    done = subprocess.run(actor(root, *action), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Scene:
    """A store before an action, copied anew for each attempt, and what the action makes of it when nothing happens."""

    def __init__(self, top: Path, action: str) -> None:
        self.action = action
        self.template = top / "template"
        self.root = str(top / "store")
        self.before: dict[str, str] = {}
        if action != "open":
            run(str(self.template), "old")
            if action == "prune":
                run(str(self.template), "new")
            self.before = dict(names(Store(str(self.template))))
        if action == "tree":
            for chain in Store(str(self.template)).snapshots.all():
                shutil.rmtree(self.template / "snapshots" / chain.removeprefix("sha256:"))
        self.renew()
        run(self.root, action)
        self.after: dict[str, str] = dict(names(Store(self.root)))

    def renew(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        if self.template.exists():
            shutil.copytree(self.template, self.root, symlinks=True)

    def check(self) -> None:
        """The store is whole, shows the old state or the new, and the next command works without help."""
        if os.path.exists(f"{self.root}/format"):
            assert damage(self.root) == []
            assert dict(names(Store(self.root))) in (self.before, self.after)
        else:
            assert self.action == "open"
        if self.action != "delete" or dict(names(Store(self.root))) == self.before:
            act(self.root, self.action)
        store = Store.open(self.root)
        assert dict(names(store)) == self.after
        assert os.listdir(store.drafts.path) == []
        forget_images(store)
        gc(store)
        assert damage(self.root) == []
        assert {str(digest) for digest, _ in store.blobs.all()} == reachable(
            store, [entry.descriptor for entry in store.references.all()]
        )


@pytest.fixture(params=["open", "new", "load", "tree", "delete", "prune"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    action: str = request.param
    if action == "load":
        source = Store.open(str(tmp_path / "source"))
        put_image(source, "app", {"file": b"loaded"}, {"big": bytes(range(256)) * 1000})
        with open(tmp_path / "app.tar", "wb", buffering=0) as target:
            save(source, ["app"], target)
        action = f"load={tmp_path}/app.tar"
    return Scene(tmp_path, action)


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
            scene.check()
    assert struck >= 4


ERRORS = {"write": "ENOSPC", "fsync": "EIO", "linkat": "EDQUOT", "rename": "EIO", "mkdir": "ENOSPC", "flock": "ENOLCK"}


def test_a_command_whose_calls_fail_says_so_and_leaves_the_store_whole(scene: Scene) -> None:
    """P6, P7: non-zero exit, one clear message, nothing damaged; an fsync that failed is not tried again."""
    struck = 0
    for call, error in ERRORS.items():
        for done in attempts(scene, call, f"error={error}"):
            assert done.returncode == 1, done.stderr
            assert done.stderr == "", "an OSError that nobody explained"
            assert os.strerror(getattr(errno, error)).lower() in done.stdout
            struck += 1
            scene.check()
    assert struck >= 3


@pytest.mark.parametrize("mutant", ["the-index-is-written-in-place", "blobs-are-written-under-their-names"])
def test_a_store_without_drafts_does_not_survive_the_kill(tmp_path: Path, mutant: str) -> None:
    """The proof that the test above can fail."""
    scene = Scene(tmp_path, "new")
    found = [damage(scene.root) for call in ("write", "fsync") for _ in attempts(scene, call, "signal=KILL", mutant)]
    assert any(found)


def test_a_store_that_tries_fsync_again_believes_what_is_lost(tmp_path: Path) -> None:
    """The proof that the test above notices: the mutant's command ends well although the disk failed."""
    scene = Scene(tmp_path, "new")
    assert list(attempts(scene, "fsync", "error=EIO")) != []
    assert list(attempts(scene, "fsync", "error=EIO", "a-failed-sync-is-tried-again")) == []


@pytest.mark.parametrize("mutant", ["slow", "slow-and-without-locks"])
def test_commands_at_the_same_time_lose_nothing_of_each_other(root: str, mutant: str) -> None:
    """P9; without locks they do."""
    run(root, "old")
    single = dict(names(Store(root)))
    makers = [subprocess.Popen(actor(root, f"put=app{number}", mutant)) for number in range(6)]
    assert [maker.wait() for maker in makers] == [0] * 6
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


# -- power cuts


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image with a store on it."""
    top = tmp_path_factory.mktemp("disk")
    image = top / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0", image], check=True)
    cut(image, "", "old")
    return image


def cut(image: Path, injection: str, *action: str) -> dict[str, object]:
    command = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        sys.executable,
        "-B",
        f"{CRASH}/power.py",
        image,
        REPOSITORY,
        injection,
        *action,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def copy_of(image: Path) -> Path:
    copy = image.with_name("copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


@pytest.mark.needs("ext4", "unshare")
def test_what_a_command_that_ended_well_made_survives_a_power_cut(disk: Path) -> None:
    """P3."""
    before = cut(copy_of(disk), "", "prune")
    after = cut(copy_of(disk), "", "new")
    assert (after["status"], after["damage"]) == (0, [])
    assert after["names"] != before["names"]


@pytest.mark.needs("ext4", "unshare")
def test_a_power_cut_at_any_sync_link_or_rename_leaves_the_store_whole(disk: Path) -> None:
    """P1, P2."""
    before = cut(copy_of(disk), "", "prune")["names"]
    after = cut(copy_of(disk), "", "new")["names"]
    struck = 0
    for call in ("fsync", "linkat", "rename"):
        for number in itertools.count(1):
            result = cut(copy_of(disk), f"{call}:signal=KILL:when={number}", "new")
            assert result["damage"] == []
            assert result["names"] in (before, after)
            if result["status"] == 0:
                break
            struck += 1
    assert struck > 10


@pytest.mark.needs("ext4", "unshare")
@pytest.mark.parametrize("mutant", ["only-directories-are-synced", "only-files-are-synced"])
def test_a_store_that_does_not_sync_loses_what_it_promised(disk: Path, mutant: str) -> None:
    """The proof that the tests above can fail."""
    after = cut(copy_of(disk), "", "new")["names"]
    result = cut(copy_of(disk), "", "new", mutant)
    assert result["status"] == 0
    assert result["damage"] or result["names"] != after
