"""Mounts that are recorded: shown, taken away, and cleared up after whoever was killed."""

import errno
import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import mounts, syscalls
from store.errors import StoreError, UsageError
from store.layout import Store
from store.mounts import Mounted, all_mounts, mount, unmount
from tests.store.samples import put_layers

pytestmark = pytest.mark.needs("root", "mount", "overlay")


@pytest.fixture
def store(root: str) -> Iterator[Store]:
    yield Store.open(root)
    for mounted in all_mounts(root):
        unmount(root, mounted, lazily=True)


def shown(store: Store, target: str = "", count: int = 2) -> Mounted:
    layers = put_layers(store, *({f"file{number}": b"%d" % number} for number in range(count)))
    return mount(
        store.root,
        "name",
        lambda: store.snapshots.view(layers),
        target=target,
        image="sha256:" + "1" * 64,
        chains=[layer.chain_id for layer in layers],
    )


def there(path: str) -> list[str]:
    """The options of the mounts at `path`."""
    with open("/proc/self/mountinfo") as file:
        return [fields[5] for line in file if (fields := line.split())[4] == path]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_tree_is_shown_read_only_at_a_directory_that_box_makes(store: Store, count: int) -> None:
    mounted = shown(store, count=count)
    assert sorted(os.listdir(mounted.target)) == [f"file{number}" for number in range(count)]
    (options,) = there(mounted.target)
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    with pytest.raises(OSError) as caught:
        Path(mounted.target, "new").write_bytes(b"")
    assert caught.value.errno == errno.EROFS
    assert all_mounts(store.root) == [mounted]
    assert len(mounted.chains) == count
    unmount(store.root, mounted)
    assert not there(mounted.target)
    assert os.listdir(f"{store.root}/mounts") == os.listdir(f"{store.root}/mounted") == []


def test_a_directory_that_was_named_stays_with_what_is_in_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    (tmp_path / "at" / "mine").write_bytes(b"")
    mounted = shown(store, str(tmp_path / "at"))
    assert not mounted.made
    assert "mine" not in os.listdir(tmp_path / "at")
    unmount(store.root, mounted)
    assert os.listdir(tmp_path / "at") == ["mine"]


def test_a_directory_that_is_not_there_is_a_mistake_and_nothing_is_left_of_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no directory"):
        shown(store, str(tmp_path / "none"))

    def fails() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mount(store.root, "name", fails)
    assert os.listdir(f"{store.root}/mounts") == os.listdir(f"{store.root}/mounted") == []


def test_one_in_use_is_not_taken_away_unless_it_is_to_be(store: Store) -> None:
    mounted = shown(store)
    descriptor = os.open(mounted.target, os.O_RDONLY)
    try:
        with pytest.raises(StoreError, match="is in use"):
            unmount(store.root, mounted)
        assert there(mounted.target)
        unmount(store.root, mounted, lazily=True)
        assert not there(mounted.target)
        assert "file0" in os.listdir(descriptor)
    finally:
        os.close(descriptor)


def test_one_that_somebody_else_unmounted_is_forgotten_by_the_next_command(store: Store) -> None:
    mounted = shown(store)
    syscalls.umount(mounted.target)
    Store.open(store.root)
    assert all_mounts(store.root) == []
    assert os.listdir(f"{store.root}/mounted") == []


def test_one_of_another_boot_is_forgotten_and_its_directory_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = shown(store)
    syscalls.umount(mounted.target)
    with monkeypatch.context() as patched:
        patched.setattr(mounts, "boot_id", lambda: "another")
        mounts.sweep(store.root)
    assert all_mounts(store.root) == []


def test_one_that_is_there_outlives_every_sweep(store: Store) -> None:
    mounted = shown(store)
    for _ in range(3):
        Store.open(store.root)
    assert all_mounts(store.root) == [mounted]
    assert there(mounted.target)


def test_another_mount_at_the_same_place_is_not_taken_for_it(store: Store, tmp_path: Path) -> None:
    mounted = shown(store)
    syscalls.umount(mounted.target)
    syscalls.mount("mine", mounted.target, "tmpfs")
    try:
        unmount(store.root, mounted, lazily=True)
        assert there(mounted.target)
    finally:
        syscalls.umount(mounted.target)
    os.rmdir(mounted.target)


def survives(store: Store, mounted: Mounted, target: str) -> None:
    """The record outlives a sweep, knows where the mount is, and whatever it names is in use."""
    Store.open(store.root)
    (found,) = all_mounts(store.root)
    assert (found.name, found.target, found.chains) == (mounted.name, target, mounted.chains)


def test_one_whose_directory_was_moved_is_found_where_it_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "above" / "at").mkdir(parents=True)
    mounted = shown(store, str(tmp_path / "above" / "at"))
    (tmp_path / "above").rename(tmp_path / "a b\n\\c")
    moved = f"{tmp_path}/a b\n\\c/at"
    survives(store, mounted, moved)
    unmount(store.root, mounted)
    assert os.listdir(moved) == []
    assert all_mounts(store.root) == []


def test_one_that_something_is_mounted_over_is_kept_and_not_mistaken_for_it(store: Store, tmp_path: Path) -> None:
    mounted = shown(store)
    for place in (mounted.target, os.path.dirname(mounted.target)):
        syscalls.mount("over", place, "tmpfs")
        try:
            survives(store, mounted, mounted.target)
            with pytest.raises(StoreError, match="mounted over"):
                unmount(store.root, mounted, lazily=True)
            assert there(place)
            survives(store, mounted, mounted.target)
        finally:
            syscalls.umount(place)
    unmount(store.root, mounted)
    assert all_mounts(store.root) == []


