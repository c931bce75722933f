"""`box diff -p`: what `patch -p1` and `git apply` make of it is the new tree, whatever its names and kinds are."""

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from boxcli.patches import patch
from runtime.differences import Pair

Tree = Mapping[str, bytes | str | tuple[bytes, int] | None]
"""Names with what a file holds (and its mode), where a symlink leads (text), None for a directory."""

PLAIN: Tree = {"d": None, "d/a b": b"one\n", "kept": b"1\n2\n3\n", "link": "kept", "gone": b"x\n", "script": b"#!\n", "f": b"f\n"}
CHANGES: dict[str, tuple[Tree, Tree]] = {
    "a file": (PLAIN, {**PLAIN, "kept": b"1\ntwo\n3\n"}),
    "a name with a space": (PLAIN, {**PLAIN, "d/a b": b"two\n", "d/ a  c": b"new\n", "x": b"y\n"}),
    "one that leads elsewhere without its quotes": (
        {**PLAIN, "a": b"1\n", "a b": b"1\n", "b": b"1\n"},
        {**PLAIN, "a": b"1\n", "a b": b"2\n", "b": b"1\n"},
    ),
    "odd names": (
        PLAIN,
        {**PLAIN, **{name: name.encode() + b"\n" for name in ('q"uote', "tab\there", "é", "new\nline", "b\\s", "-")}},
    ),
    "newline": (PLAIN, {**PLAIN, "new\nline": b"x\n"}),
    "odd names that go": ({**PLAIN, 'q"uo te': b"1\n", "t\ta b": b"2\n"}, PLAIN),
    "a file that goes and one that comes": (PLAIN, {**{key: PLAIN[key] for key in PLAIN if key != "gone"}, "new/er/one": b"y\n"}),
    "an empty file": (PLAIN, {**PLAIN, "empty": b""}),
    "an unfinished line": (PLAIN, {**PLAIN, "kept": b"1\n2\n3"}),
    "a mode": (PLAIN, {**PLAIN, "script": (b"#!\n", 0o755)}),
    "a mode and content": (PLAIN, {**PLAIN, "script": (b"#!/bin/sh\n", 0o755)}),
    "a program": (PLAIN, {**PLAIN, "tool": (b"#!/bin/sh\n", 0o755)}),
    "where a symlink leads": (PLAIN, {**PLAIN, "link": "script"}),
    "a symlink that comes": (PLAIN, {**PLAIN, "new link": "d/a b"}),
    "a symlink that goes": (PLAIN, {key: PLAIN[key] for key in PLAIN if key != "link"}),
    "a symlink in a file's place": (PLAIN, {**PLAIN, "f": "kept"}),
    "a file in a symlink's place": (PLAIN, {**PLAIN, "link": b"1\nno link\n"}),
    "a file in a directory's place": (PLAIN, {**{key: PLAIN[key] for key in PLAIN if key[0] != "d"}, "d": b"file\n"}),
    "a directory in a file's place": (PLAIN, {**PLAIN, "f": None, "f/inner": b"x\n"}),
}
ONLY_GIT = ("newline", "a file in a directory's place", "a directory in a file's place")  # GNU patch refuses them


def make(top: Path, tree: Tree) -> Path:
    top.mkdir()
    for name, what in tree.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if what is None:
            path.mkdir(exist_ok=True)
        elif isinstance(what, str):
            path.symlink_to(what)
        else:
            data, mode = what if isinstance(what, tuple) else (what, 0o644)
            path.write_bytes(data)
            path.chmod(mode)
    return top


def seen(top: Path) -> dict[str, object]:
    """Files and symlinks, as git sees them."""
    found: dict[str, object] = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if name.startswith(".git"):
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    return found


def difference(old: Path, new: Path) -> bytes:
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (old, new)]
    try:
        pair = Pair(descriptors[0], descriptors[1], None)
        return b"".join(patch(pair.changes(times=False), pair))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("tool", "what"), [(tool, what) for tool in ("patch", "git") for what in CHANGES if tool == "git" or what not in ONLY_GIT]
)
def test_the_patch_makes_the_one_tree_of_the_other(tmp_path: Path, tool: str, what: str) -> None:
    old, new = make(tmp_path / "old", CHANGES[what][0]), make(tmp_path / "new", CHANGES[what][1])
    data = difference(old, new)
    command = ["patch", "-p1", "-s", "-t"] if tool == "patch" else ["git", "apply", "-p1", "--whitespace=nowarn"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = subprocess.run(command, input=data, cwd=old, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, (done.stdout, done.stderr, data)
    assert seen(old) == seen(new), data


def test_what_git_knows_nothing_of_is_a_remark(tmp_path: Path) -> None:
    old, new = make(tmp_path / "old", PLAIN), make(tmp_path / "new", {**PLAIN, "dir": None, "zeros": bytes(5)})
    os.mkfifo(new / "fifo")
    (new / "d").chmod(0o700)
    assert difference(old, new).decode().splitlines() == [
        "# /d: mode 0755 -> 0700",
        "# /dir: directory added, mode 0755",
        "# /fifo: fifo added, mode 0644",
        "# /zeros: binary files differ: nothing -> 5B",
    ]
    assert b"# /dir: directory deleted" in difference(new, old)
