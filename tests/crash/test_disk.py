"""P3 on a disk that keeps nothing but what was synced; and none of the store's syncs can be left out."""

import shutil
from pathlib import Path

import pytest

from store.layout import Store
from tests.crash.disk import Disk
from tests.crash.scenes import Scene
from tests.store.samples import damage, names

pytestmark = pytest.mark.needs("root", "overlay")

# In the middle of an action it is looked at how the disk is left by others, such as by a maker that did not live to sync.
SPARE = {"references.py:_change:directory"}


def lost(scene: Scene, without: str = "") -> tuple[set[str], list[str]]:
    """What a power cut right after the action takes; and the places that sync."""
    scene.renew()
    place = f"{scene.root}-after"
    shutil.rmtree(place, ignore_errors=True)
    with Disk(scene.root, without) as disk:
        scene.act()
    disk.after_power_cut(place)
    found = damage(place)
    try:
        if names(Store(place)) != scene.after:
            found.append(f"names: {names(Store(place))}")
    except Exception as err:
        found.append(repr(err))
    return disk.sites, found


@pytest.mark.parametrize("action", ["new", "load", "build", "tag", "delete", "prune", "gc"])
def test_what_a_command_did_is_there_after_a_power_cut(top: Path, action: str) -> None:
    _, found = lost(Scene(top, action))
    assert found == []


@pytest.mark.parametrize("action", ["new", "load", "build", "tag"])
def test_no_place_that_syncs_can_be_left_out(top: Path, action: str) -> None:
    """The proof that the test above can fail, for each of them."""
    scene = Scene(top, action)
    sites, _ = lost(scene)
    assert len(sites) >= 2
    for site in sorted(sites - SPARE):
        assert lost(scene, site)[1], f"nobody needs {site}"


def test_a_name_that_was_given_by_a_command_that_was_killed_is_durable_when_it_is_given_again(top: Path) -> None:
    scene = Scene(top, "tag")
    scene.act()  # killed before it synced, let us say

    def again(without: str) -> list[str]:
        place = f"{scene.root}-after"
        shutil.rmtree(place, ignore_errors=True)
        with Disk(scene.root, without) as disk:
            disk.forget("index.json", (scene.template / "index.json").read_bytes())
            scene.act()
        disk.after_power_cut(place)
        return [] if names(Store(place)) == scene.after else ["lost"]

    assert again("") == []
    assert again("references.py:_change:directory") == ["lost"]