def test_a_directory_that_shows_something_already_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    mounted = shown(store, str(tmp_path / "at"))
    (tmp_path / "link").symlink_to("at")
    for name in ("at", "link"):
        with pytest.raises(UsageError, match="shows name already"):
            shown(store, str(tmp_path / name))
    assert all_mounts(store.root) == [mounted]
    assert len(there(str(tmp_path / "at"))) == 1


def in_a_namespace(act: Callable[[], None]) -> None:
    """Do it in a mount namespace of its own, where nothing that was mounted is left."""
    pid = os.fork()
    if not pid:
        try:
            syscalls.libc("unshare", 0x20000)
            syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_umount_from_another_namespace_says_where_it_is_and_keeps_the_record(store: Store) -> None:
    mounted = shown(store)

    def act() -> None:
        for lazily in (False, True):
            with pytest.raises(StoreError, match=f"in another mount namespace, {mounted.namespace}") as caught:
                unmount(store.root, mounted, lazily=lazily)
            assert "nsenter --mount=/proc/" in caught.value.hint

    in_a_namespace(act)
    assert all_mounts(store.root) == [mounted]
    assert there(mounted.target)


def test_one_whose_namespace_is_gone_is_forgotten_by_force_alone(store: Store) -> None:
    in_a_namespace(lambda: shown(store) and None)
    Store.open(store.root)
    (left,) = all_mounts(store.root)
    with pytest.raises(StoreError, match="in another mount namespace") as caught:
        unmount(store.root, left)
    assert "--force" in caught.value.hint
    unmount(store.root, left, lazily=True)
    assert all_mounts(store.root) == []


def test_one_out_of_a_chroots_sight_is_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    mounted = shown(store, str(tmp_path / "at"))
    inside = os.path.dirname(store.root)

    def act() -> None:
        os.makedirs(f"{inside}/proc", exist_ok=True)
        syscalls.mount("proc", f"{inside}/proc", "proc")
        os.chroot(inside)
        root = "/" + os.path.basename(store.root)
        mounts.sweep(root)
        (left,) = all_mounts(root)
        with pytest.raises(StoreError, match="root directory does not reach"):
            unmount(root, left, lazily=True)

    pid = os.fork()  # in this very namespace
    if not pid:
        try:
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    syscalls.umount(f"{inside}/proc")
    assert status == 0
    assert all_mounts(store.root) == [mounted]


def test_a_mount_of_another_mount_namespace_is_left_to_those_who_see_it(store: Store) -> None:
    mounted = shown(store)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            syscalls.libc("unshare", 0x20000)
            syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.umount(mounted.target, syscalls.MNT_DETACH)
            Store.open(store.root)
            status = 0 if len(all_mounts(store.root)) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    Store.open(store.root)
    assert all_mounts(store.root) == [mounted]


def test_the_mount_of_a_container_that_is_gone_is_taken_away(store: Store) -> None:
    layers = put_layers(store, {"a": b""}, {"b": b""})
    os.makedirs(f"{store.root}/containers/gone")
    mounted = mount(store.root, "name", lambda: store.snapshots.view(layers), container="gone")
    Store.open(store.root)
    assert there(mounted.target)
    os.rmdir(f"{store.root}/containers/gone")
    Store.open(store.root)
    assert not there(mounted.target)
    assert all_mounts(store.root) == []


@pytest.mark.parametrize("name", ["makedirs", "_write", "mount_setattr", "move_mount"])
def test_whoever_is_killed_in_the_middle_leaves_nothing_that_the_next_command_does_not_clear_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed before, and after, each step."""
    for when in ("before", "after"):
        pid = os.fork()
        if not pid:
            try:
                module = os if name == "makedirs" else mounts
                step = getattr(module, name)

                def killed(*arguments: object, step: object = step, when: str = when, **named: object) -> None:
                    if when == "after":
                        step(*arguments, **named)  # type: ignore[operator]
                    os.kill(os.getpid(), 9)

                monkeypatch.setattr(module, name, killed)
                shown(store)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
        Store.open(store.root)
        for left in all_mounts(store.root):  # the mount had been made: it is listed, and can be taken away
            assert (name, when) == ("move_mount", "after")
            assert there(left.target)
            unmount(store.root, left)
        assert not [
            path for path in (f"{store.root}/mounts", f"{store.root}/mounted") if os.path.isdir(path) and os.listdir(path)
        ]


def test_a_record_that_was_cut_off_counts_as_far_as_it_goes(store: Store) -> None:
    mounted = shown(store)
    with open(f"{store.root}/mounts/{mounted.name}", "ab") as file:
        file.write(json.dumps({"name": "x"}).encode()[:-1])
    assert all_mounts(store.root) == [mounted]


def test_one_that_cannot_be_written_down_is_taken_away_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = there_is_mounted()

    def fails() -> dict[int, object]:
        if there_is_mounted() != before:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return {}

    monkeypatch.setattr(mounts, "places", fails)
    with pytest.raises(StoreError, match="too many open files"):
        shown(store)
    assert there_is_mounted() == before
    assert os.listdir(f"{store.root}/mounts") == os.listdir(f"{store.root}/mounted") == []


def there_is_mounted() -> int:
    with open("/proc/self/mountinfo") as file:
        return sum("/mounted/" in line for line in file)
