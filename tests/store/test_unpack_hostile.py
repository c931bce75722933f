"""Archives that attack the unpacker: each hurts a naive extractor, and none hurts box (threat model, unpacking layers)."""

import contextlib
import io
import itertools
import os
import resource
import signal
import stat
import threading
from pathlib import Path

import pytest

from store.errors import ArchiveError, StoreError
from store.trees import delete_tree
from store.unpack import unpack
from tests.store import naive, seen
from tests.store.archives import archive, directory, file, hardlink, long_name, pax, symlink
from tests.store.archives import header as raw
from tests.store.hostile import ATTACKS, EVIL, Attack, Scene

pytestmark = pytest.mark.needs("root")


def unpacked(data: bytes, tree: Path, *, lowers: tuple[str, ...] = ()) -> int:
    """Unpack `data` into `tree`; the number of entries."""
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(io.BytesIO(data), descriptor, lowers=lowers).entries
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_hurts_the_naive_extractor_and_not_box(attack: Attack, tmp_path: Path) -> None:
    control = Scene(tmp_path / "control")
    try:
        naive.extract(attack.make(control), str(control.tree), str(control.lower))
    except OSError:
        pass  # the damage may be done all the same
    assert attack.worked(control), "the attack does not work on the control, so this test shows nothing"

    scene = Scene(tmp_path / "box")
    data = attack.make(scene)
    if attack.refused:
        with pytest.raises(ArchiveError, match=attack.refused):
            unpacked(data, scene.tree, lowers=(str(scene.lower),))
    else:
        unpacked(data, scene.tree, lowers=(str(scene.lower),))
    assert not attack.worked(scene)
    assert not scene.canary_is_hurt()


KINDS = {
    "file": lambda name: [file(name, b"new")],
    "directory": lambda name: [directory(name + b"/"), file(name + b"/child", b"in it")],
    "symlink": lambda name: [symlink(name, b"../outside/canary")],
    "fifo": lambda name: [raw(name, b"6")],
    "character device": lambda name: [raw(name, b"3", device=(1, 3))],
    "block device": lambda name: [raw(name, b"4", device=(7, 99))],
    "hard link": lambda name: [hardlink(name, b"origin")],
    "symlink to a directory": lambda name: [symlink(name, b"../outside")],
}


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(KINDS, 2)))
def test_an_entry_that_comes_again_as_another_type_replaces_the_first(first: str, second: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    members = [file(b"origin", b"old"), directory(b"d/"), *KINDS[first](b"d/x"), *KINDS[second](b"d/x")]

    unpacked(archive(*members), scene.tree)

    expected = {"hard link": "file", "symlink to a directory": "symlink"}.get(second, second)
    assert seen.kind(scene.tree / "d/x") == expected
    if second == "directory":
        assert os.listdir(scene.tree / "d/x") == ["child"]
    assert (scene.tree / "origin").read_bytes() == b"old"
    assert not scene.canary_is_hurt()


def test_a_file_where_a_fifo_is_does_not_wait_for_a_reader(tmp_path: Path) -> None:
    data = archive(raw(b"pipe", b"6"), file(b"pipe", EVIL))
    control = Scene(tmp_path / "control")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.alarm(1)
        naive.extract(data, str(control.tree))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGALRM, "the control does not hang, so this test shows nothing"

    scene = Scene(tmp_path / "box")
    unpacked(data, scene.tree)
    assert (scene.tree / "pipe").read_bytes() == EVIL


def test_a_symlink_loop_ends_in_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="too many symbolic links"):
        unpacked(archive(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x")), tmp_path)


def test_symlinks_that_multiply_end_in_a_refusal(tmp_path: Path) -> None:
    # Each leads through the one before it twice: 2**30 steps for whoever counts depth only.
    links = [symlink(b"l%d" % at, b"l%d/../l%d" % (at - 1, at - 1)) for at in range(1, 30)]
    with pytest.raises(ArchiveError, match="too many symbolic links"):
        unpacked(archive(directory(b"l0/"), *links, file(b"l29/x")), tmp_path)


@pytest.mark.parametrize("blocker", ["file", "fifo", "character device"])
def test_an_entry_below_what_is_no_directory_is_refused(blocker: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="a file has entries below it"):
        unpacked(archive(directory(b"d/"), *KINDS[blocker](b"d/x"), file(b"d/x/y")), tmp_path)


@pytest.mark.parametrize("name", [b"x" * 256, b"d/" + b"y" * 256])
def test_a_name_too_long_for_the_file_system_is_refused_by_name(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot unpack .*: file name too long"):
        unpacked(archive(long_name(name), file(b"x")), tmp_path)


def test_a_deep_tree_needs_no_more_descriptors_than_a_flat_one(tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * 2000)
    many = [file(b"many/%d/file" % at) for at in range(400)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        unpacked(archive(long_name(deep + b"/file"), file(b"x", b"deep"), *many), tmp_path)

        here = os.open(tmp_path, os.O_RDONLY)
        for _ in range(2000):
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        assert os.listdir(here) == ["file"]
        os.close(here)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        delete_tree(str(tmp_path / "d"))  # pytest's own way falls over PATH_MAX


def test_set_id_bits_and_capabilities_are_kept_for_the_owner_they_were_given_to(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    data = archive(
        pax({b"SCHILY.xattr.security.capability": capability}),
        file(b"ping", b"#!", mode=0o755, uid=5, gid=6),
        file(b"su", b"#!", mode=0o6755, uid=5, gid=6),
        directory(b"spool/", 0o3777, gid=8),
        file(b"spool/inside", b"", gid=0),
    )
    unpacked(data, tmp_path)

    assert os.getxattr(tmp_path / "ping", "security.capability") == capability
    status = (tmp_path / "su").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o6755, 5, 6)
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o3777
    assert (tmp_path / "spool/inside").stat().st_gid == 0, "the directory's set-gid bit was inherited"


class Swapper(threading.Thread):
    """Exchanges a directory of the tree with a symlink to the outside, over and over."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene
        self.stopped = False
        self.swaps = 0

    def run(self) -> None:
        from store.syscalls import AT_FDCWD, libc

        trap, victim = os.fsencode(self.scene.jail / "trap"), os.fsencode(self.scene.tree / "d")
        os.symlink(self.scene.outside, trap)
        while not self.stopped:
            try:
                libc("renameat2", AT_FDCWD, trap, AT_FDCWD, victim, 2)  # RENAME_EXCHANGE
                self.swaps += 1
            except FileNotFoundError:
                continue


@pytest.mark.parametrize("extract", ["control", "box"])
def test_a_parent_swapped_for_a_symlink_meanwhile_leads_nowhere(extract: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    # Between two files in d/ there is one elsewhere, so that nobody gets away with keeping d/ open.
    members = [directory(b"d/")]
    for at in range(200):
        members += [file(b"d/evil%d" % at, EVIL), file(b"e/%d/x" % (at % 150))]
    swapper = Swapper(scene)
    swapper.start()
    try:
        for _ in range(40 if extract == "control" else 10):
            # A tree that changes under one's hands may fail to unpack; it may not leak.
            with contextlib.suppress(OSError, StoreError):
                if extract == "box":
                    unpacked(archive(*members), scene.tree)
                else:
                    naive.extract(archive(*members), str(scene.tree))
            if scene.canary_is_hurt():
                break
    finally:
        swapper.stopped = True
        swapper.join()
    assert swapper.swaps
    assert scene.canary_is_hurt() == (extract == "control")
