"""The launcher: how `box` finds its interpreter and its packages, wherever an installer or a user put them."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2]
SCRIPTS = SOURCES / "boxcli" / "scripts"

# Stands for the interpreter: prints what it was started with, an argument a line.
ECHO = '#!/bin/sh\nfor argument; do printf "<%s>\\n" "$argument"; done\n'

EXPECTED = ["<-I>", "<-S>", "<-X>", "<utf8>"]


def put(directory: Path, shebang: str) -> Path:
    """Lay out bin/ as an installer does, with `shebang` as the first lines of box-python."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("box", "box-runtime"):
        shutil.copy(SCRIPTS / name, directory / name)
    code = (SCRIPTS / "box-python").read_text().partition("\n")[2]
    (directory / "box-python").write_text(f"{shebang}\n{code}")
    (directory / "box-python").chmod(0o755)
    return directory / "box"


def interpreter(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "python3"
    path.write_text(ECHO)
    path.chmod(0o755)
    return path


def started(command: list[str | Path], cwd: Path | None = None, **environment: str) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={"PATH": os.environ["PATH"], **environment}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_every_argument_arrives_as_it_was_given(tmp_path: Path) -> None:
    box = put(tmp_path / "bin", f"#!{interpreter(tmp_path / 'python')}")
    lines = started([box, "run", "a b", "", "$HOME", "*", "-x", "--", "'q\""])
    assert lines == [
        *EXPECTED,
        f"<{tmp_path}/bin/box-python>",
        "<box>",
        "<run>",
        "<a b>",
        "<>",
        "<$HOME>",
        "<*>",
        "<-x>",
        "<-->",
        "<'q\">",
    ]


def test_the_two_programs_differ_in_their_name_alone() -> None:
    box, runtime = ((SCRIPTS / name).read_text() for name in ("box", "box-runtime"))
    assert box.replace("program=box\n", "program=box-runtime\n") == runtime
    assert box != runtime


@pytest.mark.parametrize(
    "shebang",
    [
        "#!{python}",  # pip, with and without spaces in the path
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''",  # distlib: a path too long, or with spaces
        "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''",
        "#!/bin/sh\n'''exec' '{python}' \"$0\" \"$@\"\n' '''",  # uv
    ],
)
@pytest.mark.parametrize("place", ["plain", "with two spaces", "x" * 200])
def test_the_interpreter_is_found_in_every_form_that_an_installer_writes(tmp_path: Path, shebang: str, place: str) -> None:
    python = interpreter(tmp_path / place / "bin")
    box = put(tmp_path / place / "bin", shebang.format(python=python))
    assert started([box, "version"])[:4] == EXPECTED


def test_it_works_through_symbolic_links_as_pipx_and_uv_make_them(tmp_path: Path) -> None:
    box = put(tmp_path / "tools" / "boxfile" / "bin", f"#!{interpreter(tmp_path / 'python')}")
    links = tmp_path / "links"
    links.mkdir()
    for name in ("box", "box-runtime", "box-python"):
        (links / name).symlink_to(box.parent / name)
    assert started([links / "box", "version"]) == [*EXPECTED, f"<{links}/box-python>", "<box>", "<version>"]


@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_it_works_through_a_chain_of_links_that_somebody_made_by_hand(tmp_path: Path, target: str) -> None:
    box = put(tmp_path / "tool" / "bin", f"#!{interpreter(tmp_path / 'python')}")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "runc").symlink_to(box if target == "absolute" else Path("../tool/bin/box"))
    (tmp_path / "second").symlink_to("first/runc")
    assert started([tmp_path / "second", "version"]) == [*EXPECTED, f"<{box.parent}/box-python>", "<box>", "<version>"]


def test_it_works_without_any_environment_and_from_its_own_directory(tmp_path: Path) -> None:
    box = put(tmp_path / "bin", f"#!{interpreter(tmp_path / 'python')}")
    done = subprocess.run([box, "version"], capture_output=True, text=True, env={}, check=True)
    assert done.stdout.splitlines()[:4] == EXPECTED
    assert started(["sh", "box", "version"], cwd=box.parent)[4] == "<./box-python>"


@pytest.mark.needs("strace")
def test_the_plain_path_starts_one_shell_and_one_interpreter_and_nothing_else(tmp_path: Path) -> None:
    box = put(tmp_path / "bin", f"#!{interpreter(tmp_path / 'python')}")
    subprocess.run(
        ["strace", "-f", "-o", tmp_path / "trace", "-e", "trace=execve,clone,clone3,fork,vfork", box, "version"], check=True
    )
    calls = [line.split(None, 1)[1] for line in (tmp_path / "trace").read_text().splitlines()]
    calls = [call for call in calls if not call.startswith("+++")]
    assert [call.split('"')[1] for call in calls] == [str(box), str(tmp_path / "python" / "python3")]


