"""The file that has the bytecode of `box run`: it makes nothing but speed."""

import marshal
import subprocess
import sys
from pathlib import Path

import pytest

from boxcli import preload

SCRIPT = """
import sys
sys.path.append(sys.argv[1])
from boxcli import preload
kept = preload.Preload(sys.argv[2])
kept.load()
there = "boxcli.sample" in sys.modules
import boxcli.sample
print(boxcli.sample.WORD, there, boxcli.sample.__file__)
kept.keep()
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A copy of `boxcli` that is small: the module itself, and a sample."""
    folder = tmp_path / "boxcli"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "preload.py").write_bytes(Path(preload.__file__).read_bytes())
    (folder / "sample.py").write_text("WORD = 'one'\n")
    return tmp_path


def start(packages: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, str(packages), str(kept(packages))],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stderr == ""
    return done.stdout.split()


def kept(packages: Path) -> Path:
    return packages / "boxcli" / "__pycache__" / f"hot.{sys.implementation.cache_tag}.bin"


def test_the_second_start_takes_its_modules_from_the_file_that_the_first_wrote(packages: Path) -> None:
    sample = str(packages / "boxcli" / "sample.py")
    assert start(packages) == ["one", "False", sample]
    before = kept(packages).read_bytes()
    assert start(packages) == ["one", "True", sample]
    assert kept(packages).read_bytes() == before
    assert [path.name for path in (packages / "boxcli" / "__pycache__").glob("hot*")] == [kept(packages).name]


def test_a_changed_source_is_what_counts_and_the_file_is_made_again(packages: Path) -> None:
    start(packages)
    (packages / "boxcli" / "sample.py").write_text("WORD = 'other'\n")
    assert start(packages)[:2] == ["other", "False"]
    assert start(packages)[:2] == ["other", "True"]


def test_a_source_that_is_gone_is_not_imported_from_the_file(packages: Path) -> None:
    start(packages)
    (packages / "boxcli" / "sample.py").unlink()
    for compiled in (packages / "boxcli" / "__pycache__").glob("sample*"):
        compiled.unlink()
    with pytest.raises(subprocess.CalledProcessError) as failed:
        start(packages)
    assert "No module named 'boxcli.sample'" in failed.value.stderr


@pytest.mark.parametrize("length", [0, 5, 17, 18, 40, -1])
def test_a_file_that_a_power_cut_tore_is_not_believed(packages: Path, length: int) -> None:
    start(packages)
    whole = kept(packages).read_bytes()
    kept(packages).write_bytes(whole[:length])
    with pytest.raises((EOFError, ValueError, TypeError)):
        marshal.loads(whole[:length])  # the control: read as it is, it ends in an error
    assert start(packages)[:2] == ["one", "False"]
    assert start(packages)[:2] == ["one", "True"]


def test_without_the_right_to_write_there_every_start_is_as_the_first(packages: Path) -> None:
    (packages / "boxcli" / "__pycache__").rmdir()
    (packages / "boxcli" / "__pycache__").write_text("in the way")
    assert start(packages)[:2] == ["one", "False"]
    assert start(packages)[:2] == ["one", "False"]


@pytest.mark.parametrize(("program", "words", "name"), [
    ("box-runtime", ["--root", "/nowhere", "state", "x"], "runtime-state"), ("box-runtime", ["create", "run"], "runtime-create"),
    ("box-runtime", ["features"], ""), ("box", ["run", "x"], "hot"), ("box", ["ps"], ""),
])  # fmt: skip
def test_each_call_that_engines_make_has_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, program: str, words: list[str], name: str
) -> None:
    asked = []
    monkeypatch.setattr(preload.Preload, "load", lambda self: None)
    monkeypatch.setattr("boxcli.main.enter", lambda program, argv, kept: asked.append(kept.path if kept else ""))
    preload.start(program, words)
    assert [Path(path).name.partition(".")[0] for path in asked] == [name]
