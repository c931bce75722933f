"""P1 P2 P3 when the power goes: what was not synced is lost, on a loop device with ext4 that is shut down without its log."""

import itertools
import os
from pathlib import Path

import pytest

from tests.crash.power_cut import copy_of, cut, make_disk
from tests.crash.scenes import write_archive

pytestmark = pytest.mark.needs("strace", "ext4", "unshare")

CALLS = ("fsync", "linkat", "rename", "unlink", "mkdir", "write") if os.environ.get("BOX_SOAK") else ("fsync", "linkat", "rename")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("disk"))


@pytest.mark.parametrize("action", ["new", "delete", "gc"])
def test_what_a_command_that_ended_well_did_survives_a_power_cut(disk: Path, action: str) -> None:
    """P3."""
    before = cut(copy_of(disk), "", "gc")
    after = cut(copy_of(disk), "", action)
    assert (after["status"], after["damage"]) == (0, [])
    assert (after["names"] != before["names"]) == (action != "gc")


@pytest.mark.parametrize("action", ["new", "delete"])
def test_a_power_cut_at_any_sync_link_or_rename_leaves_the_store_whole(disk: Path, action: str) -> None:
    """P1, P2."""
    before = cut(copy_of(disk), "", "gc")["names"]
    after = cut(copy_of(disk), "", action)["names"]
    struck = 0
    for call in CALLS:
        for number in itertools.count(1):
            result = cut(copy_of(disk), f"{call}:signal=KILL:when={number}", action)
            assert result["damage"] == []
            assert result["names"] in (before, after)
            if result["status"] == 0:
                break
            struck += 1
    assert struck > 3


@pytest.mark.needs("erofs")
def test_a_compressed_layer_with_its_tar_and_index_survives_a_power_cut_and_one_at_any_sync_link_or_rename(
    disk: Path, tmp_path: Path
) -> None:
    write_archive(tmp_path, "gzip")
    action = f"best:load={tmp_path}/app.tar"
    before = cut(copy_of(disk), "", "gc")["names"]
    result = cut(copy_of(disk), "", action)
    after = result["names"]
    assert (result["status"], result["damage"]) == (0, [])
    assert after != before
    struck = 0
    for call in CALLS:
        for number in itertools.count(1, 1 if os.environ.get("BOX_SOAK") else 3):
            result = cut(copy_of(disk), f"{call}:signal=KILL:when={number}", action)
            assert result["damage"] == []
            assert result["names"] in (before, after)
            if result["status"] == 0:
                break
            struck += 1
    assert struck > 3


@pytest.mark.parametrize("mutant", ["only-directories-are-synced", "only-files-are-synced"])
def test_a_store_that_does_not_sync_loses_what_it_promised(disk: Path, mutant: str) -> None:
    """The proof that the tests above can fail."""
    after = cut(copy_of(disk), "", "new")["names"]
    result = cut(copy_of(disk), "", "new", mutant)
    assert result["status"] == 0
    assert result["damage"] or result["names"] != after