def test_an_interpreter_that_is_gone_is_said_and_not_replaced_by_another(tmp_path: Path) -> None:
    box = put(tmp_path / "bin", "#!/nowhere/python3")
    done = subprocess.run([box, "version"], capture_output=True, text=True, check=False)
    assert done.returncode == 126 or done.returncode == 127
    assert "/nowhere/python3" in done.stderr or "box-python" in done.stderr


# From here on the real thing, installed by real installers.


def build(target: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", directory]
    subprocess.run(command, cwd=SOURCES, check=True, capture_output=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def environment(directory: Path) -> Path:
    """A virtual environment without pip; its python."""
    venv.EnvBuilder(symlinks=True).create(directory)
    return directory / "bin" / "python"


def pip(python: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def flags_of(box: Path, tmp_path: Path) -> str:
    """How the interpreter was started, asked of the running thing."""
    probe = tmp_path / "probe.py"
    probe.write_text("import sys, boxcli\nprint(sys.flags.isolated, sys.flags.no_site, sys.flags.utf8_mode, boxcli.__file__)\n")
    code = (box.parent / "box-python").read_text()
    assert code.count("\nstart(sys.argv[1], sys.argv[2:])\n") == 1
    (box.parent / "box-python").write_text(
        code.replace("\nstart(sys.argv[1], sys.argv[2:])\n", f"\nexec(open({str(probe)!r}).read())\n")
    )
    return subprocess.run([box], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout.strip()


@pytest.mark.parametrize("place", ["plain", "with two spaces"])
def test_a_wheel_installed_by_pip_starts_isolated_without_site_and_in_utf8(wheel: Path, tmp_path: Path, place: str) -> None:
    python = environment(tmp_path / place)
    pip(python, wheel)
    box = python.parent / "box"
    assert subprocess.run([box, "version"], capture_output=True, text=True, check=True).stdout.startswith("box version ")
    runtime = subprocess.run([python.parent / "box-runtime", "--version"], capture_output=True, text=True, check=True)
    assert runtime.stdout.startswith("box-runtime version ")
    library = next((tmp_path / place / "lib").iterdir()) / "site-packages"
    assert flags_of(box, tmp_path) == f"1 1 1 {library}/boxcli/__init__.py"


# What `uv venv --relocatable` writes.
RELOCATABLE = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""


def test_an_environment_that_was_made_to_be_moved_runs_where_it_is_moved_to(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    pip(python, wheel)
    script = python.parent / "box-python"
    script.write_text(RELOCATABLE + script.read_text().partition("\n")[2])
    (tmp_path / "env").rename(tmp_path / "moved")
    library = next((tmp_path / "moved" / "lib").iterdir()) / "site-packages"
    assert flags_of(tmp_path / "moved" / "bin" / "box", tmp_path) == f"1 1 1 {library}/boxcli/__init__.py"


def test_an_editable_install_runs_the_sources_without_site(tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    pip(python, build("wheel:editable", tmp_path / "editable"))
    assert flags_of(python.parent / "box", tmp_path) == f"1 1 1 {SOURCES}/boxcli/__init__.py"


def test_a_wheel_installed_into_a_directory_runs_from_there(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    pip(python, "--target", tmp_path / "target", wheel)
    assert flags_of(tmp_path / "target" / "bin" / "box", tmp_path) == f"1 1 1 {tmp_path}/target/boxcli/__init__.py"


def test_a_dependency_that_only_site_can_find_is_found(wheel: Path, tmp_path: Path) -> None:
    import click

    python = environment(tmp_path / "env")
    pip(python, wheel)
    box = python.parent / "box"
    broken = subprocess.run([box, "help"], capture_output=True, text=True, check=False)
    assert broken.returncode != 0, "the control: without click there is no help"
    library = next((tmp_path / "env" / "lib").iterdir()) / "site-packages"
    (library / "elsewhere.pth").write_text(f"{Path(click.__file__).parents[1]}\n")
    assert "Usage: box" in subprocess.run([box, "help"], capture_output=True, text=True, check=True).stdout


def test_packages_that_are_gone_are_said_with_what_to_do(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    pip(python, wheel)
    shutil.rmtree(next((tmp_path / "env" / "lib").iterdir()) / "site-packages" / "boxcli")
    done = subprocess.run([python.parent / "box", "version"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "hint: install boxfile again" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_holds_the_packages_the_scripts_and_nothing_else(wheel: Path) -> None:
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"boxfile", "builder", "runtime", "store", "boxcli", "boxfile-0.1.0.data", "boxfile-0.1.0.dist-info"}
    scripts = sorted(name.rpartition("/")[2] for name in names if ".data/" in name)
    assert scripts == ["box", "box-places", "box-python", "box-runtime"]
    assert not any("scripts/" in name for name in names if ".data/" not in name)
    assert all(f"{package}/py.typed" in names for package in ("boxfile", "builder", "runtime", "store", "boxcli"))
