"""The store as a directory: made, recognised, refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import FormatTooNew, StoreError
from store.layout import Store
from store.locks import Lock
from tests.store.samples import names, put_image


def _everything(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, data)
    return found


def test_a_store_is_an_oci_layout_that_only_its_owner_can_enter(root: str) -> None:
    before = os.umask(0)
    try:
        store = Store.open(root)
        put_image(store, "app", {"a": b"1"})
    finally:
        os.umask(before)
    assert Path(root, "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    assert Path(root, "format").read_bytes() == b"1\n"
    assert os.stat(root).st_mode & 0o7777 == 0o700


def test_opening_a_store_again_changes_nothing(root: str) -> None:
    put_image(Store.open(root), "app", {"a": b"1"})
    before = _everything(Path(root))
    Store.open(root)
    assert _everything(Path(root)) == before


@pytest.mark.parametrize("version", ["2\n", "10", "999999999\n"])
def test_a_newer_format_is_refused_untouched(root: str, version: str) -> None:
    """P8."""
    Store.open(root)
    Path(root, "format").write_text(version)
    Path(root, "drafts", "of-the-future").write_bytes(b"x")  # swept, if it were this box's
    before = _everything(Path(root))
    with pytest.raises(FormatTooNew, match=f"has format {version.strip()}"):
        Store.open(root)
    assert _everything(Path(root)) == before


@pytest.mark.parametrize("version", [b"", b"0", b"-1", b"one", b"1.5", b"9" * 50, "²".encode(), b"\xff\xfe", b"1\0", bytes(9)])
def test_a_damaged_format_is_refused(root: str, version: bytes) -> None:
    Store.open(root)
    Path(root, "format").write_bytes(version)
    with pytest.raises(StoreError, match="damaged"):
        Store.open(root)


def test_a_directory_of_other_things_is_never_made_into_a_store(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir(mode=0o755)
    (tmp_path / "letters" / "to-ann").write_text("dear")
    before = _everything(tmp_path)
    with pytest.raises(StoreError, match="is not a store"):
        Store.open(str(tmp_path / "letters"))
    assert _everything(tmp_path) == before


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        Store.open(str(tmp_path / "file"))


def test_a_store_that_others_may_enter_is_refused(root: str) -> None:
    Store.open(root)
    os.chmod(root, 0o755)
    with pytest.raises(StoreError, match="open to other users") as caught:
        Store.open(root)
    assert caught.value.hint == f"chmod 700 {root}"


@pytest.mark.needs("root")
def test_another_users_store_is_refused(root: str) -> None:
    Store.open(root)
    os.chown(root, 12345, -1)
    with pytest.raises(StoreError, match="belongs to user 12345"):
        Store.open(root)


def test_drafts_of_the_dead_are_swept_and_those_of_the_living_are_not(store: Store) -> None:
    held = store.drafts.directory("alive")
    Path(held.path, "file").write_text("x")
    dead = Path(store.drafts.path, "dead")
    (dead / "deep" / "er").mkdir(parents=True)
    (dead / "deep" / "file").write_text("x")
    Path(store.drafts.path, "file").write_text("x")
    Store.open(store.root)
    assert os.listdir(store.drafts.path) == [os.path.basename(held.path)]
    held.close()
    assert os.listdir(store.drafts.path) == []


def test_a_draft_is_swept_once_its_maker_was_killed(store: Store) -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); from store.layout import Store;"
        "draft = Store.open(sys.argv[2]).drafts.directory('killed'); os.mkdir(draft.path + '/x');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program, os.getcwd(), store.root], check=False)
    assert done.returncode == -9
    assert len(os.listdir(store.drafts.path)) == 1
    Store.open(store.root)
    assert os.listdir(store.drafts.path) == []


def test_deleting_waits_for_those_who_build(store: Store) -> None:
    with store.shared():
        other = Store.open(store.root)
        with other.exclusive(patience=0.05) as alone:
            assert not alone
        with other.shared():  # builds do not wait for each other
            pass
    with other.exclusive(patience=0.0) as alone:
        assert alone


def test_a_command_that_builds_does_not_wait_for_itself(store: Store) -> None:
    with store.shared(), pytest.raises(StoreError, match="still making"), store.exclusive(patience=1):
        pass


def test_a_lock_ends_with_its_holder(store: Store) -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); from store.locks import Lock;"
        "lock = Lock(sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-I", "-c", program, os.getcwd(), store.root], check=False)
    lock = Lock.attempt(store.root)
    assert lock is not None
    lock.close()


def test_stores_made_at_the_same_time_are_one_store(root: str) -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); from store.layout import Store; Store.open(sys.argv[2])"
    makers = [subprocess.Popen([sys.executable, "-I", "-c", program, os.getcwd(), root]) for _ in range(4)]
    assert [maker.wait() for maker in makers] == [0, 0, 0, 0]
    assert names(Store.open(root)) == {}
    assert os.listdir(f"{root}/drafts") == []
