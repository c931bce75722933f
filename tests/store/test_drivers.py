"""Every driver shows the same for the same layers: content, modes, owners, links, attributes, times, devices, and errors."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from store.trees import delete_tree
from tests.store import seen
from tests.store.archives import archive, directory, file, pax, symlink
from tests.store.drivers import Sides
from tests.store.generated import MADE, Change
from tests.store.hostile import ATTACKS, Attack, Scene
from tests.store.members import LAYERS

pytestmark = pytest.mark.needs("root", "overlay", "erofs")

EXAMPLES = int(os.environ.get("BOX_EXAMPLES", "50"))
"""How many stacks hypothesis makes up: 50 in every test run, more where more is asked for."""


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    yield Sides(tmp_path_factory.mktemp("drivers"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(LAYERS)
def test_any_stack_of_layers_looks_the_same_by_every_driver(sides: Sides, layers: list[list[bytes]]) -> None:
    sides.clear()
    for members in layers:
        while sides.take(archive(*members)) is not None:  # refused by all: what comes before the reason may be taken
            members = members[: len(members) // 2]
    sides.same_tree()


_NUMBERS = itertools.count()


@pytest.mark.parametrize("form", ["gnu", "pax"])
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(MADE)
def test_any_tree_packed_by_gnu_tar_looks_as_gnu_tar_unpacks_it(
    sides: Sides, form: str, tmp_path: Path, made: list[Change]
) -> None:
    top = tmp_path / str(next(_NUMBERS))
    for name in ("tree", "again"):
        (top / name).mkdir(parents=True)
    for change in made:
        change(top / "tree")
    # GNU's own form has no place for attributes, nor for parts of a second.
    options = ["--format=gnu"] if form == "gnu" else ["--format=pax", "--xattrs", "--xattrs-include=*"]
    subprocess.run(["tar", *options, "--numeric-owner", "--sparse", "-cf", top / "tar", "-C", top / "tree", "."], check=True)
    unpack = ["tar", *options[1:], "--numeric-owner", "-xpf", top / "tar", "-C", top / "again"]
    subprocess.run(unpack, check=True)
    sides.clear()
    assert sides.take((top / "tar").read_bytes()) is None
    assert sides.same_tree() == seen.tree(top / "again")
    delete_tree(str(top))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_gets_the_same_answer_by_every_driver(attack: Attack, sides: Sides, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    sides.clear()
    assert sides.take(archive(file(b"shared", b"below"))) is None
    error = sides.take(attack.make(scene))
    assert attack.refused in getattr(error, "message", "") if attack.refused else error is None
    sides.same_tree()
    assert not scene.canary_is_hurt()


@pytest.mark.parametrize("seconds", [1 << 40, 15032385535, -2147483648, -99999999999])
def test_a_time_beyond_a_file_system_s_is_the_same_by_every_driver(seconds: int, tmp_path: Path) -> None:
    sides = Sides(tmp_path)
    member = pax({b"mtime": b"%d.5" % seconds})
    assert sides.take(archive(member, file(b"a", b"x"), member, directory(b"d/"), member, symlink(b"l", b"a"))) is None
    found = sides.same_tree()
    assert {seen.mtime // 10**9 for name, seen in found.items() if name in (b"a", b"d", b"l")} == {
        min(max(seconds, -2147483648), 15032385535)
    }
